//! Where a JIT compiler keeps the names of its code: `/tmp/perf-PID.map`, in the process's own root, by the number
//! that the process has in its own pid namespace.

use std::fs::{self, File};
use std::path::Path;

use super::file::open_regular;

/// The map of a process, or of one that has ended if it ran in our own root.
pub fn perf_map(pid: u32) -> Option<File> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = numbers.and_then(|numbers| numbers.split_ascii_whitespace().next_back()?.parse().ok()).unwrap_or(pid);
    let open = |path: String| open_regular(Path::new(&path));
    open(format!("/proc/{pid}/root/tmp/perf-{own}.map")).or_else(|| open(format!("/tmp/perf-{own}.map")))
}
