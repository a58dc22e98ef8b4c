//! Frozen globals. Userspace sets them before the load; the verifier then knows them as constants.

macro_rules! global {
    ($(#[$doc:meta])* $name:ident, $read:ident: $type:ty) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: $type = 0;

        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $read() -> $type {
            // SAFETY: a static of ours; volatile, so that the compiler does not take the 0 above for its value.
            unsafe { core::ptr::read_volatile(&raw const $name) }
        }
    };
}

global!(
    /// Which tasks are targets: `cputrace_common::config::filter`.
    FILTER, filter: u32
);
global!(
    /// The control group that is the target.
    CGROUP_ID, cgroup_id: u64
);
global!(
    /// Its depth below the root of the hierarchy.
    CGROUP_LEVEL, cgroup_level: u32
);
global!(
    /// Nanoseconds between two ticks of the clock; 0 where they are not of one length.
    PERIOD_NS, period_ns: u64
);
global!(
    /// Not 0: children of the targets are targets.
    FOLLOW, follow: u32
);
global!(
    /// Byte offset of `tgid` in `struct task_struct`.
    TASK_TGID, task_tgid: u64
);
global!(
    /// Byte offset of `se.sum_exec_runtime` in `struct task_struct`; 0 where it is not known.
    TASK_SUM_EXEC_RUNTIME, task_sum_exec_runtime: u64
);
global!(
    /// Byte offset of `se.nr_migrations` in `struct task_struct`.
    TASK_NR_MIGRATIONS, task_nr_migrations: u64
);
global!(
    /// Not 0 where the kernel has `bpf_task_pt_regs` (Linux 5.15) and its own types for it.
    HAS_TASK_PT_REGS, has_task_pt_regs: u32
);
global!(
    /// Byte offset of `stack` in `struct task_struct`, for kernels without it.
    TASK_STACK, task_stack: u64
);
