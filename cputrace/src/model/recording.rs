//! A whole recording: the profile, the timelines, the ledger, and the facts about them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Counters, EventSampling, Ledger, Profile, SchedulerLedger, Spike, StackCounters, ThreadTime, Timeline};

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// Host name.
    pub hostname: String,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Machine (`uname -m`).
    pub arch: String,
    /// CPU model name.
    pub cpu_model: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory.
    pub memory_kb: u64,
}

/// What was asked to be recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A process and its children.
    Pid(u32),
    /// Processes whose name or command line matches.
    Name(String),
    /// A control group and those below it.
    Cgroup(String),
    /// The whole host.
    All,
    /// A command that was started for the recording.
    Command(Vec<String>),
}

/// Which of the kernel's facilities the samples came through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// eBPF.
    Ebpf,
    /// `perf_event_open` alone.
    PerfEvent,
    /// `/proc` alone: a timeline, no stacks.
    Proc,
}

impl Tier {
    /// Its name in trace.json and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::PerfEvent => "perf_event",
            Self::Proc => "proc",
        }
    }
}

/// What made the samples' ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// A hardware counter of CPU cycles.
    Cycles,
    /// The kernel's high-resolution timer (`cpu-clock`).
    CpuClock,
}

impl Clock {
    /// perf's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::CpuClock => "cpu-clock",
        }
    }
}

/// How on-CPU samples were taken.
#[derive(Clone, PartialEq, Debug)]
pub struct Sampling {
    /// Through which facility.
    pub tier: Tier,
    /// By which clock; `None` where none ran.
    pub clock: Option<Clock>,
    /// Samples a second and CPU that were asked for.
    pub asked_hz: f64,
    /// Ticks that came, a second of CPU time of the targets.
    pub achieved_hz: f64,
}

/// What one eBPF program cost, by its own account: long runs are timed each, of short ones one in 251 stands for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Time in it, with that in what it calls.
    pub run_time: Duration,
    /// How often it ran.
    pub runs: u64,
    /// Instructions that the kernel went through to verify it; `None` before Linux 5.16, which does not tell.
    pub verified_instructions: Option<u32>,
}

/// What the recording itself cost.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overhead {
    /// Time in the eBPF programs, estimated as in [`ProgramCost`]; `None` without any.
    pub bpf_run_time: Option<Duration>,
    /// How often they ran.
    pub bpf_runs: u64,
    /// The same of each that ran.
    pub bpf_programs: Vec<ProgramCost>,
    /// CPU time of cputrace itself while recording.
    pub own_cpu: Duration,
    /// Resident memory of cputrace itself at its highest.
    pub own_rss_kb: u64,
    /// Memory of the eBPF maps.
    pub map_kb: u64,
    /// How full the maps are that can be full, by name: 1 is full. Of a buffer, when it was fullest. Not in files.
    pub map_fill: BTreeMap<&'static str, f64>,
}

/// What was done so that stacks could be unwound in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unwinding {
    /// Files whose tables were in the kernel at the end.
    pub tables: u64,
    /// Rows of these tables.
    pub rows: u64,
    /// Kernel memory of these tables.
    pub table_kb: u64,
    /// Tables that were built.
    pub builds: u64,
    /// Time that this took.
    pub build_time: Duration,
    /// Files of which no table could be made.
    pub failed_builds: u64,
    /// Tables that were dropped to make room.
    pub evictions: u64,
    /// Tables that were not loaded for want of room.
    pub refused: u64,
    /// Looks at new processes that were put off until their next sample, for very many programs started.
    pub put_off: u64,
}

/// A whole recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// `trace-YYYYMMDD-HHMMSS`, in UTC.
    pub session_id: String,
    /// When it started.
    pub start: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// The machine.
    pub host: Host,
    /// What was asked for.
    pub targets: Vec<Target>,
    /// How samples were taken.
    pub sampling: Sampling,
    /// The samples.
    pub profile: Profile,
    /// `/proc` time series, one a process; the first is the one that the ancestor's fields describe.
    pub timelines: Vec<Timeline>,
    /// Where each thread's time went, by process and thread; empty where it was not accounted.
    pub threads: Vec<ThreadTime>,
    /// What that account lacks; `None` where there is none.
    pub scheduler: Option<SchedulerLedger>,
    /// What was expected, kept and lost.
    pub ledger: Ledger,
    /// What the recording cost.
    pub overhead: Overhead,
    /// What was done for the stacks; `None` where that is the kernel's business.
    pub unwinding: Option<Unwinding>,
    /// What counters counted; `None` where it was not asked for.
    pub pmu: Option<Counters>,
    /// The samples by an event beside the clock; `None` where none was asked for.
    pub event: Option<EventSampling>,
    /// The counters that were read at each sample; `None` where none was asked for.
    pub stack_counters: Option<StackCounters>,
    /// Where processes took far more of the CPU than before, in order of time.
    pub spikes: Vec<Spike>,
    /// Each feature that was off, in one sentence with the fact and the fix.
    pub notes: Vec<String>,
}
