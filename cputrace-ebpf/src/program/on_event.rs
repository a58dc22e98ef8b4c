//! Any perf event that is not the sampling clock.

use aya_ebpf::{macros::perf_event, programs::PerfEventContext};

use crate::{maps, sample};

/// Runs at each overflow of a perf event on its CPU.
#[perf_event]
fn on_event(ctx: PerfEventContext) -> u32 {
    // Programs of perf events do not interrupt each other: they can share a record.
    sample::emit_event(&ctx, &maps::ON_CPU_RECORD);
    0
}
