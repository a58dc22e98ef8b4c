//! What cputrace costs, second by second, and what its governor did about it.

use crate::metrics::collect::Families;
use crate::metrics::{FREQUENCY, GOVERNOR_STEPS, OVERHEAD, OVERHEAD_LIMIT, OVERHEAD_RATIO};
use crate::session::cost::{Cost, Look};
use crate::session::governor::Decision;

/// Sums since the start, and the last look.
#[derive(Clone, Debug, Default)]
pub struct OverheadSums {
    cost: Cost,
    last: Option<Look>,
    lowered: u64,
    raised: u64,
}

impl OverheadSums {
    /// Adds a look.
    pub fn add(&mut self, look: &Look) {
        let Cost { own, bpf, interrupts_estimated } = look.cost;
        self.cost.own += own;
        self.cost.bpf += bpf;
        self.cost.interrupts_estimated += interrupts_estimated;
        self.last = Some(*look);
        match look.decision {
            Some(Decision::Lower) => self.lowered += 1,
            Some(Decision::Raise) => self.raised += 1,
            Some(Decision::Exhausted) | None => {}
        }
    }

    /// The last look.
    pub fn last(&self) -> Option<&Look> {
        self.last.as_ref()
    }

    /// All series.
    pub fn collect(&self, families: &mut Families) {
        let Cost { own, bpf, interrupts_estimated } = self.cost;
        let parts = [("userspace", own), ("bpf", bpf), ("interrupts_estimated", interrupts_estimated)];
        families.by_label(&OVERHEAD, parts.map(|(part, time)| (part, time.as_secs_f64())));
        families.by_label(&GOVERNOR_STEPS, [("down", self.lowered as f64), ("up", self.raised as f64)]);
        let Some(last) = &self.last else { return };
        families.number(&OVERHEAD_RATIO, last.share);
        families.number(&FREQUENCY, last.frequency_hz);
        if let Some(limit) = last.limit {
            families.number(&OVERHEAD_LIMIT, limit);
        }
    }
}
