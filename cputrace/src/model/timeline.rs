//! The `/proc` time series of one process.

use std::time::Duration;

/// One interval of a process's [`Timeline`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Point {
    /// The interval's end, since the recording's start.
    pub at: Duration,
    /// CPU use in the interval; 100 is one core.
    pub cpu_percent: f64,
    /// The part of it in user mode.
    pub user_percent: f64,
    /// The part of it in the kernel.
    pub system_percent: f64,
    /// Resident memory at the interval's end.
    pub rss_kb: u64,
    /// Threads at the interval's end.
    pub threads: u32,
    /// Voluntary context switches in the interval.
    pub voluntary_switches: u64,
    /// Involuntary context switches in the interval.
    pub involuntary_switches: u64,
    /// Page faults without I/O in the interval.
    pub minor_faults: u64,
    /// Page faults with I/O in the interval.
    pub major_faults: u64,
}

/// The `/proc` time series of one process.
#[derive(Clone, PartialEq, Debug)]
pub struct Timeline {
    /// Process id.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
    /// In order of time.
    pub points: Vec<Point>,
    /// CPU time of all its threads (utime + stime) over the recording.
    pub cpu_time: Duration,
}
