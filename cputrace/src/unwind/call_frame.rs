//! Finds the functions that `.eh_frame` or `.debug_frame` describes: their addresses and their instructions' bytes.
//!
//! Formats: Linux Standard Base 5.0, chapter 10.6 (`.eh_frame`, pointer encodings); DWARF 5, section 6.4.1.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use super::reader::Reader;

/// Longer instructions that functions have in common are no real file's. Without a bound, a small hostile file could have
/// very long ones for each of its functions, one over the other.
const MAX_COMMON_BYTES: usize = 4096;

/// Which of the two formats it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    EhFrame,
    DebugFrame,
}

/// A section, and the address that it is linked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) address: u64,
    pub(super) format: Format,
}

/// What functions have in common.
#[derive(Clone, Debug)]
pub(super) struct Common<'a> {
    pub(super) code_align: u64,
    pub(super) data_align: i64,
    pub(super) return_register: u64,
    /// The function is called by the kernel when a signal handler returns.
    pub(super) is_signal_frame: bool,
    pub(super) instructions: &'a [u8],
    /// How addresses are written: DW_EH_PE_*.
    encoding: u8,
    /// Each function has augmentation data, whose length comes first.
    has_augmentation: bool,
}

/// A function: the addresses `start..end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) common: u32,
    pub(super) instructions: &'a [u8],
}

/// All functions of a section, in its order.
#[derive(Debug, Default)]
pub(super) struct Functions<'a> {
    pub(super) commons: Vec<Common<'a>>,
    pub(super) functions: Vec<Function<'a>>,
    /// Entries that could not be read.
    pub(super) bad: u64,
}

impl<'a> Functions<'a> {
    /// Reads a section. What cannot be read is counted and skipped; where a length is damaged, what follows is lost.
    pub(super) fn read(section: Section<'a>) -> Self {
        let mut all = Self { functions: Vec::with_capacity(section.bytes.len() / 48), ..Self::default() };
        let mut commons: HashMap<usize, Option<u32>, FxBuildHasher> = HashMap::default();
        let mut last = (usize::MAX, None);
        let mut at = 0;
        while at < section.bytes.len() {
            let Some(entry) = Entry::read(section, at) else {
                all.bad += 1;
                break;
            };
            at = entry.end;
            let Some(common_at) = entry.common else { continue };
            if last.0 != common_at {
                let index = commons.entry(common_at).or_insert_with(|| {
                    let common = Common::read(section, common_at)?;
                    all.commons.push(common);
                    Some(all.commons.len() as u32 - 1)
                });
                last = (common_at, *index);
            }
            match last.1.and_then(|index| entry.function(section, index, &all.commons[index as usize])) {
                Some(function) if function.start < function.end => all.functions.push(function),
                // The linker's mark of a function that it dropped.
                Some(_) => {}
                None => all.bad += 1,
            }
        }
        all
    }
}

/// An entry of the section, whole.
struct Entry {
    /// Where its contents begin, after its length and the pointer to what it has in common.
    contents: usize,
    end: usize,
    /// Where in the section its common part begins; `None` if it is one, or the terminator.
    common: Option<usize>,
}

impl Entry {
    fn read(section: Section<'_>, at: usize) -> Option<Self> {
        let mut reader = Reader::new(section.bytes, at);
        let short = reader.u32()?;
        if short == 0 {
            // The terminator; linkers of relocatable parts leave some in the middle.
            return Some(Self { contents: at + 4, end: at + 4, common: None });
        }
        let wide = short == u32::MAX;
        let length = usize::try_from(if wide { reader.u64()? } else { short.into() }).ok()?;
        let id_at = reader.position();
        let end = id_at.checked_add(length).filter(|&end| end <= section.bytes.len())?;
        let (id, common_id) = match (section.format, wide) {
            (Format::EhFrame, false) => (reader.u32()?.into(), 0),
            (Format::EhFrame, true) => (reader.u64()?, 0),
            (Format::DebugFrame, false) => (reader.u32()?.into(), u64::from(u32::MAX)),
            (Format::DebugFrame, true) => (reader.u64()?, u64::MAX),
        };
        let contents = reader.position();
        if contents > end {
            return None;
        }
        let common = match section.format {
            _ if id == common_id => None,
            // Back from the pointer itself. One that leads nowhere has no common part.
            Format::EhFrame => Some(id_at.checked_sub(usize::try_from(id).ok()?).unwrap_or(usize::MAX)),
            Format::DebugFrame => Some(usize::try_from(id).ok()?),
        };
        Some(Self { contents, end, common })
    }

