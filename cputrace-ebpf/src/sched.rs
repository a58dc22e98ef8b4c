//! The account of each thread's time, kept at the switches.
//!
//! Nothing runs at a wake-up: when the thread is switched to, its `sched_info.last_queued` says when it was put in the run
//! queue, by that queue's clock. How this clock relates to ours is seen at each switch.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_ktime_get_ns};
use cputrace_common::{
    config::filter as mode,
    thread::{Thread, WAIT_ROWS, state},
};

use crate::{
    config, filter,
    maps::QUEUE_CLOCK,
    task::{self, Task},
    threads::{self, Found},
};

/// From `prev` to `next`; `bits` are the state that `prev` had before, `None` where the kernel does not tell.
#[inline(always)]
pub(crate) fn switch(preempted: bool, prev: Task, next: Task, bits: Option<u32>) {
    let (prev_tid, next_tid) = (prev.tid(), next.tid());
    let leaving = threads::find(prev_tid);
    let entering = threads::find(next_tid);
    // A thread that came into a control group.
    let adopts = config::filter() != mode::PROCESSES && leaving.is_none() && prev_tid != 0;
    if leaving.is_none() && entering.is_none() && !adopts {
        return;
    }
    // SAFETY: a helper without arguments. Read once: it is a third of what all this costs.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let bits = prev.state_bits().or(bits).unwrap_or(1);
    if let Some(thread) = leaving {
        leave(thread, prev, bits, preempted, next_tid == 0, now_ns);
    } else if adopts {
        adopt(prev_tid, prev, bits, preempted, now_ns);
    }
    if let Some(thread) = entering {
        enter(thread, next, now_ns);
    }
}

/// The thread is on no CPU from now on.
#[inline(always)]
fn leave(thread: &mut Thread, prev: Task, bits: u32, preempted: bool, idles: bool, now_ns: u64) {
    let next_state = state_after(bits, preempted);
    if idles {
        // Fresh: where a thread is woken, the queue's clock stands still from then to the switch to it.
        queue_clock_offset(prev, now_ns);
    }
    if thread.state != state::RUNNING {
        recover(thread, prev, now_ns);
    }
    threads::write(thread, |thread| {
        let ran_ns = now_ns.wrapping_sub(thread.since_ns);
        if thread.state == state::RUNNING {
            thread.on_cpu_ns += ran_ns;
        } else {
            thread.unknown_ns += ran_ns;
        }
        thread.kernel.run_delay_ns = prev.run_delay();
        thread.state = next_state;
        thread.since_ns = now_ns;
    });
    if task::is_dead(bits) {
        thread.comm = bpf_get_current_comm().unwrap_or_default();
        threads::end(thread);
    }
}

#[inline(always)]
fn adopt(tid: u32, prev: Task, bits: u32, preempted: bool, now_ns: u64) {
    let tgid = prev.tgid();
    if !task::is_dead(bits) && filter::is_target(tgid) {
        threads::add(&Found { tid, tgid, state: state_after(bits, preempted), now_ns, kernel: prev.account() });
    }
}

#[inline(always)]
fn state_after(bits: u32, preempted: bool) -> u32 {
    // Preempted on its way to sleep: it stays in the run queue.
    if preempted { state::RUNNABLE } else { task::state_of(bits) }
}

/// The switch to the thread was not seen: some kernels run no programs in the context of some tasks, from one of which it
/// was. The kernel's own account says when it was.
#[inline(always)]
fn recover(thread: &mut Thread, prev: Task, now_ns: u64) {
    let Some(offset_ns) = queue_clock_offset(prev, now_ns) else { return };
    let arrived_ns = prev.last_arrival().wrapping_add(offset_ns);
    if arrived_ns > thread.since_ns && arrived_ns <= now_ns {
        let queued_ns = prev.run_delay().wrapping_sub(thread.kernel.run_delay_ns);
        run(thread, arrived_ns, Some(queued_ns));
        threads::count(|stats| stats.recovered += 1);
    }
}

/// The thread is on a CPU from now on.
#[inline(always)]
fn enter(thread: &mut Thread, next: Task, now_ns: u64) {
    let queued_ns = if thread.state >= state::BLOCKED { queued_ns(thread, next, now_ns) } else { Some(0) };
    run(thread, now_ns, queued_ns);
}

/// The thread is on a CPU from `now_ns` on; where it waited for an event, the last `queued_ns` of that it could have run.
#[inline(always)]
fn run(thread: &mut Thread, now_ns: u64, queued_ns: Option<u64>) {
    let gap_ns = now_ns.wrapping_sub(thread.since_ns);
    let queued_ns = match thread.state {
        state::RUNNABLE => Some(gap_ns),
        state::RUNNING => None,
        _ => queued_ns,
    };
    threads::write(thread, |thread| {
        match queued_ns {
            None => thread.unknown_ns += gap_ns,
            Some(queued_ns) => {
                // A clock's error must not make a wait longer than it can have been.
                let fits = queued_ns <= gap_ns;
                if !fits {
                    threads::count(|stats| stats.clock_errors += 1);
                }
                let queued_ns = if fits { queued_ns } else { gap_ns };
                thread.run_queue_ns += queued_ns;
                if queued_ns > thread.run_queue_max_ns {
                    thread.run_queue_max_ns = queued_ns;
                }
                thread.waits[row(queued_ns)] += 1;
                if thread.state >= state::BLOCKED {
                    thread.off_cpu_ns[(thread.state & 3) as usize] += gap_ns - queued_ns;
                }
            }
        }
        thread.state = state::RUNNING;
        thread.since_ns = now_ns;
    });
}

