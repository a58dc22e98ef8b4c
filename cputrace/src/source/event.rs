//! Samples by any perf event beside the clock: one on every CPU, every so many of them runs the eBPF program. The period is
//! fixed, so that each sample stands for exactly as many events.
//!
//! A tracepoint has no overflows: its program runs at each hit, on whichever CPU, and counts the period itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use perf_event::{Counter, SampleFlag};

use crate::ebpf::EventHook;
use crate::model::{EventSampling, Ops, Profile, Source, SourceId, Unit};
use crate::pmu::device::Root;
use crate::pmu::event::{Encoded, EventError, describe, is_of_host, resolve};
use crate::pmu::perf;
use crate::pmu::reason::Reason;
use crate::pmu::survey::Survey;

/// Why an event cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum EventClockError {
    /// It is not known.
    #[error(transparent)]
    Unknown(#[from] EventError),
    /// Its hardware counts in steps.
    #[error("the period of {event} has to be a multiple of 16 and at least 144: give such an --event-period")]
    Period {
        /// The event, as the user wrote it.
        event: String,
    },
    /// Not here.
    #[error("{event} cannot be sampled here: {reason}")]
    Refused {
        /// The event, as the user wrote it.
        event: String,
        /// Why.
        reason: Reason,
    },
}

/// The events.
pub struct EventClock {
    name: String,
    /// One a CPU; of a tracepoint one, for its program runs on every CPU.
    counters: Vec<Counter>,
    period: u64,
    is_tracepoint: bool,
    /// It is of ops that the CPU tags.
    tags_ops: bool,
    /// Of a tracepoint, what runs as soon as it is attached.
    waiting: Option<OwnedFd>,
}

impl EventClock {
    /// Opens an event, as a user writes it, on every CPU, one sample every `period` of them; `None`: what suits the event.
    /// Nothing is sampled before [`Self::enable`].
    pub fn open(name: &str, period: Option<u64>) -> Result<Self, EventClockError> {
        let survey = Survey::here();
        let refused = |reason| EventClockError::Refused { event: name.to_owned(), reason };
        let event = is_here(name, &survey)?.map_err(refused)?;
        let period = period.unwrap_or_else(|| event.default_period());
        // What Linux demands of both PMUs of instruction-based sampling.
        if event.pmu.starts_with("ibs_") && (!period.is_multiple_of(16) || period < 0x90) {
            return Err(EventClockError::Period { event: name.to_owned() });
        }
        let is_tracepoint = event.pmu == "tracepoint";
        let tags_ops = event.pmu == "ibs_op";
        let open = |cpu: &u32| {
            let mut builder = perf::builder(&event, false);
            builder.any_pid().one_cpu(*cpu as usize);
            if tags_ops {
                // The kernel reads the registers only for those who ask.
                builder.sample(SampleFlag::RAW);
            }
            if is_tracepoint { builder.build() } else { builder.sample_period(period).build() }
        };
        let cpus = if is_tracepoint { survey.online().get(..1) } else { None };
        let counters = cpus.unwrap_or(survey.online()).iter().map(open).collect::<io::Result<_>>();
        let reason = |error: io::Error| match error.raw_os_error().unwrap_or(libc::EIO) {
            libc::EINVAL | libc::EOPNOTSUPP if is_of_host(&event.pmu) => Reason::CountsOnly(event.pmu.clone()),
            errno => Reason::of_errno(errno, &event.pmu, &survey.facts),
        };
        let counters = counters.map_err(|error| refused(reason(error)))?;
        Ok(Self { name: event.name, counters, period, is_tracepoint, tags_ops, waiting: None })
    }

    /// What is to be said of its samples, before there are any.
    pub fn sampling(&self) -> EventSampling {
        let ops = self.tags_ops.then(Ops::default);
        EventSampling { name: self.name.clone(), period: self.period, ops, ..EventSampling::default() }
    }

    /// Where it is sampled.
    pub fn hook(&self) -> EventHook {
        match self {
            Self { is_tracepoint: true, period, .. } => EventHook::Tracepoint { period: *period },
            Self { tags_ops: true, .. } => EventHook::Op,
            _ => EventHook::Overflow,
        }
    }

    /// Has a program run where it happens.
    pub fn run(&mut self, program: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_tracepoint {
            self.waiting = Some(program.try_clone_to_owned()?);
            return Ok(());
        }
        self.counters.iter_mut().try_for_each(|counter| counter.set_bpf(program.as_raw_fd()))
    }

    /// Starts counting.
    pub fn enable(&mut self) -> io::Result<()> {
        if self.is_tracepoint {
            let (Some(program), Some(counter)) = (self.waiting.take(), self.counters.first_mut()) else {
                return Ok(());
            };
            return counter.set_bpf(program.as_raw_fd());
        }
        self.counters.iter_mut().try_for_each(|counter| counter.enable())
    }

    /// Stops counting.
    pub fn disable(&mut self) -> io::Result<()> {
        if self.is_tracepoint {
            // Its program is detached in no other way.
            self.counters.clear();
        }
        self.counters.iter_mut().try_for_each(|counter| counter.disable())
    }

    /// How many samples the events that were counted come to; of a tracepoint, which nobody counts, 0.
    pub fn expected(&mut self) -> io::Result<u64> {
        let mut expected = 0;
        for counter in self.counters.iter_mut().filter(|_| !self.is_tracepoint) {
            expected += counter.read()? / self.period;
        }
        Ok(expected)
    }
}

/// An event as a user writes it, or why it is not here.
pub(super) fn is_here(name: &str, survey: &Survey) -> Result<Result<Encoded, Reason>, EventError> {
    match resolve(name, &survey.catalog, &survey.devices, &Root::new("/")) {
        // Why there is no PMU says more than that there is none.
        Err(EventError::NoPmu { .. } | EventError::OfOthers { .. }) if !survey.facts.core_pmu => {
            Ok(Err(Reason::no_pmu(&survey.facts)))
        }
        resolved => resolved.map(Ok),
    }
}

/// The source's row in a profile: each sample stands for one period of events.
pub fn source(profile: &mut Profile, sampling: &EventSampling) -> SourceId {
    let EventSampling { name, period, .. } = sampling;
    let unit = if describe(name).1 == "ns" { Unit::Nanoseconds } else { Unit::Count };
    let name = profile.string(name);
    profile.source(Source { name, unit, period: *period })
}
