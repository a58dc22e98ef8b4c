//! What is attached, and the loop that takes what the kernel has.
//!
//! A closed set of events drives the loop: the drain's and the timeline's due times, the window's end, the deadline, and
//! what the caller sends ([`Stop`]).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use super::cost::{Look, Rate, Watchman};
use super::window::{Closed, Sums, aggregator};
use super::{EndReason, Options, Progress, SessionError, Stop};
use crate::aggregate::Aggregator;
use crate::collect::{Batch, Event, Observation};
use crate::ebpf::{Filter, MOST_STACKS};
use crate::model::{EventSampling, Ledger, MetricValue, SchedulerLedger, StackCounters, ThreadTime, Tier};
use crate::pmu::counting::Counting;
use crate::pmu::perf::Perf;
use crate::pmu::reason::Reason;
use crate::pmu::survey::Survey;
use crate::process::command::HeldCommand;
use crate::process::own::{self, monotonic_ns};
use crate::process::target::{self, Selection};
use crate::process::timeline::{Busiest, Timelines};
use crate::process::{Change, Mappings};
use crate::source::counters::CpuCounters;
use crate::source::event::EventClock;
use crate::symbolize::AskKernel;
use crate::tier::{self, Sampler, Scope};

/// How often the kernel's buffers are drained.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// How often new processes are looked for that match a name or are in a control group of version 1.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is looked what all this costs.
const COST_INTERVAL: Duration = Duration::from_secs(1);

/// How often counters are read.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);

/// Processes whose timeline is kept, where the targets are the whole host or a control group.
const BUSIEST: usize = 16;

/// New programs a second and CPU that are looked at before their first sample where the overhead has a limit: each takes a
/// millisecond, and most live too short to be sampled.
const FEW_NEWCOMERS: u32 = 4;

/// Where the overhead has a limit, stacks of waits may take two fifths of it: a thread that has slept finds nothing of its stack in
/// the caches, nor of the tables, so that one takes 25 us.
fn most_stacks(max_overhead: Option<f64>) -> u32 {
    let in_a_tenth = |limit: f64| 0.4 * limit * 0.1 / 25e-6;
    max_overhead.map_or(MOST_STACKS, |limit| (in_a_tenth(limit) as u32).clamp(1, MOST_STACKS))
}

/// What is done with windows while a session runs.
pub(super) struct Windows<'a> {
    /// Of each.
    pub(super) length: Duration,
    /// Whether one more can be handed over; where it cannot, the window goes on.
    pub(super) has_room: &'a dyn Fn() -> bool,
    /// Takes a window that has ended; `false` if there is nobody any more who does, which ends the session.
    pub(super) hand_over: &'a dyn Fn(Closed) -> bool,
    /// Is told each second what it costs.
    pub(super) on_look: &'a dyn Fn(&Look) -> Option<f64>,
}

/// A session that is attached.
pub(super) struct Session<'a> {
    pub(super) options: &'a Options,
    pub(super) sampler: Box<dyn Sampler>,
    /// What holds for the whole session.
    pub(super) notes: Vec<String>,
    /// What holds for this window.
    pub(super) window_notes: Vec<String>,
    /// Whether the targets are a set of processes, which can become empty.
    pub(super) selection: Selection,
    /// The processes that are targets now.
    pub(super) targets: HashSet<u32>,
    /// Those of them that may have ended.
    pub(super) suspects: Vec<u32>,
    pub(super) batch: Batch,
    pub(super) mappings: Mappings,
    pub(super) aggregator: Aggregator,
    pub(super) timelines: Timelines,
    pub(super) ledger: Ledger,
    pub(super) start: SystemTime,
    pub(super) started: Instant,
    pub(super) elapsed: Duration,
    pub(super) threads: Option<(Vec<ThreadTime>, SchedulerLedger)>,
    pub(super) own_cpu: Duration,
    pub(super) rate: Rate,
    /// What a sample of the clock stands for, where that was changed.
    pub(super) period: Option<Duration>,
    /// The end of the window that was taken last.
    pub(super) window_end: SystemTime,
    /// The same by CLOCK_MONOTONIC.
    pub(super) window_end_ns: u64,
    /// What sums came to when the window started.
    pub(super) before: Sums,
    /// Samples so far of each process, where the targets are not a set of processes.
    pub(super) busy: HashMap<u32, u64>,
    /// The same where nothing is sampled.
    pub(super) by_proc: Busiest,
    pub(super) counting: Option<Counting>,
    pub(super) metrics: Vec<MetricValue>,
    pub(super) event: Option<EventSampling>,
    pub(super) stack_counters: Option<StackCounters>,
}

