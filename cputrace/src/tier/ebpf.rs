//! Samples from the eBPF program, and what happens to processes from perf's ring buffers.

use std::collections::BTreeSet;
use std::time::Duration;

use cputrace_common::stat::Stats;

use super::{Sampler, Scope, Ticks, TierError, online_cpus};
use crate::collect::{Batch, Event, perf::PerfRings, ring};
use crate::ebpf::{Config, Object};
use crate::model::{LossReason, StackEnd, Tier};
use crate::process::{Change, Mappings};
use crate::source::on_cpu::OnCpuClock;
use crate::unwind::{Loader, LoaderStats};

/// The ring buffer holds at least a second of samples of this size: 120 frames.
const TYPICAL_SAMPLE_BYTES: u32 = 1024;

/// How long the start may wait for the unwind tables of a process: most are built in a few milliseconds.
const PREPARE_TIME: Duration = Duration::from_millis(150);

/// The eBPF program on every CPU.
pub struct EbpfSampler {
    // Dropped in this order: first the clock, then the program that it runs.
    clock: OnCpuClock,
    changes: PerfRings,
    object: Object,
    loader: Loader,
}

impl EbpfSampler {
    /// Loads and attaches everything; the clock does not run yet.
    pub fn start(scope: &Scope<'_>, notes: &mut Vec<String>) -> Result<Self, TierError> {
        let cpus = online_cpus()?;
        let a_second = scope.frequency.saturating_mul(cpus.len() as u32).saturating_mul(TYPICAL_SAMPLE_BYTES);
        let ring_bytes = a_second.clamp(256 * 1024, 64 * 1024 * 1024).next_power_of_two();
        // Before the targets are known to the kernel, so that no child of theirs is missed.
        let changes =
            PerfRings::of_host(&cpus).map_err(|source| TierError::Perf { what: "changes of processes", source })?;
        let clock_error = |source| TierError::Perf { what: "the sampling clock", source };
        let mut clock = OnCpuClock::open(&cpus, scope.frequency).map_err(clock_error)?;
        let mut object = Object::load(Config { filter: scope.filter, period: clock.period(), ring_bytes })?;
        notes.extend_from_slice(object.notes());
        scope.pids.iter().try_for_each(|&pid| object.add_target(pid))?;
        clock.run(object.on_cpu()?).map_err(clock_error)?;
        object.pool().set_limit(scope.unwind_kb);
        Ok(Self { clock, changes, object, loader: Loader::new() })
    }
}

impl Sampler for EbpfSampler {
    fn tier(&self) -> Tier {
        Tier::Ebpf
    }

    fn enable(&mut self) -> Result<(), TierError> {
        self.clock.enable().map_err(|source| TierError::Perf { what: "the sampling clock", source })
    }

    fn disable(&mut self) -> Result<(), TierError> {
        self.clock.disable().map_err(|source| TierError::Perf { what: "the sampling clock", source })
    }

    fn wait(&self, timeout: Duration) {
        self.object.wait(timeout);
    }

    fn prepare(&mut self, pid: u32, mappings: &mut Mappings) -> Result<(), TierError> {
        self.loader.update(pid, mappings, &mut self.object)?;
        Ok(self.loader.wait(PREPARE_TIME, &mut self.object)?)
    }

    fn follow(&mut self, batch: &[(u64, Event)], mappings: &mut Mappings) -> Result<(), TierError> {
        let mut changed = BTreeSet::new();
        for (_, event) in batch {
            match event {
                Event::Sample(sample) if sample.end == StackEnd::TableNotReady && !self.loader.knows(sample.pid) => {
                    changed.insert(sample.pid);
                }
                Event::Change(Change::Exit { pid, tid }) if pid == tid => {
                    changed.remove(pid);
                    self.loader.forget(*pid);
                }
                // The kernel's side has handed on the parent's mappings by itself.
                Event::Change(Change::Fork { pid, parent }) if self.loader.knows(*parent) => {
                    changed.insert(*pid);
                }
                Event::Change(Change::Exec { pid } | Change::Map { pid, .. }) if self.loader.knows(*pid) => {
                    changed.insert(*pid);
                }
                _ => {}
            }
        }
        for pid in changed {
            self.loader.update(pid, mappings, &mut self.object)?;
        }
        Ok(self.loader.load_built(&mut self.object)?)
    }

    fn unwinding(&self) -> Option<LoaderStats> {
        Some(self.loader.stats())
    }

    fn drain(&mut self, batch: &mut Batch) {
        // Samples first: then every change that came before one of them is there too.
        ring::drain(self.object.ring(), batch);
        self.changes.drain(batch);
    }

    fn add_target(&mut self, pid: u32) -> Result<(), TierError> {
        Ok(self.object.add_target(pid)?)
    }

    fn remove_target(&mut self, pid: u32) {
        self.object.remove_target(pid);
    }

    fn ticks(&mut self) -> Result<Ticks, TierError> {
        let expected =
            self.clock.ticks_expected().map_err(|source| TierError::Perf { what: "the sampling clock", source })?;
        let mut ticks = Ticks { clock: Some(self.clock.clock()), expected, ..Ticks::default() };
        for stats in self.object.stats()? {
            let Stats { ticks: seen, idle, filtered, emitted: _, ring_full, scratch_busy, missed, .. } = stats;
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
        Ok(ticks)
    }

    fn bpf_run_time(&self) -> Option<(Duration, u64)> {
        self.object.run_time()
    }
}
