//! One session from attach to detach: the only place that joins the parts.
//!
//! [`record`] reads as the table of contents; [`watch`] is the same, with a recording of each window instead of one at the
//! end. A closed set of events drives the loop: the drain's and the timeline's due times, the window's end, the deadline,
//! and what the caller sends ([`Stop`]).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use crate::aggregate::{Aggregate, Aggregator};
use crate::analyze::reasons::{RuleError, WaitReasons};
use crate::analyze::unnamed;
use crate::analyze::waits::add_to as add_waits;
use crate::code::CodeFinder;
use crate::collect::{Batch, Event, Observation};
use crate::ebpf::{Filter, Waits};
use crate::model::{
    EventSampling, Ledger, LossReason, MappingId, MetricValue, Overhead, Profile, ProgramCost, Recording, Sampling,
    SchedulerLedger, Target, ThreadTime, Tier, Timeline, UnknownReason, Unwinding,
};
use crate::pmu::counting::Counting;
use crate::pmu::perf::Perf;
use crate::pmu::reason::Reason;
use crate::pmu::survey::Survey;
use crate::process::command::{CommandError, HeldCommand};
use crate::process::target::{self, Selection, TargetError};
use crate::process::timeline::Timelines;
use crate::process::{Change, Mappings, host};
use crate::source::event::{EventClock, EventClockError};
use crate::source::{event, on_cpu};
use crate::symbolize::{Code, symbolize};
use crate::tier::{self, Sampler, Scope, TierError};
use crate::unwind::UnwindStats;

/// How often the kernel's buffers are drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// How often new processes are looked for that match a name or are in a control group of version 1.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often counters are read.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);

/// Processes whose timeline is kept, where the targets are the whole host or a control group.
const BUSIEST: usize = 16;

/// What to record, decided by the caller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whom.
    pub targets: Vec<Target>,
    /// Samples a second and CPU.
    pub frequency: u32,
    /// Until when; `None`: until the targets are gone or a signal comes.
    pub duration: Option<Duration>,
    /// Interval of the `/proc` timeline.
    pub interval: Duration,
    /// The tier to use; `None`: the best that is allowed.
    pub tier: Option<Tier>,
    /// Whether children of the targets, by fork and exec, are targets too.
    pub follow_children: bool,
    /// Kernel memory that unwind tables may take, in kilobytes.
    pub unwind_kb: u64,
    /// Whether each thread's time is accounted, at every switch.
    pub accounting: bool,
    /// With the account: which waits are kept with their stacks.
    pub waits: Option<Waits>,
    /// Whether the time of each sample and wait is kept.
    pub timeline: bool,
    /// A user's own rules for the reasons of waits.
    pub wait_rules: String,
    /// The sets of metrics to count beside the samples; empty for none.
    pub pmu: Vec<String>,
    /// An event to sample beside the clock, as a user writes it.
    pub event: Option<String>,
    /// Events that each of its samples stands for; `None`: what suits the event.
    pub event_period: Option<u64>,
}

/// How far a recording is: what the live terminal shows.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Time since the start.
    pub elapsed: Duration,
    /// Until when, if that is known.
    pub duration: Option<Duration>,
    /// Samples kept so far.
    pub samples: u64,
    /// Samples lost so far.
    pub lost: u64,
    /// The timelines so far, one a process.
    pub timelines: &'a [Timeline],
    /// What counters say so far, of all targets.
    pub metrics: &'a [MetricValue],
}

/// The caller wants the recording to end, or not to wait for names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop;

/// Why a recording ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The time was over.
    Duration,
    /// The caller sent [`Stop`].
    Stopped,
    /// All targets are gone.
    TargetsGone,
}

