//! Samples by an event beside the clock: which, and what became of each.

use std::collections::BTreeMap;

use super::{LossReason, Ops};

/// What became of the samples by an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventSampling {
    /// The event; the source of its samples has this name.
    pub name: String,
    /// Events that each sample stands for.
    pub period: u64,
    /// Samples that the counted events come to, on all CPUs.
    pub expected: u64,
    /// Those that came.
    pub seen: u64,
    /// Of these, on an idle CPU.
    pub idle: u64,
    /// Of these, in a task that is no target.
    pub filtered: u64,
    /// Samples of targets that are in the profile.
    pub kept: u64,
    /// Samples of targets that are not, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// What the CPU noted of them: of ops that it tagged.
    pub ops: Option<Ops>,
}

impl EventSampling {
    /// Samples that never came: throttled by the kernel, or another program of a perf event was at work. Whose is not known.
    pub fn missed(&self) -> u64 {
        self.expected.saturating_sub(self.seen)
    }
}
