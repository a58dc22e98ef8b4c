//! An ELF file's tables.
//!
//! Reads by `pread` and bounded, not by `mmap`: a file that is cut short meanwhile is an error here, not a SIGBUS.
//! What cannot be understood of a file is counted and skipped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use cputrace_common::unwind::table::{Cfa, Rbp, Rule, register};
use object::elf::{
    ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64, SHF_ALLOC,
    SectionHeader64,
};
use object::read::elf::{
    CompressionHeader as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable,
};
use object::{CompressedData, CompressionFormat, LittleEndian, ReadCache, ReadRef};

use super::call_frame::{Format, Function, Functions, Section, pointer};
use super::go;
use super::interpret::Interpreter;
use super::pack::{Rows, Tables};
use super::reader::Reader;

/// Between two functions less than this is padding, which nobody runs.
const PADDING: u32 = 32;

/// A file keeps frame pointers if its functions without rules set one up at least this often, in bytes.
const PROLOGUE_EVERY: usize = 2048;

/// Fewer bytes without rules are not worth the question.
const MIN_GAPS: u32 = 1024;

/// A larger section, once decompressed, is no real file's.
const MAX_DEBUG_FRAME: u64 = 1 << 28;

const PAGE: u64 = 4096;

/// Addresses without code between a file's code: more is no real file's. Tables take memory for them.
const MAX_SPREAD: u64 = 64 << 20;

/// The code that the kernel enters has a few instructions: the dynamic linker's, with what it calls the program by, 80 bytes.
const ENTRY_BYTES: u32 = 128;

/// More linkage tables than this are no real file's.
const MAX_PLTS: usize = 64;

/// Bytes of code that are looked at for that, in pieces of this size.
const PROBE_TOTAL: usize = 1 << 20;
const PROBE_PIECE: usize = 16 << 10;

/// `push %rbp; mov %rsp,%rbp`, in either encoding.
pub(super) const PROLOGUES: [[u8; 4]; 2] = [[0x55, 0x48, 0x89, 0xe5], [0x55, 0x48, 0x8b, 0xec]];

/// Why a file has no tables.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no 64-bit little-endian ELF file, or a damaged one.
    #[error("its ELF headers are not understood: {0}")]
    Elf(#[from] object::Error),
    /// It has no code, or its ends lie further apart than a table can cover, or than a file of its size needs.
    #[error("it has no code, or code spread further than its size explains")]
    Size,
}

/// What was seen while tables were built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BuildStats {
    /// Functions with unwind information.
    pub functions: u64,
    /// Rows before equal neighbours were merged.
    pub rows: u64,
    /// Rows of the tables.
    pub merged_rows: u64,
    /// Distinct rules.
    pub rules: u64,
    /// Entries that could not be understood.
    pub bad_entries: u64,
    /// Functions that begin within another one, which they cut short.
    pub overlaps: u64,
    /// Rows that no rule can express.
    pub unknown_rows: u64,
    /// Bytes of code without rules.
    pub gap_bytes: u64,
}

/// What became of a file.
#[derive(Debug)]
pub struct Built {
    /// The tables; `None` if it has no unwind information at all.
    pub tables: Option<Tables>,
    /// Its functions without rules keep frame pointers.
    pub keeps_frame_pointers: bool,
    /// What was seen.
    pub stats: BuildStats,
}

/// Builds the tables of an open file.
pub fn build(file: &File) -> Result<Built, BuildError> {
    let length = file.metadata()?.len();
    let cache = ReadCache::new(file);
    let headers = Headers::read(&cache, length)?;
    headers.build(&|range| {
        let mut bytes = vec![0; range.end.saturating_sub(range.start).min(length) as usize];
        file.read_exact_at(&mut bytes, range.start).ok().map(|()| bytes)
    })
}

/// Builds the tables of a file that is in memory.
pub fn build_image(image: &[u8]) -> Result<Built, BuildError> {
    let headers = Headers::read(image, image.len() as u64)?;
    headers.build(&|range| image.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec))
}

