//! The sampling clock.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};

use cputrace_common::run_time::Program;

use crate::{maps, run_time, sample};

/// Runs at each tick of a perf event on its CPU.
#[perf_event]
fn on_cpu(ctx: PerfEventContext) -> u32 {
    run_time::timed(Program::OnCpu, || sample::emit(&ctx, &maps::ON_CPU_RECORD));
    0
}
