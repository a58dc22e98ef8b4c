//! Counters, one set a CPU: what happened to each tick of the sampling clock.

/// Every tick is in exactly one of the others: `ticks = idle + filtered + emitted + ring_full + scratch_busy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The program ran.
    pub ticks: u64,
    /// The CPU was idle.
    pub idle: u64,
    /// The task was no target.
    pub filtered: u64,
    /// A sample was sent.
    pub emitted: u64,
    /// The ring buffer was full.
    pub ring_full: u64,
    /// The scratch record was in use by a program that this one interrupted.
    pub scratch_busy: u64,
    /// Ticks that did not come while a target ran.
    pub missed: u64,
    /// A child of a target could not be followed: the set of targets is full.
    pub targets_full: u64,
}

const _: () = assert!(size_of::<Stats>() == 64);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only u64 fields, no padding; any bit pattern is valid.
unsafe impl aya::Pod for Stats {}