/// What a recording brought.
#[derive(Debug)]
pub struct Outcome {
    /// The recording.
    pub recording: Recording,
    /// Why it ended.
    pub end: EndReason,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The targets cannot be recorded.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The wanted tier cannot be used.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The command does not run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The event to sample cannot be sampled.
    #[error(transparent)]
    Event(#[from] EventClockError),
    /// The rules for the reasons of waits are wrong.
    #[error(transparent)]
    WaitRules(#[from] RuleError),
}

/// Records until the time is over, the targets are gone, or the caller sends [`Stop`].
/// A second [`Stop`] gives up on the names that are not looked up yet; what was gathered is returned all the same.
pub fn record(
    options: &Options,
    mut command: Option<&mut HeldCommand>,
    on_progress: &mut dyn FnMut(&Progress<'_>),
    stop: &Receiver<Stop>,
) -> Result<Outcome, SessionError> {
    let mut session = Session::attach(options, command.as_deref())?;
    session.start()?;
    if let Some(command) = command.as_deref_mut() {
        command.release()?;
    }
    let end = session.run(command, on_progress, None, stop);
    session.detach();
    let recording = session.take_window(stop);
    Ok(Outcome { recording, end })
}

/// Records without an end: hands over what each window of this length brought, without a gap between two of them, until
/// the caller sends [`Stop`], the targets are gone or the time is over; the last window may be shorter.
/// Windows have no counters and no samples of an event ([`Options::pmu`] and [`Options::event`] are not looked at).
pub fn watch(
    options: &Options,
    window: Duration,
    on_window: &mut dyn FnMut(Recording),
    stop: &Receiver<Stop>,
) -> Result<EndReason, SessionError> {
    let options = &Options { pmu: Vec::new(), event: None, ..options.clone() };
    let mut session = Session::attach(options, None)?;
    session.start()?;
    let end = session.run(None, &mut |_| {}, Some(Windows { length: window, on_window }), stop);
    session.detach();
    on_window(session.take_window(stop));
    Ok(end)
}

/// What is done with windows while a session runs.
struct Windows<'a> {
    length: Duration,
    on_window: &'a mut dyn FnMut(Recording),
}

struct Session<'a> {
    options: &'a Options,
    sampler: Box<dyn Sampler>,
    /// What holds for the whole session.
    notes: Vec<String>,
    /// What holds for this window.
    window_notes: Vec<String>,
    /// Whether the targets are a set of processes, which can become empty.
    selection: Selection,
    /// The processes that are targets now.
    targets: HashSet<u32>,
    /// Those of them that may have ended.
    suspects: Vec<u32>,
    batch: Batch,
    mappings: Mappings,
    aggregator: Aggregator,
    reasons: WaitReasons,
    timelines: Timelines,
    ledger: Ledger,
    start: SystemTime,
    started: Instant,
    elapsed: Duration,
    threads: Option<(Vec<ThreadTime>, SchedulerLedger)>,
    own_cpu: Duration,
    /// The end of the window that was taken last.
    window_end: SystemTime,
    /// The same by CLOCK_MONOTONIC.
    window_end_ns: u64,
    /// Whether [`Stop`] came while names were looked up.
    is_stopped: bool,
    /// What sums came to when the window started.
    before: Sums,
    /// Samples so far of each process, where the targets are not a set of processes.
    busy: HashMap<u32, u64>,
    counting: Option<Counting>,
    metrics: Vec<MetricValue>,
    event: Option<EventSampling>,
}

/// Sums since the session's start.
#[derive(Clone, Default)]
struct Sums {
    ticks: tier::Ticks,
    own_cpu: Duration,
    bpf_programs: Vec<ProgramCost>,
    bad_records: u64,
    lost_changes: u64,
}

impl<'a> Session<'a> {
    /// Finds the targets and attaches to them; the clock does not run yet.
    fn attach(options: &'a Options, command: Option<&HeldCommand>) -> Result<Self, SessionError> {
        let target::Resolved { selection, mut pids } = target::resolve(&options.targets)?;
        pids.extend(command.map(HeldCommand::pid));
        let filter = match selection {
            Selection::All => Filter::All,
            Selection::Cgroup { id, level } => Filter::Cgroup { id, level },
            Selection::Processes => Filter::Processes { follow_children: options.follow_children },
        };
        let unwind_kb = options.unwind_kb;
        let (accounting, waits) = (options.accounting, options.waits);
        let reasons = WaitReasons::new(&options.wait_rules)?;
        let event = options.event.as_ref().map(|name| EventClock::open(name, options.event_period)).transpose()?;
        let mut sampling = event.as_ref().map(EventClock::sampling);
        let frequency = options.frequency;
        let scope = Scope { filter, pids: &pids, frequency, unwind_kb, accounting, waits, event: event.is_some() };
        let (mut sampler, mut notes) = tier::start(options.tier, &scope)?;
        if let Some(event) = event
            && let Err(error) = sampler.sample_event(event)
        {
            notes.push(error.to_string());
            sampling = None;
        }
        sampler.prepare(&pids);
        let counting = (!options.pmu.is_empty()).then(|| counting(options, selection, &pids));
        Ok(Self {
            options,
            sampler,
            notes,
            window_notes: Vec::new(),
            selection,
            targets: pids.into_iter().collect(),
            suspects: Vec::new(),
            batch: Batch::default(),
            mappings: Mappings::default(),
            aggregator: aggregator(options, sampling.as_ref(), monotonic_ns()),
            reasons,
            timelines: Timelines::new(),
            ledger: Ledger::default(),
            start: SystemTime::now(),
            started: Instant::now(),
            elapsed: Duration::ZERO,
            threads: None,
            own_cpu: Duration::ZERO,
            window_end: SystemTime::now(),
            window_end_ns: 0,
            is_stopped: false,
            before: Sums::default(),
            busy: HashMap::new(),
            counting,
            metrics: Vec::new(),
            event: sampling,
        })
    }

