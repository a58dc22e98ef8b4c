//! Counters of each CPU, read when a thread comes to it, at its samples, and when it leaves: what was counted in between is
//! that thread's, and at a sample belongs to its stack.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, bpf_perf_event_value},
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, generated::bpf_perf_event_read_value},
    maps::PerfEventArray,
};
use cputrace_common::{
    config::filter as mode,
    counter::{CounterStats, MAX_COUNTERS},
};

use crate::{config, filter, maps, sample::Record, task};

/// What a CPU's counters said last.
#[repr(C)]
pub(crate) struct Reading {
    /// Whose stretch began then: its task, or one of the values below.
    task: u64,
    values: [bpf_perf_event_value; MAX_COUNTERS],
}

/// Nobody's who is asked for.
const NOBODY: u64 = 0;

/// A program that this one interrupts is writing. No task lies there.
const BUSY: u64 = 1;

/// Into the record of a sample of the current thread: what was counted since its stretch began, which ends here.
#[inline(always)]
pub(crate) fn take(record: &mut Record) {
    if config::counters() == 0 {
        return;
    }
    let (Some(stats), Some(last)) = (maps::COUNTER_STATS.get_ptr_mut(0), maps::COUNTER_READING.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: this CPU's elements; what a program that interrupts this one counts is lost at worst.
    let (stats, last) = unsafe { (&mut *stats, &mut *last) };
    // SAFETY: a helper without arguments.
    if last.task != unsafe { bpf_get_current_task() } {
        stats.no_start += 1;
    } else if count(stats, last, &mut record.words) {
        stats.counted += 1;
        record.header.words = config::counters();
    }
}

/// The current thread's next stretch begins: after its stack was taken, which is not its own doing.
#[inline(always)]
pub(crate) fn start_again() {
    if config::counters() == 0 {
        return;
    }
    // SAFETY: this CPU's elements, a helper without arguments.
    unsafe {
        if let (Some(stats), Some(last)) = (maps::COUNTER_STATS.get_ptr_mut(0), maps::COUNTER_READING.get_ptr_mut(0))
            && (*last).task != BUSY
        {
            start(&mut *stats, &mut *last, bpf_get_current_task());
        }
    }
}

/// The current thread leaves the CPU to `next`.
#[inline(always)]
pub(crate) fn switch(next: *const u8) {
    let (Some(stats), Some(last)) = (maps::COUNTER_STATS.get_ptr_mut(0), maps::COUNTER_READING.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: this CPU's elements, as above.
    let (stats, last) = unsafe { (&mut *stats, &mut *last) };
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: a helper without arguments.
    let is_known = last.task == unsafe { bpf_get_current_task() };
    if is_known && pid_tgid as u32 != 0 && filter::is_target((pid_tgid >> 32) as u32) {
        let mut counts = [0; MAX_COUNTERS];
        if count(stats, last, &mut counts) {
            for (sum, count) in stats.off_stack.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }
    // Whether a task is in a control group is asked when it is the current one.
    let may_be_target =
        config::filter() != mode::PROCESSES || task::tgid_of(next).is_some_and(filter::is_target_process);
    let whose = if may_be_target { next as u64 } else { NOBODY };
    start(stats, last, whose);
}

/// A stretch of `task` begins.
#[inline(always)]
fn start(stats: &mut CounterStats, last: &mut Reading, task: u64) {
    let Reading { task: whose, values } = last;
    let whose = &raw mut *whose;
    // SAFETY: a member of a map's element. Volatile: a sample that comes in between has to find it so.
    unsafe { whose.write_volatile(BUSY) };
    let is_known = task != NOBODY && each(|counter, map| read(stats, map, &mut values[counter]));
    // SAFETY: as above.
    unsafe { whose.write_volatile(if is_known { task } else { NOBODY }) };
}

/// What was counted since `last`, a word a counter; false where that is not known.
#[inline(always)]
fn count<const LENGTH: usize>(stats: &mut CounterStats, last: &Reading, counts: &mut [u64; LENGTH]) -> bool {
    each(|counter, map| {
        let mut now = bpf_perf_event_value { counter: 0, enabled: 0, running: 0 };
        if !read(stats, map, &mut now) {
            return false;
        }
        let last = &last.values[counter];
        counts[counter] = now.counter.wrapping_sub(last.counter);
        let runs_always = now.enabled.wrapping_sub(last.enabled) == now.running.wrapping_sub(last.running);
        stats.not_running += u64::from(!runs_always);
        runs_always
    })
}

/// For each counter, until one of them says no; not a loop, for the verifier has to know each map by its name.
#[inline(always)]
fn each(mut visit: impl FnMut(usize, *mut c_void) -> bool) -> bool {
    let map = |map: *const PerfEventArray<()>| map.cast_mut().cast::<c_void>();
    let count = config::counters();
    visit(0, map(&raw const maps::COUNTER_0))
        && (count < 2 || visit(1, map(&raw const maps::COUNTER_1)))
        && (count < 3 || visit(2, map(&raw const maps::COUNTER_2)))
        && (count < 4 || visit(3, map(&raw const maps::COUNTER_3)))
}

/// Reads a counter of this CPU.
#[inline(always)]
fn read(stats: &mut CounterStats, map: *mut c_void, into: &mut bpf_perf_event_value) -> bool {
    let size = size_of::<bpf_perf_event_value>() as u32;
    // SAFETY: the helper fills in `into`, which has this size. Linux 4.15.
    let status = unsafe { bpf_perf_event_read_value(map, BPF_F_CURRENT_CPU, into, size) };
    stats.refused += u64::from(status != 0);
    status == 0
}
