//! The sampling clock: a perf event on every CPU that runs the eBPF program at each tick.
//!
//! `cycles` where there is a hardware counter, which also sees code that runs with interrupts off; else `cpu-clock`,
//! a timer of the kernel's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use perf_event::events::{Hardware, Software};
use perf_event::{Builder, Counter, ReadFormat};

use crate::model::{Clock, Profile, Source, SourceId, Unit};

/// The events, one a CPU.
pub struct OnCpuClock {
    counters: Vec<Counter>,
    clock: Clock,
    frequency: u32,
    /// How often the frequency is halved.
    halvings: u32,
    /// When that was changed last: ticks that were to be expected so far, and the events' own time.
    before: (u64, Duration),
}

impl OnCpuClock {
    /// Opens the events; nothing ticks before [`Self::enable`].
    pub fn open(cpus: &[u32], frequency: u32) -> io::Result<Self> {
        let open_all = |clock: Clock| -> io::Result<Self> {
            let counters = cpus.iter().map(|&cpu| open(clock, cpu, frequency)).collect::<io::Result<_>>()?;
            Ok(Self { counters, clock, frequency, halvings: 0, before: (0, Duration::ZERO) })
        };
        open_all(Clock::Cycles).or_else(|_| open_all(Clock::CpuClock))
    }

    /// Has a program run at each tick: `PERF_EVENT_IOC_SET_BPF`, for links on perf events came with Linux 5.15.
    pub fn run(&mut self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.counters.iter_mut().try_for_each(|counter| counter.set_bpf(program.as_raw_fd()))
    }

    /// Time between two ticks: of `cycles`, whose period the kernel adapts, what it is to come to.
    pub fn period(&self) -> Duration {
        match self.clock {
            Clock::CpuClock => (Duration::from_secs(1) / self.frequency) * (1 << self.halvings),
            // A whole number of ticks a second is all that can be asked for.
            Clock::Cycles => Duration::from_secs(1) / (self.frequency >> self.halvings).max(1),
        }
    }

    /// Ticks at the frequency that it was opened with, halved so often, at once.
    pub fn halve(&mut self, halvings: u32) -> io::Result<()> {
        self.before = (self.ticks_expected()?, self.enabled()?);
        self.halvings = halvings;
        let period = match self.clock {
            Clock::CpuClock => self.period().as_nanos() as u64,
            // Of events that are asked for by frequency, it is that.
            Clock::Cycles => u64::from((self.frequency >> halvings).max(1)),
        };
        self.counters.iter().try_for_each(|counter| set_period(counter, period))
    }

    /// Starts the ticks.
    pub fn enable(&mut self) -> io::Result<()> {
        self.counters.iter_mut().try_for_each(|counter| counter.enable())
    }

    /// Stops the ticks.
    pub fn disable(&mut self) -> io::Result<()> {
        self.counters.iter_mut().try_for_each(|counter| counter.disable())
    }

    /// Which clock it is.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How often the clock should have ticked so far, on all CPUs: the events' own time divided by the period.
    pub fn ticks_expected(&mut self) -> io::Result<u64> {
        let (ticks, enabled) = self.before;
        let since = self.enabled()?.saturating_sub(enabled);
        Ok(ticks + (since.as_nanos() / self.period().as_nanos().max(1)) as u64)
    }

    /// The events' own time, of all CPUs.
    fn enabled(&mut self) -> io::Result<Duration> {
        let mut enabled = Duration::ZERO;
        for counter in &mut self.counters {
            enabled += counter.read_full()?.time_enabled().unwrap_or_default();
        }
        Ok(enabled)
    }
}

fn open(clock: Clock, cpu: u32, frequency: u32) -> io::Result<Counter> {
    let mut builder = match clock {
        Clock::Cycles => Builder::new(Hardware::CPU_CYCLES),
        Clock::CpuClock => Builder::new(Software::CPU_CLOCK),
    };
    builder
        .any_pid()
        .one_cpu(cpu as usize)
        .include_kernel()
        .sample_frequency(frequency.into())
        .read_format(ReadFormat::TOTAL_TIME_ENABLED)
        .build()
}

/// `PERF_EVENT_IOC_PERIOD`, which the crate does not have.
fn set_period(counter: &Counter, period: u64) -> io::Result<()> {
    const PERF_EVENT_IOC_PERIOD: libc::Ioctl = 0x4008_2404;
    // SAFETY: reads the one number, through a pointer that is good as long as the call lasts.
    match unsafe { libc::ioctl(counter.as_raw_fd(), PERF_EVENT_IOC_PERIOD, &raw const period) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The source's row in a profile: each sample stands for one period of CPU time.
pub fn source(profile: &mut Profile, frequency: u32) -> SourceId {
    let name = profile.string("on-cpu");
    profile.source(Source { name, unit: Unit::Nanoseconds, period: 1_000_000_000 / u64::from(frequency.max(1)) })
}
