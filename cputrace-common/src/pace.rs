//! How much is sampled: what userspace may change while the programs run.

/// The one element of the map `PACE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds between two ticks of the clock; 0 where they are not of one length.
    pub period_ns: u64,
    /// Stacks of waits that a CPU may take in a tenth of a second, and as many of wake-ups.
    pub most_stacks: u32,
    /// New programs a second that a CPU may have userspace look at before their first sample; the others are looked at then.
    pub newcomers: u32,
}

const _: () = assert!(size_of::<Pace>() == 16);

/// [`Pace::most_stacks`] where nothing is to be held back: 2,000 a second, which take at most some 2 % of a CPU.
pub const MOST_STACKS: u32 = 200;

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only integers, no padding of the compiler's; any bit pattern is valid.
unsafe impl aya::Pod for Pace {}
