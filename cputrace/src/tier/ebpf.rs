//! Samples from the eBPF program, and what happens to processes from perf's ring buffers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cputrace_common::config::MAX_PROCESSES;
use cputrace_common::counter::CounterStats;
use cputrace_common::stat::Stats;

use super::{Sampler, Scope, Ticks, TierError, online_cpus};
use crate::collect::threads::ThreadTimes;
use crate::collect::{Batch, perf::PerfRings, ring};
use crate::ebpf::{Config, EbpfError, EventHook, Filter, KernelNames, Object, WaitHook};
use crate::model::{Clock, LossReason, ProgramCost, SchedulerLedger, StackCounters, ThreadTime, Tier};
use crate::source::counters::CpuCounters;
use crate::source::event::EventClock;
use crate::source::on_cpu::OnCpuClock;
use crate::unwind::{RemoteUnwinder, UnwindStats, Unwinder};

/// The ring buffer holds at least a second of samples of this size: 120 frames.
const TYPICAL_SAMPLE_BYTES: u32 = 1024;

/// The least size of the ring buffer where an event is sampled too.
const EVENT_RING_BYTES: u32 = 16 << 20;

/// How long the start may wait for the unwind tables of the targets: most are built in a few milliseconds.
const PREPARE_TIME: Duration = Duration::from_millis(500);

/// How long the end may take for the unwind tables of threads that wait still: most are built in a few milliseconds. Of a whole
/// host, most such threads have nothing to do.
fn remote_time(filter: Filter) -> Duration {
    Duration::from_millis(if matches!(filter, Filter::Processes { .. }) { 500 } else { 100 })
}

/// The eBPF program on every CPU.
pub struct EbpfSampler {
    // Dropped in this order: first the clock, then the program that it runs.
    clock: OnCpuClock,
    event: Option<EventClock>,
    counters: Option<CpuCounters>,
    changes: PerfRings,
    object: Object,
    unwinder: Unwinder,
    threads: Option<ThreadTimes>,
    remote: RemoteUnwinder,
    remote_time: Duration,
    ring_bytes: u32,
    /// The most that was drained at once.
    most_drained: usize,
}

impl EbpfSampler {
    /// Loads and attaches everything; the clock does not run yet.
    pub fn start(scope: &Scope<'_>, notes: &mut Vec<String>) -> Result<Self, TierError> {
        let cpus = online_cpus()?;
        let a_second = scope.frequency.saturating_mul(cpus.len() as u32).saturating_mul(TYPICAL_SAMPLE_BYTES);
        // An event can come in bursts, and must not take the room of the clock's samples.
        let least = if scope.event.is_some() { EVENT_RING_BYTES } else { 256 * 1024 };
        let ring_bytes = a_second.clamp(least, 64 * 1024 * 1024).next_power_of_two();
        // Before the targets are known to the kernel, so that no child of theirs is missed.
        let changes =
            PerfRings::of_host(&cpus).map_err(|source| TierError::Perf { what: "changes of processes", source })?;
        let clock_error = |source| TierError::Perf { what: "the sampling clock", source };
        let mut clock = OnCpuClock::open(&cpus, scope.frequency).map_err(clock_error)?;
        let mut object = Object::load(Config {
            filter: scope.filter,
            ring_bytes,
            accounting: scope.accounting,
            waits: scope.waits,
            event: scope.event,
            counters: scope.counters as u32,
            newcomers: scope.newcomers,
            most_stacks: scope.most_stacks,
        })?;
        notes.extend_from_slice(object.notes());
        object.set_pace(fixed_period(&clock), 0)?;
        scope.pids.iter().try_for_each(|&pid| object.add_target(pid))?;
        let threads = object.take_sched_maps().map(ThreadTimes::new);
        if threads.is_some() {
            object.seed_threads()?;
        }
        clock.run(object.on_cpu()?).map_err(clock_error)?;
        let maps = object.take_unwind_maps().ok_or(EbpfError::Missing("maps for the unwinder"))?;
        let unwinder = Unwinder::start(maps, scope.unwind_kb * 1024).map_err(TierError::Unwinder)?;
        let (remote, remote_time) = (RemoteUnwinder::default(), remote_time(scope.filter));
        Ok(Self {
            clock,
            event: None,
            counters: None,
            changes,
            object,
            unwinder,
            threads,
            remote,
            remote_time,
            ring_bytes,
            most_drained: 0,
        })
    }
}

