//! The account of each thread's time, kept at the switches.
//!
//! Nothing runs at a wake-up: when the thread is switched to, its `sched_info.last_queued` says when it was put in the run
//! queue, by that queue's clock. How this clock relates to ours is seen every now and then; in between, where the kernel has just
//! brought it up to date, it tells us the time, too: to ask for ours takes nearly as long as all the rest.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_ktime_get_ns};
use cputrace_common::{
    config::filter as mode,
    run_time::Program,
    thread::{KernelAccount, Thread, WAIT_ROWS, state},
};

use crate::{
    budget::{self, Spending},
    config, filter,
    maps::{ENDED_WAIT, QUEUE_CLOCK},
    run_time,
    sample::{self, Wait},
    task::{self, Queue, Task},
    threads::{self, Found},
};

/// From `prev` to `next`; `bits` are the state that `prev` had before, `None` where the kernel does not tell.
#[inline(always)]
pub(crate) fn switch(preempted: bool, prev: Task, next: Task, bits: Option<u32>) {
    // First of all, where the verifier comes by once.
    let queue = prev.queue();
    let queue_ns = queue.clock();
    let (prev_tid, next_tid) = (prev.tid(), next.tid());
    let leaving = threads::find(prev_tid);
    let entering = threads::find(next_tid);
    // A thread that came into a control group.
    let adopts = config::filter() != mode::PROCESSES && leaving.is_none() && prev_tid != 0;
    if leaving.is_none() && entering.is_none() && !adopts {
        return;
    }
    let bits = prev.state_bits().or(bits).unwrap_or(1);
    // Where a thread gives way to one that was woken, or an idle CPU is woken, the clock is the one of the wake-up.
    let is_fresh = prev_tid != 0 && bits != 0 && !preempted;
    let Some(clock) = QUEUE_CLOCK.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element.
    let moment = unsafe { &mut *clock }.moment(queue_ns, is_fresh);
    if let Some(thread) = leaving {
        leave(thread, (prev, queue), bits, preempted, moment);
    } else if adopts {
        adopt(prev_tid, prev, bits, preempted, moment.now_ns);
    }
    if let Some(thread) = entering {
        enter(thread, next, moment);
    }
}

