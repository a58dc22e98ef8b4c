//! Tables of unwind rules, as the kernel side searches them.
//!
//! A table covers at most [`TABLE_TEXT`] bytes of code; a larger file has several. It is a run of 32-bit words in
//! chunks of [`CHUNK_WORDS`]:
//!
//! | part | contents |
//! | --- | --- |
//! | index | a word for each block of 1 KiB of code: its first row's word (22 bits), how many rows it has (10 bits) |
//! | rules | two words each, shared by all rows that need them |
//! | rows | a word each: the rule's pair of words (22 bits), where in the block it begins to hold (10 bits) |
//!
//! A block's first row is the one that holds at its start. A block's rows, and a rule's words, are within one chunk.

/// Words of a chunk: 64 KiB.
pub const CHUNK_WORDS: usize = 16_384;

/// A chunk of a table.
pub type Chunk = [u32; CHUNK_WORDS];

/// Binary logarithm of the bytes of code in a block.
pub const BLOCK_SHIFT: u32 = 10;

/// Bytes of code that one table covers at most: those whose index fills a chunk.
pub const TABLE_TEXT: u64 = (CHUNK_WORDS as u64) << BLOCK_SHIFT;

/// The low bits of index words and rows: a count, an offset.
pub const LOW_BITS: u32 = 10;

/// The largest value of these.
pub const LOW_MASK: u32 = (1 << LOW_BITS) - 1;

/// Words that a table has at most: what 22 bits can number.
pub const MAX_TABLE_WORDS: usize = 1 << (32 - LOW_BITS);

/// Numbers of registers as DWARF has them, for x86-64.
pub mod register {
    /// rdi
    pub const RDI: u8 = 5;
    /// rbp
    pub const RBP: u8 = 6;
    /// rsp
    pub const RSP: u8 = 7;
    /// The return address, where rip is found again.
    pub const RETURN_ADDRESS: u8 = 16;
}

/// How to get at the canonical frame address (CFA), the value of rsp before the call; the return address lies right
/// below it, unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cfa {
    /// Not known here.
    Unknown,
    /// This is the outermost frame.
    EndOfStack,
    /// Code without rules in a file that keeps frame pointers: a guess.
    FramePointer,
    /// `register + offset`
    Register {
        /// Number of the register.
        register: u8,
        /// To be added.
        offset: i32,
    },
    /// `*(register + inner) + outer`: saved in the frame, as in functions that align their stack.
    Saved {
        /// Number of the register.
        register: u8,
        /// Where it is saved.
        inner: i16,
        /// To be added.
        outer: i16,
    },
    /// `*(register + 8 * index + inner) + outer`: the same, above an array of variable length.
    SavedIndexed {
        /// Number of the register.
        register: u8,
        /// Number of the register that counts the array's words.
        index: u8,
        /// Where it is saved.
        inner: i16,
        /// To be added.
        outer: i16,
    },
    /// An entry of the procedure linkage table, 16 bytes: rsp + 8, and 8 more from byte `pushed_at` of the entry on.
    Plt {
        /// First byte of an entry after its push.
        pushed_at: u8,
    },
    /// The kernel's signal frame lies at rsp: all registers are in it.
    SignalFrame,
    /// rbp + 16, on another stack than the callees' frames: a function that switches stacks.
    OtherStack,
    /// `register + offset`, and the return address is in a register: vfork.
    ReturnInRegister {
        /// Number of the register.
        register: u8,
        /// To be added.
        offset: i32,
        /// Number of the register with the return address.
        holder: u8,
    },
}

/// Where the caller's rbp is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rbp {
    /// Still in rbp.
    Unchanged,
    /// In memory, at this offset from the CFA.
    AtCfa(i16),
    /// In memory, at this offset from rbp.
    AtRbp(i16),
    /// In memory, at this offset from rsp.
    AtRsp(i16),
}

/// A row's rule in eight bytes: 4 bits kind of CFA, 4 bits kind of rbp, 4 bits register, 4 bits second register,
/// 16 bits offset of rbp, 32 bits offset of the CFA.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rule(pub u64);

