//! Counters that are read at each sample and each switch, so that stacks have their counts.

/// Counters that can be read so at a time.
pub const MAX_COUNTERS: usize = 4;

/// One set a CPU: what became of the stretches that threads ran, each from one reading of the counters to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterStats {
    /// Samples that have what was counted since their thread came to the CPU, or since its last sample.
    pub counted: u64,
    /// Samples without, for the counters were not read when their thread came to the CPU.
    pub no_start: u64,
    /// Stretches in which some counter did not run all of the time: others have had the hardware.
    pub not_running: u64,
    /// Readings that the kernel refused.
    pub refused: u64,
    /// By counter, what was counted between threads' last samples and their leaving the CPU: it has no stack.
    pub off_stack: [u64; MAX_COUNTERS],
}

const _: () = assert!(size_of::<CounterStats>() == 64);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only u64 fields, no padding; any bit pattern is valid.
unsafe impl aya::Pod for CounterStats {}
