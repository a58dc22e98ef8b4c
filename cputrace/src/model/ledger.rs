//! The ledger: what was expected, what was kept, and every kind of loss between the two.

use std::collections::BTreeMap;

/// Why a sample was not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum LossReason {
    /// The ring buffer was full.
    RingBufferFull,
    /// The CPU's scratch record was in use by an interrupted program.
    ScratchBusy,
    /// The clock did not fire when it should have: throttled, interrupts were off, or the host of a virtual
    /// machine ran something else. Counted by the gap before the target's next sample on the CPU.
    ClockMissed,
    /// A record that could not be read.
    BadRecord,
}

impl LossReason {
    /// All of them, in the order in which they are shown.
    pub const ALL: &[Self] = &[Self::RingBufferFull, Self::ScratchBusy, Self::ClockMissed, Self::BadRecord];

    /// Its name in trace.json and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingBufferFull => "ring_buffer_full",
            Self::ScratchBusy => "scratch_busy",
            Self::ClockMissed => "clock_missed",
            Self::BadRecord => "bad_record",
        }
    }
}

/// How the unwinding of a user stack ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum StackEnd {
    /// At the end of the stack, known from its marker. Kernel threads count here too.
    Complete,
    /// At the limit of frames.
    Truncated,
    /// In code without unwind information.
    NoUnwindInfo,
    /// In a file whose table was not built yet.
    TableNotReady,
    /// At stack memory that could not be read.
    Fault,
    /// In JIT code without frame pointers.
    NoJitInfo,
    /// Where the chain of frame pointers ended; nobody knows whether that is the whole stack.
    FramePointersOnly,
}

impl StackEnd {
    /// All of them, in the order in which they are shown.
    pub const ALL: &[Self] = &[
        Self::Complete,
        Self::Truncated,
        Self::NoUnwindInfo,
        Self::TableNotReady,
        Self::Fault,
        Self::NoJitInfo,
        Self::FramePointersOnly,
    ];

    /// Its name in trace.json and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Truncated => "truncated",
            Self::NoUnwindInfo => "no_unwind_info",
            Self::TableNotReady => "table_not_ready",
            Self::Fault => "fault",
            Self::NoJitInfo => "no_jit_info",
            Self::FramePointersOnly => "frame_pointers_only",
        }
    }
}

/// Expected = kept + each kind of loss.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// How often the sampling clock should have fired, on all CPUs: enabled time divided by the period.
    pub ticks_expected: u64,
    /// How often it did.
    pub ticks: u64,
    /// Of these, on an idle CPU.
    pub ticks_idle: u64,
    /// Of these, in a task that is not a target.
    pub ticks_filtered: u64,
    /// Samples that are in the profile.
    pub samples_kept: u64,
    /// Samples that are not, by reason.
    pub samples_lost: BTreeMap<LossReason, u64>,
    /// How the kept samples' stacks ended.
    pub stacks: BTreeMap<StackEnd, u64>,
    /// How the stacks of waits ended that were kept with them.
    pub wait_stacks: BTreeMap<StackEnd, u64>,
    /// Kept samples with a frame that was found where nothing says how: by frame pointer, or by search.
    pub stacks_guessed: u64,
}

impl Ledger {
    /// The samples that the targets should have yielded: the ticks that hit them, and those that the clock
    /// missed while they ran.
    pub fn samples_expected(&self) -> u64 {
        let missed = self.samples_lost.get(&LossReason::ClockMissed).copied().unwrap_or(0);
        // Saturating: a file may say anything.
        self.ticks.saturating_sub(self.ticks_idle).saturating_sub(self.ticks_filtered).saturating_add(missed)
    }

    /// All losses together.
    pub fn lost(&self) -> u64 {
        self.samples_lost.values().fold(0, |sum, lost| sum.saturating_add(*lost))
    }

    /// Expected minus kept minus lost: 0 unless something went missing without a counter.
    pub fn unaccounted(&self) -> i64 {
        let found = self.samples_kept.saturating_add(self.lost());
        self.samples_expected().cast_signed().saturating_sub(found.cast_signed())
    }
}