impl Sampler for EbpfSampler {
    fn tier(&self) -> Tier {
        Tier::Ebpf
    }

    fn enable(&mut self) -> Result<(), TierError> {
        self.counters.as_mut().map_or(Ok(()), CpuCounters::enable).map_err(counters_error)?;
        self.clock.enable().map_err(|source| TierError::Perf { what: "the sampling clock", source })?;
        self.event.as_mut().map_or(Ok(()), EventClock::enable).map_err(event_error)
    }

    fn disable(&mut self) -> Result<(), TierError> {
        self.event.as_mut().map_or(Ok(()), EventClock::disable).map_err(event_error)?;
        self.clock.disable().map_err(|source| TierError::Perf { what: "the sampling clock", source })
    }

    fn prepare(&mut self, pids: &[u32]) {
        self.unwinder.prepare(pids, PREPARE_TIME);
    }

    fn unwinding(&self) -> Option<UnwindStats> {
        Some(self.unwinder.stats())
    }

    fn take_kernel_names(&mut self) -> Option<KernelNames> {
        self.object.take_kernel_names()
    }

    fn unwinding_notes(&self) -> Vec<String> {
        self.unwinder.notes()
    }

    fn drain(&mut self, batch: &mut Batch) {
        // Samples first: then every change that came before one of them is there too.
        let Self { object, remote, remote_time, .. } = self;
        let deadline = Instant::now() + *remote_time;
        let mut unwind = |pid, registers, pc| remote.unwind(pid, registers, pc, deadline);
        let drained = ring::drain(object.ring(), batch, &mut unwind);
        self.most_drained = drained.max(self.most_drained);
        self.changes.drain(batch);
        if let Some(threads) = &mut self.threads {
            threads.drain();
        }
    }

    fn add_target(&mut self, pid: u32) -> Result<(), TierError> {
        self.object.add_target(pid)?;
        if self.threads.is_some() {
            self.object.seed_threads()?;
        }
        self.unwinder.prepare(&[pid], Duration::ZERO);
        Ok(())
    }

    fn remove_target(&mut self, pid: u32) {
        self.object.remove_target(pid);
    }

    fn start_threads(&mut self, now_ns: u64) -> Result<(), TierError> {
        let Some(threads) = &mut self.threads else { return Ok(()) };
        // The kernel's own account of each thread counts from here, too.
        self.object.seed_threads()?;
        Ok(threads.start_at(now_ns)?)
    }

    fn threads(&mut self, now_ns: u64) -> Result<Option<(Vec<ThreadTime>, SchedulerLedger)>, TierError> {
        let Some(threads) = &mut self.threads else { return Ok(None) };
        self.object.look_at_threads()?;
        Ok(Some(threads.finish(now_ns)?))
    }

    fn end_window(&mut self) {
        self.remote.end_window();
    }

    fn wait_hook(&self) -> Option<WaitHook> {
        self.object.wait_hook()
    }

    fn sample_event(&mut self, mut event: EventClock) -> Result<(), TierError> {
        event.run(self.object.on_event(event.hook())?).map_err(event_error)?;
        self.event = Some(event);
        Ok(())
    }

