//! Why a number was not counted: one sentence each, with the fact, the file that tells it, and what can be done.

use super::cpu::Generation;
use super::event::is_of_host;

/// What reasons are told from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Whether the CPU says that it runs under a hypervisor.
    pub hypervisor: bool,
    /// Whether the kernel offers the core's PMU.
    pub core_pmu: bool,
    /// `kernel.perf_event_paranoid`; `None`: the kernel has no perf events.
    pub paranoid: Option<i64>,
    /// Whether this process has CAP_PERFMON or CAP_SYS_ADMIN.
    pub capable: bool,
    /// Whether the NMI watchdog may hold a counter.
    pub watchdog: bool,
}

/// Why a number was not counted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Reason {
    /// A virtual machine without a PMU.
    #[error(
        "no hardware counters: this virtual machine has no PMU (/sys/bus/event_source/devices/cpu is missing); ask for a \
         bare-metal or full-size instance, or have its host pass the PMU on (KVM: -cpu host,pmu=on)"
    )]
    NoPmuVirtual,
    /// No PMU, and no virtual machine.
    #[error(
        "no hardware counters: the kernel has no driver for this CPU's PMU, or found it broken \
         (/sys/bus/event_source/devices/cpu is missing; `dmesg | grep -i pmu` says which)"
    )]
    NoPmuBare,
    /// Not allowed.
    #[error(
        "not permitted: kernel.perf_event_paranoid is {paranoid} (/proc/sys/kernel/perf_event_paranoid) and cputrace lacks CAP_PERFMON; run it as root{advice}"
    )]
    NoPermission {
        /// The setting.
        paranoid: i64,
        /// What else helps.
        advice: &'static str,
    },
    /// It happens in the kernel, of which nothing may be counted.
    #[error(
        "it happens in the kernel, and kernel.perf_event_paranoid = {0} lets a plain user count user mode only; run it as root, or: sudo sysctl kernel.perf_event_paranoid=1"
    )]
    InKernel(i64),
    /// The kernel has no perf events at all.
    #[error(
        "perf events are off: /proc/sys/kernel/perf_event_paranoid is missing; use a kernel with CONFIG_PERF_EVENTS=y"
    )]
    NoPerfEvents,
    /// Something other than perf forbids it.
    #[error(
        "the system call perf_event_open is blocked by seccomp, a security module or lockdown (errno {0}); in a container \
         give it CAP_PERFMON and a seccomp profile that allows the call"
    )]
    Blocked(i32),
    /// The generation does not have it.
    #[error("{generation} does not count this; {known}")]
    NotOnGeneration {
        /// Which.
        generation: Generation,
        /// On which it is known.
        known: String,
    },
    /// No event table.
    #[error("there is no event table for this CPU ({0}); name events by perf's generic names or as cpu/event=…/")]
    UnknownCpu(String),
    /// The kernel maps the generic event to nothing.
    #[error("the kernel maps no event of this CPU to it (ENOENT); use an event of `cputrace pmu list --events`")]
    NotMapped,
    /// The PMU is not there.
    #[error("the PMU {pmu} is missing from /sys/bus/event_source/devices: {cause}")]
    PmuAbsent {
        /// Which.
        pmu: &'static str,
        /// What that comes of.
        cause: &'static str,
    },
    /// The PMU has no CPU to count on.
    #[error(
        "the PMU {0} has no CPUs (its cpumask in /sys/bus/event_source/devices is empty): its driver found no unit that works"
    )]
    NoCpus(String),
    /// More counters than there are.
    #[error("it needs {weight} counters at once and {budget} are to be had{watchdog}")]
    TooLarge {
        /// What it needs.
        weight: u32,
        /// What there is.
        budget: u32,
        /// The advice about the watchdog, or nothing.
        watchdog: &'static str,
    },
    /// The kernel refuses the group.
    #[error(
        "the kernel refuses the group (EINVAL): its PMU has too few counters, or the event takes none of the options"
    )]
    BadGroup,
    /// It opened and never ran.
    #[error("it opened and never got a counter: other users hold them all{0}")]
    NeverScheduled(&'static str),
    /// Nothing ran that could have been counted.
    #[error("the targets were never on a CPU while they were recorded")]
    NeverRan,
    /// It ran and counted nothing under load.
    #[error("it ran under load and counted nothing: the counter is there and does not work, as on some cloud machines")]
    DeadCounter,
    /// It counts and never samples.
    #[error("it counts but its interrupt never came: samples by it are impossible here")]
    NoInterrupt,
    /// Taken.
    #[error("its unit is in use by someone else (errno {0}); end other profilers (`perf`, `likwid`) and try again")]
    Busy(i32),
    /// No more files.
    #[error("there are too many open files for its counters; raise the limit (ulimit -n)")]
    NoFiles,
    /// Virtual machines of this host own the PMU.
    #[error("the PMU does not offer this (EOPNOTSUPP): it cannot interrupt, or virtual machines on this host own it")]
    NotSupported,
    /// The kernel is older than what is asked of it.
    #[error("this kernel is too old for it (E2BIG)")]
    OldKernel,
    /// The CPU is off.
    #[error("the CPU went offline, or the PMU does not count on it (ENODEV)")]
    CpuOffline,
    /// The target is gone.
    #[error("the target was gone before it could be counted")]
    TargetGone,
    /// Samples were asked of a PMU that only counts.
    #[error("the PMU {0} counts for the whole host and cannot interrupt: see `cputrace record --pmu-metrics`")]
    CountsOnly(String),
    /// Counts were asked of a PMU that only samples.
    #[error("the PMU {0} samples and does not count: see `cputrace record --event`")]
    SamplesOnly(String),
    /// Counts of a unit that CPUs share were asked for by stack.
    #[error(
        "the PMU {0} counts for several CPUs together, which is nobody's stack: see `cputrace record --pmu-metrics`"
    )]
    Shared(String),
    /// Time on the CPU is not known.
    #[error(
        "counted for whole CPUs it would mix in idle time: record processes (--pid, --name) for it, or see frequency-of-p0 of the set clock"
    )]
    IdleTime,
    /// The kernel does not count this control group.
    #[error(
        "the kernel does not count by control groups of version 2 here (perf_event is mounted as a controller of version 1, see \
         /proc/cgroups): record the group's processes by --name or --pid"
    )]
    NoCgroups,
    /// A tracepoint was asked to count.
    #[error("a tracepoint is no counter: see `cputrace record --event`")]
    Tracepoint,
    /// The PMU's files and the table do not fit.
    #[error("{0}")]
    Encoding(String),
    /// Something else.
    #[error("the kernel's answer was errno {0}")]
    Errno(i32),
    /// A division by zero.
    #[error("the denominator was 0 while it was counted")]
    ZeroDenominator,
}

