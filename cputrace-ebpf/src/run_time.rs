//! Programs that time themselves: all runs of those that take long, some of those that take a moment.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use cputrace_common::run_time::{ONE_IN, Program, RunTime};

use crate::maps;

fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn row(program: Program) -> Option<&'static mut RunTime> {
    // SAFETY: this CPU's element. No program interrupts itself.
    maps::RUN_TIMES.get_ptr_mut(program as u32).map(|row| unsafe { &mut *row })
}

/// A run, which is timed.
#[inline(always)]
pub(crate) fn timed(program: Program, run: impl FnOnce()) {
    part(program, run);
    if let Some(row) = row(program) {
        row.runs += 1;
    }
}

/// A part of a run that is timed each time.
#[inline(always)]
pub(crate) fn part(program: Program, run: impl FnOnce()) {
    let start_ns = now_ns();
    run();
    if let Some(row) = row(program) {
        row.exact_ns += now_ns() - start_ns;
    }
}

/// A run of which one in [`ONE_IN`] is timed. That one is being timed lies in the map: a variable would have the verifier go through
/// all of `run` twice.
#[inline(always)]
pub(crate) fn sampled(program: Program, run: impl FnOnce()) {
    let Some(row) = row(program) else { return };
    row.runs += 1;
    if row.until_timed == 0 {
        row.until_timed = ONE_IN;
        // To ask for the time takes about as long as a short run: it is not counted.
        let before_ns = now_ns();
        row.start_ns = 2 * now_ns() - before_ns;
    }
    row.until_timed -= 1;
    run();
    if row.start_ns != 0 {
        row.timed += 1;
        row.timed_ns += now_ns().saturating_sub(row.start_ns);
        row.start_ns = 0;
    }
}
