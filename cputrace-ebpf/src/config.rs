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
global!(
    /// Not 0: threads are accounted.
    ACCOUNTING, accounting: u32
);
global!(
    /// Nanoseconds from which on a wait is sent with its stack; 0: none is.
    OFF_CPU_MIN_NS, off_cpu_min_ns: u64
);
global!(
    /// Not 0: of shorter waits, each thread sends one for each `OFF_CPU_MIN_NS` that they last together.
    SAMPLE_WAITS, sample_waits: u32
);
global!(
    /// Not 0: the stack of a thread that was preempted can be taken when it runs again, too.
    PREEMPTED_WAITS, preempted_waits: u32
);
global!(
    /// Where the kernel's code begins that takes interrupts.
    INTERRUPTS_START, interrupts_start: u64
);
global!(
    /// Where it ends; 0 where that is not known.
    INTERRUPTS_END, interrupts_end: u64
);
global!(
    /// Places of the map `THREADS`, minus 1: a mask.
    THREADS_MASK, threads_mask: u32
);
global!(
    /// Byte offset of `pid` in `struct task_struct`.
    TASK_PID, task_pid: u64
);
global!(
    /// Byte offset of `__state` (`state` before Linux 5.14).
    TASK_STATE, task_state: u64
);
global!(
    /// Byte offset of `on_cpu`.
    TASK_ON_CPU, task_on_cpu: u64
);
global!(
    /// Byte offset of `nvcsw`.
    TASK_NVCSW, task_nvcsw: u64
);
global!(
    /// Byte offset of `nivcsw`.
    TASK_NIVCSW, task_nivcsw: u64
);
global!(
    /// Byte offset of `sched_info.run_delay`.
    TASK_RUN_DELAY, task_run_delay: u64
);
global!(
    /// Byte offset of `sched_info.last_queued`.
    TASK_LAST_QUEUED, task_last_queued: u64
);
global!(
    /// Byte offset of `sched_info.last_arrival`.
    TASK_LAST_ARRIVAL, task_last_arrival: u64
);
global!(
    /// Byte offset of `se.cfs_rq`.
    TASK_CFS_RQ, task_cfs_rq: u64
);
global!(
    /// Byte offset of `rq` in `struct cfs_rq`.
    CFS_RQ_RQ, cfs_rq_rq: u64
);
global!(
    /// Byte offset of `throttle_count` in `struct cfs_rq`; 0 where the kernel knows no CPU quota.
    CFS_RQ_THROTTLE_COUNT, cfs_rq_throttle_count: u64
);
global!(
    /// Byte offset of `clock` in `struct rq`.
    RQ_CLOCK, rq_clock: u64
);
global!(
    /// Not 0: `sched_switch` has the previous task's state as its fourth argument (Linux 5.18).
    HAS_PREV_STATE, has_prev_state: u32
);
global!(
    /// Hits of a tracepoint on a CPU that a sample stands for.
    EVENT_PERIOD, event_period: u64
);
global!(
    /// Not 0: samples of the event have what the CPU noted of the op.
    OPS, ops: u32
);
global!(
    /// Byte offset of `sample_flags` in `struct perf_sample_data` (Linux 6.1), plus 1; 0 where there are none.
    SAMPLE_FLAGS, sample_flags: u64
);
global!(
    /// Byte offset of `raw` in `struct perf_sample_data`.
    SAMPLE_RAW, sample_raw: u64
);
global!(
    /// Byte offset of `frag.data` in `struct perf_raw_record`.
    RAW_DATA, raw_data: u64
);
global!(
    /// Byte offset of `frag.size` in `struct perf_raw_record`.
    RAW_SIZE, raw_size: u64
);
global!(
    /// Counters that are read at samples and switches; 0: none is.
    COUNTERS, counters: u32
);