/// What to do about the watchdog.
const WATCHDOG: &str = "; the NMI watchdog holds one (sudo sysctl kernel.nmi_watchdog=0 frees it)";

impl Reason {
    /// A short name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPmuVirtual => "no_pmu_virtual",
            Self::NoPmuBare => "no_pmu_bare",
            Self::NoPermission { .. } => "no_permission",
            Self::InKernel(_) => "in_kernel",
            Self::NoPerfEvents => "no_perf_events",
            Self::Blocked(_) => "blocked",
            Self::NotOnGeneration { .. } => "not_on_generation",
            Self::UnknownCpu(_) => "unknown_cpu",
            Self::NotMapped => "not_mapped",
            Self::PmuAbsent { .. } => "pmu_absent",
            Self::NoCpus(_) => "no_cpus",
            Self::TooLarge { .. } => "too_large",
            Self::BadGroup => "bad_group",
            Self::NeverScheduled(_) => "never_scheduled",
            Self::NeverRan => "never_ran",
            Self::DeadCounter => "dead_counter",
            Self::NoInterrupt => "no_interrupt",
            Self::Busy(_) => "busy",
            Self::NoFiles => "no_files",
            Self::NotSupported => "not_supported",
            Self::OldKernel => "old_kernel",
            Self::CpuOffline => "cpu_offline",
            Self::TargetGone => "target_gone",
            Self::CountsOnly(_) => "counts_only",
            Self::SamplesOnly(_) => "samples_only",
            Self::Shared(_) => "shared",
            Self::IdleTime => "idle_time",
            Self::NoCgroups => "no_cgroups",
            Self::Tracepoint => "tracepoint",
            Self::Encoding(_) => "encoding",
            Self::Errno(_) => "errno",
            Self::ZeroDenominator => "zero_denominator",
        }
    }

    /// What an errno of `perf_event_open` means for an event of this PMU.
    pub fn of_errno(errno: i32, pmu: &str, facts: &Facts) -> Self {
        match errno {
            libc::EACCES => Self::no_permission(pmu, facts),
            libc::EPERM | libc::ENOSYS if facts.paranoid.is_none() => Self::NoPerfEvents,
            // Outside of containers a lack of rights can show so too.
            libc::EPERM if !facts.capable && facts.paranoid.is_some_and(|level| level > 1) => {
                Self::no_permission(pmu, facts)
            }
            libc::EPERM | libc::ENOSYS => Self::Blocked(errno),
            libc::ENOENT if pmu == "cpu" && !facts.core_pmu => Self::no_pmu(facts),
            libc::ENOENT => Self::NotMapped,
            libc::EINVAL => Self::BadGroup,
            libc::EOPNOTSUPP => Self::NotSupported,
            libc::ENODEV => Self::CpuOffline,
            libc::EBUSY | libc::ENOSPC => Self::Busy(errno),
            libc::EMFILE | libc::ENFILE | libc::ENOMEM => Self::NoFiles,
            libc::E2BIG => Self::OldKernel,
            libc::ESRCH => Self::TargetGone,
            _ => Self::Errno(errno),
        }
    }

    /// Why there is no core PMU.
    pub fn no_pmu(facts: &Facts) -> Self {
        if facts.hypervisor { Self::NoPmuVirtual } else { Self::NoPmuBare }
    }

    /// Why one of the PMUs beside the core's is not there.
    pub fn pmu_absent(pmu: &'static str, facts: &Facts) -> Self {
        let cause = match pmu {
            _ if facts.hypervisor => "virtual machines are not given it",
            "power" => "the driver is not loaded (modprobe rapl) or the CPU has no energy counters",
            "ibs_op" | "ibs_fetch" => {
                "the CPU has no instruction-based sampling, or the BIOS has it switched off (its option is called IBS)"
            }
            "amd_umc" => "Linux has it from 6.9 on, for Zen 4 and newer, in the module amd-uncore",
            _ => "the module amd-uncore is not loaded (modprobe amd-uncore)",
        };
        Self::PmuAbsent { pmu, cause }
    }

    /// What happens in the kernel, counted in user mode only.
    pub fn in_kernel(facts: &Facts) -> Self {
        Self::InKernel(facts.paranoid.unwrap_or(0))
    }

    /// A group that opened and never ran.
    pub fn never_scheduled(facts: &Facts) -> Self {
        Self::NeverScheduled(if facts.watchdog { WATCHDOG } else { "" })
    }

    /// A group that needs more counters than there are.
    pub fn too_large(weight: u32, budget: u32, facts: &Facts) -> Self {
        Self::TooLarge { weight, budget, watchdog: if facts.watchdog { WATCHDOG } else { "" } }
    }

    fn no_permission(pmu: &str, facts: &Facts) -> Self {
        let paranoid = facts.paranoid.unwrap_or(0);
        let advice = match paranoid {
            ..=0 => "",
            _ if is_of_host(pmu) => {
                ", or: sudo sysctl kernel.perf_event_paranoid=0 (what counts for the whole host needs that)"
            }
            1 => ", or count processes of your own",
            2 => ", or: sudo sysctl kernel.perf_event_paranoid=1 (2 allows processes of your own, in user mode)",
            _ => ", or: sudo sysctl kernel.perf_event_paranoid=2 (above that a plain user may count nothing)",
        };
        Self::NoPermission { paranoid, advice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One errno, different facts.
    #[test]
    fn errno_and_facts() {
        let facts = Facts { paranoid: Some(2), ..Facts::default() };
        let virtual_machine = Facts { hypervisor: true, ..facts.clone() };
        let with_pmu = Facts { core_pmu: true, ..facts.clone() };
        let code = |errno, pmu, facts: &Facts| Reason::of_errno(errno, pmu, facts).code();
        assert_eq!(code(libc::ENOENT, "cpu", &facts), "no_pmu_bare");
        assert_eq!(code(libc::ENOENT, "cpu", &virtual_machine), "no_pmu_virtual");
        assert_eq!(code(libc::ENOENT, "cpu", &with_pmu), "not_mapped");
        assert_eq!(code(libc::EACCES, "cpu", &facts), "no_permission");
        assert_eq!(code(libc::EPERM, "cpu", &facts), "no_permission");
        assert_eq!(code(libc::EPERM, "cpu", &Facts { capable: true, ..facts.clone() }), "blocked");
        assert_eq!(code(libc::ENOSYS, "cpu", &Facts::default()), "no_perf_events");
        assert_eq!(code(libc::EINVAL, "amd_l3", &facts), "bad_group");
        assert_eq!(code(libc::EMFILE, "cpu", &facts), "no_files");
        assert_eq!(code(libc::EILSEQ, "cpu", &facts), "errno");
    }

    /// Every sentence names a fact and ends without a full stop; advice depends on the level.
    #[test]
    fn sentences() {
        for paranoid in [1, 2, 3, 4] {
            let facts = Facts { paranoid: Some(paranoid), ..Facts::default() };
            let sentence = Reason::of_errno(libc::EACCES, "cpu", &facts).to_string();
            assert!(sentence.contains(&format!("kernel.perf_event_paranoid is {paranoid}")), "{sentence}");
            assert!(sentence.contains("run it as root") && !sentence.ends_with('.'), "{sentence}");
        }
    }
}
