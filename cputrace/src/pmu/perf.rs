//! Counters from the kernel, by `perf_event_open`.
//!
//! perf-event2's own dynamic events cannot read AMD's formats and its defaults exclude what uncore PMUs refuse to exclude, so
//! events and exclusions are set here.

use std::io;
use std::time::Duration;

use perf_event::events::Event;
use perf_event::{Builder, Counter, ReadFormat};
use perf_event_open_sys::bindings::{PERF_RECORD_SAMPLE, perf_event_attr};

use super::event::{Encoded, is_of_host};
use super::reading::Reading;
use super::source::{CounterSource, Group, OpenError, ReadError, Request, Scope, burn};

/// The kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Perf;

/// An event by its numbers.
struct Raw<'a>(&'a Encoded);

impl Event for Raw<'_> {
    fn update_attrs(self, attr: &mut perf_event_attr) {
        let Self(Encoded { kind, config, .. }) = self;
        attr.type_ = *kind;
        attr.config = config.words[0];
        attr.__bindgen_anon_3.config1 = config.words[1];
        attr.__bindgen_anon_4.config2 = config.words[2];
    }
}

/// A builder for the event, counting user and kernel alike, or user alone.
pub(crate) fn builder<'a>(event: &Encoded, user_only: bool) -> Builder<'a> {
    let mut builder = Builder::new(Raw(event));
    // Uncore PMUs and msr refuse any exclusion. A core's does not have to count guests: where they own the PMU, asking for
    // them is refused.
    let core = event.pmu == "cpu";
    builder.exclude_kernel(user_only && !is_of_host(&event.pmu)).exclude_hv(false).exclude_guest(core);
    builder
}

fn scoped<'a>(builder: &mut Builder<'a>, scope: Scope<'a>) {
    match scope {
        Scope::Own => builder.observe_self().any_cpu(),
        // Linux 5.13: inherit_thread.
        Scope::Task { tid, processes } => {
            builder.observe_pid(tid.cast_signed()).any_cpu().inherit(true).inherit_thread(!processes)
        }
        Scope::Cpu(cpu) => builder.any_pid().one_cpu(cpu as usize),
        Scope::Cgroup { directory, cpu } => builder.observe_cgroup(directory).one_cpu(cpu as usize),
    };
}

/// Members in order, the leader first.
struct PerfGroup {
    members: Vec<Counter>,
}

impl CounterSource for Perf {
    fn open(&self, request: Request<'_>) -> Result<Box<dyn Group>, OpenError> {
        let Request { events, scope, user_only } = request;
        let mut members: Vec<Counter> = Vec::with_capacity(events.len());
        for (member, event) in events.iter().enumerate() {
            let mut builder = builder(event, user_only);
            scoped(&mut builder, scope);
            builder.read_format(
                ReadFormat::GROUP | ReadFormat::ID | ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING,
            );
            // Members run with their leader.
            builder.enabled(member > 0);
            let opened = match members.first_mut() {
                None => builder.build(),
                Some(leader) => builder.build_with_group(leader),
            };
            members.push(opened.map_err(|error| OpenError { member, errno: errno(&error) })?);
        }
        if members.is_empty() {
            Err(OpenError { member: 0, errno: libc::EINVAL })
        } else {
            Ok(Box::new(PerfGroup { members }))
        }
    }

    fn interrupts(&self, event: &Encoded, period: u64) -> Result<u64, OpenError> {
        let refused = |error| OpenError { member: 0, errno: errno(&error) };
        // Before Zen 6 instruction-based sampling knows no modes.
        let mut builder = builder(event, !event.pmu.starts_with("ibs_"));
        let counter = builder.observe_self().any_cpu().sample_period(period).build().map_err(refused)?;
        let mut sampler = counter.sampled(PAGES).map_err(refused)?;
        sampler.enable().map_err(refused)?;
        burn(Duration::from_millis(50));
        sampler.disable().map_err(refused)?;
        let mut samples = 0;
        while let Some(record) = sampler.next_record() {
            samples += u64::from(record.ty() == PERF_RECORD_SAMPLE);
        }
        Ok(samples)
    }
}

/// Pages of the buffer for samples that are only counted, beside its header's.
const PAGES: usize = 16;

impl Group for PerfGroup {
    fn enable(&mut self) -> Result<(), ReadError> {
        let leader = self.members.first_mut().ok_or(ReadError(libc::EBADF))?;
        leader.enable_group().map_err(|error| ReadError(errno(&error)))
    }

    fn read(&mut self) -> Result<Reading, ReadError> {
        let leader = self.members.first_mut().ok_or(ReadError(libc::EBADF))?;
        let data = leader.read_group().map_err(|error| ReadError(errno(&error)))?;
        let ns = |time: Option<Duration>| time.map_or(0, |time| time.as_nanos() as u64);
        let values = self.members.iter().map(|member| data.get(member).map(|entry| entry.value()));
        Ok(Reading {
            enabled_ns: ns(data.time_enabled()),
            running_ns: ns(data.time_running()),
            values: values.collect::<Option<_>>().ok_or(ReadError(libc::EIO))?,
        })
    }
}

/// The errno of an error; perf-event2 turns E2BIG into one of its own, and an end of file is a pinned group's error state.
fn errno(error: &io::Error) -> i32 {
    let other = match error.kind() {
        io::ErrorKind::Unsupported => libc::E2BIG,
        _ => libc::EIO,
    };
    error.raw_os_error().unwrap_or(other)
}
