//! The executable memory of a process, as the kernel side searches it.

/// A piece of a process's executable memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u32,
    /// For [`TABLE`]: where in the table's code it begins.
    pub offset: u32,
    /// For [`TABLE`]: number of the table's first chunk.
    pub slot: u32,
    /// What is known of it: one of the constants below.
    pub kind: u32,
}

const _: () = assert!(size_of::<Range>() == 24);

/// [`Range::kind`]: a table holds.
pub const TABLE: u32 = 0;
/// [`Range::kind`]: its file's table is not loaded (yet).
pub const NOT_READY: u32 = 1;
/// [`Range::kind`]: memory without a file: code compiled at run time. By frame pointer.
pub const JIT: u32 = 2;
/// [`Range::kind`]: of a file without unwind information that keeps frame pointers.
pub const FRAME_POINTERS: u32 = 3;
/// [`Range::kind`]: of a file without unwind information.
pub const NO_INFO: u32 = 4;

/// Ranges that a process has at most.
pub const MAX_RANGES: usize = 512;

/// The ranges of a process, by address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ranges {
    /// How many there are.
    pub count: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// By `start`, without overlaps.
    pub ranges: [Range; MAX_RANGES],
}

const _: () = assert!(size_of::<Ranges>() == 8 + 24 * MAX_RANGES);

impl Ranges {
    /// None.
    pub const EMPTY: Self = Self {
        count: 0,
        reserved: 0,
        ranges: [Range { start: 0, length: 0, offset: 0, slot: 0, kind: 0 }; MAX_RANGES],
    };

    /// The range around an address; without one, the last that begins before it, or the first.
    #[inline(always)]
    pub fn search(&self, address: u64) -> &Range {
        const MASK: u64 = MAX_RANGES as u64 - 1;
        let mut at = 0_u64;
        let mut left = u64::from(self.count);
        for _ in 0..=MAX_RANGES.trailing_zeros() {
            if left <= 1 {
                break;
            }
            let half = left / 2;
            let after = self.ranges[((at + half) & MASK) as usize].start > address;
            at += half & u64::from(after).wrapping_sub(1);
            left -= half;
        }
        &self.ranges[(at & MASK) as usize]
    }
}

impl Range {
    /// Whether an address lies in it.
    #[inline(always)]
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < u64::from(self.length)
    }
}

/// What the kernel side keeps of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Number of its [`Ranges`]; [`NO_RANGES`] before userspace has given it some.
    pub slot: u32,
    /// Milliseconds that have to pass before userspace is asked about it again; doubled each time.
    pub patience_ms: u32,
    /// When userspace was asked last (`bpf_ktime_get_ns`).
    pub asked_ns: u64,
}

const _: () = assert!(size_of::<Process>() == 16);

/// [`Process::slot`] of a process that userspace was only asked about.
pub const NO_RANGES: u32 = u32::MAX;

/// Between two questions about a process, at first and at most, in ms.
pub const PATIENCE_MS: core::ops::RangeInclusive<u32> = 4..=1024;

/// The kernel side asks for the ranges of a process, or for the table of one of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The address without an answer.
    pub address: u64,
    /// The process.
    pub tgid: u32,
    /// The number of its ranges, or [`NO_RANGES`].
    pub slot: u32,
}

const _: () = assert!(size_of::<Question>() == 16);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers only, no padding; any bit pattern is valid.
unsafe impl aya::Pod for Ranges {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for Process {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each address finds its range, and none in the gaps between.
    #[test]
    fn finds_ranges() {
        for count in [0, 1, 2, 3, 511, 512] {
            let mut ranges = Ranges { count, ..Ranges::EMPTY };
            for at in 0..count {
                ranges.ranges[at as usize] =
                    Range { start: 0x1000 + u64::from(at) * 0x100, length: 0x80, ..Range::default() };
            }
            for at in 0..count {
                let start = 0x1000 + u64::from(at) * 0x100;
                for (address, within) in
                    [(start, true), (start + 0x7f, true), (start + 0x80, false), (start - 1, false)]
                {
                    let range = ranges.search(address);
                    assert_eq!(range.contains(address), within, "{address:#x} of {count}");
                    assert!(!within || range.start == start);
                }
            }
            assert!(!ranges.search(0).contains(0) && !ranges.search(u64::MAX).contains(u64::MAX));
        }
    }
}