    /// Starts the clock: from here on every tick counts.
    fn start(&mut self) -> Result<(), SessionError> {
        self.sampler.enable()?;
        if let Some(counting) = &mut self.counting {
            counting.enable();
        }
        (self.start, self.started) = (SystemTime::now(), Instant::now());
        self.before.own_cpu = own_cpu();
        let now_ns = monotonic_ns();
        self.sampler.start_threads(now_ns)?;
        self.aggregator.start_at(now_ns);
        self.observe();
        Ok(())
    }

    /// Until the recording ends.
    fn run(
        &mut self,
        mut command: Option<&mut HeldCommand>,
        on_progress: &mut dyn FnMut(&Progress<'_>),
        mut windows: Option<Windows<'_>>,
        stop: &Receiver<Stop>,
    ) -> EndReason {
        let deadline = self.options.duration.map(|duration| self.started + duration);
        let mut drain = Due::every(DRAIN_INTERVAL, self.started);
        let mut observe = Due::every(self.options.interval, self.started);
        let mut look = Due::every(LOOK_INTERVAL, self.started);
        let mut count = Due::every(COUNT_INTERVAL, self.started);
        let mut window = windows.as_ref().map(|windows| Due::every(windows.length, self.started));
        loop {
            let window_end = window.as_ref().map(|window| window.at);
            let next = [Some(drain.at), Some(observe.at), window_end, deadline].into_iter().flatten().min();
            let wait = next.map_or(DRAIN_INTERVAL, |next| next.saturating_duration_since(Instant::now()));
            match stop.recv_timeout(wait) {
                Ok(Stop) => return EndReason::Stopped,
                Err(RecvTimeoutError::Timeout) => {}
                // Nobody can send any more: the other ends still hold.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
            let now = Instant::now();
            if drain.is_due(now) {
                self.drain(monotonic_ns());
            }
            if observe.is_due(now) {
                self.observe();
                on_progress(&self.progress());
            }
            if count.is_due(now) {
                self.count();
            }
            if look.is_due(now) {
                self.look_for_targets();
            }
            if let (Some(windows), Some(window)) = (&mut windows, &mut window)
                && window.is_due(now)
            {
                self.end_window();
                (windows.on_window)(self.take_window(stop));
                if self.is_stopped {
                    return EndReason::Stopped;
                }
            }
            if let Some(command) = &mut command {
                // Takes note of its end, so that it does not stay a zombie.
                command.try_wait();
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return EndReason::Duration;
            }
            if self.targets_gone() {
                return EndReason::TargetsGone;
            }
        }
    }

    /// Stops the clock and takes what is left.
    fn detach(&mut self) {
        if let Err(error) = self.sampler.disable() {
            self.notes.push(error.to_string());
        }
        self.end_window();
        self.drain(u64::MAX);
    }

    /// Takes what belongs to the window that ends now.
    fn end_window(&mut self) {
        self.elapsed = self.started.elapsed();
        self.count();
        match self.sampler.threads(monotonic_ns()) {
            Ok(threads) => self.threads = threads,
            Err(error) => self.window_notes.push(format!("the threads' time is lost: {error}")),
        }
        // After the threads: looking at them brings the stacks of those that wait still.
        (self.window_end, self.window_end_ns) = (SystemTime::now(), monotonic_ns());
        self.drain(self.window_end_ns);
        self.observe();
        self.own_cpu = own_cpu();
    }

    /// Takes what the kernel has for us, in order of time; what comes after `until_ns` waits for the next time.
    fn drain(&mut self, until_ns: u64) {
        self.sampler.drain(&mut self.batch);
        let mut batch = std::mem::take(&mut self.batch);
        let (events, frames) = batch.in_order(until_ns);
        for (time_ns, event) in events {
            match event {
                Event::Sample(sample) => {
                    self.aggregator.add(*time_ns, sample, sample.frames(frames), &mut self.mappings);
                    match sample.what {
                        Observation::OnCpu => {}
                        Observation::Event => {
                            if let Some(event) = &mut self.event {
                                event.kept += 1;
                            }
                            continue;
                        }
                        Observation::Wake { .. } => continue,
                        Observation::Wait { .. } => {
                            *self.ledger.wait_stacks.entry(sample.end).or_default() += 1;
                            continue;
                        }
                    }
                    self.ledger.samples_kept += 1;
                    if self.selection != Selection::Processes {
                        *self.busy.entry(sample.pid).or_default() += 1;
                    }
                    *self.ledger.stacks.entry(sample.end).or_default() += 1;
                    self.ledger.stacks_guessed += u64::from(sample.guessed);
                }
                Event::Change(change) => self.apply(change),
            }
        }
        batch.clear_until(until_ns);
        self.batch = batch;
    }

    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Fork { pid, parent } if self.options.follow_children && self.targets.contains(&parent) => {
                self.targets.insert(pid);
            }
            Change::Exit { pid, .. } if self.targets.contains(&pid) => self.suspects.push(pid),
            _ => {}
        }
        // Without a filter every process matters; with one, only the targets do.
        if self.selection != Selection::Processes || self.targets.contains(&change.pid()) {
            self.mappings.apply(change);
        }
    }

