//! What this process itself takes, and its clock.

use std::time::Duration;

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

fn usage() -> libc::rusage {
    // SAFETY: all zeros is a valid rusage.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: fills in the struct given; RUSAGE_SELF is always there.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    usage
}
