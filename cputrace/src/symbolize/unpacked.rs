//! What is packed in an ELF file: how large it is, and a copy of the file where debug information is not packed.
//!
//! A few kilobytes can become gigabytes, and how many is only known once they were unpacked. blazesym would unpack whatever
//! there is into memory; so it is given a copy that was unpacked here, with a bound, and leaves out what names do not need.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use object::elf::{ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, SHF_ALLOC, SHF_COMPRESSED, SHT_NOBITS, SHT_PROGBITS};
use object::read::elf::{CompressionHeader as _, FileHeader as _, SectionHeader as _};
use object::{LittleEndian, ReadCache, U64};
use rustix::fs::MemfdFlags;

use crate::sections::{Data, Header, Section, Sections};

/// What is larger than this when unpacked is left alone.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// Sections of debug information that neither functions nor lines are in.
const UNWANTED: [&str; 10] = [
    ".debug_loc",
    ".debug_loclists",
    ".debug_macro",
    ".debug_macinfo",
    ".debug_names",
    ".debug_pubnames",
    ".debug_pubtypes",
    ".debug_gnu_pubnames",
    ".debug_gnu_pubtypes",
    ".debug_frame",
];

/// Whether a section of debug information is packed.
pub(super) fn is_packed(section: &Section) -> bool {
    section.sh_flags(LittleEndian).contains(SHF_COMPRESSED)
}

/// How large a small symbol table ("MiniDebugInfo") is, unpacked once and thrown away; `None` if it is damaged or too large.
pub(super) fn mini_debug_info_bytes(file: &File, section: &Section) -> Option<u64> {
    let (at, size) = section.file_range(LittleEndian)?;
    let packed = Part { file, at, end: at.checked_add(size)? };
    let mut unpacked = xz2::read::XzDecoder::new(packed).take(MAX_BYTES + 1);
    io::copy(&mut unpacked, &mut io::sink()).ok().filter(|bytes| *bytes <= MAX_BYTES)
}

/// A copy of a file, in memory, with its debug information unpacked, and without code and data. `None` if it is damaged, or
/// too large.
pub(super) fn unpacked(file: &File) -> Option<File> {
    let cache = ReadCache::new(file);
    let sections = Sections::read(&cache)?;
    let header = sections.header();
    let mut copy = Copy {
        from: file,
        to: rustix::fs::memfd_create("debug information", MemfdFlags::CLOEXEC).ok()?.into(),
        left: MAX_BYTES,
        end: file.metadata().ok()?.len(),
    };
    let endian = LittleEndian;
    copy.part(0, size_of::<Header>() as u64)?;
    let programs = u64::from(header.e_phentsize(endian)) * u64::from(header.e_phnum(endian));
    copy.part(header.e_phoff(endian), programs)?;
    for (index, (name, section)) in sections.iter().enumerate() {
        let mut section = *section;
        let name = std::str::from_utf8(name).unwrap_or_default();
        if name.starts_with(".debug_") && UNWANTED.contains(&name.trim_end_matches(".dwo")) {
            section.sh_size = U64::new(endian, 0);
            set_unpacked(&mut section);
        } else if name.starts_with(".debug_") && is_packed(&section) {
            copy.unpack(&cache, &mut section)?;
        } else if section.sh_type(endian) != SHT_NOBITS && !is_code_or_data(&section) {
            copy.part(section.sh_offset(endian), section.sh_size(endian))?;
        }
        let place = header.e_shoff(endian).checked_add((index * size_of::<Section>()) as u64)?;
        copy.to.write_all_at(object::pod::bytes_of(&section), place).ok()?;
    }
    Some(copy.to)
}

fn set_unpacked(section: &mut Section) {
    section.sh_flags = U64::new(LittleEndian, section.sh_flags(LittleEndian).without(SHF_COMPRESSED));
}

fn is_code_or_data(section: &Section) -> bool {
    section.sh_type(LittleEndian) == SHT_PROGBITS && section.sh_flags(LittleEndian).contains(SHF_ALLOC)
}

/// A file that becomes another one, with everything at the place where it was but what is unpacked: that comes behind all.
struct Copy<'a> {
    from: &'a File,
    to: File,
    /// Bytes that it may still get.
    left: u64,
    end: u64,
}

impl Copy<'_> {
    fn part(&mut self, at: u64, bytes: u64) -> Option<()> {
        let part = Part { file: self.from, at, end: at.checked_add(bytes)? };
        (self.fill(at, part)? == bytes).then_some(())
    }

    fn unpack(&mut self, data: Data<'_>, section: &mut Section) -> Option<()> {
        let (packed, offset, size) = section.compression(LittleEndian, data).ok()??;
        let part = Part { file: self.from, at: offset, end: offset.checked_add(size)? };
        // No section needs more.
        let at = self.end.next_multiple_of(16);
        let bytes = match packed.ch_type(LittleEndian) {
            ELFCOMPRESS_ZLIB => self.fill(at, flate2::read::ZlibDecoder::new(part))?,
            ELFCOMPRESS_ZSTD => self.fill(at, zstd::stream::read::Decoder::new(part).ok()?)?,
            _ => return None,
        };
        self.end = at.checked_add(bytes)?;
        let set = |field: &mut U64<LittleEndian>, value| *field = U64::new(LittleEndian, value);
        set(&mut section.sh_offset, at);
        set(&mut section.sh_size, bytes);
        set(&mut section.sh_addralign, 1);
        set_unpacked(section);
        Some(())
    }

    /// How much came; `None` if it is too much.
    fn fill(&mut self, at: u64, from: impl Read) -> Option<u64> {
        // In pieces that are worth a call each.
        let mut to = BufWriter::with_capacity(256 << 10, Place { file: &self.to, at });
        let bytes = io::copy(&mut from.take(self.left + 1), &mut to).ok()?;
        to.flush().ok()?;
        self.left = self.left.checked_sub(bytes)?;
        Some(bytes)
    }
}

/// A part of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Where a file is written to.
struct Place<'a> {
    file: &'a File,
    at: u64,
}

impl Write for Place<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