    fn count(&mut self) {
        if let Some(counting) = &mut self.counting {
            counting.read();
            self.metrics = counting.so_far(self.started.elapsed());
        }
    }

    fn observe(&mut self) {
        let pids: Vec<u32> = match self.selection {
            Selection::Processes => self.targets.iter().copied().collect(),
            Selection::Cgroup { .. } | Selection::All => self.busiest(),
        };
        self.timelines.observe(&pids, self.started.elapsed());
    }

    /// The processes with the most samples so far: of a whole host the few that matter.
    fn busiest(&self) -> Vec<u32> {
        let mut pids: Vec<_> = self.busy.iter().map(|(pid, samples)| (*samples, *pid)).collect();
        pids.sort_unstable_by(|a, b| b.cmp(a));
        pids.into_iter().take(BUSIEST).map(|(_, pid)| pid).collect()
    }

    /// Finds new processes that match, where the kernel's side cannot.
    fn look_for_targets(&mut self) {
        // Exits can get lost as other changes can.
        self.suspects.extend(&self.targets);
        if self.selection != Selection::Processes {
            return;
        }
        for pid in target::newcomers(&self.options.targets) {
            if !self.targets.insert(pid) {
                continue;
            }
            if let Some(counting) = &mut self.counting {
                counting.add_process(pid, &target::threads(pid));
            }
            if let Err(error) = self.sampler.add_target(pid).and_then(|()| self.sampler.enable()) {
                self.notes.push(format!("process {pid} came later and is not sampled: {error}"));
            }
        }
    }

