//! Bounds what stacks of waits cost: where there are too many, the shorter ones are left out, for the long ones explain the most
//! time.

use crate::{
    config,
    maps::{BUDGETS, PACE},
};

/// What has its own budget.
#[derive(Clone, Copy)]
pub(crate) enum Spending {
    Waits = 0,
    Wakes = 1,
}

/// What [`Pace::most_stacks`](cputrace_common::pace::Pace::most_stacks) is of.
const INTERVAL_NS: u64 = 100_000_000;

/// The threshold is doubled this often at most: to a thousand times.
const MAX_DOUBLINGS: u32 = 10;

/// One CPU's.
#[repr(C)]
pub(crate) struct Budget {
    since_ns: u64,
    spent: u32,
    /// How often the threshold is doubled at the moment.
    doublings: u32,
}

/// Whether the stack of a wait of this length may be taken.
#[inline(always)]
pub(crate) fn allows(spending: Spending, wait_ns: u64, now_ns: u64) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(spending as u32) else { return false };
    let most = PACE.get(0).map_or(0, |pace| pace.most_stacks);
    // SAFETY: this CPU's element.
    let budget = unsafe { &mut *budget };
    if now_ns.wrapping_sub(budget.since_ns) > INTERVAL_NS {
        if budget.spent > most && budget.doublings < MAX_DOUBLINGS {
            budget.doublings += 1;
        } else if budget.spent < most / 4 && budget.doublings > 0 {
            budget.doublings -= 1;
        }
        (budget.since_ns, budget.spent) = (now_ns, 0);
    }
    if wait_ns < config::off_cpu_min_ns() << (budget.doublings & 15) {
        return false;
    }
    budget.spent += 1;
    budget.spent <= most
}
