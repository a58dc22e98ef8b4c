//! How unwind tables lie in memory, the same in the kernel's maps and in host tests.
//!
//! All tables share one pool of 32-bit words, cut into [`Chunk`]s. A table is an array of blocks, one for each
//! [`BLOCK_BYTES`] of text, two words each: where the block's rows begin in the pool, and how many there are. A block
//! without rows has one rule for all of it, whose number takes the place of the position. A row is one word: the
//! offset within its block at which it begins to hold, and its rule's number. The first row of a block has offset 0.
//! Behind the rows come the table's rules, two words each. A block never crosses a chunk's end, nor do its rows, nor
//! a rule.

/// Words of a chunk.
pub const CHUNK_WORDS: usize = 65_536;

/// Chunks that the pool can grow to: 256 MB.
pub const MAX_CHUNKS: u32 = 1024;

/// Text that one block covers.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_SHIFT;

/// Its logarithm.
pub const BLOCK_SHIFT: u32 = 10;

/// Distinct rules of a table: their numbers have 16 bits.
pub const MAX_RULES: usize = 65_536;

/// Tables that can be loaded at a time.
pub const MAX_TABLES: u32 = 4096;

/// Executable mappings of one process.
pub const MAX_RANGES: usize = 256;

/// Processes whose mappings are known at a time.
pub const MAX_PROCESSES: u32 = 16_384;

/// A piece of the pool.
#[repr(C)]
pub struct Chunk(pub [u32; CHUNK_WORDS]);

/// A row: from `offset` within its block on, `rule` holds.
pub const fn row(offset: u16, rule: u16) -> u32 {
    (rule as u32) << 16 | offset as u32
}

/// How to find a frame's caller. `cfa_kind` decides; the return address lies below the CFA unless it says otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// One of [`cfa`].
    pub cfa_kind: u8,
    /// One of [`rbp`].
    pub rbp_kind: u8,
    /// Where the caller's rbp is, for [`rbp::AT_CFA`] and [`rbp::AT_RBP`].
    pub rbp_offset: i16,
    /// Added to the register; for [`cfa::DEREF`] the lower half is added before, the upper half after the load.
    pub cfa_offset: i32,
}

const _: () = assert!(size_of::<Rule>() == 8);

impl Rule {
    /// Its words in the pool.
    pub const fn words(self) -> [u32; 2] {
        let Self { cfa_kind, rbp_kind, rbp_offset, cfa_offset } = self;
        let first = (rbp_offset.cast_unsigned() as u32) << 16 | (rbp_kind as u32) << 8 | cfa_kind as u32;
        [first, cfa_offset.cast_unsigned()]
    }

    /// From its words in the pool.
    #[inline(always)]
    pub const fn from_words(first: u32, second: u32) -> Self {
        Self {
            cfa_kind: first as u8,
            rbp_kind: (first >> 8) as u8,
            rbp_offset: (first >> 16) as i16,
            cfa_offset: second.cast_signed(),
        }
    }

    /// Nothing is known here.
    pub const GAP: Self = Self { cfa_kind: cfa::GAP, rbp_kind: 0, rbp_offset: 0, cfa_offset: 0 };
    /// The outermost frame.
    pub const END: Self = Self { cfa_kind: cfa::END, rbp_kind: 0, rbp_offset: 0, cfa_offset: 0 };
}

/// Values of [`Rule::cfa_kind`]. Registers have DWARF's numbers: 6 is rbp, 7 is rsp.
pub mod cfa {
    /// No row covers this: go on by frame pointer where the file keeps them.
    pub const GAP: u8 = 0;
    /// The stack ends here: the return address is undefined.
    pub const END: u8 = 1;
    /// A signal handler's return trampoline: all registers are in the frame (`struct rt_sigframe`).
    pub const SIGNAL: u8 = 2;
    /// An entry of the procedure linkage table: from this offset (`cfa_offset`) within its 16 bytes on, it has pushed
    /// one word more.
    pub const PLT: u8 = 3;
    /// A register and the offset.
    pub const REGISTER: u8 = 16;
    /// What a register and an offset point to, and another offset.
    pub const DEREF: u8 = 32;
    /// rsp and the offset; the return address is in a register (vfork).
    pub const RETURN_REGISTER: u8 = 48;
}

/// Values of [`Rule::rbp_kind`].
pub mod rbp {
    /// Not changed.
    pub const SAME: u8 = 0;
    /// Saved at the CFA and the offset.
    pub const AT_CFA: u8 = 1;
    /// Saved where rbp and the offset point to.
    pub const AT_RBP: u8 = 2;
    /// Lost.
    pub const UNDEFINED: u8 = 3;
}

/// A mapping of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Address minus this is the address as linked.
    pub bias: u64,
    /// Which table.
    pub table: u32,
    /// Unused, 0.
    pub reserved: u32,
}

/// The executable mappings of a process, sorted, without overlaps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ranges {
    /// How many.
    pub count: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// The first `count` of them; all after them begin at `u64::MAX`.
    pub ranges: [Range; MAX_RANGES],
}

const _: () = assert!(size_of::<Ranges>() == 8 + MAX_RANGES * 32);

/// Where a file's table is in the pool.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The address, as linked, at which its first block begins.
    pub text_start: u64,
    /// Where its blocks begin in the pool: an even number of words.
    pub first_block: u32,
    /// How many blocks; 0 where there is no table.
    pub blocks: u32,
    /// [`table_flags`].
    pub flags: u32,
    /// Where its rules begin in the pool: an even number of words.
    pub first_rule: u32,
}

const _: () = assert!(size_of::<Table>() == 24);

/// Bits of [`Table::flags`].
pub mod table_flags {
    /// The table is what there is to know; without it, it is not built yet.
    pub const READY: u32 = 1;
    /// The file keeps frame pointers: code without rows goes on by them.
    pub const FRAME_POINTERS: u32 = 2;
}

#[cfg(feature = "user")]
mod pod {
    use super::{Chunk, Range, Ranges, Table};

    // SAFETY: each is `repr(C)`, has integers only and no padding; any bit pattern is valid. Chunks are only read.
    unsafe impl aya::Pod for Range {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Ranges {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Table {}

    impl Clone for Chunk {
        fn clone(&self) -> Self {
            *self
        }
    }
    impl Copy for Chunk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Chunk {}
}
