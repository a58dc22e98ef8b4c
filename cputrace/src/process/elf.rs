//! What an address needs to know of an ELF file: its load segments and its build id.
//!
//! Read by `pread` and bounded, not by `mmap`: a file that is cut short while it is looked at is an error here, not a
//! SIGBUS. 64-bit little-endian files only, as the kernels that cputrace runs on execute them. Format: `elf(5)`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::model::{BuildId, ElfAddr};

/// Program headers and notes beyond these sizes are no real program's.
const MAX_PROGRAM_HEADERS: usize = 4096;
const MAX_NOTE_BYTES: u64 = 1 << 20;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: u32 = 3;

/// Why a file has no facts.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no 64-bit little-endian ELF file.
    #[error("it is not a 64-bit little-endian ELF file")]
    NotElf,
    /// Its headers contradict themselves.
    #[error("its ELF headers are damaged")]
    Damaged,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    file_offset: u64,
    file_size: u64,
    address: u64,
    is_code: bool,
}

/// What is known of an ELF file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ElfFacts {
    /// The contents of its build id note.
    pub build_id: Option<BuildId>,
    segments: Vec<Segment>,
}

impl ElfFacts {
    /// Reads the headers of an open file.
    pub fn read(file: &File) -> Result<Self, ElfError> {
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0)?;
        // EI_CLASS 2: 64 bits; EI_DATA 1: little-endian.
        if header[..6] != *b"\x7fELF\x02\x01" {
            return Err(ElfError::NotElf);
        }
        let (at, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
        if size != 56 || usize::from(count) > MAX_PROGRAM_HEADERS {
            return Err(ElfError::Damaged);
        }
        let mut headers = vec![0; usize::from(count) * 56];
        file.read_exact_at(&mut headers, at)?;
        let mut facts = Self { build_id: None, segments: Vec::new() };
        for header in headers.chunks_exact(56) {
            let (file_offset, address, file_size) = (u64_at(header, 8), u64_at(header, 16), u64_at(header, 32));
            match u32_at(header, 0) {
                PT_LOAD => {
                    let is_code = u32_at(header, 4) & PF_X != 0;
                    facts.segments.push(Segment { file_offset, file_size, address, is_code });
                }
                PT_NOTE if facts.build_id.is_none() && file_size <= MAX_NOTE_BYTES => {
                    let mut notes = vec![0; file_size as usize];
                    // A note that is not there is not worth the file.
                    if file.read_exact_at(&mut notes, file_offset).is_ok() {
                        facts.build_id = build_id(&notes);
                    }
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// The address, as linked, of the first byte of an executable mapping; `None` if it is of no segment of code.
    ///
    /// A mapping begins where a page does, a segment need not: before its code may lie the end of another segment, which
    /// is somewhere else in memory. lld links so.
    pub fn start_of_mapping(&self, file_offset: u64, bytes: u64) -> Option<ElfAddr> {
        let end = file_offset.saturating_add(bytes);
        let overlaps = |segment: &&Segment| {
            segment.is_code
                && segment.file_offset < end
                && segment.file_offset.saturating_add(segment.file_size) > file_offset
        };
        let segment = self.segments.iter().find(overlaps)?;
        Some(ElfAddr(segment.address.wrapping_sub(segment.file_offset).wrapping_add(file_offset)))
    }

    /// The address, as linked, of a place in the file; `None` outside of all segments.
    pub fn elf_addr(&self, file_offset: u64) -> Option<ElfAddr> {
        let within = |segment: &&Segment| {
            file_offset.checked_sub(segment.file_offset).is_some_and(|offset| offset < segment.file_size)
        };
        let segment = self.segments.iter().find(within)?;
        Some(ElfAddr(segment.address.wrapping_add(file_offset - segment.file_offset)))
    }
}

/// The GNU build id among the notes of a segment.
fn build_id(mut notes: &[u8]) -> Option<BuildId> {
    while notes.len() >= 12 {
        let (name_size, size, kind) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize, u32_at(notes, 8));
        let name = notes.get(12..12_usize.checked_add(name_size)?)?;
        let start = 12 + name_size.next_multiple_of(4);
        let end = start.checked_add(size)?;
        let contents = notes.get(start..end)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(BuildId(contents.to_vec()));
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The callers have checked that the bytes are there; zeros where they have not.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn facts_of(bytes: &[u8]) -> Result<ElfFacts, ElfError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        ElfFacts::read(&file)
    }

    /// This test's own executable: the address of a function here is found again through the file.
    #[test]
    fn agrees_with_the_running_program() {
        let facts = ElfFacts::read(&File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(facts.build_id.is_some_and(|id| id.0.len() >= 16), "rustc's linker writes a build id");
        let text = facts.segments.iter().find(|segment| segment.file_offset > 0).unwrap();
        let found = ElfFacts { build_id: None, segments: facts.segments.clone() }.elf_addr(text.file_offset + 5);
        assert_eq!(found, Some(ElfAddr(text.address + 5)));
    }

    /// As lld links: the first page of the code's mapping belongs to the segment before, too.
    #[test]
    fn mappings_begin_before_their_segment() {
        let segment = |file_offset, file_size, address, is_code| Segment { file_offset, file_size, address, is_code };
        let segments = vec![segment(0, 0x36_70fc, 0, false), segment(0x36_7100, 0x7d_4ca0, 0x36_8100, true)];
        let facts = ElfFacts { build_id: None, segments };
        assert_eq!(facts.start_of_mapping(0x36_7000, 0x7d_5000), Some(ElfAddr(0x36_8000)));
        assert_eq!(facts.start_of_mapping(0, 0x1000), None);
        assert_eq!(facts.elf_addr(0x36_7100), Some(ElfAddr(0x36_8100)));
    }

    /// What is no ELF file is said to be none.
    #[test]
    fn refuses_other_files() {
        assert!(matches!(facts_of(&[b'x'; 100]), Err(ElfError::NotElf)));
        assert!(matches!(facts_of(b"\x7fELF"), Err(ElfError::Io(_))));
    }

    proptest! {
        /// A damaged header is an error or other facts, never a panic or a huge allocation.
        #[test]
        fn survives_damage(at in 0_usize..2048, byte: u8, length in 0_usize..4096) {
            let mut bytes = vec![0; 4096];
            File::open("/proc/self/exe").unwrap().read_exact_at(&mut bytes, 0).unwrap();
            bytes[at] = byte;
            bytes.truncate(length);
            if let Ok(facts) = facts_of(&bytes) {
                let _ = facts.elf_addr(u64::MAX);
            }
        }
    }
}
