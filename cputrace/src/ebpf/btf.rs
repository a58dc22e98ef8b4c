//! Offsets of kernel structures' members, from the kernel's own type information (BTF).
//!
//! aya emits no CO-RE relocations: what the program needs to know of `struct task_struct` is read here and
//! given to it as a frozen global. Format: the kernel's `Documentation/bpf/btf.rst`.

use std::fs::File;
use std::ops::Deref;

use memmap2::Mmap;

/// Where the running kernel keeps its types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel gives out no types.
    #[error("the kernel's types in {VMLINUX} cannot be read ({0}): it needs CONFIG_DEBUG_INFO_BTF=y")]
    Unreadable(#[source] std::io::Error),
    /// Not BTF, or of a kind that this program does not know.
    #[error("the kernel's types in {VMLINUX} are not understood: {0}")]
    Malformed(&'static str),
    /// No such structure or member.
    #[error("this kernel has no {structure}.{member}")]
    Unknown {
        /// The structure.
        structure: String,
        /// The member.
        member: String,
    },
}

/// The types of a kernel.
pub struct KernelTypes {
    bytes: Bytes,
    /// Where each type begins in `bytes`; type ids start at 1.
    types: Vec<u32>,
    strings: usize,
}

/// What was read of a kernel: 6 MB, of which a part is looked at.
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(bytes) => bytes,
        }
    }
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const MODIFIERS: std::ops::RangeInclusive<u32> = 8..=11;

