//! Bounds what stacks of waits cost: where there are too many, the shorter ones are left out, for the long ones explain the most
//! time. And what storms of new programs cost.

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{
    config,
    maps::{BUDGETS, NEWCOMERS, PACE},
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

/// What [`Pace::newcomers`](cputrace_common::pace::Pace::newcomers) is of.
const SECOND_NS: u64 = 1_000_000_000;

/// New programs of one CPU.
#[repr(C)]
pub(crate) struct Newcomers {
    since_ns: u64,
    count: u64,
}

/// Whether userspace is to look at a new program before its first sample.
#[inline(always)]
pub(crate) fn welcomes() -> bool {
    let most = PACE.get(0).map_or(0, |pace| pace.newcomers);
    let Some(newcomers) = NEWCOMERS.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's element, and a helper without arguments.
    let (newcomers, now_ns) = unsafe { (&mut *newcomers, bpf_ktime_get_ns()) };
    if now_ns.wrapping_sub(newcomers.since_ns) > SECOND_NS {
        (newcomers.since_ns, newcomers.count) = (now_ns, 0);
    }
    newcomers.count += 1;
    newcomers.count <= u64::from(most)
}
