//! The table of threads: an array by thread id, whose look-up is a few instructions, and a hash map for those that find
//! their place taken.
//!
//! Two threads whose ids meet in one place can only be added at the same moment if two CPUs fork them at once: ids are given
//! in sequence, so they would have to be the table's size apart.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_get_prandom_u32, bpf_ringbuf_output},
};
use cputrace_common::thread::{KernelAccount, SchedStats, Thread};

use crate::{
    config,
    maps::{MORE_THREADS, SCHED_STATS, THREAD_ENDS, THREADS},
};

/// What a new entry of the hash map starts as: too large for a program's stack.
static EMPTY: Thread = Thread {
    tid: 0,
    writes: 0,
    tgid: 0,
    state: 0,
    since_ns: 0,
    first_ns: 0,
    on_cpu_ns: 0,
    run_queue_ns: 0,
    run_queue_max_ns: 0,
    off_cpu_ns: [0; 4],
    unknown_ns: 0,
    kernel: NO_ACCOUNT,
    kernel_before: NO_ACCOUNT,
    comm: [0; 16],
    shared: 0,
    waits: [0; 32],
    padding: 0,
    until_sample_ns: 0,
};

/// A thread that was just born.
pub(crate) const NO_ACCOUNT: KernelAccount =
    KernelAccount { runtime_ns: 0, run_delay_ns: 0, voluntary: 0, involuntary: 0, migrations: 0 };

/// The thread's entry, if it is accounted. The idle tasks, of thread id 0, never are.
#[inline(always)]
pub(crate) fn find(tid: u32) -> Option<&'static mut Thread> {
    if tid == 0 {
        return None;
    }
    let place = place(tid)?;
    if place.tid == tid {
        return Some(place);
    }
    if place.shared == 0 {
        return None;
    }
    // SAFETY: a pointer from the map; only the CPU that switches from or to the thread writes to it.
    MORE_THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// What is known of a thread that is added.
pub(crate) struct Found {
    pub(crate) tid: u32,
    pub(crate) tgid: u32,
    pub(crate) state: u32,
    pub(crate) now_ns: u64,
    pub(crate) kernel: KernelAccount,
}

/// Adds a thread that is not there. `None` if there is no place, which is counted.
#[inline(always)]
pub(crate) fn add(found: &Found) -> Option<&'static mut Thread> {
    let place = place(found.tid)?;
    let thread = if place.tid == 0 {
        place
    } else {
        place.shared = 1;
        #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would not fit on the stack")]
        let inserted = MORE_THREADS.insert(found.tid, &EMPTY, 0);
        if inserted.is_err() {
            count(|stats| stats.threads_full += 1);
            return None;
        }
        // SAFETY: as in `find`.
        unsafe { &mut *MORE_THREADS.get_ptr_mut(found.tid)? }
    };
    write(thread, |thread| {
        let &Found { tid, tgid, state, now_ns, kernel } = found;
        (thread.tgid, thread.state, thread.since_ns, thread.first_ns) = (tgid, state, now_ns, now_ns);
        (thread.on_cpu_ns, thread.run_queue_ns, thread.run_queue_max_ns) = (0, 0, 0);
        thread.off_cpu_ns = [0; 4];
        thread.unknown_ns = 0;
        (thread.kernel, thread.kernel_before) = (kernel, kernel);
        thread.waits = [0; 32];
        thread.until_sample_ns = first_sample_ns();
        thread.tid = tid;
    });
    Some(thread)
}

/// After how much waiting a thread's first sample of short waits is due: at random, so that threads that wait for less than
/// it takes count for what they are, too.
#[inline(always)]
fn first_sample_ns() -> u64 {
    if config::sample_waits() == 0 {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let random = u64::from(unsafe { bpf_get_prandom_u32() });
    (config::off_cpu_min_ns() >> 16) * (random >> 16)
}

/// Changes an entry so that userspace, which reads it in place, knows what it must read again.
#[inline(always)]
pub(crate) fn write(thread: &mut Thread, change: impl FnOnce(&mut Thread)) {
    thread.writes += 1;
    compiler_fence(Ordering::SeqCst);
    change(thread);
    compiler_fence(Ordering::SeqCst);
    thread.writes += 1;
}

/// Sends the account of a thread that ended, and frees its place.
#[inline(always)]
pub(crate) fn end(thread: &mut Thread) {
    // SAFETY: the helper reads the entry.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const THREAD_ENDS).cast_mut().cast(),
            core::ptr::from_mut(thread).cast(),
            size_of::<Thread>() as u64,
            BPF_RB_NO_WAKEUP.into(),
        )
    };
    if status != 0 {
        count(|stats| stats.ends_lost += 1);
    }
    free(thread);
}

/// Frees the place of a thread.
#[inline(always)]
pub(crate) fn free(thread: &mut Thread) {
    let tid = thread.tid;
    // Whichever of the two it lies in.
    thread.tid = 0;
    let _ = MORE_THREADS.remove(tid);
}

#[inline(always)]
pub(crate) fn count(add: impl FnOnce(&mut SchedStats)) {
    if let Some(stats) = SCHED_STATS.get_ptr_mut(0) {
        // SAFETY: this CPU's element.
        add(unsafe { &mut *stats });
    }
}

#[inline(always)]
fn place(tid: u32) -> Option<&'static mut Thread> {
    // SAFETY: as in `find`.
    THREADS.get_ptr_mut(tid & config::threads_mask()).map(|thread| unsafe { &mut *thread })
}
