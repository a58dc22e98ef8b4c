//! What the scheduler's program keeps of each thread, and userspace reads in place.

/// Run-queue waits by the logarithm of their nanoseconds: row `n` has those of 2^n to 2^(n+1), the last one all that are
/// longer (2.1 s).
pub const WAIT_ROWS: usize = 32;

/// Values of [`Thread::state`].
pub mod state {
    /// On a CPU.
    pub const RUNNING: u32 = 1;
    /// Wants a CPU and has none: new, preempted, or it gave way.
    pub const RUNNABLE: u32 = 2;
    /// The same, and its control group has used up its CPU quota.
    pub const THROTTLED: u32 = 3;
    /// Waits for an event; the number plus its place in [`Thread::off_cpu_ns`](super::Thread::off_cpu_ns).
    pub const BLOCKED: u32 = 4;
}

/// Places in [`Thread::off_cpu_ns`]: what kind of wait it is.
pub mod blocked {
    /// Until an event or a signal (`TASK_INTERRUPTIBLE`).
    pub const SLEEPING: u32 = 0;
    /// Until an event, mostly of a disk (`TASK_UNINTERRUPTIBLE`).
    pub const UNINTERRUPTIBLE: u32 = 1;
    /// By a signal or a debugger (`TASK_STOPPED`, `TASK_TRACED`).
    pub const STOPPED: u32 = 2;
    /// A kernel thread without work (`TASK_IDLE`), parked, frozen.
    pub const IDLE: u32 = 3;
}

/// The kernel's own account of a thread, since its birth.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelAccount {
    /// `se.sum_exec_runtime`: time on a CPU.
    pub runtime_ns: u64,
    /// `sched_info.run_delay`: time in run queues, by the run queues' clocks.
    pub run_delay_ns: u64,
    /// `nvcsw`: it waited.
    pub voluntary: u64,
    /// `nivcsw`: it was preempted, or gave way.
    pub involuntary: u64,
    /// `se.nr_migrations`.
    pub migrations: u64,
}

/// One thread. Time is added up at its switches: what it did since the last one is `state` since `since_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Thread id; 0 for a place that is free.
    pub tid: u32,
    /// Odd while the kernel's side writes: read it again.
    pub writes: u32,
    /// Process id.
    pub tgid: u32,
    /// What it does now: one of [`state`].
    pub state: u32,
    /// Since when (`bpf_ktime_get_ns`: CLOCK_MONOTONIC); of a thread that ended, when it did.
    pub since_ns: u64,
    /// When it was seen first: its birth, or when it was found.
    pub first_ns: u64,
    /// Time on a CPU.
    pub on_cpu_ns: u64,
    /// Time in run queues: it could have run.
    pub run_queue_ns: u64,
    /// The longest of these waits. Userspace may set it to 0.
    pub run_queue_max_ns: u64,
    /// Time waiting for an event, by kind ([`blocked`]).
    pub off_cpu_ns: [u64; 4],
    /// Time of which the end of a state was not seen.
    pub unknown_ns: u64,
    /// The kernel's account at its last switch.
    pub kernel: KernelAccount,
    /// The kernel's account when it was seen first.
    pub kernel_before: KernelAccount,
    /// Its name, padded by zeros: only of a thread that ended.
    pub comm: [u8; 16],
    /// Not 0: another thread whose number leads to this place is kept elsewhere.
    pub shared: u32,
    /// Run-queue waits by length: see [`WAIT_ROWS`].
    pub waits: [u32; WAIT_ROWS],
    /// None: the size of a row is a multiple of 8.
    pub padding: u32,
    /// Where short waits are sampled: how much more of them there has to be until one is sent. The kernel's side's own.
    pub until_sample_ns: u64,
}

const _: () = assert!(size_of::<Thread>() == 336);

/// What the scheduler's program could not keep, a set a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedStats {
    /// Threads for which there was no place.
    pub threads_full: u64,
    /// Ends of threads that found the ring buffer full: their account is lost.
    pub ends_lost: u64,
    /// Waits whose end in the run queue's clock did not fit into them: it was cut to fit.
    pub clock_errors: u64,
    /// Switches that were not seen, and found in the kernel's own account.
    pub recovered: u64,
    /// Waits over the threshold that were sent with their stack.
    pub waits: u64,
    /// Waits over the threshold that found the ring buffer full.
    pub waits_lost: u64,
    /// Waits over the threshold whose stack could not be taken: the CPU's record was in use.
    pub waits_busy: u64,
    /// Wake-ups after such waits that were sent with the waker's stack.
    pub wakes: u64,
    /// Wake-ups that were not, for either reason.
    pub wakes_lost: u64,
    /// Waits over the threshold that were left out so that the cost stays bounded: the shorter ones of many.
    pub waits_limited: u64,
    /// Wake-ups that were left out likewise.
    pub wakes_limited: u64,
}

const _: () = assert!(size_of::<SchedStats>() == 88);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only integers, no padding; any bit pattern is valid.
unsafe impl aya::Pod for Thread {}

#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for SchedStats {}