    fn targets_gone(&mut self) -> bool {
        for pid in std::mem::take(&mut self.suspects) {
            if !target::is_alive(pid) && self.targets.remove(&pid) {
                self.sampler.remove_target(pid);
            }
        }
        self.selection == Selection::Processes && self.targets.is_empty()
    }

    fn progress(&self) -> Progress<'_> {
        Progress {
            elapsed: self.started.elapsed(),
            duration: self.options.duration,
            samples: self.ledger.samples_kept,
            lost: self.batch.lost_samples + self.batch.bad_records,
            timelines: self.timelines.timelines(),
            metrics: &self.metrics,
        }
    }

    /// Looks up names and puts together what the window brought; the next one has begun when it ended.
    fn take_window(&mut self, stop: &Receiver<Stop>) -> Recording {
        let elapsed = self.elapsed;
        let (sampling, ticks) = self.close_ledger();
        self.close_event();
        let overhead = self.overhead();
        let unwinding = self.sampler.unwinding().map(unwinding);
        self.before = Sums {
            ticks,
            own_cpu: self.own_cpu,
            bpf_programs: self.sampler.bpf_costs().unwrap_or_default(),
            bad_records: self.batch.bad_records,
            lost_changes: self.batch.lost_changes,
        };
        let next = aggregator(self.options, self.event.as_ref(), self.window_end_ns);
        let Aggregate { mut profile, waits, objects } = std::mem::replace(&mut self.aggregator, next).finish();
        // Once said counts for all that is left.
        let is_stopped = Cell::new(false);
        let stopped = || {
            is_stopped.set(is_stopped.get() || stop.try_recv().is_ok());
            is_stopped.get()
        };
        let mut notes = self.notes.clone();
        notes.append(&mut self.window_notes);
        let finder = CodeFinder::new(&self.mappings, &stopped);
        let code = |mapping: MappingId| {
            objects.get(&mapping).map_or(Code::Missing(UnknownReason::Unmapped), |&object| finder.find(object))
        };
        symbolize(&mut profile, &code, &stopped);
        notes.extend(finder.notes());
        notes.extend(unnamed::notes(&profile));
        self.is_stopped |= is_stopped.get();
        if self.options.waits.is_some() && self.threads.is_some() {
            add_waits(&mut profile, &waits, &mut self.reasons);
        }
        if waits.events_dropped() > 0 {
            notes.push(format!(
                "the times of {} waits were not kept one by one; they are in the sums",
                waits.events_dropped()
            ));
        }
        let threads = self.threads.take();
        let (threads, scheduler) = threads.map_or((Vec::new(), None), |(times, ledger)| (times, Some(ledger)));
        let timelines = std::mem::take(&mut self.timelines).finish();
        let name_of = |pid| timelines.iter().find(|timeline| timeline.pid == pid).map(|timeline| timeline.name.clone());
        let pmu = self.counting.take().map(|counting| counting.finish(elapsed, &name_of));
        let start = std::mem::replace(&mut self.start, self.window_end);
        self.started += elapsed;
        self.busy.clear();
        // Read afresh where samples come: what ended processes had mapped is not kept, nor their files held open.
        self.mappings = Mappings::default();
        Recording {
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
            event: self.event.clone(),
            notes,
        }
    }

