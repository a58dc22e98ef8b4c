//! Where counts come from: groups of events that are opened, enabled and read. [`Perf`](super::perf::Perf) is the kernel;
//! tests script another one for hardware that is not there.

use std::fs::File;
use std::time::{Duration, Instant};

use super::event::Encoded;
use super::reading::Reading;

/// What a group counts.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// This thread.
    Own,
    /// A thread, wherever it runs, with the threads that it starts from now on.
    Task {
        /// Which.
        tid: u32,
        /// Whether processes that it starts count too.
        processes: bool,
    },
    /// Everything on a CPU.
    Cpu(u32),
    /// What a control group, and those below it, do on a CPU.
    Cgroup {
        /// Its directory, in the hierarchy that the kernel's controller perf_event is of.
        directory: &'a File,
        /// The CPU.
        cpu: u32,
    },
}

/// A group to open.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its members, of one PMU.
    pub events: &'a [Encoded],
    /// What to count.
    pub scope: Scope<'a>,
    /// Leave out the kernel: all that a plain user may count.
    pub user_only: bool,
}

/// The kernel's refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("member {member} of the group: errno {errno}")]
pub struct OpenError {
    /// The member that was refused.
    pub member: usize,
    /// Why.
    pub errno: i32,
}

/// Why a group could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("errno {0}")]
pub struct ReadError(pub i32);

/// An open group. Its counters are given back when it is dropped.
pub trait Group {
    /// Starts counting.
    fn enable(&mut self) -> Result<(), ReadError>;
    /// The counts so far, from 0 when it was opened.
    fn read(&mut self) -> Result<Reading, ReadError>;
}

/// Something that counts.
pub trait CounterSource {
    /// Opens a group; it does not count yet.
    fn open(&self, request: Request<'_>) -> Result<Box<dyn Group>, OpenError>;
    /// How many samples come, of this thread in user mode and one every `period` events, while there is work.
    fn interrupts(&self, event: &Encoded, period: u64) -> Result<u64, OpenError>;
}

/// Work that every counter should see: arithmetic, branches, and reads over more memory than caches hold, until this
/// thread has had the CPU for a while.
pub fn burn(cpu_time: Duration) {
    let start = Instant::now();
    let before = thread_time();
    let mut memory = vec![1_u64; 4 << 20];
    let mut at = 1_usize;
    // A machine that gives this thread no time must not keep it here.
    let mut float = 1.0_f64;
    while thread_time() < before + cpu_time && start.elapsed() < cpu_time * 100 {
        for _ in 0..4096 {
            float = (float * 1.000_1 + 0.5) / 1.5;
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = (at >> 33) % memory.len();
            if at & 1 << 40 == 0 {
                memory[index] += 1;
            } else {
                at ^= memory[index] as usize;
            }
        }
    }
    std::hint::black_box((memory, float));
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in the struct given; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}
