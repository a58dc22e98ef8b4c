//! What a window brought, as a recording.
//!
//! Closing it takes what the kernel counted, in the session's thread; finishing it, with names and reasons, can be done in
//! another one.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use rustc_hash::FxBuildHasher;

use super::Options;
use super::run::Session;
use crate::aggregate::{Aggregate, Aggregator};
use crate::analyze::reasons::{RuleError, WaitReasons};
use crate::analyze::unnamed;
use crate::analyze::waits::add_to as add_waits;
use crate::code::CodeFinder;
use crate::model::{
    EventSampling, LossReason, MappingId, Overhead, Profile, ProgramCost, Recording, Sampling, SchedulerLedger,
    StackCounters, UnknownReason, Unwinding, Waits,
};
use crate::pmu::ibs::Decoder;
use crate::pmu::reason::Reason;
use crate::process::own;
use crate::process::{Object, host};
use crate::source::{counters, event, on_cpu};
use crate::symbolize::{Code, Detail, NameCache, Tables, symbolize};
use crate::tier;
use crate::unwind::UnwindStats;

/// Sums since the session's start.
#[derive(Clone, Default)]
pub(super) struct Sums {
    pub(super) ticks: tier::Ticks,
    pub(super) own_cpu: Duration,
    pub(super) bpf_programs: Vec<ProgramCost>,
    pub(super) bad_records: u64,
    pub(super) lost_changes: u64,
    pub(super) event: tier::Ticks,
    pub(super) stack_counters: StackCounters,
}

/// A window that has ended, whose code has no names yet.
pub(super) struct Closed {
    /// Lacks names, waits, and what is said of both.
    recording: Recording,
    waits: Waits,
    /// What the code of its mappings can be read from.
    objects: HashMap<MappingId, Object, FxBuildHasher>,
}

/// Completes windows; what the next one can use is kept.
pub(super) struct Finisher {
    keeps_waits: bool,
    detail: Detail,
    reasons: WaitReasons,
    names: NameCache,
}

impl Finisher {
    pub(super) fn new(options: &Options) -> Result<Self, RuleError> {
        let reasons = WaitReasons::new(&options.wait_rules)?;
        let (keeps_waits, detail) = (options.waits.is_some(), options.detail);
        Ok(Self { keeps_waits, detail, reasons, names: NameCache::default() })
    }

    /// Looks up names and reasons; when `stopped` turns true the rest stays without. `tables` stay with one thread.
    pub(super) fn finish(&mut self, closed: Closed, tables: &mut Tables, stopped: &dyn Fn() -> bool) -> Recording {
        let Closed { mut recording, waits, objects } = closed;
        let profile = &mut recording.profile;
        self.names.recall(profile);
        let finder = CodeFinder::new(stopped);
        let code = |mapping: MappingId| {
            objects.get(&mapping).map_or(Code::Missing(UnknownReason::Unmapped), |object| finder.find(object))
        };
        let extents = symbolize(profile, &code, self.detail, tables, stopped);
        self.names.learn(profile, &extents);
        recording.notes.extend(finder.notes());
        recording.notes.extend(unnamed::notes(profile));
        if self.keeps_waits && recording.scheduler.is_some() {
            add_waits(profile, &waits, &mut self.reasons);
        }
        if waits.events_dropped() > 0 {
            recording.notes.push(format!(
                "the times of {} waits were not kept one by one; they are in the sums",
                waits.events_dropped()
            ));
        }
        recording
    }
}

