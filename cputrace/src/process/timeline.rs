//! The `/proc` time series of processes: CPU, memory, threads, switches, faults.
//!
//! Two or three small files a process and interval. Context switches are the sum over the threads while there are
//! few, for `/proc/PID/status` has those of the main thread only; with more than [`MAX_SWITCH_THREADS`] threads
//! reading them all would cost more than it tells, and they stay 0.

use std::collections::HashMap;
use std::time::Duration;

use procfs::ProcResult;
use procfs::process::{Process, Stat};

use crate::model::{Point, Timeline};

/// Processes that are read at a time; those that come while so many live have no series.
const MAX_PROCESSES: usize = 64;

/// Threads of a process whose context switches are read one by one.
const MAX_SWITCH_THREADS: u64 = 32;

/// Collects the series.
#[derive(Debug, Default)]
pub struct Timelines {
    timelines: Vec<Timeline>,
    /// By pid: which series, and the last reading.
    live: HashMap<u32, Live>,
}

#[derive(Clone, Debug)]
struct Live {
    timeline: usize,
    start_time: u64,
    last: Reading,
    at: Duration,
}

/// What is read of a process; all but the last two only ever grow.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    user_ticks: u64,
    system_ticks: u64,
    minor_faults: u64,
    major_faults: u64,
    voluntary: u64,
    involuntary: u64,
    rss_kb: u64,
    threads: u32,
}

impl Timelines {
    /// No series yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads each process, at the given time since the start. One that is gone ends its series; a number that was
    /// given to another process begins a new one.
    pub fn observe(&mut self, pids: &[u32], at: Duration) {
        self.live.retain(|pid, _| pids.contains(pid));
        for &pid in pids {
            let known = self.live.get(&pid);
            if known.is_none() && self.live.len() >= MAX_PROCESSES {
                continue;
            }
            let Ok((stat, reading)) = read(pid) else {
                self.live.remove(&pid);
                continue;
            };
            match self.live.get_mut(&pid).filter(|live| live.start_time == stat.starttime) {
                Some(live) => {
                    let timeline = &mut self.timelines[live.timeline];
                    // A recording's last reading may come right after the one before it.
                    if at > live.at {
                        timeline.points.push(point(&live.last, &reading, at - live.at, at));
                        timeline.cpu_time += cpu_time(reading) - cpu_time(live.last);
                    }
                    (live.last, live.at) = (reading, at);
                    timeline.name = stat.comm;
                }
                None => {
                    let timeline = self.timelines.len();
                    self.live.insert(pid, Live { timeline, start_time: stat.starttime, last: reading, at });
                    let (points, cpu_time) = (Vec::new(), Duration::ZERO);
                    self.timelines.push(Timeline { pid, name: stat.comm, points, cpu_time });
                }
            }
        }
    }

    /// The series so far.
    pub fn timelines(&self) -> &[Timeline] {
        &self.timelines
    }

    /// The series that have a point, the one with the most CPU time first.
    pub fn finish(mut self) -> Vec<Timeline> {
        self.timelines.retain(|timeline| !timeline.points.is_empty());
        self.timelines.sort_by_key(|timeline| std::cmp::Reverse(timeline.cpu_time));
        self.timelines
    }
}

/// The processes of the host that use the most CPU time, by `/proc` alone.
#[derive(Debug, Default)]
pub struct Busiest {
    /// Ticks of each process when it was first seen.
    first: HashMap<u32, u64>,
}

impl Busiest {
    /// So many of them, those first that used the most since they were first seen.
    pub fn pids(&mut self, count: usize) -> Vec<u32> {
        let processes = procfs::process::all_processes().into_iter().flatten().flatten();
        let ticks = processes.filter_map(|process| {
            let stat = process.stat().ok()?;
            Some((stat.pid.cast_unsigned(), stat.utime + stat.stime))
        });
        let used = ticks.map(|(pid, ticks)| (ticks.saturating_sub(*self.first.entry(pid).or_insert(ticks)), pid));
        let mut used: Vec<_> = used.collect();
        used.sort_unstable_by(|a, b| b.cmp(a));
        used.into_iter().take(count).map(|(_, pid)| pid).collect()
    }
}

