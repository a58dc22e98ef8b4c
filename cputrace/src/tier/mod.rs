//! The ways to samples, best first; a session uses the best one that the system allows.
//!
//! - [`ebpf`]: sampled and unwound in the kernel, whole host or filtered there.
//! - [`perf_event`]: perf's own samples, of processes that a plain user may trace.
//! - [`proc`]: none, the `/proc` timeline alone.

pub mod ebpf;
pub mod perf_event;
pub mod proc;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crate::collect::Batch;
use crate::ebpf::{EbpfError, EventHook, Filter, KernelNames, WaitHook, Waits};
use crate::model::{Clock, LossReason, ProgramCost, SchedulerLedger, StackCounters, ThreadTime, Tier};
use crate::process::own;
use crate::source::counters::CpuCounters;
use crate::source::event::EventClock;
use crate::unwind::UnwindStats;

/// Why a tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The kernel refused the eBPF object.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The kernel refused an event.
    #[error("perf_event_open for {what} failed: {source}{}", hint(.source))]
    Perf {
        /// What the event was for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The unwinder's threads cannot be started.
    #[error("the unwinder cannot be started: {0}")]
    Unwinder(#[source] io::Error),
    /// What needs the kernel's types is not to be had.
    #[error("{0} need to know the kernel's types, and it does not tell them (CONFIG_DEBUG_INFO_BTF)")]
    NoTypes(&'static str),
    /// The CPUs cannot be listed.
    #[error("the online CPUs cannot be read: {0}")]
    Cpus(#[source] io::Error),
    /// The tier cannot tell these targets from others.
    #[error("the {tier} tier cannot record {targets}: use root, for eBPF", tier = .tier.name())]
    Unsupported {
        /// Which tier.
        tier: Tier,
        /// Which targets.
        targets: &'static str,
    },
}

impl TierError {
    /// The kernel does not allow it.
    fn is_refusal(&self) -> bool {
        let errno = if let Self::Perf { source, .. } = self { source.raw_os_error() } else { None };
        matches!(errno, Some(libc::EACCES | libc::EPERM))
    }
}

/// The next step for the errors that users meet.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "; a plain user can sample processes of his own, where kernel.perf_event_paranoid is 2 or less: run it as root"
        }
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

/// What to sample.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    /// Which tasks.
    pub filter: Filter,
    /// The processes that are targets at the start, for [`Filter::Processes`].
    pub pids: &'a [u32],
    /// Ticks a second and CPU.
    pub frequency: u32,
    /// Kernel memory that unwind tables may take, in kilobytes.
    pub unwind_kb: u64,
    /// New programs a second and CPU that are looked at before their first sample.
    pub newcomers: u32,
    /// Stacks of waits that a CPU may take in a tenth of a second, and as many of wake-ups.
    pub most_stacks: u32,
    /// Whether each thread's time is accounted.
    pub accounting: bool,
    /// With the account: which waits are kept with their stacks.
    pub waits: Option<Waits>,
    /// Where the event happens that [`Sampler::sample_event`] is going to be called with.
    pub event: Option<EventHook>,
    /// Of how many counters [`Sampler::count_stacks`] is going to be called; 0: it is not.
    pub counters: usize,
}

/// What became of the clock's ticks.
#[derive(Clone, Debug, Default)]
pub struct Ticks {
    /// Which clock it was.
    pub clock: Option<Clock>,
    /// How often it should have ticked.
    pub expected: u64,
    /// How often it did.
    pub seen: u64,
    /// On an idle CPU.
    pub idle: u64,
    /// In a task that is no target.
    pub filtered: u64,
    /// Losses that the kernel's side counted.
    pub lost: BTreeMap<LossReason, u64>,
}

impl Ticks {
    /// What came since `before` was counted.
    pub fn since(&self, before: &Self) -> Self {
        let Self { clock, expected, seen, idle, filtered, ref lost } = *self;
        let lost_before = |reason| before.lost.get(reason).copied().unwrap_or(0);
        Self {
            clock,
            expected: expected.saturating_sub(before.expected),
            seen: seen.saturating_sub(before.seen),
            idle: idle.saturating_sub(before.idle),
            filtered: filtered.saturating_sub(before.filtered),
            lost: lost.iter().map(|(reason, count)| (*reason, count.saturating_sub(lost_before(reason)))).collect(),
        }
    }
}

/// One way to samples, attached to its targets.
pub trait Sampler {
    /// Which tier it is.
    fn tier(&self) -> Tier;
    /// Starts the clock.
    fn enable(&mut self) -> Result<(), TierError>;
    /// Stops the clock; what was sampled can still be drained.
    fn disable(&mut self) -> Result<(), TierError>;
    /// Takes all that is there.
    fn drain(&mut self, batch: &mut Batch);
    /// Processes are about to be sampled: what can be made ready for them is.
    fn prepare(&mut self, _pids: &[u32]) {}
    /// What was done for the unwinding of stacks; `None` where that is the kernel's.
    fn unwinding(&self) -> Option<UnwindStats> {
        None
    }
    /// What tells names of kernel addresses, for whoever asks first; `None` where nothing does but `/proc/kallsyms`.
    fn take_kernel_names(&mut self) -> Option<KernelNames> {
        None
    }
    /// What is wrong with files whose code is unwound, in sentences.
    fn unwinding_notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// Another process is a target from now on.
    fn add_target(&mut self, pid: u32) -> Result<(), TierError>;
    /// A target is gone.
    fn remove_target(&mut self, pid: u32);
    /// The account of the threads' time starts now (CLOCK_MONOTONIC).
    fn start_threads(&mut self, _now_ns: u64) -> Result<(), TierError> {
        Ok(())
    }
    /// The time of every thread up to now, from where on a new account starts; `None` where it is not accounted.
    fn threads(&mut self, _now_ns: u64) -> Result<Option<(Vec<ThreadTime>, SchedulerLedger)>, TierError> {
        Ok(None)
    }
    /// A window has been taken: what was needed for it alone can go.
    fn end_window(&mut self) {}
    /// Where the stacks of waits are taken; `None` where they are not.
    fn wait_hook(&self) -> Option<WaitHook> {
        None
    }
    /// Samples an event beside the clock, from when that is started.
    fn sample_event(&mut self, _event: EventClock) -> Result<(), TierError> {
        Err(TierError::Unsupported { tier: self.tier(), targets: "samples by event" })
    }
    /// What became of the event's samples so far; `None` where there are none.
    fn event_ticks(&mut self) -> Result<Option<Ticks>, TierError> {
        Ok(None)
    }
    /// Reads counters at each sample of the clock, from when that is started.
    fn count_stacks(&mut self, _counters: CpuCounters) -> Result<(), TierError> {
        Err(TierError::Unsupported { tier: self.tier(), targets: "counters by stack" })
    }
    /// Enters what became of the counters' readings so far.
    fn enter_readings(&self, _counters: &mut StackCounters) -> Result<(), TierError> {
        Ok(())
    }
    /// What became of the ticks so far.
    fn ticks(&mut self) -> Result<Ticks, TierError>;
    /// Samples at the frequency that it started with, halved so often, and with as many stacks of waits less, from now on.
    /// Returns the time that a sample of the clock stands for now.
    fn halve(&mut self, _halvings: u32) -> Result<Duration, TierError> {
        Err(TierError::Unsupported { tier: self.tier(), targets: "at another frequency" })
    }
    /// How full the maps are that can be full, by name; of buffers, since it was asked last.
    fn take_map_fill(&mut self) -> BTreeMap<&'static str, f64> {
        BTreeMap::new()
    }
    /// What the eBPF programs cost so far; `None` where that is not known.
    fn bpf_costs(&self) -> Option<Vec<ProgramCost>>;
}