/// The thread is on no CPU from now on.
#[inline(always)]
fn leave(thread: &mut Thread, (prev, queue): (Task, Queue), bits: u32, preempted: bool, moment: Moment) {
    let mut next_state = state_after(bits, preempted);
    if next_state == state::RUNNABLE && queue.is_throttled() {
        next_state = state::THROTTLED;
    }
    let now_ns = moment.now_ns(thread);
    if thread.state != state::RUNNING {
        recover(thread, prev, moment);
    }
    threads::write(thread, |thread| {
        let ran_ns = now_ns.wrapping_sub(thread.since_ns);
        if thread.state == state::RUNNING {
            thread.on_cpu_ns += ran_ns;
        } else {
            thread.unknown_ns += ran_ns;
        }
        if task::is_dead(bits) {
            thread.kernel = prev.account();
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
fn recover(thread: &mut Thread, prev: Task, moment: Moment) {
    let arrived_ns = prev.last_arrival().wrapping_add(moment.offset_ns);
    if moment.offset_ns != UNKNOWN_NS && arrived_ns > thread.since_ns && arrived_ns <= moment.now_ns {
        let queued_ns = prev.run_delay().wrapping_sub(thread.kernel.run_delay_ns);
        run(thread, arrived_ns, queued_ns);
        threads::count(|stats| stats.recovered += 1);
    }
}

/// The thread is on a CPU from now on.
#[inline(always)]
fn enter(thread: &mut Thread, next: Task, moment: Moment) {
    let now_ns = moment.now_ns(thread);
    let (state, gap_ns) = (thread.state, now_ns.wrapping_sub(thread.since_ns));
    let is_new = thread.since_ns == thread.first_ns;
    let queued_ns = if state >= state::BLOCKED { queued_ns(thread, next, moment) } else { 0 };
    let queued_ns = run(thread, now_ns, queued_ns);
    let min_ns = config::off_cpu_min_ns();
    // A new thread comes to its CPU another way.
    let has_stack = state >= state::BLOCKED || config::preempted_waits() != 0 && !is_new;
    if min_ns != 0 && has_stack && queued_ns != UNKNOWN_NS && (gap_ns >= min_ns || is_sampled(thread, gap_ns)) {
        let wait = Wait { tid: thread.tid, state, end_ns: now_ns, blocked_ns: gap_ns - queued_ns, queued_ns };
        // One that is sampled stands for as much.
        if !budget::allows(Spending::Waits, gap_ns.max(min_ns), now_ns) {
            threads::count(|stats| stats.waits_limited += 1);
        } else if let Some(place) = ENDED_WAIT.get_ptr_mut(0) {
            // As soon as the thread runs, its stack can be taken. SAFETY: this CPU's element.
            unsafe { *place = wait };
        }
    }
}

/// Whether a wait below the threshold, which has ended, is one that is sampled: of each thread's such waits, that in which
/// their sum comes to another threshold. So each is as likely as it is long.
#[inline(always)]
fn is_sampled(thread: &mut Thread, gap_ns: u64) -> bool {
    if config::sample_waits() == 0 {
        return false;
    }
    let is_due = gap_ns >= thread.until_sample_ns;
    let next_ns = if is_due { config::off_cpu_min_ns() } else { 0 };
    thread.until_sample_ns = thread.until_sample_ns.wrapping_add(next_ns).wrapping_sub(gap_ns);
    is_due
}

/// No length of a wait: nobody knows it. Not an `Option`, whose empty half LLVM copies unset, which no verifier takes.
const UNKNOWN_NS: u64 = u64::MAX;

/// The thread is on a CPU from `now_ns` on; where it waited for an event, the last `queued_ns` of that it could have run.
/// Returns how long it really could have, or [`UNKNOWN_NS`].
#[inline(always)]
fn run(thread: &mut Thread, now_ns: u64, queued_ns: u64) -> u64 {
    let gap_ns = now_ns.wrapping_sub(thread.since_ns);
    let mut queued_ns = match thread.state {
        state::RUNNABLE | state::THROTTLED => gap_ns,
        state::RUNNING => UNKNOWN_NS,
        _ => queued_ns,
    };
    // A clock's error must not make a wait longer than it can have been.
    if queued_ns != UNKNOWN_NS && queued_ns > gap_ns {
        threads::count(|stats| stats.clock_errors += 1);
        queued_ns = gap_ns;
    }
    threads::write(thread, |thread| {
        if queued_ns == UNKNOWN_NS {
            thread.unknown_ns += gap_ns;
        } else {
            thread.run_queue_ns += queued_ns;
            if queued_ns > thread.run_queue_max_ns {
                thread.run_queue_max_ns = queued_ns;
            }
            thread.waits[row(queued_ns)] += 1;
            if thread.state >= state::BLOCKED {
                thread.off_cpu_ns[(thread.state & 3) as usize] += gap_ns - queued_ns;
            }
        }
        thread.state = state::RUNNING;
        thread.since_ns = now_ns;
    });
    queued_ns
}

/// The switch is done, and the thread that was switched to runs.
#[inline(always)]
pub(crate) fn switched(ctx: *mut c_void, program: Program) {
    let Some(place) = ENDED_WAIT.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element.
    let place = unsafe { &mut *place };
    if place.tid != 0 {
        let wait = *place;
        place.tid = 0;
        run_time::timed(program, || sample::emit_wait(ctx, &wait));
    }
}

/// The current task wakes another one.
#[inline(always)]
pub(crate) fn waking(ctx: *mut c_void, task: Task) {
    let mut wake = Wake { tid: 0, blocked_ns: 0, now_ns: 0 };
    run_time::sampled(Program::SchedWaking, || ended_wait(task, &mut wake));
    if wake.tid != 0 {
        run_time::part(Program::SchedWaking, || sample::emit_wake(ctx, wake.tid, wake.blocked_ns, wake.now_ns));
    }
}

/// A wake-up that is to be sent; thread 0: none. Not an `Option`, as [`UNKNOWN_NS`].
struct Wake {
    tid: u32,
    blocked_ns: u64,
    now_ns: u64,
}

/// The wait of a task that is woken, if it is one to be sent.
#[inline(always)]
fn ended_wait(task: Task, wake: &mut Wake) {
    let Some(thread) = threads::find(task.tid()) else { return };
    if thread.state < state::BLOCKED {
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let blocked_ns = now_ns.wrapping_sub(thread.since_ns);
    let min_ns = config::off_cpu_min_ns();
    // As it is now, the wait will be sampled.
    let is_sampled = config::sample_waits() != 0 && blocked_ns >= thread.until_sample_ns;
    if blocked_ns < min_ns && !is_sampled {
        return;
    }
    if budget::allows(Spending::Wakes, blocked_ns.max(min_ns), now_ns) {
        *wake = Wake { tid: thread.tid, blocked_ns, now_ns };
    } else {
        threads::count(|stats| stats.wakes_limited += 1);
    }
}

/// How long a thread that was woken has waited for a CPU; [`UNKNOWN_NS`] where the kernel does not tell.
#[inline(always)]
fn queued_ns(thread: &Thread, next: Task, moment: Moment) -> u64 {
    let last_queued = next.last_queued();
    if last_queued == 0 || moment.offset_ns == UNKNOWN_NS {
        return UNKNOWN_NS;
    }
    let since_ns = last_queued.wrapping_add(moment.offset_ns);
    // The two clocks are read a moment apart.
    let last_wait_ns = moment.now_ns.saturating_sub(since_ns);
    // Moved from queue to queue meanwhile, it was queued anew: the kernel has added up the earlier waits.
    last_wait_ns + next.run_delay().wrapping_sub(thread.kernel.run_delay_ns)
}

/// When a switch was.
#[derive(Clone, Copy)]
struct Moment {
    now_ns: u64,
    /// How far our clock is ahead of the run queue's; [`UNKNOWN_NS`] where that is not known.
    offset_ns: u64,
}

impl Moment {
    /// No earlier than what is known of the thread: clocks are read a moment apart.
    #[inline(always)]
    fn now_ns(self, thread: &Thread) -> u64 {
        if self.now_ns < thread.since_ns { thread.since_ns } else { self.now_ns }
    }
}

/// How far our clock is ahead of a CPU's run-queue clock: the least that was seen in the last moments, for the queue's
/// clock stands still from an event to the next.
#[repr(C)]
pub(crate) struct QueueClock {
    offset_ns: u64,
    /// When ours was last asked for while the queue's had just been read, by the queue's.
    asked_ns: u64,
    epoch_ns: u64,
    least_ns: u64,
    /// Of the epoch before.
    least_before_ns: u64,
}

/// For so long the queue's clock stands for ours, which follows NTP and so drifts from it: by 50 ns at worst.
const TRUSTED_NS: u64 = 100_000;

/// Drifts come to some microseconds in this time at worst.
const EPOCH_NS: u64 = 8_000_000;

impl QueueClock {
    /// Now; `is_fresh` if the kernel has just brought the queue's clock up to date.
    #[inline(always)]
    fn moment(&mut self, queue_ns: u64, is_fresh: bool) -> Moment {
        if is_fresh && queue_ns.wrapping_sub(self.asked_ns) < TRUSTED_NS {
            return Moment { now_ns: queue_ns.wrapping_add(self.offset_ns), offset_ns: self.offset_ns };
        }
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        if queue_ns == 0 {
            return Moment { now_ns, offset_ns: UNKNOWN_NS };
        }
        if is_fresh {
            self.asked_ns = queue_ns;
        }
        self.look(queue_ns, now_ns);
        Moment { now_ns, offset_ns: self.offset_ns }
    }

    #[inline(always)]
    fn look(&mut self, queue_ns: u64, now_ns: u64) {
        let ahead_ns = now_ns.wrapping_sub(queue_ns);
        if now_ns.wrapping_sub(self.epoch_ns) > EPOCH_NS {
            self.least_before_ns = if self.epoch_ns == 0 { ahead_ns } else { self.least_ns };
            self.epoch_ns = now_ns;
            self.least_ns = ahead_ns;
        } else if (ahead_ns.wrapping_sub(self.least_ns)).cast_signed() < 0 {
            self.least_ns = ahead_ns;
        }
        self.offset_ns = if (self.least_before_ns.wrapping_sub(self.least_ns)).cast_signed() < 0 {
            self.least_before_ns
        } else {
            self.least_ns
        };
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

/// A thread that was there before us; of one that is known the kernel's own account is brought up to date.
#[inline(always)]
pub(crate) fn seed(task: Task) {
    let (tid, tgid) = (task.tid(), task.tgid());
    let is_wanted = config::filter() == mode::ALL || filter::is_target_process(tgid);
    if tid == 0 || !is_wanted {
        return;
    }
    if let Some(thread) = threads::find(tid) {
        refresh(thread, task);
        return;
    }
    let Some(seen) = now(task) else { return };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(thread) = threads::add(&Found { tid, tgid, state: seen, now_ns, kernel: task.account() }) else { return };
    // Switched between the look and the entry, it would be taken for what it was until it is switched again.
    let writes = thread.writes;
    match now(task) {
        // Its last switch came before the entry, or has freed it.
        None if thread.tid == tid => threads::free(thread),
        Some(seen_then) if seen_then != seen && thread.writes == writes => thread.state = seen_then,
        _ => {}
    }
}

/// The current task, whose thread was `old_tid`, runs another program. If it was not the first of its process it has that
/// one's id now; the others have ended.
#[inline(always)]
pub(crate) fn exec(tgid: u32, old_tid: u32) {
    if config::accounting() == 0 {
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if old_tid != tgid
        && let Some(thread) = threads::find(old_tid)
    {
        threads::write(thread, |thread| {
            thread.on_cpu_ns += now_ns.wrapping_sub(thread.since_ns);
            thread.since_ns = now_ns;
        });
        thread.comm = bpf_get_current_comm().unwrap_or_default();
        threads::end(thread);
    }
    if filter::is_target(tgid) && threads::find(tgid).is_none() {
        threads::add(&Found { tid: tgid, tgid, state: state::RUNNING, now_ns, kernel: threads::NO_ACCOUNT });
    }
}

/// Brings the kernel's own account of a thread up to date. What has been waiting for long is sent.
#[inline(always)]
pub(crate) fn look(task: Task) {
    let Some(thread) = threads::find(task.tid()) else { return };
    refresh(thread, task);
    let (state, since_ns) = (thread.state, thread.since_ns);
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let min_ns = config::off_cpu_min_ns();
    if min_ns != 0 && state >= state::BLOCKED && now_ns.wrapping_sub(since_ns) >= min_ns {
        let (tid, blocked_ns) = (thread.tid, now_ns.wrapping_sub(since_ns));
        sample::emit_open_wait(task, &Wait { tid, state, end_ns: now_ns, blocked_ns, queued_ns: 0 });
    }
}

#[inline(always)]
fn refresh(thread: &mut Thread, task: Task) {
    let KernelAccount { runtime_ns, voluntary, involuntary, migrations, .. } = task.account();
    // Each is one word: no reader sees half of it. `run_delay_ns` belongs to the switches.
    (thread.kernel.runtime_ns, thread.kernel.migrations) = (runtime_ns, migrations);
    (thread.kernel.voluntary, thread.kernel.involuntary) = (voluntary, involuntary);
}

/// What a task does at this moment; `None` if it has ended.
#[inline(always)]
fn now(task: Task) -> Option<u32> {
    let bits = task.state_bits().unwrap_or(0);
    // It is on a CPU still as it leaves it for the last time.
    if task::is_dead(bits) {
        return None;
    }
    Some(if task.is_on_cpu() { state::RUNNING } else { task::state_of(bits) })
}
