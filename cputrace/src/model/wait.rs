//! The waits of a window, equal ones added up, and who ended them: what `analyze` makes samples of once stacks have names.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::{OffCpuState, StackId, StringId, ThreadId};

/// Waits whose times are kept one by one.
const MAX_EVENTS: usize = 200_000;

/// A row of [`Waits::wakes`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WakeId(u32);

/// A wake-up: who, with which stack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wake {
    /// The name of the waker's thread, which may be of no target.
    pub waker: StringId,
    /// Where it was.
    pub stack: Option<StackId>,
    /// What had woken the waker itself, after the woken thread began to wait.
    pub before: Option<WakeId>,
    /// How many wake-ups are behind it.
    pub depth: u32,
}

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum WaitState {
    /// For a CPU alone.
    Runnable,
    /// The same, and its control group has used up its CPU quota.
    Throttled,
    /// For an event.
    OffCpu(OffCpuState),
}

impl WaitState {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Runnable, Self::Throttled].into_iter().chain(OffCpuState::ALL.iter().copied().map(Self::OffCpu))
    }

    /// Its name in wait rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Throttled => "throttled",
            Self::OffCpu(state) => state.name(),
        }
    }
}

/// What equal waits have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WaitKey {
    /// Who waited.
    pub thread: ThreadId,
    /// For what.
    pub state: WaitState,
    /// Where.
    pub stack: Option<StackId>,
    /// Who ended it, where that is known.
    pub wake: Option<WakeId>,
}

/// One wait in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitEvent {
    /// When it began, in nanoseconds since the window's start.
    pub at_ns: u64,
    /// How long it was for the event.
    pub blocked_ns: u64,
    /// How long it was then for a CPU.
    pub queued_ns: u64,
}

/// What is added to the sums of equal waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitSum {
    /// How many.
    pub count: u64,
    /// How long they were for the event.
    pub blocked_ns: u64,
    /// How long they were for a CPU.
    pub queued_ns: u64,
}

impl WaitSum {
    /// One wait.
    pub fn of(event: &WaitEvent) -> Self {
        Self { count: 1, blocked_ns: event.blocked_ns, queued_ns: event.queued_ns }
    }

    /// So many times as much, where it is a sample of others; counted are as many as fit best.
    pub fn scaled(self, times: u64, divided_by: u64) -> Self {
        let scaled = |value: u64| (u128::from(value) * u128::from(times) / u128::from(divided_by.max(1))) as u64;
        Self {
            count: (times + divided_by / 2) / divided_by.max(1),
            blocked_ns: scaled(self.blocked_ns),
            queued_ns: scaled(self.queued_ns),
        }
    }
}

/// Equal waits added up.
#[derive(Clone, Debug)]
pub struct Wait {
    /// What they have in common.
    pub key: WaitKey,
    /// How many.
    pub count: u64,
    /// How long they were for the event, in all.
    pub blocked_ns: u64,
    /// How long they were for a CPU, in all.
    pub queued_ns: u64,
    /// Each of them, as long as there is room.
    pub events: Vec<WaitEvent>,
}

/// All waits of a window that were seen with their stacks.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    waits: Vec<Wait>,
    rows: HashMap<WaitKey, usize, FxBuildHasher>,
    wakes: Vec<Wake>,
    wake_ids: HashMap<Wake, WakeId, FxBuildHasher>,
    times: bool,
    events: usize,
    events_dropped: u64,
}

impl Waits {
    /// None yet; `times` says whether each one's time is kept besides the sums.
    pub fn new(times: bool) -> Self {
        Self { times, ..Self::default() }
    }

    /// Adds one, and what it comes to in the sums: more, where it stands for others.
    pub fn add(&mut self, key: WaitKey, event: WaitEvent, sum: WaitSum) {
        let next = self.waits.len();
        let row = *self.rows.entry(key).or_insert(next);
        if row == next {
            self.waits.push(Wait { key, count: 0, blocked_ns: 0, queued_ns: 0, events: Vec::new() });
        }
        let wait = &mut self.waits[row];
        wait.count += sum.count;
        wait.blocked_ns += sum.blocked_ns;
        wait.queued_ns += sum.queued_ns;
        if !self.times {
            return;
        }
        if self.events < MAX_EVENTS {
            self.events += 1;
            wait.events.push(event);
        } else {
            self.events_dropped += 1;
        }
    }

    /// The id of a wake-up, stored if it is new. `before` is what had woken the waker.
    pub fn wake(&mut self, waker: StringId, stack: Option<StackId>, before: Option<WakeId>) -> WakeId {
        let depth = before.map_or(0, |before| self.get(before).depth + 1);
        let wake = Wake { waker, stack, before, depth };
        let wakes = &mut self.wakes;
        *self.wake_ids.entry(wake).or_insert_with(|| {
            let id = WakeId(u32::try_from(wakes.len()).expect("a window holds fewer than 2^32 wake-ups"));
            wakes.push(wake);
            id
        })
    }

    /// A wake-up.
    pub fn get(&self, id: WakeId) -> Wake {
        self.wakes[id.0 as usize]
    }

    /// All waits.
    pub fn all(&self) -> &[Wait] {
        &self.waits
    }

    /// Waits that are in the sums, but whose times were not kept for want of room.
    pub fn events_dropped(&self) -> u64 {
        self.events_dropped
    }
}
