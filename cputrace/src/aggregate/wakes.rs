//! Which wake-up ended which wait, and what had woken the waker: chains, as long as one waits for the other.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use crate::model::{StackId, StringId, Waits, WakeId};

/// Wake-ups in a chain.
const MAX_DEPTH: u32 = 4;

/// Threads that are kept in mind; beyond, all is forgotten and starts anew.
const MAX_THREADS: usize = 65_536;

/// The last wake-ups, by the thread that was woken.
#[derive(Default)]
pub(super) struct Wakes {
    /// Of threads that have not run since.
    pending: HashMap<u32, (u64, WakeId), FxBuildHasher>,
    /// When each thread's last wait ended, and by what.
    last: HashMap<u32, (u64, WakeId), FxBuildHasher>,
}

impl Wakes {
    /// The thread `waker_tid`, at `waker`, wakes `woken.0`, which has been blocked for `woken.1` nanoseconds.
    pub(super) fn note(
        &mut self,
        waits: &mut Waits,
        time_ns: u64,
        waker_tid: u32,
        waker: (StringId, Option<StackId>),
        (woken_tid, blocked_ns): (u32, u64),
    ) {
        let began_ns = time_ns.saturating_sub(blocked_ns);
        // What woke the waker before this wait began has no part in it.
        let before = self.last.get(&waker_tid).filter(|(ended_ns, _)| *ended_ns > began_ns).map(|(_, wake)| *wake);
        let before = before.filter(|wake| waits.get(*wake).depth + 1 < MAX_DEPTH);
        let wake = waits.wake(waker.0, waker.1, before);
        if self.pending.len() >= MAX_THREADS {
            self.pending.clear();
        }
        self.pending.insert(woken_tid, (time_ns, wake));
    }

    /// What ended a wait of `tid` that took from `began_ns` to `ended_ns`.
    pub(super) fn end_of_wait(&mut self, tid: u32, began_ns: u64, ended_ns: u64) -> Option<WakeId> {
        let (woken_ns, wake) = self.pending.remove(&tid)?;
        if !(began_ns..=ended_ns).contains(&woken_ns) {
            return None;
        }
        if self.last.len() >= MAX_THREADS {
            self.last.clear();
        }
        self.last.insert(tid, (ended_ns, wake));
        Some(wake)
    }
}
