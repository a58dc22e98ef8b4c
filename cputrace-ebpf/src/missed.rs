//! Ticks of the clock that did not come while a target ran: it was throttled, interrupts were off, or the host of a
//! virtual machine ran something else.
//!
//! An idle CPU may skip ticks too, and a thread sleeps between two of its ticks. So a gap counts only where the
//! thread ran on: between two ticks in a row on one CPU, both in it, without a migration in between, nearly all
//! of the time by the scheduler's account.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::{config, maps::PACE};

/// The last tick on a CPU.
#[repr(C)]
pub(crate) struct LastTick {
    tid: u64,
    time_ns: u64,
    sum_exec_runtime: u64,
    nr_migrations: u64,
}

impl LastTick {
    /// A tick came in `tid` at `now_ns`: how many were missed before it?
    #[inline(always)]
    pub(crate) fn missed_before(&mut self, tid: u32, now_ns: u64) -> u64 {
        let period = PACE.get(0).map_or(0, |pace| pace.period_ns);
        if period == 0 || config::task_sum_exec_runtime() == 0 {
            return 0;
        }
        let runtime = read(config::task_sum_exec_runtime());
        let migrations = read(config::task_nr_migrations());
        let (gap, ran) = (now_ns - self.time_ns, runtime - self.sum_exec_runtime);
        let same = self.tid == u64::from(tid) && self.nr_migrations == migrations;
        let time_ns = now_ns;
        *self = Self { tid: tid.into(), time_ns, sum_exec_runtime: runtime, nr_migrations: migrations };
        // The scheduler's account is up to one of its own ticks old: rather too few than too many.
        if same && ran > gap - gap / 8 { ((gap + period / 2) / period).saturating_sub(1) } else { 0 }
    }
}

/// A number of the current task.
#[inline(always)]
fn read(offset: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe {
        let task = bpf_get_current_task() as *const u8;
        bpf_probe_read_kernel(task.add(offset as usize).cast::<u64>()).unwrap_or(0)
    }
}