/// How long a thread that was woken has waited for a CPU; `None` where the kernel does not tell.
#[inline(always)]
fn queued_ns(thread: &Thread, next: Task, now_ns: u64) -> Option<u64> {
    let offset_ns = queue_clock_offset(next, now_ns)?;
    let last_queued = next.last_queued();
    if last_queued == 0 {
        return None;
    }
    let since_ns = last_queued.wrapping_add(offset_ns);
    // The two clocks are read a moment apart.
    let last_wait_ns = if since_ns < now_ns { now_ns - since_ns } else { 0 };
    // Moved from queue to queue meanwhile, it was queued anew: the kernel has added up the earlier waits.
    Some(last_wait_ns + next.run_delay().wrapping_sub(thread.kernel.run_delay_ns))
}

#[inline(always)]
fn queue_clock_offset(task: Task, now_ns: u64) -> Option<u64> {
    let clock = QUEUE_CLOCK.get_ptr_mut(0)?;
    // SAFETY: this CPU's element.
    unsafe { &mut *clock }.offset_ns(task, now_ns)
}

/// How far our clock is ahead of a CPU's run-queue clock: the least that was seen in the last moments, for the queue's
/// clock stands still from an event to the next.
#[repr(C)]
pub(crate) struct QueueClock {
    epoch_ns: u64,
    least_ns: u64,
    /// Of the epoch before.
    least_before_ns: u64,
}

/// Our clock follows NTP and so drifts from the queue's: by some microseconds in this time at worst.
const EPOCH_NS: u64 = 20_000_000;

impl QueueClock {
    #[inline(always)]
    fn offset_ns(&mut self, task: Task, now_ns: u64) -> Option<u64> {
        let queue_ns = task.queue_clock();
        if queue_ns == 0 {
            return None;
        }
        let ahead_ns = now_ns.wrapping_sub(queue_ns);
        if now_ns.wrapping_sub(self.epoch_ns) > EPOCH_NS {
            self.least_before_ns = if self.epoch_ns == 0 { ahead_ns } else { self.least_ns };
            self.epoch_ns = now_ns;
            self.least_ns = ahead_ns;
        } else if (ahead_ns.wrapping_sub(self.least_ns)).cast_signed() < 0 {
            self.least_ns = ahead_ns;
        }
        let least_ns = if (self.least_before_ns.wrapping_sub(self.least_ns)).cast_signed() < 0 {
            self.least_before_ns
        } else {
            self.least_ns
        };
        Some(least_ns)
    }
}

/// The row of a wait: the place of its highest bit.
#[inline(always)]
fn row(wait_ns: u64) -> usize {
    // No instruction counts leading zeros here: by halves.
    let mut rest = if wait_ns >> WAIT_ROWS != 0 { u32::MAX } else { wait_ns as u32 };
    let mut row = 0;
    if rest >> 16 != 0 {
        (rest, row) = (rest >> 16, 16);
    }
    if rest >> 8 != 0 {
        (rest, row) = (rest >> 8, row + 8);
    }
    if rest >> 4 != 0 {
        (rest, row) = (rest >> 4, row + 4);
    }
    if rest >> 2 != 0 {
        (rest, row) = (rest >> 2, row + 2);
    }
    row += (rest >> 1) as usize;
    row & (WAIT_ROWS - 1)
}

/// A thread was born: it waits for its first CPU.
#[inline(always)]
pub(crate) fn born(tid: u32, tgid: u32) {
    if config::accounting() == 0 || !filter::is_target(tgid) {
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    threads::add(&Found { tid, tgid, state: state::RUNNABLE, now_ns, kernel: threads::NO_ACCOUNT });
}

/// A thread that was there before us.
#[inline(always)]
pub(crate) fn seed(task: Task) {
    let (tid, tgid) = (task.tid(), task.tgid());
    let is_wanted = config::filter() == mode::ALL || filter::is_target_process(tgid);
    if tid == 0 || !is_wanted || threads::find(tid).is_some() {
        return;
    }
    let Some(seen) = now(task) else { return };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(thread) = threads::add(&Found { tid, tgid, state: seen, now_ns, kernel: task.account() }) else { return };
    // Switched between the look and the entry, it would be taken for what it was until it is switched again.
    let writes = thread.writes;
    let Some(seen_then) = now(task) else { return };
    if seen_then != seen && thread.writes == writes {
        thread.state = seen_then;
    }
}

/// What a task does at this moment; `None` if it has ended.
#[inline(always)]
fn now(task: Task) -> Option<u32> {
    if task.is_on_cpu() {
        return Some(state::RUNNING);
    }
    let bits = task.state_bits().unwrap_or(0);
    if task::is_dead(bits) { None } else { Some(task::state_of(bits)) }
}
