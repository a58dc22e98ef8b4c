//! The scheduler.

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{config, sched, task::Task};

/// `sched_switch(preempt, prev, next)`, from Linux 5.18 on with the state that `prev` had before.
#[btf_tracepoint(function = "sched_switch")]
fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let bits = if config::has_prev_state() != 0 { Some(ctx.arg::<u64>(3) as u32) } else { None };
    sched::switch(ctx.arg::<u64>(0) & 1 != 0, Task(ctx.arg(1)), Task(ctx.arg(2)), bits);
    0
}

/// An iterator's look at one task, after the last one at none. Linux 5.8.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn seed_threads(ctx: *const c_void) -> i32 {
    // SAFETY: `struct bpf_iter__task`: a pointer to something else, then the task.
    let task = unsafe { ctx.cast::<*const u8>().add(1).read_volatile() };
    if !task.is_null() {
        sched::seed(Task(task));
    }
    0
}