/// Starts the wanted tier, or without a wish the best that is allowed. With the sampler comes, for each better
/// tier that was not allowed, one sentence that says why.
pub fn start(wanted: Option<Tier>, scope: &Scope<'_>) -> Result<(Box<dyn Sampler>, Vec<String>), TierError> {
    let mut notes = Vec::new();
    let mut start_or_note = |tier| match (start_tier(tier, scope, &mut notes), wanted) {
        (Ok(sampler), _) => Some(Ok(sampler)),
        (Err(error), Some(_)) => Some(Err(error)),
        (Err(error), None) => {
            let needs_root = tier == Tier::Ebpf && error.is_refusal() && !own::is_root();
            let why = if needs_root { "it needs root".to_owned() } else { error.to_string() };
            notes.push(format!("{} is not available: {why}", describe(tier)));
            None
        }
    };
    let started = match wanted {
        Some(tier) => start_or_note(tier),
        None => [Tier::Ebpf, Tier::PerfEvent].into_iter().find_map(&mut start_or_note),
    };
    let sampler = started.unwrap_or_else(|| Ok(Box::new(proc::NoSampler)))?;
    Ok((sampler, notes))
}

fn start_tier(tier: Tier, scope: &Scope<'_>, notes: &mut Vec<String>) -> Result<Box<dyn Sampler>, TierError> {
    Ok(match tier {
        Tier::Ebpf => Box::new(ebpf::EbpfSampler::start(scope, notes)?),
        Tier::PerfEvent => Box::new(perf_event::PerfSampler::start(scope, notes)?),
        Tier::Proc => Box::new(proc::NoSampler),
    })
}

fn describe(tier: Tier) -> &'static str {
    match tier {
        Tier::Ebpf => "sampling by eBPF",
        Tier::PerfEvent => "sampling by perf_event_open",
        Tier::Proc => "the /proc timeline",
    }
}

fn online_cpus() -> Result<Vec<u32>, TierError> {
    aya::util::online_cpus().map_err(|(_, error)| TierError::Cpus(error))
}
