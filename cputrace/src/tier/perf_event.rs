//! perf's own samples of processes that a plain user may trace: no eBPF, frame pointers only.

use std::collections::BTreeMap;

use super::{Sampler, Scope, Ticks, TierError, online_cpus};
use crate::collect::Batch;
use crate::collect::perf::{PerfRings, PerfSampling};
use crate::ebpf::Filter;
use crate::model::{Clock, LossReason, ProgramCost, Tier};

/// Sampling events on every thread of the targets, one a CPU.
pub struct PerfSampler {
    rings: Vec<PerfRings>,
    cpus: Vec<u32>,
    sampling: PerfSampling,
    samples: u64,
    lost: u64,
}

impl PerfSampler {
    /// Opens the events; the clock does not run yet.
    pub fn start(scope: &Scope<'_>, notes: &mut Vec<String>) -> Result<Self, TierError> {
        let unsupported = |targets| TierError::Unsupported { tier: Tier::PerfEvent, targets };
        let inherit = match scope.filter {
            Filter::Processes { follow_children } => follow_children,
            Filter::All => return Err(unsupported("the whole host")),
            Filter::Cgroup { .. } => return Err(unsupported("a control group")),
        };
        let mut sampler = Self {
            rings: Vec::new(),
            cpus: online_cpus()?,
            sampling: PerfSampling { frequency: scope.frequency, kernel: true, inherit },
            samples: 0,
            lost: 0,
        };
        for &pid in scope.pids {
            sampler.add_target(pid)?;
        }
        if !sampler.sampling.kernel {
            notes
                .push("kernel frames are left out: kernel.perf_event_paranoid forbids them to a plain user".to_owned());
        }
        Ok(sampler)
    }
}

impl Sampler for PerfSampler {
    fn tier(&self) -> Tier {
        Tier::PerfEvent
    }

    fn enable(&mut self) -> Result<(), TierError> {
        let enabled = self.rings.iter_mut().try_for_each(PerfRings::enable);
        enabled.map_err(|source| TierError::Perf { what: "the sampling clock", source })
    }

    fn disable(&mut self) -> Result<(), TierError> {
        let disabled = self.rings.iter_mut().try_for_each(PerfRings::disable);
        disabled.map_err(|source| TierError::Perf { what: "the sampling clock", source })
    }

    fn drain(&mut self, batch: &mut Batch) {
        let (samples, lost) = (batch.samples(), batch.lost_samples);
        self.rings.iter_mut().for_each(|rings| rings.drain(batch));
        self.samples += batch.samples() - samples;
        self.lost += batch.lost_samples - lost;
    }

    fn add_target(&mut self, pid: u32) -> Result<(), TierError> {
        let tids = threads(pid);
        let perf = |source| TierError::Perf { what: "a thread of the target", source };
        let rings = match PerfRings::sampling(&tids, &self.cpus, self.sampling) {
            Err(error) if self.sampling.kernel && error.raw_os_error() == Some(libc::EACCES) => {
                self.sampling.kernel = false;
                PerfRings::sampling(&tids, &self.cpus, self.sampling).map_err(perf)?
            }
            rings => rings.map_err(perf)?,
        };
        self.rings.push(rings);
        Ok(())
    }

    /// The kernel closes the events of a thread that ends.
    fn remove_target(&mut self, _: u32) {}

    fn ticks(&mut self) -> Result<Ticks, TierError> {
        // The events run only while the targets do: each of them counts its thread's CPU time.
        let cpu_time: u64 = self
            .rings
            .iter_mut()
            .map(PerfRings::count)
            .sum::<Result<_, _>>()
            .map_err(|source| TierError::Perf { what: "the sampling clock", source })?;
        let seen = self.samples + self.lost;
        let expected = (u128::from(cpu_time) * u128::from(self.sampling.frequency) / 1_000_000_000) as u64;
        let expected = expected.max(seen);
        let lost = [(LossReason::RingBufferFull, self.lost), (LossReason::ClockMissed, expected - seen)];
        Ok(Ticks { clock: Some(Clock::CpuClock), expected, seen, idle: 0, filtered: 0, lost: BTreeMap::from(lost) })
    }

    fn bpf_costs(&self) -> Option<Vec<ProgramCost>> {
        None
    }
}

/// A process's threads; itself if they cannot be listed.
fn threads(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    if tids.is_empty() { vec![pid] } else { tids }
}
