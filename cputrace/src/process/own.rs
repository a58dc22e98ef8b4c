//! What this process itself takes, and its clock.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is large for the allocator.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 1 << 20;

/// CLOCK_MONOTONIC, as the kernel's side stamps its samples.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the struct given; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// What a thread is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Attaching and collecting: a third of a second of CPU time at first, then a few milliseconds each second.
    Collecting,
    /// What comes after it: names and files.
    Finishing,
}

/// As long as it lives, the thread that made it comes before others, and so do those that it starts.
///
/// Who looks at a host that has too much to do must not wait in the same queue: among 200 busy threads a third of a second of
/// CPU time is half a minute.
#[derive(Debug)]
pub struct Priority {
    before: libc::c_int,
}

impl Priority {
    /// Without the right to it, nothing changes.
    pub fn raise(work: Work) -> Self {
        // SAFETY: calls without pointers, about the calling thread.
        let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        set_nice(match work {
            Work::Collecting => -20,
            Work::Finishing => -10,
        });
        Self { before }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        set_nice(self.before);
    }
}

/// The calling thread is one among others again, although who started it is not.
pub fn lower_priority() {
    set_nice(0);
}

fn set_nice(nice: libc::c_int) {
    // SAFETY: a call without pointers, about the calling thread. Who may not do it goes on as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Raises the limit of open files as far as this process may; what it is then. Each file that is mapped on the host is open once.
pub fn raise_file_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit = raised;
    }
    limit.current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

/// Whether it runs as root.
pub fn is_root() -> bool {
    // SAFETY: a call without pointers that cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// CPU time of this process so far.
pub fn cpu_time() -> Duration {
    let usage = usage();
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// Its resident memory at its highest.
pub fn peak_rss_kb() -> u64 {
    usage().ru_maxrss.cast_unsigned()
}

/// Has glibc give memory back that is not needed any more: what is large lies in mappings of its own, and all else in one
/// place instead of one a thread, each as large as it ever was. To be called before other threads are started.
pub fn keep_memory_low() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator; an unknown one is refused and harmless.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE_BYTES);
    }
}

/// Gives free memory back to the system: after a window, whose peak is over.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator's own, at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn usage() -> libc::rusage {
    // SAFETY: all zeros is a valid rusage.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: fills in the struct given; RUSAGE_SELF is always there.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// As many files may be open as this process may allow itself.
    #[test]
    fn raises_the_limit_of_open_files() {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(1 << 20);
        setrlimit(Resource::Nofile, Rlimit { current: Some(most - 1), ..limit }).unwrap();
        assert_eq!(raise_file_limit(), limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap()));
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