impl Session<'_> {
    /// Puts together what the window brought; the next one has begun when it ended.
    pub(super) fn close_window(&mut self) -> Closed {
        let elapsed = self.elapsed;
        let (sampling, ticks) = self.close_ledger();
        let (event, event_ticks) = self.close_event();
        let (stack_counters, counted) = self.close_stack_counters();
        let overhead = self.overhead();
        let unwinding = self.sampler.unwinding().map(unwinding);
        self.before = Sums {
            ticks,
            own_cpu: self.own_cpu,
            bpf_programs: self.sampler.bpf_costs().unwrap_or_default(),
            bad_records: self.batch.bad_records,
            lost_changes: self.batch.lost_changes,
            event: event_ticks,
            stack_counters: counted,
        };
        let mut next = aggregator(self.options, event.as_ref(), stack_counters.as_ref(), self.window_end_ns);
        if let Some(period) = self.period {
            next.set_period(period);
        }
        let Aggregate { profile, waits, objects, ops } = std::mem::replace(&mut self.aggregator, next).finish();
        let event = event.map(|event| EventSampling { ops, ..event });
        let stack_counters = stack_counters.map(|counters| in_stacks(counters, &profile));
        let objects = objects.into_iter().map(|(mapping, id)| (mapping, self.mappings.object(id).clone())).collect();
        let mut notes = self.notes.clone();
        notes.append(&mut self.window_notes);
        notes.extend(self.sampler.unwinding_notes());
        let threads = self.threads.take();
        let sampled_below_ns = sampled_below_ns(self.options);
        let (threads, scheduler) = threads.map_or((Vec::new(), None), |(times, ledger)| {
            (times, Some(SchedulerLedger { sampled_below_ns, ..ledger }))
        });
        let timelines = std::mem::take(&mut self.timelines).finish();
        let name_of = |pid| timelines.iter().find(|timeline| timeline.pid == pid).map(|timeline| timeline.name.clone());
        let pmu = self.counting.as_mut().map(|counting| counting.close_window(elapsed, &name_of));
        let start = std::mem::replace(&mut self.start, self.window_end);
        self.started += elapsed;
        self.busy.clear();
        let recording = Recording {
            session_id: session_id(start),
            start,
            duration: elapsed,
            host: host::host(),
            targets: self.options.targets.clone(),
            sampling,
            profile,
            timelines,
            threads,
            scheduler,
            ledger: std::mem::take(&mut self.ledger),
            overhead,
            unwinding,
            pmu,
            event,
            stack_counters,
            spikes: Vec::new(),
            notes,
        };
        Closed { recording, waits, objects }
    }

    /// What became of the event's samples; with it comes what its ticks came to so far.
    fn close_event(&mut self) -> (Option<EventSampling>, tier::Ticks) {
        let Some(sampling) = &mut self.event else { return (None, tier::Ticks::default()) };
        let kept = std::mem::take(&mut sampling.kept);
        let name = &sampling.name;
        let so_far = self.sampler.event_ticks().unwrap_or_else(|error| {
            self.window_notes.push(format!("what became of the samples by {name} is not known: {error}"));
            None
        });
        let so_far = so_far.unwrap_or_else(|| self.before.event.clone());
        let tier::Ticks { clock: _, expected, seen, idle, filtered, lost } = so_far.since(&self.before.event);
        if expected > 0 && seen == 0 {
            self.window_notes.push(format!("no sample by {name} came: {}", Reason::NoInterrupt));
        }
        let (name, period, ops) = (name.clone(), sampling.period, sampling.ops.clone());
        (Some(EventSampling { name, period, expected, seen, idle, filtered, kept, lost, ops }), so_far)
    }

    /// What became of the readings of counters; with it comes what it came to so far.
    fn close_stack_counters(&mut self) -> (Option<StackCounters>, StackCounters) {
        let Some(counters) = &self.stack_counters else { return (None, StackCounters::default()) };
        let mut so_far = counters.clone();
        if let Err(error) = self.sampler.enter_readings(&mut so_far) {
            self.window_notes.push(format!("what became of the counters by stack is not known: {error}"));
        }
        (Some(so_far.since(&self.before.stack_counters)), so_far)
    }

    /// Enters what the kernel's side counted in the window; with it comes what it counted so far.
    fn close_ledger(&mut self) -> (Sampling, tier::Ticks) {
        let so_far = self.sampler.ticks().unwrap_or_else(|error| {
            self.window_notes.push(format!("the ledger is incomplete: {error}"));
            self.before.ticks.clone()
        });
        let tier::Ticks { clock, expected, seen, idle, filtered, lost } = so_far.since(&self.before.ticks);
        self.ledger.ticks_expected = expected;
        self.ledger.ticks = seen;
        self.ledger.ticks_idle = idle;
        self.ledger.ticks_filtered = filtered;
        self.ledger.samples_lost = lost;
        self.ledger.samples_lost.insert(LossReason::BadRecord, self.batch.bad_records - self.before.bad_records);
        let lost_changes = self.batch.lost_changes - self.before.lost_changes;
        if lost_changes > 0 {
            self.window_notes.push(format!(
                "{lost_changes} changes of processes were not reported by the kernel: some frames may lie in no known mapping"
            ));
        }
        let missed = self.ledger.samples_lost.get(&LossReason::ClockMissed).copied().unwrap_or(0);
        let wanted = self.ledger.samples_expected();
        let came = if wanted == 0 { 1.0 } else { (wanted - missed) as f64 / wanted as f64 };
        let asked_hz = self.rate.close_window();
        (Sampling { tier: self.sampler.tier(), clock, asked_hz, achieved_hz: asked_hz * came }, so_far)
    }

    /// What the window cost.
    fn overhead(&mut self) -> Overhead {
        let programs = self.sampler.bpf_costs().map(|programs| since(programs, &self.before.bpf_programs));
        let total = |programs: &Vec<ProgramCost>| programs.iter().map(|program| program.run_time).sum();
        Overhead {
            bpf_run_time: programs.as_ref().map(total),
            bpf_runs: programs.iter().flatten().map(|program| program.runs).sum(),
            bpf_programs: programs.unwrap_or_default(),
            own_cpu: self.own_cpu.saturating_sub(self.before.own_cpu),
            own_rss_kb: own::peak_rss_kb(),
            map_kb: crate::ebpf::map_kb(),
            map_fill: self.sampler.take_map_fill(),
        }
    }
}

