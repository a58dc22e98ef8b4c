//! Names of addresses in one ELF file, through blazesym: the only module that knows it.
//!
//! Debug information first, where the file has any: it alone knows lines and inlined functions. Where it is damaged,
//! or too large to be unpacked, the symbol tables are enough for names.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Reason, Sym, Symbolized, Symbolizer};
use object::elf::SHF_ALLOC;
use object::read::elf::SectionHeader as _;
use object::{LittleEndian, ReadCache};
use procfs::process::MMPermissions;
use tempfile::TempDir;

use super::{Detail, SourceLine, guard, unpacked};
use crate::model::UnknownReason;
use crate::sections::Sections;
use crate::unwind::FileKey;

/// Addresses looked up at once: larger batches need more memory and are no faster.
const BATCH: usize = 100;

/// Memory that a reader of debug information may take before another one takes its place.
const MAX_READER_BYTES: u64 = 24 << 20;

/// Symbol tables that are smaller than this are sorted anew each time.
const MIN_KEPT_BYTES: u64 = 1 << 20;

/// Symbol tables that are kept are no larger than this together: they are in memory, and a third of it again for their order.
const MAX_KEPT_BYTES: u64 = 16 << 20;

/// For so many windows a symbol table is kept that none of them asked for.
const KEPT_WINDOWS: u32 = 30;

/// The longest name that is kept whole.
const MAX_SYMBOL_BYTES: usize = 64 << 10;

/// Where the small symbol table of distributions without debug packages is ("MiniDebugInfo").
const MINI_DEBUG_INFO: &[u8] = b".gnu_debugdata";

/// What is at an address.
pub(super) type Found = Result<Place, UnknownReason>;

/// A place in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Its functions and their lines, innermost first.
    pub(super) lines: Vec<SourceLine>,
    /// The addresses of which the same is true.
    pub(super) extent: Range<u64>,
}

/// One file, and what its headers say about it.
pub(super) struct ElfNames<'a> {
    file: &'a File,
    /// What was split off of its debug information.
    package: Option<Box<Self>>,
    /// The addresses of each section that is loaded.
    sections: Vec<Range<u64>>,
    has_debug_info: bool,
    /// Whether some of that is packed.
    is_packed: bool,
    symbol_table_bytes: u64,
}

impl<'a> ElfNames<'a> {
    /// Reads the headers of a file; the error is why it can have no names.
    pub(super) fn open(file: &'a File, package: Option<&'a File>, detail: Detail) -> Result<Self, UnknownReason> {
        let mut names = Self::open_one(file, detail)?;
        let package = package.filter(|_| detail == Detail::Lines);
        names.package = package.and_then(|package| Some(Box::new(Self::open_one(package, detail).ok()?)));
        Ok(names)
    }

    fn open_one(file: &'a File, detail: Detail) -> Result<Self, UnknownReason> {
        let cache = ReadCache::new(file);
        let sections = Sections::read(&cache).ok_or(UnknownReason::Damaged)?;
        let mut names = Self {
            file,
            package: None,
            sections: Vec::new(),
            has_debug_info: false,
            is_packed: false,
            symbol_table_bytes: 0,
        };
        for (name, section) in sections.iter() {
            let (address, bytes) = (section.sh_addr(LittleEndian), section.sh_size(LittleEndian));
            if name == b".symtab" || name == b".dynsym" {
                names.symbol_table_bytes = names.symbol_table_bytes.saturating_add(bytes);
            }
            if section.sh_flags(LittleEndian).contains(SHF_ALLOC) {
                names.sections.push(address..address.saturating_add(bytes));
            } else if name == MINI_DEBUG_INFO {
                // Not even the dynamic symbols can be had without it being unpacked.
                unpacked::mini_debug_info_bytes(file, section).ok_or(UnknownReason::Damaged)?;
            } else if detail == Detail::Lines && name.starts_with(b".debug_") {
                names.has_debug_info |= name.starts_with(b".debug_info");
                names.is_packed |= unpacked::is_packed(section);
            }
        }
        Ok(names)
    }

    /// The functions at `addresses`, which are sorted. Gives up when `stopped` says so.
    pub(super) fn look_up(
        &self,
        addresses: &[u64],
        detail: Detail,
        tables: &mut SymbolTables,
        stopped: &dyn Fn() -> bool,
    ) -> Vec<Found> {
        if detail == Detail::Functions
            && let Some(found) = tables.look_up(self, addresses)
        {
            return found;
        }
        // What is damaged costs only itself: the package first, then all debug information.
        let debug = self.debug_info().filter(|_| detail == Detail::Lines);
        let with_lines = debug.as_ref().ok_or(guard::Broken).and_then(|debug| {
            let package = self.package.as_ref().and_then(|package| package.debug_info());
            let packaged = package.as_ref().and_then(|package| beside(debug, package)).ok_or(guard::Broken);
            packaged
                .and_then(|(_folder, path)| self.in_tables(&path, addresses, true, stopped))
                .or_else(|guard::Broken| self.in_tables(&path(debug), addresses, true, stopped))
        });
        with_lines
            .or_else(|guard::Broken| self.in_tables(&path(self.file), addresses, false, stopped))
            .unwrap_or_else(|guard::Broken| vec![Err(UnknownReason::Damaged); addresses.len()])
    }

