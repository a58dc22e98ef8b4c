//! The threads' time, from the scheduler's table in the kernel: sums so far, less those at the window's start.

use std::collections::HashMap;

use cputrace_common::thread::{SchedStats, Thread, state};

use crate::ebpf::{EbpfError, SchedMaps};
use crate::model::{SchedulerLedger, ThreadTime};

/// Ended threads that are kept one by one; those that come later are added up.
const MAX_ENDED: usize = 16_384;

/// Shorter waits cannot be told from the lag of the kernel's account: a tick takes up to 10 ms.
const LONG_NS: u64 = 50_000_000;

/// A switch's time by the kernel's clock and by ours differs by this at most: 13 us were measured.
const SWITCH_NS: u64 = 50_000;

/// The account of one window.
pub struct ThreadTimes {
    maps: SchedMaps,
    start_ns: u64,
    /// Of each thread at the window's start, by id and birth.
    before: HashMap<(u32, u64), ThreadTime>,
    stats_before: SchedStats,
    ended: Vec<ThreadTime>,
    /// Of the threads that lived at the end of the window before.
    names: HashMap<(u32, u64), String>,
}

impl ThreadTimes {
    /// Nothing counts before [`Self::start_at`].
    pub fn new(maps: SchedMaps) -> Self {
        let (before, stats_before) = (HashMap::new(), SchedStats::default());
        Self { maps, start_ns: u64::MAX, before, stats_before, ended: Vec::new(), names: HashMap::new() }
    }

    /// Starts a window (CLOCK_MONOTONIC).
    pub fn start_at(&mut self, start_ns: u64) -> Result<(), EbpfError> {
        while self.maps.next_end().is_some() {}
        self.ended.clear();
        self.maps.reset_longest_waits();
        self.stats_before = self.maps.stats()?;
        self.start_ns = start_ns;
        let threads = self.maps.threads();
        self.before = threads.iter().map(|thread| (identity(thread), so_far(thread, start_ns))).collect();
        Ok(())
    }

    /// How full the table was at the window's start.
    pub fn fill(&self) -> f64 {
        self.before.len() as f64 / self.maps.places() as f64
    }

    /// Takes the accounts of threads that ended.
    pub fn drain(&mut self) {
        while let Some(thread) = self.maps.next_end() {
            let end_ns = thread.since_ns;
            if end_ns <= self.start_ns {
                continue;
            }
            let (_, mut time) = self.window(&thread, end_ns);
            self.before.remove(&identity(&thread));
            time.ended = true;
            let length = thread.comm.iter().position(|&byte| byte == 0).unwrap_or(thread.comm.len());
            time.name = String::from_utf8_lossy(&thread.comm[..length]).into_owned();
            let kept = self.ended.len();
            match self.ended.last_mut() {
                Some(others) if kept > MAX_ENDED => add(others, &time),
                _ if kept == MAX_ENDED => {
                    self.ended.push(ThreadTime { pid: 0, tid: 0, name: "(other ended threads)".to_owned(), ..time });
                }
                _ => self.ended.push(time),
            }
        }
    }