    fn function<'a>(&self, section: Section<'a>, index: u32, common: &Common<'a>) -> Option<Function<'a>> {
        let mut reader = Reader::new(section.bytes.get(..self.end)?, self.contents);
        let start = pointer(&mut reader, common.encoding, section.address)?;
        // The length is written like the start, but is no pointer: only its format matters.
        let length = pointer(&mut reader, common.encoding & 0x0f, 0)?;
        if common.has_augmentation {
            let length = reader.unsigned()?;
            reader.skip(usize::try_from(length).ok()?)?;
        }
        let instructions = section.bytes.get(reader.position()..self.end)?;
        Some(Function { start, end: start.checked_add(length)?, common: index, instructions })
    }
}

impl<'a> Common<'a> {
    fn read(section: Section<'a>, at: usize) -> Option<Self> {
        let entry = Entry::read(section, at).filter(|entry| entry.common.is_none())?;
        let mut reader = Reader::new(section.bytes.get(..entry.end)?, entry.contents);
        let version = reader.u8()?;
        let augmentation = reader.string()?;
        if version == 4 {
            let (address_size, segment_size) = (reader.u8()?, reader.u8()?);
            if (address_size, segment_size) != (8, 0) {
                return None;
            }
        } else if version != 1 && version != 3 {
            return None;
        }
        let code_align = reader.unsigned()?;
        let data_align = reader.signed()?;
        let return_register = if version == 1 { reader.u8()?.into() } else { reader.unsigned()? };
        let mut common = Self {
            code_align,
            data_align,
            return_register,
            is_signal_frame: false,
            instructions: &[],
            encoding: ABSOLUTE,
            has_augmentation: false,
        };
        match augmentation {
            [] => {}
            [b'z', letters @ ..] => {
                common.has_augmentation = true;
                let length = usize::try_from(reader.unsigned()?).ok()?;
                let end = reader.position().checked_add(length)?;
                for letter in letters {
                    match letter {
                        b'R' => common.encoding = reader.u8()?,
                        b'L' => reader.skip(1)?,
                        b'P' => {
                            let encoding = reader.u8()?;
                            pointer(&mut reader, encoding & 0x0f, 0)?;
                        }
                        b'S' => common.is_signal_frame = true,
                        // Its length says how much to skip.
                        _ => break,
                    }
                }
                let skipped = end.checked_sub(reader.position())?;
                reader.skip(skipped)?;
            }
            // Without a length what follows cannot be understood.
            _ => return None,
        }
        common.instructions = section.bytes.get(reader.position()..entry.end)?;
        if common.instructions.len() > MAX_COMMON_BYTES {
            return None;
        }
        Some(common)
    }
}

/// DW_EH_PE_absptr
const ABSOLUTE: u8 = 0;

/// A pointer as DW_EH_PE_* has it, absolute or relative to itself.
pub(super) fn pointer(reader: &mut Reader<'_>, encoding: u8, section_address: u64) -> Option<u64> {
    let at = section_address.wrapping_add(reader.position() as u64);
    let value = match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => reader.u64()?,
        0x01 => reader.unsigned()?,
        0x02 => reader.u16()?.into(),
        0x03 => reader.u32()?.into(),
        0x09 => reader.signed()?.cast_unsigned(),
        0x0a => i64::from(reader.u16()?.cast_signed()).cast_unsigned(),
        0x0b => i64::from(reader.u32()?.cast_signed()).cast_unsigned(),
        _ => return None,
    };
    match encoding & 0xf0 {
        0x00 => Some(value),
        0x10 => Some(value.wrapping_add(at)),
        // Relative to text or data, aligned, or indirect: no linker writes them here for x86-64.
        _ => None,
    }
}
