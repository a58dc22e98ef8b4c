//! Any perf event that is not the sampling clock, and any tracepoint.

use aya_ebpf::{
    macros::{perf_event, tracepoint},
    programs::{PerfEventContext, TracePointContext},
};

use cputrace_common::run_time::Program;

use crate::{maps, run_time, sample};

/// Runs at each overflow of a perf event on its CPU.
#[perf_event]
fn on_event(ctx: PerfEventContext) -> u32 {
    // Programs of perf events do not interrupt each other: they can share a record.
    run_time::timed(Program::OnEvent, || sample::emit_event(&ctx, &maps::ON_CPU_RECORD));
    0
}

/// Runs each time that any CPU comes to the tracepoint.
#[tracepoint]
fn at_tracepoint(ctx: TracePointContext) -> u32 {
    // Nor are they interrupted by programs of tracepoints, or interrupt those.
    run_time::timed(Program::AtTracepoint, || sample::emit_hit(&ctx));
    0
}