    /// Enters what became of the event's samples.
    fn close_event(&mut self) {
        let Some(sampling) = &mut self.event else { return };
        match self.sampler.event_ticks() {
            Ok(Some(tier::Ticks { clock: _, expected, seen, idle, filtered, lost })) => {
                (sampling.expected, sampling.seen, sampling.idle, sampling.filtered) = (expected, seen, idle, filtered);
                sampling.lost = lost;
            }
            Ok(None) => {}
            Err(error) => {
                self.window_notes
                    .push(format!("what became of the samples by {} is not known: {error}", sampling.name));
            }
        }
        if sampling.expected > 0 && sampling.seen == 0 {
            self.window_notes.push(format!("no sample by {} came: {}", sampling.name, Reason::NoInterrupt));
        }
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
        let asked_hz = f64::from(self.options.frequency);
        (Sampling { tier: self.sampler.tier(), clock, asked_hz, achieved_hz: asked_hz * came }, so_far)
    }

    /// What the window cost.
    fn overhead(&self) -> Overhead {
        let programs = self.sampler.bpf_costs().map(|programs| since(programs, &self.before.bpf_programs));
        let total = |programs: &Vec<ProgramCost>| programs.iter().map(|program| program.run_time).sum();
        Overhead {
            bpf_run_time: programs.as_ref().map(total),
            bpf_runs: programs.iter().flatten().map(|program| program.runs).sum(),
            bpf_programs: programs.unwrap_or_default(),
            own_cpu: self.own_cpu.saturating_sub(self.before.own_cpu),
            own_rss_kb: own_peak_rss_kb(),
            map_kb: crate::ebpf::map_kb(),
        }
    }
}

/// An empty window that starts at `start_ns` (CLOCK_MONOTONIC).
fn aggregator(options: &Options, sampling: Option<&EventSampling>, start_ns: u64) -> Aggregator {
    let mut profile = Profile::new();
    let source = on_cpu::source(&mut profile, options.frequency);
    let mut aggregator = Aggregator::new(profile, source, start_ns, options.timeline);
    if let Some(sampling) = sampling {
        aggregator.add_event_source(|profile| event::source(profile, sampling));
    }
    aggregator
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

/// Opens counters for the targets; they do not count yet.
fn counting(options: &Options, selection: Selection, pids: &[u32]) -> Counting {
    let sets: Vec<_> = options.pmu.iter().map(String::as_str).collect();
    let mut counting = Counting::new(Survey::here(), Box::new(Perf), &sets, options.follow_children);
    match selection {
        Selection::Processes => pids.iter().for_each(|&pid| counting.add_process(pid, &target::threads(pid))),
        Selection::All => counting.add_host(),
        Selection::Cgroup { .. } => counting.leave_out_tasks(&Reason::NoCgroups),
    }
    counting
}

/// What the unwinder says of itself, for the recording.
fn unwinding(stats: UnwindStats) -> Unwinding {
    let UnwindStats { tables, rows, table_bytes, builds, build_time, failed_builds, evictions, refused, .. } = stats;
    let table_kb = table_bytes / 1024;
    Unwinding { tables, rows, table_kb, builds, build_time, failed_builds, evictions, refused }
}

/// A time that comes again and again; one that was slept through is not made up for.
struct Due {
    every: Duration,
    at: Instant,
}

impl Due {
    fn every(every: Duration, start: Instant) -> Self {
        Self { every, at: start + every }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.at;
        if due {
            self.at = (self.at + self.every).max(now);
        }
        due
    }
}

/// `trace-YYYYMMDD-HHMMSS`, in UTC.
fn session_id(start: SystemTime) -> String {
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

/// CLOCK_MONOTONIC, as the kernel's side stamps its samples.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the struct given; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// CPU time of this process so far.
fn own_cpu() -> Duration {
    let usage = own_usage();
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

fn own_peak_rss_kb() -> u64 {
    own_usage().ru_maxrss.cast_unsigned()
}

fn own_usage() -> libc::rusage {
    // SAFETY: all zeros is a valid rusage.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: fills in the struct given; RUSAGE_SELF is always there.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage
}