    fn event_ticks(&mut self) -> Result<Option<Ticks>, TierError> {
        let Some(event) = &mut self.event else { return Ok(None) };
        let mut ticks = Ticks::default();
        for stats in self.object.event_stats()? {
            add(&mut ticks, &stats);
        }
        ticks.expected = match event.hook() {
            EventHook::Overflow | EventHook::Op => event.expected().map_err(event_error)?,
            // A tracepoint is counted by nobody but the program.
            hook @ EventHook::Tracepoint { period } => ticks.seen + self.object.event_misses(hook)? / period,
        };
        Ok(Some(ticks))
    }

    fn count_stacks(&mut self, counters: CpuCounters) -> Result<(), TierError> {
        let maps = self.object.counters().ok_or(TierError::NoTypes("counters by stack"))?;
        counters.files().try_for_each(|(number, cpu, file)| maps.set(number, cpu, file)).map_err(counters_error)?;
        self.counters = Some(counters);
        Ok(())
    }

    fn enter_readings(&self, counters: &mut StackCounters) -> Result<(), TierError> {
        let Some(maps) = self.object.counters() else { return Ok(()) };
        (counters.counted, counters.no_start, counters.not_running, counters.refused) = (0, 0, 0, 0);
        counters.counters.iter_mut().for_each(|counter| counter.off_stack = 0);
        for stats in maps.stats()? {
            let CounterStats { counted, no_start, not_running, refused, off_stack } = stats;
            counters.counted += counted;
            counters.no_start += no_start;
            counters.not_running += not_running;
            counters.refused += refused;
            for (counter, count) in counters.counters.iter_mut().zip(off_stack) {
                counter.off_stack += count;
            }
        }
        Ok(())
    }

    fn ticks(&mut self) -> Result<Ticks, TierError> {
        let expected =
            self.clock.ticks_expected().map_err(|source| TierError::Perf { what: "the sampling clock", source })?;
        let mut ticks = Ticks { clock: Some(self.clock.clock()), expected, ..Ticks::default() };
        for stats in self.object.stats()? {
            add(&mut ticks, &stats);
        }
        Ok(ticks)
    }

    fn halve(&mut self, halvings: u32) -> Result<Duration, TierError> {
        self.clock.halve(halvings).map_err(|source| TierError::Perf { what: "the sampling clock", source })?;
        self.object.set_pace(fixed_period(&self.clock), halvings)?;
        Ok(self.clock.period())
    }

    fn take_map_fill(&mut self) -> BTreeMap<&'static str, f64> {
        let drained = std::mem::take(&mut self.most_drained);
        let processes = self.unwinder.stats().processes;
        let mut fill = BTreeMap::from([
            ("samples", (drained as f64 / f64::from(self.ring_bytes)).min(1.0)),
            ("processes", processes as f64 / f64::from(MAX_PROCESSES)),
        ]);
        fill.extend(self.threads.as_ref().map(|threads| ("threads", threads.fill())));
        fill
    }

    fn bpf_costs(&self) -> Option<Vec<ProgramCost>> {
        Some(self.object.costs())
    }
}

/// Time between two ticks, where they are of one length.
fn fixed_period(clock: &OnCpuClock) -> Option<Duration> {
    (clock.clock() == Clock::CpuClock).then(|| clock.period())
}

fn event_error(source: std::io::Error) -> TierError {
    TierError::Perf { what: "the event to sample", source }
}

fn counters_error(source: std::io::Error) -> TierError {
    TierError::Perf { what: "counters by stack", source }
}

/// Adds what one CPU counted.
fn add(ticks: &mut Ticks, stats: &Stats) {
    let &Stats { ticks: seen, idle, filtered, emitted: _, ring_full, scratch_busy, missed, .. } = stats;
    ticks.seen += seen;
    ticks.idle += idle;
    ticks.filtered += filtered;
    for (reason, count) in [
        (LossReason::RingBufferFull, ring_full),
        (LossReason::ScratchBusy, scratch_busy),
        (LossReason::ClockMissed, missed),
    ] {
        *ticks.lost.entry(reason).or_default() += count;
    }
}
