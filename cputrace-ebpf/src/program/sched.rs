//! The scheduler.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};

use cputrace_common::run_time::Program;

use crate::{config, run_time, sched, task::Task};

/// `sched_switch(preempt, prev, next)`, from Linux 5.18 on with the state that `prev` had before.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let bits = if config::has_prev_state() != 0 { Some(ctx.arg::<u64>(3) as u32) } else { None };
    let (preempted, prev, next) = (ctx.arg::<u64>(0) & 1 != 0, Task(ctx.arg(1)), Task(ctx.arg(2)));
    run_time::sampled(Program::SchedSwitch, || sched::switch(preempted, prev, next, bits));
    0
}

/// `sched_exit_tp`: the switch is done. Linux 6.15.
#[btf_tracepoint(function = "sched_exit_tp")]
fn sched_exit(ctx: BtfTracePointContext) -> i32 {
    sched::switched(ctx.as_ptr(), Program::SchedExit);
    0
}

/// The same where that does not exist: `schedule` returns. What is preempted comes back another way.
#[fexit(function = "schedule")]
fn schedule_returns(ctx: FExitContext) -> i32 {
    sched::switched(ctx.as_ptr(), Program::ScheduleReturns);
    0
}

/// `sched_waking(task)`: in the context of who wakes it.
#[btf_tracepoint(function = "sched_waking")]
fn sched_waking(ctx: BtfTracePointContext) -> i32 {
    sched::waking(ctx.as_ptr(), Task(ctx.arg(0)));
    0
}

/// An iterator's look at one task, after the last one at none. Linux 5.8.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn seed_threads(ctx: *const c_void) -> i32 {
    with_task(ctx, |task| run_time::timed(Program::SeedThreads, || sched::seed(task)))
}

/// The same at a recording's end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn look_at_threads(ctx: *const c_void) -> i32 {
    with_task(ctx, |task| run_time::timed(Program::LookAtThreads, || sched::look(task)))
}

#[inline(always)]
fn with_task(ctx: *const c_void, look: impl FnOnce(Task)) -> i32 {
    // SAFETY: `struct bpf_iter__task`: a pointer to something else, then the task.
    let task = unsafe { ctx.cast::<*const u8>().add(1).read_volatile() };
    if !task.is_null() {
        look(Task(task));
    }
    0
}
