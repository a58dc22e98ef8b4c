//! How often an eBPF program ran, and how long: the kernel's own count, while `kernel.bpf_stats_enabled` is on.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Of a program, since it was loaded.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct RunTime {
    pub(super) runs: u64,
    pub(super) ns: u64,
}

impl RunTime {
    /// Of the program that a process has under a descriptor.
    pub(super) fn of(pid: u32, fd: i32) -> anyhow::Result<Self> {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
        Self::parse(&info).map(|(_, run_time)| run_time).context("the kernel counts no run time of programs")
    }

    /// Of the program of a sampling clock that a process has: the one that ran most.
    pub(super) fn of_clock(pid: u32) -> anyhow::Result<Self> {
        const PERF_EVENT: &str = "7";
        let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the profiler is gone")?;
        let infos = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        let programs = infos.filter_map(|info| Self::parse(&info));
        let of_clocks = programs.filter(|(kind, _)| kind == PERF_EVENT).map(|(_, run_time)| run_time);
        of_clocks.max_by_key(|run_time| run_time.runs).context("the profiler has no eBPF program of a clock")
    }

    /// The program's type and its run time, of its descriptor's information.
    fn parse(info: &str) -> Option<(String, Self)> {
        let value = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().to_owned())
        };
        let number = |name: &str| value(name)?.parse().ok();
        Some((value("prog_type")?, Self { runs: number("run_cnt")?, ns: number("run_time_ns")? }))
    }

    /// Nanoseconds of a run since `earlier`; none if there was no run.
    pub(super) fn each_since(self, earlier: Self) -> Option<f64> {
        let runs = self.runs.checked_sub(earlier.runs).filter(|&runs| runs > 0)?;
        Some(self.ns.saturating_sub(earlier.ns) as f64 / runs as f64)
    }
}

/// The kernel's count, switched on until this is dropped.
pub(super) struct Counting {
    before: String,
}

impl Counting {
    pub(super) fn start() -> anyhow::Result<Self> {
        let switch = PathBuf::from(SWITCH);
        let before = fs::read_to_string(&switch).context("this kernel counts no run time of eBPF programs")?;
        fs::write(&switch, "1").context("the count of eBPF programs' run time cannot be switched on")?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // It costs little where it stays on.
        let _ = fs::write(SWITCH, self.before.trim());
    }
}