/// A loaded part of the file.
#[derive(Clone, Debug)]
struct Segment {
    address: u64,
    file: Range<u64>,
    is_code: bool,
}

/// What is needed of the ELF headers.
#[derive(Debug, Default)]
pub(super) struct Headers {
    segments: Vec<Segment>,
    /// Contents and address.
    eh_frame: Option<(Vec<u8>, u64)>,
    debug_frame: Option<Vec<u8>>,
    /// Address ranges of linkage tables.
    plt: Vec<(Range<u64>, Rule)>,
    /// Where the kernel enters the program.
    entry: u64,
    /// Functions whose rules are known better than the file tells.
    known: go::Functions,
}

impl Headers {
    pub(super) fn read<'data>(data: impl ReadRef<'data>, length: u64) -> Result<Self, BuildError> {
        const E: LittleEndian = LittleEndian;
        let header = FileHeader64::<LittleEndian>::parse(data)?;
        header.endian()?;
        let mut all = Self { entry: header.e_entry(E), ..Self::default() };
        let mut eh_frame_hdr = None;
        for segment in header.program_headers(E, data)? {
            match segment.p_type(E) {
                PT_LOAD => all.segments.push(load_segment(segment, length)),
                PT_GNU_EH_FRAME => eh_frame_hdr = Some((segment.p_offset(E), segment.p_vaddr(E), segment.p_filesz(E))),
                _ => {}
            }
        }
        // A file may be without a section table, or with a damaged one: the program headers lead to .eh_frame too.
        let sections = header.sections(E, data).unwrap_or_default();
        all.read_sections(&sections, data, length);
        if all.eh_frame.is_none()
            && let Some((offset, address, size)) = eh_frame_hdr
        {
            all.eh_frame = all.eh_frame_by_header(data, offset, address, size.min(16));
        }
        Ok(all)
    }

    fn read_sections<'data, R: ReadRef<'data>>(
        &mut self,
        sections: &SectionTable<'data, FileHeader64<LittleEndian>, R>,
        data: R,
        length: u64,
    ) {
        const E: LittleEndian = LittleEndian;
        for section in sections.iter() {
            let Ok(name) = sections.section_name(E, section) else { continue };
            let (address, size) = (section.sh_addr(E), section.sh_size(E));
            let range = address..address.saturating_add(size);
            let has_room = self.plt.len() < MAX_PLTS;
            let is_loaded = section.sh_flags(E).0 & SHF_ALLOC.0 != 0;
            match name {
                b".eh_frame" if is_loaded && size <= length => {
                    self.eh_frame = section.data(E, data).ok().map(|bytes| (bytes.to_vec(), address));
                }
                b".debug_frame" if size <= length => {
                    self.debug_frame = decompressed(section, data);
                }
                b".plt" | b".iplt" if has_room => {
                    self.plt.push((range, Rule::new(Cfa::Plt { pushed_at: 11 }, Rbp::Unchanged)));
                }
                b".plt.sec" | b".plt.got" if has_room => {
                    let cfa = Cfa::Register { register: register::RSP, offset: 8 };
                    self.plt.push((range, Rule::new(cfa, Rbp::Unchanged)));
                }
                go::SECTION => self.known = go::functions(sections, data),
                _ => {}
            }
        }
    }

    /// By PT_GNU_EH_FRAME, whose second word leads to `.eh_frame`; that ends with its terminator, or its segment.
    fn eh_frame_by_header<'data>(
        &self,
        data: impl ReadRef<'data>,
        offset: u64,
        address: u64,
        size: u64,
    ) -> Option<(Vec<u8>, u64)> {
        let header = data.read_bytes_at(offset, size).ok()?;
        let encoding = *header.get(1)?;
        let address = pointer(&mut Reader::new(header, 4), encoding, address)?;
        let within = |segment: &&Segment| {
            address.checked_sub(segment.address).is_some_and(|at| at < segment.file.end - segment.file.start)
        };
        let segment = self.segments.iter().find(within)?;
        let start = segment.file.start + (address - segment.address);
        let bytes = data.read_bytes_at(start, segment.file.end - start).ok()?;
        Some((bytes.to_vec(), address))
    }

    fn build(self, read: &dyn Fn(Range<u64>) -> Option<Vec<u8>>) -> Result<Built, BuildError> {
        let code = self.segments.iter().filter(|segment| segment.is_code);
        // Where its mapping begins.
        let base = code.clone().map(|segment| segment.address).min().ok_or(BuildError::Size)? & !(PAGE - 1);
        let end = code
            .clone()
            .map(|segment| segment.address.saturating_add(segment.file.end - segment.file.start))
            .max()
            .unwrap_or(base);
        let length = u32::try_from(end.saturating_sub(base)).map_err(|_| BuildError::Size)?;
        let bytes = code.map(|segment| segment.file.end).max().unwrap_or(0);
        if u64::from(length) > bytes + MAX_SPREAD {
            return Err(BuildError::Size);
        }
        let mut stats = BuildStats::default();
        let parsed: Vec<_> = self.frames().map(Functions::read).collect();
        let mut functions: Vec<Placed<'_>> = Vec::with_capacity(parsed.iter().map(|all| all.functions.len()).sum());
        for (section, all) in parsed.iter().enumerate() {
            stats.bad_entries += all.bad;
            functions.extend(
                all.functions.iter().filter_map(|function| Placed::new(function, section as u32, base, length)),
            );
        }
        stats.functions = functions.len() as u64;
        // Mostly in order already. Of two that begin at one address, .eh_frame's comes first.
        functions.sort_by_key(|placed| placed.start);
        functions.dedup_by(|later, earlier| {
            let same = later.start == earlier.start;
            stats.overlaps += u64::from(same && later.section == earlier.section);
            same
        });
        let gaps = gaps(&functions, length);
        let plt = self.plt.iter().filter_map(|(range, rule)| Some((clip(range, base, length)?, *rule)));
        let mut without_rules: Vec<_> = plt.chain(self.entry_code(&gaps, base)).collect();
        without_rules.sort_by_key(|(range, _)| range.start);
        let mut builder = Builder {
            without_rules,
            known: &self.known,
            gap_rule: Rule::UNKNOWN,
            rows: Rows::with_capacity(functions.len() * 10),
            stats,
        };
        builder.stats.gap_bytes = gaps.iter().map(|gap| u64::from(gap.end - gap.start)).sum();
        let keeps_frame_pointers =
            builder.stats.gap_bytes >= u64::from(MIN_GAPS) && self.keeps_frame_pointers(&gaps, base, read);
        if keeps_frame_pointers {
            builder.gap_rule = Rule::FRAME_POINTER;
        }
        if functions.is_empty() {
            return Ok(Built { tables: None, keeps_frame_pointers, stats: builder.stats });
        }
        builder.run(&parsed, &functions, length);
        let mut stats = builder.stats;
        stats.rows = builder.rows.pushed;
        stats.merged_rows = builder.rows.len() as u64;
        stats.rules = builder.rows.rules() as u64;
        let tables = Tables { base, length, tables: builder.rows.pack(length) };
        Ok(Built { tables: Some(tables), keeps_frame_pointers, stats })
    }

    /// The code that the kernel enters, where nothing describes it, as in the dynamic linker: nobody called it.
    fn entry_code(&self, gaps: &[Range<u32>], base: u64) -> Option<(Range<u32>, Rule)> {
        let entry = u32::try_from(self.entry.checked_sub(base)?).ok()?;
        let gap = gaps.iter().find(|gap| gap.contains(&entry))?;
        Some((entry..gap.end.min(entry.saturating_add(ENTRY_BYTES)), Rule::END_OF_STACK))
    }

    /// The sections that describe functions.
    pub(super) fn frames(&self) -> impl Iterator<Item = Section<'_>> {
        let eh_frame = self.eh_frame.as_ref();
        let eh_frame = eh_frame.map(|(bytes, address)| Section { bytes, address: *address, format: Format::EhFrame });
        let debug_frame = self.debug_frame.as_ref();
        let debug_frame = debug_frame.map(|bytes| Section { bytes, address: 0, format: Format::DebugFrame });
        eh_frame.into_iter().chain(debug_frame)
    }

    /// Looks at the code without rules for functions that set up a frame pointer.
    fn keeps_frame_pointers(
        &self,
        gaps: &[Range<u32>],
        base: u64,
        read: &dyn Fn(Range<u64>) -> Option<Vec<u8>>,
    ) -> bool {
        let (mut seen, mut prologues) = (0, 0);
        let total: usize = gaps.iter().map(|gap| (gap.end - gap.start) as usize).sum();
        // Evenly over all of it, where it is too much to read.
        let every = total.div_ceil(PROBE_TOTAL).max(1);
        let pieces = gaps.iter().flat_map(|gap| {
            let starts = (gap.start..gap.end).step_by(PROBE_PIECE);
            starts.map(|start| start..gap.end.min(start.saturating_add(PROBE_PIECE as u32)))
        });
        for piece in pieces.step_by(every) {
            let Some(file) = self.file_range(base + u64::from(piece.start)..base + u64::from(piece.end)) else {
                continue;
            };
            let Some(code) = read(file) else { continue };
            seen += code.len();
            prologues += code.windows(4).filter(|bytes| PROLOGUES.iter().any(|prologue| bytes == prologue)).count();
            if seen >= PROBE_TOTAL {
                break;
            }
        }
        prologues > 0 && prologues * PROLOGUE_EVERY >= seen
    }

    /// The addresses of the code that `address` lies in.
    pub(super) fn code_around(&self, address: u64) -> Option<Range<u64>> {
        let mut ranges = self
            .segments
            .iter()
            .filter(|segment| segment.is_code)
            .map(|segment| segment.address..segment.address.saturating_add(segment.file.end - segment.file.start));
        ranges.find(|range| range.contains(&address))
    }

    /// Where in the file an address range lies, as far as it does.
    pub(super) fn file_range(&self, range: Range<u64>) -> Option<Range<u64>> {
        self.segments.iter().filter(|segment| segment.is_code).find_map(|segment| {
            let offset = range.start.checked_sub(segment.address)?;
            let start = segment.file.start.checked_add(offset).filter(|&start| start < segment.file.end)?;
            Some(start..segment.file.end.min(start + (range.end - range.start)))
        })
    }
}