    /// Every thread that lived in the window, which ends now (CLOCK_MONOTONIC), and what is lacking; the next one starts.
    pub fn finish(&mut self, now_ns: u64) -> Result<(Vec<ThreadTime>, SchedulerLedger), EbpfError> {
        // Before the ended ones are taken: a thread that ends meanwhile is in both, and left out here.
        let alive = self.maps.threads();
        self.drain();
        let mut times = std::mem::take(&mut self.ended);
        let ended: std::collections::HashSet<_> = times.iter().map(|time| time.tid).collect();
        let mut names = HashMap::with_capacity(alive.len());
        // The next window starts from what was read here: a thread that ends meanwhile counts in one of the two.
        let mut before = HashMap::with_capacity(alive.len());
        for thread in &alive {
            let (total, mut time) = self.window(thread, now_ns);
            before.insert(identity(thread), total);
            if ended.contains(&thread.tid) || thread.first_ns >= now_ns {
                continue;
            }
            // One that did not run has not given itself another name.
            let known = self.names.remove(&identity(thread)).filter(|_| time.on_cpu_ns == 0);
            let read = || std::fs::read_to_string(format!("/proc/{}/task/{}/comm", thread.tgid, thread.tid));
            time.name = known.unwrap_or_else(|| read().unwrap_or_default().trim_end().to_owned());
            names.insert(identity(thread), time.name.clone());
            times.push(time);
        }
        (self.names, self.before, self.start_ns) = (names, before, now_ns);
        // One that has ended since then is gone from /proc: its end, which is the next window's, knows its name.
        if times.iter().any(|time| time.name.is_empty()) {
            self.drain();
            let ended: HashMap<_, _> = self.ended.iter().map(|time| (time.tid, &time.name)).collect();
            for time in times.iter_mut().filter(|time| time.name.is_empty()) {
                time.name = ended.get(&time.tid).copied().cloned().unwrap_or_default();
            }
        }
        times.sort_by_key(|time| (time.pid, time.tid));
        let stats = self.maps.stats()?;
        let before = self.stats_before;
        let lost = |stats: SchedStats| stats.waits_lost + stats.waits_busy;
        self.stats_before = stats;
        self.maps.reset_longest_waits();
        let ledger = SchedulerLedger {
            threads_lost: stats.threads_full - before.threads_full,
            ends_lost: stats.ends_lost - before.ends_lost,
            clock_errors: stats.clock_errors - before.clock_errors,
            recovered: stats.recovered - before.recovered,
            waits: stats.waits - before.waits,
            waits_lost: lost(stats) - lost(before),
            waits_limited: stats.waits_limited - before.waits_limited,
            wakes: stats.wakes - before.wakes,
            wakes_lost: stats.wakes_lost - before.wakes_lost,
            wakes_limited: stats.wakes_limited - before.wakes_limited,
            sampled_below_ns: 0,
        };
        Ok((times, ledger))
    }

    /// A thread's time up to `end_ns`: since it was seen first, and in this window.
    fn window(&self, thread: &Thread, end_ns: u64) -> (ThreadTime, ThreadTime) {
        let mut total = so_far(thread, end_ns);
        let mut time = total.clone();
        if let Some(before) = self.before.get(&identity(thread)) {
            subtract(&mut time, before);
        }
        if [state::RUNNABLE, state::THROTTLED].contains(&thread.state) {
            let open_ns = end_ns.saturating_sub(thread.since_ns.max(self.start_ns));
            let ran_ns = unseen_ns(&time, open_ns);
            for time in [&mut total, &mut time] {
                time.on_cpu_ns += ran_ns;
                time.run_queue_ns = time.run_queue_ns.saturating_sub(ran_ns);
            }
        }
        (total, time)
    }
}

fn identity(thread: &Thread) -> (u32, u64) {
    (thread.tid, thread.first_ns)
}

/// Its sums since it was seen first, with what it is doing at `now_ns`; where it was switched since then, at that switch: many
/// threads cannot be looked at in one moment.
fn so_far(thread: &Thread, now_ns: u64) -> ThreadTime {
    let now_ns = now_ns.max(thread.since_ns);
    let kernel = (thread.kernel, thread.kernel_before);
    let mut time = ThreadTime {
        pid: thread.tgid,
        tid: thread.tid,
        name: String::new(),
        elapsed_ns: now_ns.saturating_sub(thread.first_ns),
        on_cpu_ns: thread.on_cpu_ns,
        run_queue_ns: thread.run_queue_ns,
        run_queue_max_ns: thread.run_queue_max_ns,
        off_cpu_ns: thread.off_cpu_ns,
        kernel_on_cpu_ns: kernel.0.runtime_ns.saturating_sub(kernel.1.runtime_ns),
        kernel_run_queue_ns: kernel.0.run_delay_ns.saturating_sub(kernel.1.run_delay_ns),
        switches_voluntary: kernel.0.voluntary.saturating_sub(kernel.1.voluntary),
        switches_involuntary: kernel.0.involuntary.saturating_sub(kernel.1.involuntary),
        migrations: kernel.0.migrations.saturating_sub(kernel.1.migrations),
        run_queue_waits: thread.waits.map(u64::from),
        ended: false,
    };
    let open_ns = now_ns.saturating_sub(thread.since_ns);
    match thread.state {
        state::RUNNING => time.on_cpu_ns += open_ns,
        state::RUNNABLE | state::THROTTLED => time.run_queue_ns += open_ns,
        blocked => time.off_cpu_ns[(blocked & 3) as usize] += open_ns,
    }
    time
}

