//! A program at work with all the processes that it starts, none of which outlives its test.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::lab::signal;

/// A machine that gives a program no CPU for so long is not one to test on.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Tree(Child);

impl Tree {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The program and its descendants, as they are now.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.0.id()];
        let mut at = 0;
        while let Some(pid) = pids.get(at) {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
            let children: String = lists.collect();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        pids
    }

    /// Waits until they have used so much CPU time from now on: what starts only once is over then.
    pub(crate) fn warm_up(&mut self, time: Duration) {
        let before = self.cpu_time();
        self.wait_until(|tree| tree.cpu_time().saturating_sub(before) >= time);
    }

    fn cpu_time(&self) -> Duration {
        // A tick of /proc is 10 ms on every architecture that we run on.
        Duration::from_millis(10 * self.pids().into_iter().filter_map(cpu_ticks).sum::<u64>())
    }

    /// Waits until something is there; the program has to be at work all that time.
    pub(crate) fn wait_until(&mut self, is_there: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_there(self) {
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "the program ended before it was at work: {ended:?}");
            assert!(start.elapsed() < PATIENCE, "the program does not come to work");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let pids = self.pids();
        // As Ctrl-C does: servers end their own children then, and clean up.
        signal(&self.0, "INT");
        let start = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for pid in pids {
            // SAFETY: a call without pointers. Most are gone, and the time is too short for their numbers to come again.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
        let _ = self.0.wait();
    }
}

/// User and system time of a process so far.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}