/// A section's contents, which may be compressed.
fn decompressed<'data, R: ReadRef<'data>>(section: &SectionHeader64<LittleEndian>, data: R) -> Option<Vec<u8>> {
    const E: LittleEndian = LittleEndian;
    let Ok(Some((header, offset, compressed_size))) = section.compression(E, data) else {
        return section.data(E, data).ok().map(<[u8]>::to_vec);
    };
    let format = match header.ch_type(E) {
        ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return None,
    };
    let uncompressed_size = header.ch_size(E);
    if uncompressed_size > MAX_DEBUG_FRAME {
        return None;
    }
    let data = data.read_bytes_at(offset, compressed_size).ok()?;
    let data = CompressedData { format, data, uncompressed_size };
    data.decompress().ok().map(std::borrow::Cow::into_owned)
}

/// As far as the file has it.
fn load_segment(segment: &ProgramHeader64<LittleEndian>, length: u64) -> Segment {
    const E: LittleEndian = LittleEndian;
    let offset = segment.p_offset(E).min(length);
    Segment {
        address: segment.p_vaddr(E),
        file: offset..offset.saturating_add(segment.p_filesz(E)).min(length),
        is_code: segment.p_flags(E).0 & PF_X.0 != 0,
    }
}

/// A function, relative to the first address of the code.
#[derive(Clone, Copy, Debug)]
struct Placed<'a> {
    start: u32,
    end: u32,
    section: u32,
    function: &'a Function<'a>,
}