/// How much of its wait for a CPU, which has not ended, a thread has been on one in a window: now and then the switch to it is not
/// seen. That is noticed when it is switched from; until then the kernel's own account tells.
fn unseen_ns(time: &ThreadTime, open_ns: u64) -> u64 {
    let clocks_ns = SWITCH_NS.saturating_mul(time.switches_voluntary + time.switches_involuntary);
    let more_ns = time.kernel_on_cpu_ns.saturating_sub(time.on_cpu_ns).saturating_sub(clocks_ns).min(open_ns);
    if open_ns >= LONG_NS && more_ns > open_ns / 2 { more_ns } else { 0 }
}

fn subtract(time: &mut ThreadTime, before: &ThreadTime) {
    combine(time, before, u64::saturating_sub);
}

fn add(time: &mut ThreadTime, more: &ThreadTime) {
    combine(time, more, u64::saturating_add);
    time.run_queue_max_ns = time.run_queue_max_ns.max(more.run_queue_max_ns);
}

fn combine(time: &mut ThreadTime, other: &ThreadTime, of: fn(u64, u64) -> u64) {
    let ThreadTime {
        pid: _,
        tid: _,
        name: _,
        elapsed_ns,
        on_cpu_ns,
        run_queue_ns,
        run_queue_max_ns: _,
        off_cpu_ns,
        kernel_on_cpu_ns,
        kernel_run_queue_ns,
        switches_voluntary,
        switches_involuntary,
        migrations,
        run_queue_waits,
        ended: _,
    } = time;
    for (value, other) in [
        (elapsed_ns, other.elapsed_ns),
        (on_cpu_ns, other.on_cpu_ns),
        (run_queue_ns, other.run_queue_ns),
        (kernel_on_cpu_ns, other.kernel_on_cpu_ns),
        (kernel_run_queue_ns, other.kernel_run_queue_ns),
        (switches_voluntary, other.switches_voluntary),
        (switches_involuntary, other.switches_involuntary),
        (migrations, other.migrations),
    ] {
        *value = of(*value, other);
    }
    for (value, other) in off_cpu_ns.iter_mut().zip(other.off_cpu_ns) {
        *value = of(*value, other);
    }
    for (value, other) in run_queue_waits.iter_mut().zip(other.run_queue_waits) {
        *value = of(*value, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A thread that is said to wait for a CPU since 300 ms ran if the kernel says so, and the clocks cannot have made the difference.
    #[test]
    fn an_unseen_switch() {
        let unseen = |kernel_ms: u64, switches: u64| {
            let (on_cpu_ns, kernel_on_cpu_ns) = (1000 * MS, kernel_ms * MS);
            let time =
                ThreadTime { on_cpu_ns, kernel_on_cpu_ns, switches_voluntary: switches, ..ThreadTime::default() };
            unseen_ns(&time, 300 * MS) / MS
        };
        assert_eq!([unseen(996, 20), unseen(1010, 20), unseen(1292, 20)], [0, 0, 291]);
        assert_eq!([unseen(1292, 4000), unseen(1900, 0)], [0, 300]);
    }
}