impl KernelTypes {
    /// Reads the running kernel's.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        let file = File::open(VMLINUX).map_err(BtfError::Unreadable)?;
        // SAFETY: the kernel's own types do not change, and nobody can write to them.
        let bytes = match unsafe { Mmap::map(&file) } {
            Ok(bytes) => Bytes::Mapped(bytes),
            // Before Linux 6.16.
            Err(_) => Bytes::Read(std::fs::read(VMLINUX).map_err(BtfError::Unreadable)?),
        };
        Self::parse(bytes)
    }

    fn parse(bytes: Bytes) -> Result<Self, BtfError> {
        let header = |at| word(&bytes, at).map(|value| value as usize);
        if header(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Malformed("wrong magic number"));
        }
        let start = header(4)?;
        let (mut at, end) = (start + header(8)?, start + header(8)? + header(12)?);
        let strings = start + header(16)?;
        let mut types = Vec::with_capacity(end.saturating_sub(at) / 24);
        while at < end {
            let (kind, count) = kind(&bytes, at)?;
            types.push(at as u32);
            // Bytes after the 12 common ones; the numbers are BTF_KIND_*.
            at += 12
                + match kind {
                    2 | 7..=12 | 16 | 18 => 0,
                    1 | 14 | 17 => 4,
                    3 => 12,
                    STRUCT | UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => return Err(BtfError::Malformed("a kind of type that is newer than this program")),
                };
        }
        Ok(Self { bytes, types, strings })
    }

    /// Byte offset of a member of a structure; members of anonymous structures within it count as its own.
    pub fn member_offset(&self, structure: &str, member: &str) -> Result<u64, BtfError> {
        let unknown = || BtfError::Unknown { structure: structure.to_owned(), member: member.to_owned() };
        let at = self.types.iter().copied().find(|&at| {
            let found = kind(&self.bytes, at as usize).is_ok_and(|(kind, count)| kind == STRUCT && count > 0);
            found && self.name_is(at as usize, structure)
        });
        let bits = self.find_member(at.ok_or_else(unknown)? as usize, member, 0)?.ok_or_else(unknown)?;
        Ok(u64::from(bits) / 8)
    }

    /// Parameters of a tracepoint, as its type `btf_trace_NAME` has them; the first is the kernel's own.
    pub fn tracepoint_parameters(&self, name: &str) -> Option<usize> {
        let name = format!("btf_trace_{name}");
        let at = self.types.iter().find(|&&at| self.is(at as usize, TYPEDEF, &name))?;
        let mut at = *at as usize;
        // Behind the typedef a pointer, behind that the function's prototype.
        for _ in 0..2 {
            at = self.type_at(word(&self.bytes, at + 8).ok()?).ok()?;
        }
        let (kind, count) = kind(&self.bytes, at).ok()?;
        (kind == FUNC_PROTO).then_some(count)
    }

    /// The types of some hooks only, with the ids that they have here, in BTF of their own: all that a loader wants to
    /// know, in a tenth of its memory. `hooks` are names of types and functions.
    pub fn hooks(&self, hooks: &[&str]) -> Vec<u8> {
        let (mut types, mut strings) = (Vec::with_capacity(12 * self.types.len()), vec![0_u8]);
        for &at in &self.types {
            let kind = kind(&self.bytes, at as usize).map_or(0, |(kind, _)| kind);
            let wanted = if [TYPEDEF, FUNC].contains(&kind) {
                hooks.iter().find(|hook| self.name_is(at as usize, hook))
            } else {
                None
            };
            let words = match wanted {
                Some(_) => [strings.len() as u32, kind << 24, 0],
                // A type that is declared only, and has no name.
                None => [0, FWD << 24, 0],
            };
            types.extend(words.into_iter().flat_map(u32::to_ne_bytes));
            if let Some(name) = wanted {
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
            }
        }
        let (types_bytes, strings_bytes) = (types.len() as u32, strings.len() as u32);
        let header = [24, 0, types_bytes, types_bytes, strings_bytes].map(u32::to_ne_bytes);
        [&[0x9f, 0xeb, 1, 0][..], header.as_flattened(), &types, &strings].concat()
    }

    fn is(&self, at: usize, wanted: u32, name: &str) -> bool {
        kind(&self.bytes, at).is_ok_and(|(kind, _)| kind == wanted) && self.name_is(at, name)
    }

    /// Where the type with this id is.
    fn type_at(&self, id: u32) -> Result<usize, BtfError> {
        let index = (id as usize).checked_sub(1).ok_or(BtfError::Malformed("a type id of 0"))?;
        self.types.get(index).map(|&at| at as usize).ok_or(BtfError::Malformed("a type id out of range"))
    }

    /// Bit offset of a member, from the outermost structure's start.
    fn find_member(&self, at: usize, member: &str, depth: u32) -> Result<Option<u32>, BtfError> {
        let (_, count) = kind(&self.bytes, at)?;
        let bit_field_layout = word(&self.bytes, at + 4)? >> 31 != 0;
        for row in (0..count).map(|row| at + 12 + 12 * row) {
            let offset = word(&self.bytes, row + 8)?;
            let offset = if bit_field_layout { offset & 0xff_ffff } else { offset };
            if self.name_is(row, member) {
                return Ok(Some(offset));
            }
            if word(&self.bytes, row)? == 0 && depth < 8 {
                let inner = self.unmodified(word(&self.bytes, row + 4)?)?;
                let within = matches!(kind(&self.bytes, inner)?.0, STRUCT | UNION);
                if within && let Some(inner_offset) = self.find_member(inner, member, depth + 1)? {
                    return Ok(Some(offset + inner_offset));
                }
            }
        }
        Ok(None)
    }

    /// Where a type is, behind typedef, volatile, const and restrict.
    fn unmodified(&self, mut id: u32) -> Result<usize, BtfError> {
        for _ in 0..16 {
            let index = (id as usize).checked_sub(1).ok_or(BtfError::Malformed("a member of type void"))?;
            let at = *self.types.get(index).ok_or(BtfError::Malformed("a type id out of range"))? as usize;
            if !MODIFIERS.contains(&kind(&self.bytes, at)?.0) {
                return Ok(at);
            }
            id = word(&self.bytes, at + 8)?;
        }
        Err(BtfError::Malformed("a chain of modifiers without an end"))
    }

    fn name_is(&self, at: usize, name: &str) -> bool {
        let Ok(offset) = word(&self.bytes, at) else { return false };
        let text = self.bytes.get(self.strings + offset as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// A type's kind and its number of members.
fn kind(bytes: &[u8], at: usize) -> Result<(u32, usize), BtfError> {
    let info = word(bytes, at + 4)?;
    Ok((info >> 24 & 0x1f, (info & 0xffff) as usize))
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or(BtfError::Malformed("it ends too early"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; struct { int b; int c; }; }`, as pahole would write it.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0int\0";
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let types = [
            words(&[13, 1 << 24, 4, 32]),                         // 1: int
            words(&[0, STRUCT << 24 | 2, 8, 9, 1, 0, 11, 1, 32]), // 2: { b, c }
            words(&[1, STRUCT << 24 | 2, 12, 7, 1, 0, 0, 2, 32]), // 3: outer
        ]
        .concat();
        let header = [&[0x9f, 0xeb, 1, 0][..], &words(&[24, 0, types.len() as u32, types.len() as u32, 17])].concat();
        [header, types, strings.to_vec()].concat()
    }

    /// Direct members and those of anonymous structures have the offsets that C gives them.
    #[test]
    fn finds_members() {
        let types = KernelTypes::parse(Bytes::Read(sample())).expect("well-formed");
        for (member, offset) in [("a", 0), ("b", 4), ("c", 8)] {
            assert_eq!(types.member_offset("outer", member).expect(member), offset);
        }
        assert!(matches!(types.member_offset("outer", "d"), Err(BtfError::Unknown { .. })));
    }

    /// A file that was cut anywhere is an error, never a panic.
    #[test]
    fn survives_truncation() {
        for length in 0..sample().len() {
            if let Ok(types) = KernelTypes::parse(Bytes::Read(sample()[..length].to_vec())) {
                let _ = types.member_offset("outer", "c");
            }
        }
    }
}
