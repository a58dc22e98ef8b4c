//! What the eBPF programs take, by their own account: the kernel's statistics would cost each run of every eBPF program on the
//! host some 50 ns more, which is a third of what the account of a switch takes.

/// The programs, as rows of the map `RUN_TIMES`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// At a tick of the clock. Each run is timed.
    OnCpu,
    /// At an overflow of the event beside it. Each run is timed.
    OnEvent,
    /// At a tracepoint that is sampled. The runs that send a sample are timed and counted.
    AtTracepoint,
    /// At a switch. One run in [`ONE_IN`] is timed.
    SchedSwitch,
    /// At a switch's end. The runs that take a stack are timed and counted.
    SchedExit,
    /// The same where it is another hook.
    ScheduleReturns,
    /// At a wake-up. One run in [`ONE_IN`] is timed, and what takes a stack each time.
    SchedWaking,
    /// At a switch, for counters. One run in [`ONE_IN`] is timed.
    CountAtSwitch,
    /// At a fork. Each run is timed.
    ProcessFork,
    /// At an exec. Each run is timed.
    ProcessExec,
    /// At a thread's end. Each run is timed.
    ProcessExit,
    /// For each thread at the start. Each run is timed.
    SeedThreads,
    /// For each thread at a window's end. Each run is timed.
    LookAtThreads,
}

impl Program {
    /// All of them with their names, by row.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::OnCpu, "on_cpu"),
        (Self::OnEvent, "on_event"),
        (Self::AtTracepoint, "at_tracepoint"),
        (Self::SchedSwitch, "sched_switch"),
        (Self::SchedExit, "sched_exit"),
        (Self::ScheduleReturns, "schedule_returns"),
        (Self::SchedWaking, "sched_waking"),
        (Self::CountAtSwitch, "count_at_switch"),
        (Self::ProcessFork, "process_fork"),
        (Self::ProcessExec, "process_exec"),
        (Self::ProcessExit, "process_exit"),
        (Self::SeedThreads, "seed_threads"),
        (Self::LookAtThreads, "look_at_threads"),
    ];
}

/// Of so many runs of a short program one is timed: an odd number, for switches often come in pairs.
pub const ONE_IN: u32 = 251;

/// What a program took on a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// How often it ran.
    pub runs: u64,
    /// How many of these stand for all.
    pub timed: u64,
    /// How long these took.
    pub timed_ns: u64,
    /// What was timed each time.
    pub exact_ns: u64,
    /// When the run began that is being timed; 0 if none is.
    pub start_ns: u64,
    /// Runs until one is timed.
    pub until_timed: u32,
    /// None: the size is a multiple of 8.
    pub padding: u32,
}

const _: () = assert!(size_of::<RunTime>() == 48);

impl RunTime {
    /// All runs, estimated where only some were timed, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        let sampled = u128::from(self.timed_ns) * u128::from(self.runs) / u128::from(self.timed.max(1));
        self.exact_ns.saturating_add(u64::try_from(sampled).unwrap_or(u64::MAX))
    }
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only integers, no padding of the compiler's; any bit pattern is valid.
unsafe impl aya::Pod for RunTime {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are where the kernel's side puts them.
    #[test]
    fn rows() {
        for (row, (program, _)) in Program::ALL.iter().enumerate() {
            assert_eq!(*program as usize, row);
        }
    }

    /// One timed run stands for all; what was timed each time stands for itself.
    #[test]
    fn totals() {
        let time = RunTime { runs: 610, timed: 10, timed_ns: 1000, exact_ns: 7, ..RunTime::default() };
        assert_eq!(time.total_ns(), 61_007);
        assert_eq!(RunTime { runs: 5, exact_ns: 9, ..RunTime::default() }.total_ns(), 9);
    }
}