impl<'a> Placed<'a> {
    fn new(function: &'a Function<'a>, section: u32, base: u64, length: u32) -> Option<Self> {
        let range = clip(&(function.start..function.end), base, length)?;
        // One that begins before the code is not about this code.
        (function.start >= base).then_some(Self { start: range.start, end: range.end, section, function })
    }
}

fn clip(range: &Range<u64>, base: u64, length: u32) -> Option<Range<u32>> {
    let start = range.start.saturating_sub(base).min(length.into()) as u32;
    let end = range.end.saturating_sub(base).min(length.into()) as u32;
    (start < end).then_some(start..end)
}

/// The code between functions, as far as it is more than padding.
fn gaps(functions: &[Placed<'_>], length: u32) -> Vec<Range<u32>> {
    let mut gaps = Vec::new();
    let mut covered = 0;
    for (start, end) in functions.iter().map(|placed| (placed.start, placed.end)).chain([(length, length)]) {
        if start > covered && start - covered >= PADDING {
            gaps.push(covered..start);
        }
        covered = covered.max(end);
    }
    gaps
}

/// Puts the rows together.
struct Builder<'a> {
    known: &'a go::Functions,
    /// Code that no function's rules are about, and whose are known all the same.
    without_rules: Vec<(Range<u32>, Rule)>,
    gap_rule: Rule,
    rows: Rows,
    stats: BuildStats,
}

