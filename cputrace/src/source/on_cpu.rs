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
}

impl OnCpuClock {
    /// Opens the events; nothing ticks before [`Self::enable`].
    pub fn open(cpus: &[u32], frequency: u32) -> io::Result<Self> {
        let open_all = |clock: Clock| -> io::Result<Self> {
            let counters = cpus.iter().map(|&cpu| open(clock, cpu, frequency)).collect::<io::Result<_>>()?;
            Ok(Self { counters, clock, frequency })
        };
        open_all(Clock::Cycles).or_else(|_| open_all(Clock::CpuClock))
    }

    /// Has a program run at each tick: `PERF_EVENT_IOC_SET_BPF`, for links on perf events came with Linux 5.15.
    pub fn run(&mut self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.counters.iter_mut().try_for_each(|counter| counter.set_bpf(program.as_raw_fd()))
    }

    /// Time between two ticks; `None` for `cycles`, whose period the kernel adapts.
    pub fn period(&self) -> Option<Duration> {
        (self.clock == Clock::CpuClock).then(|| Duration::from_secs(1) / self.frequency)
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
        let mut enabled = Duration::ZERO;
        for counter in &mut self.counters {
            enabled += counter.read_full()?.time_enabled().unwrap_or_default();
        }
        Ok((enabled.as_nanos() * u128::from(self.frequency) / Duration::from_secs(1).as_nanos()) as u64)
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

/// The source's row in a profile: each sample stands for one period of CPU time.
pub fn source(profile: &mut Profile, frequency: u32) -> SourceId {
    let name = profile.string("on-cpu");
    profile.source(Source { name, unit: Unit::Nanoseconds, period: 1_000_000_000 / u64::from(frequency.max(1)) })
}
