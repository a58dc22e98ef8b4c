//! The sections of an ELF file, by their headers.
//!
//! What is in a section is read where it is asked for: `object`'s own view of a file begins by reading all of its symbols, which are
//! megabytes of a compiler's library. By `pread`, not `mmap`: a file may be cut short while it is looked at.

use std::fs::File;

use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID, SHT_DYNSYM, SectionHeader64};
use object::read::elf::{FileHeader as _, SectionHeader as _, SectionTable, SymbolTable};
use object::{LittleEndian, ReadCache};

/// A longer debug link is no path.
const MAX_LINK_BYTES: u64 = 4096;

/// The byte order of all files that there are here.
const ENDIAN: LittleEndian = LittleEndian;

/// The header of a file.
pub(crate) type Header = FileHeader64<LittleEndian>;

/// The header of a section.
pub(crate) type Section = SectionHeader64<LittleEndian>;

/// What was read of a file.
pub(crate) type Data<'a> = &'a ReadCache<&'a File>;

/// The sections of a 64-bit little-endian file.
pub(crate) struct Sections<'a> {
    data: Data<'a>,
    header: &'a Header,
    table: SectionTable<'a, Header, Data<'a>>,
}

impl<'a> Sections<'a> {
    /// `None`: it is no such file, or damaged.
    pub(crate) fn read(data: Data<'a>) -> Option<Self> {
        let header = Header::parse(data).ok()?;
        // More than 65,279 sections are no program's, and would be read as a whole.
        let is_real = header.e_shoff(ENDIAN) == 0 || header.e_shnum(ENDIAN) != 0;
        is_real.then_some(())?;
        Some(Self { data, header, table: header.sections(ENDIAN, data).ok()? })
    }

    /// The file's header.
    pub(crate) fn header(&self) -> &'a Header {
        self.header
    }

    /// All of them, with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a Section)> {
        self.table.iter().map(|section| (self.table.section_name(ENDIAN, section).unwrap_or_default(), section))
    }

    /// The one with a name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&'a Section> {
        self.table.section_by_name(ENDIAN, name.as_bytes()).map(|(_, section)| section)
    }

    /// The symbols that the dynamic linker knows.
    pub(crate) fn dynamic_symbols(&self) -> Option<SymbolTable<'a, Header, Data<'a>>> {
        self.table.symbols(ENDIAN, self.data, SHT_DYNSYM).ok()
    }

    /// The contents of the build id note.
    pub(crate) fn build_id(&self) -> Option<&'a [u8]> {
        let notes = self.table.iter().filter_map(|section| section.notes(ENDIAN, self.data).ok()?);
        let mut notes = notes.flat_map(|notes| notes.map_while(Result::ok));
        let is_build_id = |note: &object::read::elf::Note<'_, _>| {
            note.name() == ELF_NOTE_GNU && note.n_type(ENDIAN) == NT_GNU_BUILD_ID
        };
        notes.find(is_build_id).map(|note| note.desc())
    }

    /// The name of the file with the debug information, and its checksum: a string, then at a multiple of four a number.
    pub(crate) fn debug_link(&self) -> Option<(&'a [u8], u32)> {
        let section = self.by_name(".gnu_debuglink").filter(|section| section.sh_size(ENDIAN) <= MAX_LINK_BYTES)?;
        let data = section.data(ENDIAN, self.data).ok()?;
        let name = data.split(|&byte| byte == 0).next()?;
        let checksum = data.get((name.len() + 1).next_multiple_of(4)..)?.first_chunk()?;
        Some((name, u32::from_le_bytes(*checksum)))
    }
}