/// Kinds of CFA in a [`Rule`].
pub mod kind {
    /// [`super::Cfa::Unknown`]
    pub const UNKNOWN: u64 = 0;
    /// [`super::Cfa::EndOfStack`]
    pub const END_OF_STACK: u64 = 1;
    /// [`super::Cfa::FramePointer`]
    pub const FRAME_POINTER: u64 = 2;
    /// [`super::Cfa::Register`]
    pub const REGISTER: u64 = 3;
    /// [`super::Cfa::Saved`]
    pub const SAVED: u64 = 4;
    /// [`super::Cfa::SavedIndexed`]
    pub const SAVED_INDEXED: u64 = 5;
    /// [`super::Cfa::Plt`]
    pub const PLT: u64 = 6;
    /// [`super::Cfa::SignalFrame`]
    pub const SIGNAL_FRAME: u64 = 7;
    /// [`super::Cfa::ReturnInRegister`]
    pub const RETURN_IN_REGISTER: u64 = 8;
    /// [`super::Cfa::OtherStack`]
    pub const OTHER_STACK: u64 = 9;
}

/// Kinds of rbp in a [`Rule`].
pub mod rbp_kind {
    /// [`super::Rbp::Unchanged`]
    pub const UNCHANGED: u64 = 0;
    /// [`super::Rbp::AtCfa`]
    pub const AT_CFA: u64 = 1;
    /// [`super::Rbp::AtRbp`]
    pub const AT_RBP: u64 = 2;
    /// [`super::Rbp::AtRsp`]
    pub const AT_RSP: u64 = 3;
}

impl Rule {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self(kind::UNKNOWN);
    /// The outermost frame.
    pub const END_OF_STACK: Self = Self(kind::END_OF_STACK);
    /// By frame pointer, as a guess.
    pub const FRAME_POINTER: Self = Self(kind::FRAME_POINTER);
    /// The kernel's signal frame.
    pub const SIGNAL_FRAME: Self = Self(kind::SIGNAL_FRAME);
    /// The frame that rbp leads to, on another stack.
    pub const OTHER_STACK: Self = Self(kind::OTHER_STACK);

    /// Packs a rule.
    pub const fn new(cfa: Cfa, rbp: Rbp) -> Self {
        const fn halves(inner: i16, outer: i16) -> u32 {
            inner.cast_unsigned() as u32 | (outer.cast_unsigned() as u32) << 16
        }
        let (kind, register, second, offset) = match cfa {
            Cfa::Unknown => (kind::UNKNOWN, 0, 0, 0),
            Cfa::EndOfStack => (kind::END_OF_STACK, 0, 0, 0),
            Cfa::FramePointer => (kind::FRAME_POINTER, 0, 0, 0),
            Cfa::SignalFrame => (kind::SIGNAL_FRAME, 0, 0, 0),
            Cfa::OtherStack => (kind::OTHER_STACK, 0, 0, 0),
            Cfa::Register { register, offset } => (kind::REGISTER, register, 0, offset.cast_unsigned()),
            Cfa::Saved { register, inner, outer } => (kind::SAVED, register, 0, halves(inner, outer)),
            Cfa::SavedIndexed { register, index, inner, outer } => {
                (kind::SAVED_INDEXED, register, index, halves(inner, outer))
            }
            Cfa::Plt { pushed_at } => (kind::PLT, 0, pushed_at, 0),
            Cfa::ReturnInRegister { register, offset, holder } => {
                (kind::RETURN_IN_REGISTER, register, holder, offset.cast_unsigned())
            }
        };
        let (rbp_kind, rbp_offset) = match rbp {
            Rbp::Unchanged => (rbp_kind::UNCHANGED, 0),
            Rbp::AtCfa(offset) => (rbp_kind::AT_CFA, offset),
            Rbp::AtRbp(offset) => (rbp_kind::AT_RBP, offset),
            Rbp::AtRsp(offset) => (rbp_kind::AT_RSP, offset),
        };
        Self(
            kind | rbp_kind << 4
                | (register as u64 & 15) << 8
                | (second as u64 & 15) << 12
                | (rbp_offset.cast_unsigned() as u64) << 16
                | (offset as u64) << 32,
        )
    }

    /// From its two words in a table.
    #[inline(always)]
    pub const fn from_words(low: u32, high: u32) -> Self {
        Self(low as u64 | (high as u64) << 32)
    }

    /// One of [`kind`].
    #[inline(always)]
    pub const fn kind(self) -> u64 {
        self.0 & 15
    }

    /// One of [`rbp_kind`].
    #[inline(always)]
    pub const fn rbp_kind(self) -> u64 {
        self.0 >> 4 & 15
    }

