//! Counters of every CPU that the eBPF program reads at samples and switches, so that stacks have their counts.
//!
//! They are one group a CPU, so that they count the same moments.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use perf_event::Counter;

use super::event::is_here;
use crate::ebpf::MAX_COUNTERS;
use crate::model::{Profile, Source, SourceId, StackCounter, StackCounters, Unit};
use crate::pmu::event::{Encoded, EventError, describe};
use crate::pmu::perf;
use crate::pmu::reason::Reason;
use crate::pmu::survey::Survey;

/// Why counters cannot be read at samples.
#[derive(Debug, thiserror::Error)]
pub enum CpuCountersError {
    /// One of them is not known.
    #[error(transparent)]
    Unknown(#[from] EventError),
    /// Not here.
    #[error("{event} cannot be counted by stack here: {reason}")]
    Refused {
        /// The event, as the user wrote it.
        event: String,
        /// Why.
        reason: Reason,
    },
    /// More than the program reads.
    #[error("at most {MAX_COUNTERS} counters can be read at each sample")]
    TooMany,
    /// It is asked for twice.
    #[error("{0} is named twice, by --event or --pmu-stacks: once is enough")]
    Twice(String),
}

/// The counters, a group a CPU.
pub struct CpuCounters {
    events: Vec<Encoded>,
    cpus: Vec<(u32, Vec<Counter>)>,
}

impl CpuCounters {
    /// Opens events, as a user writes them, on every CPU; nothing counts before [`Self::enable`]. `sampled` is what is sampled
    /// beside the clock.
    pub fn open(names: &[String], sampled: Option<&str>) -> Result<Self, CpuCountersError> {
        if names.len() > MAX_COUNTERS {
            return Err(CpuCountersError::TooMany);
        }
        let survey = Survey::here();
        let refused = |event: &str, reason| CpuCountersError::Refused { event: event.to_owned(), reason };
        let mut events: Vec<Encoded> = Vec::new();
        for name in names {
            let event = is_here(name, &survey)?.map_err(|reason| refused(name, reason))?;
            if events.iter().any(|other| other.name == event.name) || sampled == Some(&*event.name) {
                return Err(CpuCountersError::Twice(event.name));
            }
            // What a few CPUs count for all has no stack of its own; and tracepoints are no counters.
            if survey.devices.get(&event.pmu).is_some_and(|device| device.cpus.is_some()) {
                return Err(refused(name, Reason::Shared(event.pmu)));
            }
            if event.pmu.starts_with("ibs_") {
                return Err(refused(name, Reason::SamplesOnly(event.pmu)));
            }
            if event.pmu == "tracepoint" {
                return Err(refused(name, Reason::Tracepoint));
            }
            events.push(event);
        }
        let mut cpus = Vec::new();
        for cpu in survey.online() {
            let mut group: Vec<Counter> = Vec::new();
            for event in &events {
                let mut builder = perf::builder(event, false);
                builder.any_pid().one_cpu(*cpu as usize).enabled(!group.is_empty());
                let opened = match group.first_mut() {
                    None => builder.build(),
                    Some(leader) => builder.build_with_group(leader),
                };
                let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
                let reason = |error| Reason::of_errno(errno(error), &event.pmu, &survey.facts);
                group.push(opened.map_err(|error| refused(&event.name, reason(error)))?);
            }
            cpus.push((*cpu, group));
        }
        Ok(Self { events, cpus })
    }

    /// What is to be said of them, before anything is counted.
    pub fn counters(&self) -> StackCounters {
        let counter = |event: &Encoded| StackCounter {
            name: event.name.clone(),
            unit: describe(&event.name).1.to_owned(),
            in_stacks: 0,
            off_stack: 0,
        };
        StackCounters { counters: self.events.iter().map(counter).collect(), ..StackCounters::default() }
    }

    /// Each of them: its number, its CPU, and its file.
    pub fn files(&self) -> impl Iterator<Item = (usize, u32, BorrowedFd<'_>)> {
        self.cpus.iter().flat_map(|(cpu, group)| {
            group.iter().enumerate().map(|(number, counter)| {
                // SAFETY: the counter has it open for as long as it is borrowed here.
                (number, *cpu, unsafe { BorrowedFd::borrow_raw(counter.as_raw_fd()) })
            })
        })
    }

    /// Starts counting.
    pub fn enable(&mut self) -> io::Result<()> {
        self.cpus.iter_mut().filter_map(|(_, group)| group.first_mut()).try_for_each(Counter::enable_group)
    }

    /// Stops counting.
    pub fn disable(&mut self) -> io::Result<()> {
        self.cpus.iter_mut().filter_map(|(_, group)| group.first_mut()).try_for_each(Counter::disable_group)
    }
}

/// A counter's row in a profile: samples have values of their own.
pub fn source(profile: &mut Profile, counter: &StackCounter) -> SourceId {
    let unit = if counter.unit == "ns" { Unit::Nanoseconds } else { Unit::Count };
    let name = profile.string(&counter.name);
    profile.source(Source { name, unit, period: 0 })
}