impl Builder<'_> {
    fn run(&mut self, sections: &[Functions<'_>], functions: &[Placed<'_>], length: u32) {
        let mut interpreters: Vec<_> = sections.iter().map(|_| Interpreter::default()).collect();
        let mut covered = 0;
        for (index, placed) in functions.iter().enumerate() {
            let next = functions.get(index + 1).map_or(length, |next| next.start);
            if placed.start > covered && placed.start - covered >= PADDING || index == 0 {
                self.gap(covered..placed.start);
            }
            let end = if next < placed.end {
                self.stats.overlaps += 1;
                next
            } else {
                placed.end
            };
            if let Some(known) = self.known.get(&placed.function.start) {
                let rows = known.iter().map(|(from, rule)| (placed.start.saturating_add_signed(*from), *rule));
                rows.filter(|(start, _)| *start < end).for_each(|(start, rule)| self.rows.push(start, rule));
                covered = covered.max(end);
                continue;
            }
            let Self { rows, stats, .. } = self;
            let (base, start) = (placed.function.start, placed.start);
            let mut is_empty = true;
            let mut push = |address: u64, rule: Rule| {
                is_empty = false;
                let offset = u64::from(start) + (address - base);
                if offset < end.into() {
                    stats.unknown_rows += u64::from(rule == Rule::UNKNOWN);
                    rows.push(offset as u32, rule);
                }
            };
            let section = &sections[placed.section as usize];
            if interpreters[placed.section as usize].run(&section.commons, placed.function, &mut push).is_none() {
                stats.bad_entries += 1;
                // What it said up to the damage holds; where it said nothing, its neighbour's rule must not.
                if is_empty {
                    rows.push(start, Rule::UNKNOWN);
                }
            }
            covered = covered.max(end);
        }
        self.gap(covered..length);
    }

    /// Code without rules, but for what is known of it.
    fn gap(&mut self, gap: Range<u32>) {
        if gap.is_empty() {
            return;
        }
        let Self { without_rules, gap_rule, rows, .. } = self;
        rows.push(gap.start, *gap_rule);
        for (range, rule) in without_rules.iter().filter(|(range, _)| range.start < gap.end && range.end > gap.start) {
            rows.push(range.start.max(gap.start), *rule);
            if range.end < gap.end {
                rows.push(range.end, *gap_rule);
            }
        }
    }
}