/// An empty window that starts at `start_ns` (CLOCK_MONOTONIC).
pub(super) fn aggregator(
    options: &Options,
    sampling: Option<&EventSampling>,
    stack_counters: Option<&StackCounters>,
    start_ns: u64,
) -> Aggregator {
    let mut profile = Profile::new();
    let source = on_cpu::source(&mut profile, options.frequency);
    let mut aggregator = Aggregator::new(profile, source, start_ns, options.timeline);
    if let Some(sampling) = sampling {
        aggregator.add_event_source(|profile| event::source(profile, sampling));
        if sampling.ops.is_some() {
            aggregator.decode_ops(Decoder::of_this_cpu());
        }
    }
    aggregator.scale_waits_below(sampled_below_ns(options));
    for counter in stack_counters.iter().flat_map(|counters| &counters.counters) {
        aggregator.add_counter_source(|profile| counters::source(profile, counter));
    }
    aggregator
}

/// Below which length waits are samples; 0: none is.
fn sampled_below_ns(options: &Options) -> u64 {
    options.waits.filter(|waits| waits.samples_shorter).map_or(0, |waits| waits.min.as_nanos() as u64)
}

/// Enters what of the counts is in stacks.
fn in_stacks(mut counters: StackCounters, profile: &Profile) -> StackCounters {
    for counter in &mut counters.counters {
        let source = profile.source_by_name(&counter.name);
        let samples = profile.samples().iter().filter(|sample| Some(sample.source) == source);
        counter.in_stacks = samples.map(|sample| sample.value).sum();
    }
    counters
}

/// What programs cost since they had cost `before`.
fn since(mut programs: Vec<ProgramCost>, before: &[ProgramCost]) -> Vec<ProgramCost> {
    for program in &mut programs {
        if let Some(before) = before.iter().find(|before| before.name == program.name) {
            program.run_time = program.run_time.saturating_sub(before.run_time);
            program.runs = program.runs.saturating_sub(before.runs);
        }
    }
    programs.retain(|program| program.runs > 0);
    programs
}

/// What the unwinder says of itself, for the recording.
fn unwinding(stats: UnwindStats) -> Unwinding {
    let UnwindStats {
        tables,
        rows,
        table_bytes,
        builds,
        build_time,
        failed_builds,
        evictions,
        refused,
        newcomers_put_off,
        ..
    } = stats;
    let table_kb = table_bytes / 1024;
    Unwinding {
        tables,
        rows,
        table_kb,
        builds,
        build_time,
        failed_builds,
        evictions,
        refused,
        put_off: newcomers_put_off,
    }
}

/// What a recording is called: `trace-YYYYMMDD-HHMMSS`, in UTC.
pub fn session_id(start: SystemTime) -> String {
    let start = time::OffsetDateTime::from(start);
    let (date, time) = (start.date(), start.time());
    format!(
        "trace-{:04}{:02}{:02}-{:02}{:02}{:02}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}