    /// The file with its debug information as it can be read in place; `None` if it has none, or too much.
    fn debug_info(&self) -> Option<Readable<'a>> {
        match (self.has_debug_info, self.is_packed) {
            (false, _) => None,
            (true, false) => Some(Readable::InPlace(self.file)),
            (true, true) => unpacked::unpacked(self.file).map(Readable::Unpacked),
        }
    }

    fn in_tables(
        &self,
        path: &Path,
        addresses: &[u64],
        debug_info: bool,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Vec<Found>, guard::Broken> {
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_info;
        let source = Source::Elf(elf);
        let mut all = Vec::with_capacity(addresses.len());
        // The guard is around the end of each reader too.
        guard::run(|| {
            let mut reader = Reader::new();
            for batch in addresses.chunks(BATCH) {
                if stopped() {
                    break;
                }
                if reader.is_large() {
                    reader.forget();
                    reader = Reader::new();
                }
                self.ask(&reader.symbolizer, &source, batch, &mut all)?;
            }
            reader.forget();
            Ok(())
        })??;
        all.resize(addresses.len(), Err(UnknownReason::NotSymbolized));
        Ok(all)
    }

    /// Adds what a reader finds at `addresses`.
    fn ask(
        &self,
        symbolizer: &Symbolizer,
        source: &Source<'_>,
        addresses: &[u64],
        all: &mut Vec<Found>,
    ) -> Result<(), guard::Broken> {
        let found = symbolizer.symbolize(source, Input::VirtOffset(addresses)).map_err(|_| guard::Broken)?;
        let has_lines = matches!(source, Source::Elf(elf) if elf.debug_syms);
        all.extend(addresses.iter().zip(found).map(|(&address, symbolized)| match symbolized {
            Symbolized::Sym(symbol) => {
                let extent = if has_lines { None } else { extent(&symbol, address) };
                let extent = extent.unwrap_or(address..address.saturating_add(1));
                self.functions(address, &symbol).map(|lines| Place { lines, extent })
            }
            Symbolized::Unknown(reason) => Err(unknown(reason)),
        }));
        Ok(())
    }

    /// A symbol and what is inlined in it, innermost first. The line of each function is that of the call in it; blazesym
    /// reports them outermost first, each with the line within itself.
    fn functions(&self, address: u64, symbol: &Sym<'_>) -> Result<Vec<SourceLine>, UnknownReason> {
        // Some functions have no name. A symbol without a size ends with its section; a function that debug information
        // has in several pieces has neither size nor address here.
        let is_bounded = symbol.size.is_some() || symbol.addr == 0 || self.is_one_section(symbol.addr, address);
        if symbol.name.is_empty() || !is_bounded {
            return Err(UnknownReason::NotInSymbolTable);
        }
        let outermost = (&*symbol.name, symbol.code_info.as_deref());
        let inlined = symbol.inlined.iter().map(|inlined| (&*inlined.name, inlined.code_info.as_ref()));
        let functions = std::iter::once(outermost).chain(inlined).map(|(name, info)| SourceLine {
            symbol: name[..name.floor_char_boundary(MAX_SYMBOL_BYTES)].to_owned(),
            file: info.map(|info| info.to_path().to_string_lossy().into_owned()).unwrap_or_default(),
            line: info.and_then(|info| info.line).unwrap_or(0),
        });
        let mut functions: Vec<_> = functions.collect();
        functions.reverse();
        Ok(functions)
    }

    fn is_one_section(&self, symbol: u64, address: u64) -> bool {
        self.sections.iter().any(|section| section.contains(&symbol) && section.contains(&address))
    }
}

/// Large symbol tables, kept from one window to the next: to sort one takes longer than all else that a window does. The last one
/// was asked last.
#[derive(Debug, Default)]
pub(super) struct SymbolTables(Vec<Table>);

/// A symbol table that is kept, and of which file.
#[derive(Debug)]
struct Table {
    key: FileKey,
    bytes: u64,
    file: File,
    symbolizer: Symbolizer,
    /// Windows since it was asked.
    unused: u32,
}

impl SymbolTables {
    /// The functions at `addresses` of a file whose table is one to keep.
    fn look_up(&mut self, names: &ElfNames<'_>, addresses: &[u64]) -> Option<Vec<Found>> {
        let (table, is_new) = self.of(names)?;
        let (key, found) = (table.key, table.look_up(names, addresses));
        if is_new {
            // It was read as a whole, to be sorted.
            give_back(&[key]);
        }
        Some(found.unwrap_or_else(|guard::Broken| {
            self.0.pop();
            vec![Err(UnknownReason::Damaged); addresses.len()]
        }))
    }