impl<'a> Session<'a> {
    /// Finds the targets and attaches to them; the clock does not run yet.
    pub(super) fn attach(options: &'a Options, command: Option<&HeldCommand>) -> Result<Self, SessionError> {
        // The command has been started: it keeps the limit that it was given.
        own::raise_file_limit();
        let target::Resolved { selection, mut pids, directory } = target::resolve(&options.targets)?;
        pids.extend(command.map(HeldCommand::pid));
        let filter = match selection {
            Selection::All => Filter::All,
            Selection::Cgroup { id, level } => Filter::Cgroup { id, level },
            Selection::Processes => Filter::Processes { follow_children: options.follow_children },
        };
        let unwind_kb = options.unwind_kb;
        let (accounting, waits) = (options.accounting, options.waits);
        let event = options.event.as_ref().map(|name| EventClock::open(name, options.event_period)).transpose()?;
        let mut sampling = event.as_ref().map(EventClock::sampling);
        let sampled = sampling.as_ref().map(|sampling| &*sampling.name);
        let counters = match &*options.stack_counters {
            [] => None,
            names => Some(CpuCounters::open(names, sampled)?),
        };
        let mut stack_counters = counters.as_ref().map(CpuCounters::counters);
        let scope = Scope {
            filter,
            pids: &pids,
            frequency: options.frequency,
            unwind_kb,
            newcomers: if options.max_overhead.is_some() { FEW_NEWCOMERS } else { u32::MAX },
            most_stacks: most_stacks(options.max_overhead),
            accounting,
            waits,
            event: event.as_ref().map(EventClock::hook),
            counters: options.stack_counters.len(),
        };
        let (mut sampler, mut notes) = tier::start(options.tier, &scope)?;
        if let Some(event) = event
            && let Err(error) = sampler.sample_event(event)
        {
            notes.push(error.to_string());
            sampling = None;
        }
        if let Some(counters) = counters
            && let Err(error) = sampler.count_stacks(counters)
        {
            notes.push(error.to_string());
            stack_counters = None;
        }
        sampler.prepare(&pids);
        let counting = (!options.pmu.is_empty()).then(|| counting(options, selection, &pids, directory.as_deref()));
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
            aggregator: aggregator(options, sampling.as_ref(), stack_counters.as_ref(), monotonic_ns()),
            timelines: Timelines::new(),
            ledger: Ledger::default(),
            start: SystemTime::now(),
            started: Instant::now(),
            elapsed: Duration::ZERO,
            threads: None,
            own_cpu: Duration::ZERO,
            rate: Rate::new(f64::from(options.frequency)),
            period: None,
            window_end: SystemTime::now(),
            window_end_ns: 0,
            before: Sums::default(),
            busy: HashMap::new(),
            by_proc: Busiest::default(),
            counting,
            metrics: Vec::new(),
            event: sampling,
            stack_counters,
        })
    }

    /// Starts the clock: from here on every tick counts.
    pub(super) fn start(&mut self) -> Result<(), SessionError> {
        self.sampler.enable()?;
        if let Some(counting) = &mut self.counting {
            counting.enable();
        }
        (self.start, self.started) = (SystemTime::now(), Instant::now());
        self.before.own_cpu = own::cpu_time();
        let now_ns = monotonic_ns();
        self.sampler.start_threads(now_ns)?;
        self.aggregator.start_at(now_ns);
        self.observe();
        Ok(())
    }

    /// Until the recording ends.
    pub(super) fn run(
        &mut self,
        mut command: Option<&mut HeldCommand>,
        on_progress: &mut dyn FnMut(&Progress<'_>),
        windows: Option<Windows<'_>>,
        stop: &Receiver<Stop>,
    ) -> EndReason {
        let deadline = self.options.duration.map(|duration| self.started + duration);
        let mut drain = Due::every(DRAIN_INTERVAL, self.started);
        let mut observe = Due::every(self.options.interval, self.started);
        let mut look = Due::every(LOOK_INTERVAL, self.started);
        let mut count = Due::every(COUNT_INTERVAL, self.started);
        let mut window = windows.as_ref().map(|windows| Due::every(windows.length, self.started));
        let mut cost = windows.as_ref().map(|windows| {
            let watchman = Watchman::new(self.options, windows.length, &mut *self.sampler);
            (Due::every(COST_INTERVAL, self.started), watchman)
        });
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
            if let (Some(windows), Some((due, watchman))) = (&windows, &mut cost)
                && due.is_due(now)
            {
                let allowed = (windows.on_look)(&self.look_at_cost(watchman));
                watchman.set_limit(allowed);
            }
            if let (Some(windows), Some(window)) = (&windows, &mut window)
                && window.is_due(now)
                && (windows.has_room)()
            {
                self.end_window();
                if !(windows.hand_over)(self.close_window()) {
                    return EndReason::Stopped;
                }
                self.mappings.forget_unused();
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

    /// What the kernel can be asked for names by, for whoever asks for it first.
    pub(super) fn take_ask_kernel(&mut self) -> Option<Box<AskKernel>> {
        let names = self.sampler.take_kernel_names()?;
        Some(Box::new(move |addresses| names.ask(addresses).ok()))
    }

    /// Stops the clock and takes what is left.
    pub(super) fn detach(&mut self) {
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
        self.sampler.end_window();
        self.observe();
        self.own_cpu = own::cpu_time();
    }

    /// Takes what the kernel has for us, in order of time; what comes after `until_ns` waits for the next time.
    pub(super) fn drain(&mut self, until_ns: u64) {
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
            Selection::Cgroup { .. } if self.sampler.tier() == Tier::Proc => target::newcomers(&self.options.targets),
            Selection::All if self.sampler.tier() == Tier::Proc => self.by_proc.pids(BUSIEST),
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
        // Within a time that was asked for, others may come.
        let may_come = self.options.duration.is_some() && self.options.targets.iter().any(target::is_open);
        self.selection == Selection::Processes && self.targets.is_empty() && !may_come
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
}

/// Opens counters for the targets; they do not count yet.
fn counting(options: &Options, selection: Selection, pids: &[u32], directory: Option<&Path>) -> Counting {
    let sets: Vec<_> = options.pmu.iter().map(String::as_str).collect();
    let files = own::raise_file_limit();
    let mut counting = Counting::new(Survey::here(), Box::new(Perf), &sets, options.follow_children, files);
    match selection {
        Selection::Processes => pids.iter().for_each(|&pid| counting.add_process(pid, &target::threads(pid))),
        Selection::All => counting.add_host(),
        Selection::Cgroup { .. } => match directory.map(File::open) {
            Some(Ok(directory)) => counting.add_cgroup(&directory),
            // It is gone already.
            None | Some(Err(_)) => counting.leave_out_tasks(&Reason::TargetGone),
        },
    }
    counting
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
