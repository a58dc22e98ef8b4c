//! Births, execs and ends of processes.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};

use cputrace_common::run_time::Program;

use crate::{config, filter, maps, run_time, sched, task, unwind};

/// `sched_process_fork(parent, child)`: a child of a target is a target, and has its memory.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    run_time::timed(Program::ProcessFork, || forked(ctx.arg(0), ctx.arg(1)));
    0
}

#[inline(always)]
fn forked(parent: *const u8, child: *const u8) {
    let tid = task::tid_of(child);
    let (Some(parent), Some(child)) = (task::tgid_of(parent), task::tgid_of(child)) else { return };
    // A new thread has its process's tgid, which is there already.
    if parent != child {
        follow(parent, child);
        unwind::inherit(parent, child);
    }
    if let Some(tid) = tid {
        sched::born(tid, child);
    }
}

/// `sched_process_exec(task, pid, program)`: its memory is another program's now.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    run_time::timed(Program::ProcessExec, || {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        sched::exec(tgid, ctx.arg(1));
        unwind::forget(tgid);
        if filter::is_target(tgid) {
            unwind::announce(tgid);
        }
    });
    0
}

/// `sched_process_exit`: of a process's first thread; others may outlive it, for a moment and without their stacks.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(_: RawTracePointContext) -> i32 {
    run_time::timed(Program::ProcessExit, || {
        let pid_tgid = bpf_get_current_pid_tgid();
        if pid_tgid >> 32 == pid_tgid & u64::from(u32::MAX) {
            unwind::forget(pid_tgid as u32);
        }
    });
    0
}

#[inline(always)]
fn follow(parent: u32, child: u32) {
    if config::follow() == 0 || !filter::is_target_process(parent) {
        return;
    }
    if maps::TARGETS.insert(child, parent, 0).is_err()
        && let Some(stats) = maps::STATS.get_ptr_mut(0)
    {
        // SAFETY: this CPU's element.
        unsafe { (*stats).targets_full += 1 };
    }
}