    /// The register that the CFA is computed of.
    #[inline(always)]
    pub const fn register(self) -> usize {
        (self.0 >> 8 & 15) as usize
    }

    /// The second register: index, or holder of the return address; or an entry's byte in a PLT.
    #[inline(always)]
    pub const fn second(self) -> usize {
        (self.0 >> 12 & 15) as usize
    }

    /// Where rbp is saved, to be added (wrapping).
    #[inline(always)]
    pub const fn rbp_offset(self) -> u64 {
        ((self.0 << 32).cast_signed() >> 48).cast_unsigned()
    }

    /// The CFA's offset, to be added (wrapping).
    #[inline(always)]
    pub const fn offset(self) -> u64 {
        (self.0.cast_signed() >> 32).cast_unsigned()
    }

    /// The offset of what the CFA is saved in.
    #[inline(always)]
    pub const fn inner(self) -> u64 {
        ((self.0 << 16).cast_signed() >> 48).cast_unsigned()
    }

    /// What to add to what is saved there.
    #[inline(always)]
    pub const fn outer(self) -> u64 {
        (self.0.cast_signed() >> 48).cast_unsigned()
    }
}

/// An index word.
pub const fn index_word(first_row: u32, rows: u32) -> u32 {
    first_row << LOW_BITS | rows & LOW_MASK
}

/// A row: from byte `offset` of its block on, the rule in the words `2 * pair` and `2 * pair + 1` holds.
pub const fn row_word(pair: u32, offset: u32) -> u32 {
    pair << LOW_BITS | offset & LOW_MASK
}

/// The last of `rows` rows, from word `first` of the chunk on, that begins at or before `offset` of the block.
///
/// Without branches: the comparison's sign bit is the mask of what to add.
#[inline(always)]
pub fn search(chunk: &Chunk, first: u32, rows: u32, offset: u32) -> u32 {
    const MASK: usize = CHUNK_WORDS - 1;
    let mut at = 0_u64;
    let mut left = u64::from(rows & LOW_MASK);
    for _ in 0..LOW_BITS {
        if left <= 1 {
            break;
        }
        let half = left / 2;
        let begins = chunk[(first as usize).wrapping_add((at + half) as usize) & MASK] & LOW_MASK;
        let after = (i64::from(offset) - i64::from(begins)) >> 63;
        at += half & !after.cast_unsigned();
        left -= half;
    }
    chunk[(first as usize).wrapping_add(at as usize) & MASK]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    /// Offsets of both signs come out of a rule as they went in.
    #[test]
    fn rules_keep_their_parts() {
        let rule = Rule::new(Cfa::Register { register: 7, offset: -70_000 }, Rbp::AtCfa(-16));
        assert_eq!((rule.kind(), rule.register()), (kind::REGISTER, 7));
        assert_eq!(rule.offset(), (-70_000_i64).cast_unsigned());
        assert_eq!((rule.rbp_kind(), rule.rbp_offset()), (rbp_kind::AT_CFA, (-16_i64).cast_unsigned()));
        let cfa = Cfa::SavedIndexed { register: 15, index: 9, inner: -8, outer: 16 };
        let rule = Rule::new(cfa, Rbp::AtRsp(24));
        assert_eq!((rule.register(), rule.second(), rule.outer(), rule.rbp_offset()), (15, 9, 16, 24));
        assert_eq!(rule.inner(), (-8_i64).cast_unsigned());
    }

    /// The search finds what a linear one finds, for each number of rows and each offset.
    #[test]
    fn searches_as_a_linear_search_does() {
        let mut chunk = [0; CHUNK_WORDS];
        for rows in 1..=LOW_MASK {
            let step = (LOW_MASK / rows).max(1);
            let first = CHUNK_WORDS as u32 - rows;
            for row in 0..rows {
                chunk[(first + row) as usize] = row_word(row, row * step);
            }
            for offset in [0, 1, step, step + 1, LOW_MASK / 2, LOW_MASK - 1, LOW_MASK] {
                let linear: Vec<_> = (0..rows).filter(|row| row * step <= offset).collect();
                let found = search(&chunk, first, rows, offset) >> LOW_BITS;
                assert_eq!(Some(&found), linear.last(), "{rows} rows, offset {offset}");
            }
        }
    }
}