    /// A window is over: what was not asked for long goes, and of the others the pages.
    pub(super) fn rest(&mut self) {
        self.0.iter_mut().for_each(|table| table.unused += 1);
        self.0.retain(|table| table.unused <= KEPT_WINDOWS);
        let asked: Vec<_> = self.0.iter().filter(|table| table.unused == 1).map(|table| table.key).collect();
        if !asked.is_empty() {
            give_back(&asked);
        }
    }

    /// That of a file, the last one from then on, if it is one to keep; and whether it was not there.
    fn of(&mut self, names: &ElfNames<'_>) -> Option<(&Table, bool)> {
        let bytes = names.symbol_table_bytes;
        if !(MIN_KEPT_BYTES..=MAX_KEPT_BYTES).contains(&bytes) {
            return None;
        }
        let key = FileKey::of(names.file).ok()?;
        let place = self.0.iter().position(|table| table.key == key);
        let table = match place {
            Some(place) => Table { unused: 0, ..self.0.remove(place) },
            None => Table { key, bytes, file: names.file.try_clone().ok()?, symbolizer: symbolizer(), unused: 0 },
        };
        while self.0.iter().map(|table| table.bytes).sum::<u64>() + bytes > MAX_KEPT_BYTES {
            self.0.remove(0);
        }
        self.0.push(table);
        Some((self.0.last()?, place.is_none()))
    }
}

/// Gives back the pages of files whose tables are kept: the kernel has them at hand if they are asked again.
fn give_back(files: &[FileKey]) {
    let maps = procfs::process::Process::myself().and_then(|process| process.maps());
    for map in maps.into_iter().flatten() {
        let (start, end) = map.address;
        // All of the file in one piece: nobody but a reader maps it so.
        let is_readers = |key: &FileKey| {
            map.inode == key.inode
                && map.offset == 0
                && end - start >= key.size
                && !map.perms.contains(MMPermissions::WRITE)
        };
        if !files.iter().any(is_readers) {
            continue;
        }
        // SAFETY: a reader's mapping of a file is never written to, so that its pages can be had again.
        unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
    }
}

impl Table {
    fn look_up(&self, names: &ElfNames<'_>, addresses: &[u64]) -> Result<Vec<Found>, guard::Broken> {
        let mut elf = Elf::new(path(&self.file));
        elf.debug_syms = false;
        let mut all = Vec::with_capacity(addresses.len());
        guard::run(|| names.ask(&self.symbolizer, &Source::Elf(elf), addresses, &mut all))??;
        Ok(all)
    }
}

/// A file that debug information is read from.
enum Readable<'a> {
    InPlace(&'a File),
    Unpacked(File),
}

impl Deref for Readable<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::InPlace(file) => file,
            Self::Unpacked(file) => file,
        }
    }
}

/// A folder where a package has the name by which blazesym finds it: the file's, with `.dwp` behind it.
fn beside(file: &File, package: &File) -> Option<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir().ok()?;
    let place = folder.path().join("file");
    symlink(path(file), &place).and_then(|()| symlink(path(package), folder.path().join("file.dwp"))).ok()?;
    Some((folder, place))
}

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn symbolizer() -> Symbolizer {
    Symbolizer::builder().enable_demangling(false).enable_auto_reload(false).build()
}

/// The function's addresses, if the symbol says so.
fn extent(symbol: &Sym<'_>, address: u64) -> Option<Range<u64>> {
    let size = u64::try_from(symbol.size?).ok()?;
    Some(symbol.addr..symbol.addr.checked_add(size)?).filter(|extent| extent.contains(&address))
}

/// Reads one file.
struct Reader {
    symbolizer: Symbolizer,
    /// Memory when it was new.
    memory_before: u64,
}

impl Reader {
    fn new() -> Self {
        Self { symbolizer: symbolizer(), memory_before: memory_bytes() }
    }

    /// Whether it remembers more than is good: starting again costs a look at each unit of the debug information.
    fn is_large(&self) -> bool {
        memory_bytes().saturating_sub(self.memory_before) > MAX_READER_BYTES
    }

    fn forget(self) {
        drop(self.symbolizer);
        // glibc keeps what is freed, and so it would count for the next file.
        #[cfg(target_env = "gnu")]
        // SAFETY: gives free memory back to the kernel.
        unsafe {
            libc::malloc_trim(0)
        };
    }
}

/// Memory of this process that is no file's.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map(|pages| pages.parse::<u64>().unwrap_or(0));
    let (resident, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(of_files) * guard::page_bytes() as u64
}

fn unknown(reason: Reason) -> UnknownReason {
    match reason {
        Reason::MissingSyms => UnknownReason::NoSymbols,
        Reason::Unmapped => UnknownReason::Unmapped,
        _ => UnknownReason::NotInSymbolTable,
    }
}
