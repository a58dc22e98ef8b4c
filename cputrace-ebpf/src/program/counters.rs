//! Counters at switches.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use cputrace_common::run_time::Program;

use crate::{counters, run_time};

/// `sched_switch(preempt, prev, next)`, where counters are read at it.
#[raw_tracepoint(tracepoint = "sched_switch")]
fn count_at_switch(ctx: RawTracePointContext) -> i32 {
    run_time::sampled(Program::CountAtSwitch, || counters::switch(ctx.arg(2)));
    0
}
