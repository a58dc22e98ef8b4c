//! Births of processes.

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{config, filter, maps};

/// A child of a target is a target: `sched_process_fork(parent, child)`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    follow(&ctx);
    0
}

#[inline(always)]
fn follow(ctx: &RawTracePointContext) {
    let (Some(parent), Some(child)) = (tgid(ctx.arg(0)), tgid(ctx.arg(1))) else { return };
    // A new thread has its process's tgid, which is there already.
    if parent == child || !filter::is_target_process(parent) {
        return;
    }
    if maps::TARGETS.insert(child, parent, 0).is_err()
        && let Some(stats) = maps::STATS.get_ptr_mut(0)
    {
        // SAFETY: this CPU's element.
        unsafe { (*stats).targets_full += 1 };
    }
}

#[inline(always)]
fn tgid(task: *const u8) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(task.add(config::task_tgid() as usize).cast::<u32>()) }.ok()
}
