//! Where the time of one thread went: elapsed = on the CPU + in run queues + off the CPU by state + residual.

/// What kind of wait a thread is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum OffCpuState {
    /// Until an event or a signal.
    #[doc(alias = "TASK_INTERRUPTIBLE")]
    Sleeping,
    /// Until an event that no signal cuts short, mostly of a disk.
    #[doc(alias = "TASK_UNINTERRUPTIBLE")]
    Uninterruptible,
    /// By a signal or a debugger.
    #[doc(alias = "TASK_STOPPED")]
    Stopped,
    /// A kernel thread without work; parked or frozen threads.
    #[doc(alias = "TASK_IDLE")]
    Idle,
}

impl OffCpuState {
    /// All of them, in the order of [`ThreadTime::off_cpu_ns`].
    pub const ALL: &[Self; 4] = &[Self::Sleeping, Self::Uninterruptible, Self::Stopped, Self::Idle];

    /// Its name in trace.json and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sleeping => "sleeping",
            Self::Uninterruptible => "uninterruptible",
            Self::Stopped => "stopped",
            Self::Idle => "idle",
        }
    }
}

/// Run-queue waits by length: row `n` counts those of 2^n to 2^(n+1) nanoseconds, the last one all longer ones.
pub type WaitHistogram = [u64; 32];

/// One thread's time in the recording. All times are measured at its switches; none is the rest of the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ThreadTime {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its lifetime within the recording.
    pub elapsed_ns: u64,
    /// On a CPU.
    pub on_cpu_ns: u64,
    /// Waiting for a CPU.
    pub run_queue_ns: u64,
    /// The longest of these waits.
    pub run_queue_max_ns: u64,
    /// Waiting for an event, by [`OffCpuState`].
    pub off_cpu_ns: [u64; 4],
    /// The kernel's own account of its time on a CPU (`sum_exec_runtime`), up to its last switch.
    pub kernel_on_cpu_ns: u64,
    /// The kernel's own account of its time in run queues (`run_delay`), up to its last switch.
    pub kernel_run_queue_ns: u64,
    /// Switches because it waited.
    pub switches_voluntary: u64,
    /// Switches because another thread was to run.
    pub switches_involuntary: u64,
    /// How often it moved to another CPU.
    pub migrations: u64,
    /// Its run-queue waits.
    pub run_queue_waits: WaitHistogram,
    /// Whether it ended within the recording.
    pub ended: bool,
}

impl ThreadTime {
    /// Off the CPU, in all.
    pub fn off_cpu_total_ns(&self) -> u64 {
        // Saturating, as below: a file may say anything.
        self.off_cpu_ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// What is in no part: elapsed minus all of them.
    pub fn residual_ns(&self) -> i64 {
        let parts = self.on_cpu_ns.saturating_add(self.run_queue_ns).saturating_add(self.off_cpu_total_ns());
        self.elapsed_ns.cast_signed().saturating_sub(parts.cast_signed())
    }
}

/// What the account of the threads' time lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SchedulerLedger {
    /// Threads for which there was no place.
    pub threads_lost: u64,
    /// Ended threads whose account got lost.
    pub ends_lost: u64,
    /// Waits that the clock of the run queue did not fit into.
    pub clock_errors: u64,
    /// Switches that were not seen, and found in the kernel's own account.
    pub recovered: u64,
    /// Waits over the threshold that were kept with their stack.
    pub waits: u64,
    /// Waits over the threshold whose stack is lost.
    pub waits_lost: u64,
    /// Waits over the threshold whose stacks were not taken so that the cost stays bounded.
    pub waits_limited: u64,
    /// Wake-ups after such waits that were kept with the waker's stack.
    pub wakes: u64,
    /// Wake-ups after such waits whose stack is lost.
    pub wakes_lost: u64,
    /// Wake-ups whose stacks were not taken so that the cost stays bounded.
    pub wakes_limited: u64,
    /// Waits below this length are samples: each stands for so much of them. 0: none is.
    pub sampled_below_ns: u64,
}
