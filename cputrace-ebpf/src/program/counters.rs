//! Counters at switches.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::counters;

/// `sched_switch(preempt, prev, next)`, where counters are read at it.
#[raw_tracepoint(tracepoint = "sched_switch")]
fn count_at_switch(ctx: RawTracePointContext) -> i32 {
    counters::switch(ctx.arg(2));
    0
}
