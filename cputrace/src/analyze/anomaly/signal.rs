//! The signals, each with what is noise in it whatever the baseline says.

/// What is looked at of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Signal {
    /// Time on the CPU.
    Cpu,
    /// How long its threads wait for a CPU.
    RunQueue,
    /// Threads that wait for what others hold or a device has to bring: locks, disks, memory.
    OffCpu,
    /// Instructions per cycle, where they are counted.
    Ipc,
}

/// Reasons of waits that are [`Signal::OffCpu`]: what others hold, or a device has to bring. The rest is a thread's own business.
pub const BLOCKED: &[&str] = &[
    "[lock]",
    "[file lock]",
    "[kernel lock]",
    "[disk I/O]",
    "[page fault]",
    "[memory reclaim]",
    "[write-back throttling]",
    "[CPU quota]",
    "[waiting (uninterruptible)]",
];

/// How a signal's values are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// A deviation is never taken for less: neither than this,
    pub(super) floor: f64,
    /// nor than this part of what is usual.
    pub(super) part: f64,
    /// What is less is of no interest, however unusual.
    pub(super) least: f64,
    /// Windows in a row that it takes,
    pub(super) windows: usize,
    /// unless one is so many robust deviations away.
    pub(super) at_once: f64,
    /// Windows after which a value counts as usual.
    pub(super) late: usize,
    /// Whether less is worse.
    pub(super) falls: bool,
    /// Whether a factor counts, not a difference.
    pub(super) by_factor: bool,
}

impl Signal {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Cpu, Self::RunQueue, Self::OffCpu, Self::Ipc];

    /// Its name in metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::RunQueue => "run-queue",
            Self::OffCpu => "off-cpu",
            Self::Ipc => "ipc",
        }
    }

    /// The unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "cores",
            Self::RunQueue => "seconds (99th percentile)",
            Self::OffCpu => "waiting threads",
            Self::Ipc => "instructions per cycle",
        }
    }

    /// What it takes for an alarm follows from these: six deviations, so at least 0.3 cores more, or 0.6 of what is usual.
    /// Who shares locks waits for a moment now and then (behind a database's checkpoint, five thread-seconds): what waits is an
    /// alarm in the second window in a row, or with 0.8 threads more. A fight that keeps 1.6 threads waiting or more is reported
    /// within 15 seconds by that, whenever in a window of 10 seconds it begins.
    pub(super) fn scale(self) -> Scale {
        let rises = Scale {
            floor: 0.05,
            part: 0.1,
            least: 0.0,
            windows: 1,
            at_once: 0.0,
            late: 0,
            falls: false,
            by_factor: false,
        };
        let twice = Scale { windows: 2, at_once: f64::INFINITY, ..rises };
        match self {
            Self::Cpu => rises,
            // Rows of the kernel's histogram are powers of two: three of them. Any other program's burst makes threads wait once.
            Self::RunQueue => Scale { floor: 0.5, part: 0.0, least: 0.03, by_factor: true, ..twice },
            Self::OffCpu => Scale { floor: 0.08, at_once: 10.0, ..twice },
            Self::Ipc => Scale { floor: 0.03, part: 0.05, falls: true, ..twice },
        }
    }
}

impl Signal {
    /// The same for what new programs do together: at least 0.6 cores or 1.2 threads more in two windows in a row, or 0.9 or 1.8 at
    /// once. A job of a few seconds is none, nor one that waits for a disk.
    pub(super) fn scale_of_newcomers(self) -> Scale {
        let floor = if self == Self::Cpu { 0.1 } else { 0.2 };
        Scale { floor, windows: 2, at_once: 9.0, late: 2, ..self.scale() }
    }
}

impl Scale {
    /// A value as it is compared: more is worse.
    pub(super) fn compared(self, value: f64) -> f64 {
        let value = if self.by_factor { value.max(1e-9).log2() } else { value };
        if self.falls { -value } else { value }
    }

    /// The other way round.
    pub(super) fn value(self, compared: f64) -> f64 {
        let value = if self.falls { -compared } else { compared };
        if self.by_factor { value.exp2() } else { value }
    }
}