fn read(pid: u32) -> ProcResult<(Stat, Reading)> {
    let process = Process::new(pid.cast_signed())?;
    let stat = process.stat()?;
    let (mut voluntary, mut involuntary) = (0, 0);
    if stat.num_threads.cast_unsigned() <= MAX_SWITCH_THREADS {
        for task in process.tasks()?.flatten() {
            // A thread that ended meanwhile.
            let path = format!("/proc/{pid}/task/{}/status", task.tid);
            let Ok(status) = std::fs::read_to_string(path) else { continue };
            voluntary += field(&status, "voluntary_ctxt_switches:");
            involuntary += field(&status, "nonvoluntary_ctxt_switches:");
        }
    }
    let reading = Reading {
        user_ticks: stat.utime,
        system_ticks: stat.stime,
        minor_faults: stat.minflt,
        major_faults: stat.majflt,
        voluntary,
        involuntary,
        rss_kb: stat.rss * (procfs::page_size() / 1024),
        threads: stat.num_threads.try_into().unwrap_or(0),
    };
    Ok((stat, reading))
}

/// A number in `/proc/PID/status`: of its 60 lines two are wanted, ten times a second.
fn field(status: &str, name: &str) -> u64 {
    // They are the last ones.
    let value = status.lines().rev().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// What happened between two readings.
fn point(before: &Reading, now: &Reading, interval: Duration, at: Duration) -> Point {
    let percent =
        |before: u64, now: u64| 100.0 * ticks(now.saturating_sub(before)).as_secs_f64() / interval.as_secs_f64();
    let user_percent = percent(before.user_ticks, now.user_ticks);
    let system_percent = percent(before.system_ticks, now.system_ticks);
    Point {
        at,
        cpu_percent: user_percent + system_percent,
        user_percent,
        system_percent,
        rss_kb: now.rss_kb,
        threads: now.threads,
        // Threads that end take their counts with them.
        voluntary_switches: now.voluntary.saturating_sub(before.voluntary),
        involuntary_switches: now.involuntary.saturating_sub(before.involuntary),
        minor_faults: now.minor_faults.saturating_sub(before.minor_faults),
        major_faults: now.major_faults.saturating_sub(before.major_faults),
    }
}

fn cpu_time(reading: Reading) -> Duration {
    ticks(reading.user_ticks + reading.system_ticks)
}

/// Clock ticks (`USER_HZ`) as time.
fn ticks(ticks: u64) -> Duration {
    Duration::from_secs(ticks) / u32::try_from(procfs::ticks_per_second()).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::process::Command;

    use super::*;

    /// A process that burns one core shows the share of it that the machine has for it, and its series' CPU time is that of its own `utime + stime`.
    #[test]
    fn a_busy_process() {
        let mut burner = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pids = [burner.id()];
        let (mut timelines, start) = (Timelines::new(), std::time::Instant::now());
        for _ in 0..6 {
            timelines.observe(&pids, start.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        let (_, last) = read(burner.id()).unwrap();
        let truth = 100.0 * cpu_time(last).as_secs_f64() / start.elapsed().as_secs_f64();
        timelines.observe(&pids, start.elapsed());
        burner.kill().unwrap();
        burner.wait().unwrap();
        timelines.observe(&pids, start.elapsed());
        let series = timelines.finish();
        assert_eq!((series.len(), series[0].points.len(), series[0].name.as_str()), (1, 6, "sh"));
        let mean = series[0].points.iter().map(|point| point.cpu_percent).sum::<f64>() / 6.0;
        assert!((mean - truth).abs() < 25.0, "{mean} % of a core, and it had {truth} %");
        assert!(series[0].cpu_time <= cpu_time(last) + Duration::from_millis(20));
        assert!(series[0].points.iter().all(|point| point.rss_kb > 0 && point.threads == 1));
    }

    /// Who burns a core comes before who sleeps.
    #[test]
    fn the_busiest_comes_first() {
        let start = |script| Command::new("sh").args(["-c", script]).spawn().unwrap();
        let mut busiest = Busiest::default();
        let (mut burner, mut sleeper) = (start("while :; do :; done"), start("exec sleep 60"));
        busiest.pids(1);
        std::thread::sleep(Duration::from_millis(500));
        let pids = busiest.pids(usize::MAX);
        let place = |child: &std::process::Child| pids.iter().position(|pid| *pid == child.id());
        let places = (place(&burner), place(&sleeper));
        for child in [&mut burner, &mut sleeper] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(places.0.is_some() && places.0 < places.1, "{places:?}");
    }

    /// A process that is not there has no series.
    #[test]
    fn a_missing_process() {
        let mut timelines = Timelines::new();
        timelines.observe(&[u32::MAX - 1], Duration::ZERO);
        assert!(timelines.finish().is_empty());
    }
}
