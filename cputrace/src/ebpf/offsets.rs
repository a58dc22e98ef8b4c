//! Where the programs find what they read of the kernel's structures, by its BTF.

use super::btf::{BtfError, KernelTypes};

/// Members of `struct task_struct`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskOffsets {
    pub(super) tgid: u64,
    pub(super) sum_exec_runtime: u64,
    pub(super) nr_migrations: u64,
    pub(super) stack: u64,
}

impl TaskOffsets {
    pub(super) fn of(types: &KernelTypes) -> Result<Self, BtfError> {
        let se = types.member_offset("task_struct", "se")?;
        Ok(Self {
            tgid: types.member_offset("task_struct", "tgid")?,
            sum_exec_runtime: se + types.member_offset("sched_entity", "sum_exec_runtime")?,
            stack: types.member_offset("task_struct", "stack")?,
            nr_migrations: se + types.member_offset("sched_entity", "nr_migrations")?,
        })
    }
}

/// What the account of the threads' time needs besides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SchedOffsets {
    pub(super) pid: u64,
    pub(super) state: u64,
    pub(super) on_cpu: u64,
    pub(super) nvcsw: u64,
    pub(super) nivcsw: u64,
    pub(super) run_delay: u64,
    pub(super) last_queued: u64,
    pub(super) last_arrival: u64,
    pub(super) cfs_rq: u64,
    pub(super) cfs_rq_rq: u64,
    pub(super) rq_clock: u64,
    /// 0: the kernel knows no CPU quota.
    pub(super) throttle_count: u64,
    pub(super) has_prev_state: bool,
}

impl SchedOffsets {
    pub(super) fn of(types: &KernelTypes) -> Result<Self, BtfError> {
        let task = |member| types.member_offset("task_struct", member);
        let sched_info = task("sched_info")?;
        Ok(Self {
            pid: task("pid")?,
            // Renamed with Linux 5.14.
            state: task("__state").or_else(|_| task("state"))?,
            on_cpu: task("on_cpu")?,
            nvcsw: task("nvcsw")?,
            nivcsw: task("nivcsw")?,
            run_delay: sched_info + types.member_offset("sched_info", "run_delay")?,
            last_queued: sched_info + types.member_offset("sched_info", "last_queued")?,
            last_arrival: sched_info + types.member_offset("sched_info", "last_arrival")?,
            cfs_rq: task("se")? + types.member_offset("sched_entity", "cfs_rq")?,
            cfs_rq_rq: types.member_offset("cfs_rq", "rq")?,
            rq_clock: types.member_offset("rq", "clock")?,
            throttle_count: types.member_offset("cfs_rq", "throttle_count").unwrap_or(0),
            // The kernel's own, preempt, prev, next, prev_state.
            has_prev_state: types.tracepoint_parameters("sched_switch").is_some_and(|count| count >= 5),
        })
    }
}

/// Where a sample's raw data is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawOffsets {
    /// Linux 6.1.
    pub(super) sample_flags: Option<u64>,
    pub(super) sample_raw: u64,
    pub(super) raw_data: u64,
    pub(super) raw_size: u64,
}

impl RawOffsets {
    pub(super) fn of(types: &KernelTypes) -> Result<Self, BtfError> {
        let frag = types.member_offset("perf_raw_record", "frag")?;
        Ok(Self {
            sample_flags: types.member_offset("perf_sample_data", "sample_flags").ok(),
            sample_raw: types.member_offset("perf_sample_data", "raw")?,
            raw_data: frag + types.member_offset("perf_raw_frag", "data")?,
            raw_size: frag + types.member_offset("perf_raw_frag", "size")?,
        })
    }
}
