//! The sampling clock.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};

use crate::{maps, sample};

/// Runs at each tick of a perf event on its CPU.
#[perf_event]
fn on_cpu(ctx: PerfEventContext) -> u32 {
    sample::emit(&ctx, &maps::ON_CPU_RECORD);
    0
}
