//! Names, inlined functions and source lines of locations.
//!
//! Each location is asked for once, at a window's end, sorted by address. Files are gone through one by one and
//! forgotten, which keeps memory low, but for the order of large symbol tables. A name that is not to be had is data with a reason, not an error: such code goes by
//! the first address of the function that it lies in, where the file's unwind information tells. This module opens no
//! file of a process: it is handed open ones.
//! - [`elf`]: programs and libraries, through blazesym.
//! - [`unpacked`]: what is packed in them.
//! - [`stubs`]: what programs call libraries through.
//! - [`kallsyms`]: the kernel.
//! - [`perf_map`]: names that a JIT compiler keeps.
//! - [`cache`]: what was named before.
//! - [`demangle`]: names as a user reads them.
//! - [`guard`]: what hostile files cannot do.

mod cache;
mod demangle;
mod elf;
mod guard;
mod kallsyms;
mod perf_map;
mod stubs;
mod unpacked;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{ElfAddr, Function, Line, LocationId, MappingId, Profile, UnknownReason};
use crate::unwind::functions::FunctionRanges;
pub use cache::NameCache;
use kallsyms::{BPF, KernelFunction, KernelSymbols};

/// For so long the kernel's list of symbols holds for what can come and go: modules and eBPF programs.
const KERNEL_SYMBOLS_AGE: Duration = Duration::from_secs(60);

/// What is read of a list of symbols at once.
const READ_BYTES: usize = 64 << 10;

/// Where the code of a mapping can be read.
#[derive(Debug)]
pub enum Code {
    /// In an open ELF file; deleted and replaced files, and those of containers, are read all the same.
    Elf {
        /// The file.
        file: Arc<File>,
        /// The file that its debug information is in, if that is another one. The caller knows that the two belong
        /// together.
        debug: Option<File>,
        /// The package with the rest of its debug information (`.dwp`), where that was split off.
        package: Option<File>,
    },
    /// Made by a JIT compiler that keeps this map of it.
    PerfMap {
        /// The map.
        file: File,
    },
    /// In the kernel and its modules.
    Kernel,
    /// Nowhere.
    Missing(UnknownReason),
}

/// How much is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Inlined functions and source lines too, where there is debug information.
    Lines,
    /// Functions by their symbols alone: a fraction of the work, and what was learnt of one address holds for its whole
    /// function.
    Functions,
}

/// Locations whose names hold for more addresses than their own, with these.
pub type Extents = Vec<(LocationId, Range<u64>)>;

/// A function at an address, its own or one that is inlined there, and the line in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct SourceLine {
    /// The function's name as in the symbol table.
    symbol: String,
    /// Source file; empty where it is unknown.
    file: String,
    /// Line in it; 0 where it is unknown.
    line: u32,
}

/// Looks up every location that was not looked up before. `code` says where a mapping's code is; when `stopped`
/// turns true the rest stays without names.
pub fn symbolize(
    profile: &mut Profile,
    code: &dyn Fn(MappingId) -> Code,
    detail: Detail,
    tables: &mut Tables,
    stopped: &dyn Fn() -> bool,
) -> Extents {
    let mut extents = Extents::new();
    let mut unnamed: BTreeMap<MappingId, Vec<(u64, LocationId)>> = BTreeMap::new();
    for id in profile.location_ids() {
        let location = &profile.locations()[id.index()];
        if location.unknown == Some(UnknownReason::NotSymbolized) {
            unnamed.entry(location.mapping).or_default().push((location.address.0, id));
        }
    }
    // Once said counts for all that is left.
    let is_stopped = Cell::new(false);
    let stopped = &|| {
        is_stopped.set(is_stopped.get() || stopped());
        is_stopped.get()
    };
    let wanted = &mut Wanted { detail, tables, stopped, extents: &mut extents };
    for (mapping, mut locations) in unnamed {
        if stopped() {
            break;
        }
        locations.sort_unstable();
        match code(mapping) {
            Code::Elf { file, debug, package } => {
                let files = ElfFiles { file: &file, debug: debug.as_ref(), package: package.as_ref() };
                symbolize_elf(profile, files, locations, wanted);
            }
            Code::PerfMap { file } => symbolize_jit(profile, &file, &locations),
            Code::Kernel => symbolize_kernel(profile, &locations, wanted),
            Code::Missing(reason) => set_all(profile, &locations, reason),
        }
    }
    wanted.tables.files.rest();
    extents
}

/// What is kept from one window to the next: to read it takes longer than all else that a window does.
#[derive(Default)]
pub struct Tables {
    files: elf::SymbolTables,
    ask_kernel: Option<Box<AskKernel>>,
    kernel: Option<(Instant, Result<KernelSymbols, UnknownReason>)>,
}

/// Tells for each address what the kernel's `%pS` prints for it; `None` if it cannot.
pub type AskKernel = dyn FnMut(&[u64]) -> Option<Vec<String>> + Send;

impl Tables {
    /// The kernel is asked for its names in this way; where it does not answer, they are looked up in `/proc/kallsyms`.
    pub fn new(ask_kernel: Option<Box<AskKernel>>) -> Self {
        Self { ask_kernel, ..Self::default() }
    }

    /// The kernel's functions at `locations`.
    fn kernel_functions(
        &mut self,
        locations: &[(u64, LocationId)],
    ) -> Result<Vec<Option<KernelFunction>>, UnknownReason> {
        let addresses = addresses(locations);
        let answers = self.ask_kernel.as_mut().and_then(|ask| ask(&addresses));
        if let Some(answers) = answers.filter(|answers| answers.len() == addresses.len()) {
            let parse = |(answer, address): (&String, _)| KernelFunction::parse(answer, address);
            return Ok(answers.iter().zip(addresses).map(parse).collect());
        }
        let symbols = self.kernel_symbols(locations)?;
        Ok(addresses.into_iter().map(|address| symbols.find(address)).collect())
    }

    /// The kernel's symbols, read anew if they may have changed for one of `locations`.
    fn kernel_symbols(&mut self, locations: &[(u64, LocationId)]) -> Result<&KernelSymbols, UnknownReason> {
        let is_own =
            |symbols: &KernelSymbols, address| symbols.find(address).is_some_and(|found| found.module.is_empty());
        let holds = self.kernel.as_ref().is_some_and(|(read, symbols)| {
            read.elapsed() < KERNEL_SYMBOLS_AGE
                || symbols.as_ref().is_ok_and(|symbols| locations.iter().all(|(address, _)| is_own(symbols, *address)))
        });
        if !holds {
            let file = File::open("/proc/kallsyms").map_err(|_| UnknownReason::KernelRestricted);
            let symbols = file.and_then(|file| KernelSymbols::read(BufReader::with_capacity(READ_BYTES, file)));
            self.kernel = Some((Instant::now(), symbols));
        }
        let (_, symbols) = self.kernel.as_ref().ok_or(UnknownReason::KernelRestricted)?;
        symbols.as_ref().map_err(|reason| *reason)
    }
}

/// What is wanted of files, and what comes of it beside names.
struct Wanted<'a> {
    detail: Detail,
    tables: &'a mut Tables,
    stopped: &'a dyn Fn() -> bool,
    extents: &'a mut Extents,
}

/// See [`Code::Elf`].
struct ElfFiles<'a> {
    file: &'a File,
    debug: Option<&'a File>,
    package: Option<&'a File>,
}

/// The file with debug information first; what it does not name may be among the dynamic symbols of the other.
fn symbolize_elf(
    profile: &mut Profile,
    ElfFiles { file: own_file, debug, package }: ElfFiles<'_>,
    locations: Vec<(u64, LocationId)>,
    wanted: &mut Wanted<'_>,
) {
    let Wanted { detail, stopped, .. } = *wanted;
    let mut unnamed = locations;
    // Of two reasons that of the file with a symbol table says more.
    let mut has_symbols = false;
    for file in debug.into_iter().chain([own_file]) {
        let found = elf::ElfNames::open(file, package, detail)
            .map(|names| names.look_up(&addresses(&unnamed), detail, &mut wanted.tables.files, stopped));
        let found = found.unwrap_or_else(|reason| vec![Err(reason); unnamed.len()]);
        let mut left = Vec::new();
        for ((address, id), place) in unnamed.into_iter().zip(found) {
            match place {
                Ok(place) => {
                    set_lines(profile, id, &place.lines);
                    wanted.extents.push((id, place.extent));
                }
                Err(reason) => {
                    has_symbols |= reason == UnknownReason::NotInSymbolTable;
                    let no_symbols = has_symbols && reason == UnknownReason::NoSymbols;
                    let reason = if no_symbols { UnknownReason::NotInSymbolTable } else { reason };
                    profile.set_lines(id, Err(reason));
                    left.push((address, id));
                }
            }
        }
        unnamed = left;
    }
    if !unnamed.is_empty() && !stopped() {
        name_stubs(profile, own_file, &mut unnamed);
        group_by_function(profile, own_file, &unnamed, wanted.extents);
    }
}

/// Gives linkage stubs their names, and takes them from `unnamed`.
fn name_stubs(profile: &mut Profile, file: &File, unnamed: &mut Vec<(u64, LocationId)>) {
    let mut stubs = stubs::look_up(file, &addresses(unnamed)).into_iter();
    unnamed.retain(|(_, id)| {
        let Some(symbol) = stubs.next().flatten() else { return true };
        let name = format!("{}@plt", readable(&symbol));
        let line = line(profile, &name, &format!("{symbol}@plt"), "", 0);
        profile.set_lines(*id, Ok(vec![line]));
        false
    });
}

/// Gives addresses without a name the function that they lie in, or else their file.
fn group_by_function(profile: &mut Profile, file: &File, unnamed: &[(u64, LocationId)], extents: &mut Extents) {
    let functions = FunctionRanges::read(file);
    for &(address, id) in unnamed {
        let location = &profile.locations()[id.index()];
        let (mapping, Some(reason)) = (location.mapping, location.unknown) else { continue };
        // That unwind information cannot be read is the unwinder's to say.
        let function = functions.as_ref().ok().and_then(|functions| functions.at(address));
        let name = match &function {
            Some(function) => profile.address_name(mapping, ElfAddr(function.start)),
            None => profile.unknown_name(mapping, reason),
        };
        extents.extend(function.map(|function| (id, function)));
        let line = line(profile, &name, "", "", 0);
        profile.set_lines(id, Ok(vec![line]));
        profile.set_unknown(id, reason);
    }
}

fn symbolize_jit(profile: &mut Profile, map: &File, locations: &[(u64, LocationId)]) {
    let map = BufReader::with_capacity(READ_BYTES, map);
    let Ok(names) = perf_map::look_up(map, &addresses(locations)) else {
        return set_all(profile, locations, UnknownReason::NoJitInfo);
    };
    for ((_, id), name) in locations.iter().zip(names) {
        match name {
            Some(symbol) => set_lines(profile, *id, &[SourceLine { symbol, ..SourceLine::default() }]),
            None => profile.set_lines(*id, Err(UnknownReason::NoJitInfo)),
        }
    }
}

fn symbolize_kernel(
    profile: &mut Profile,
    locations: &[(u64, LocationId)],
    Wanted { tables, extents, .. }: &mut Wanted<'_>,
) {
    let functions = match tables.kernel_functions(locations) {
        Ok(functions) => functions,
        Err(reason) => return set_all(profile, locations, reason),
    };
    for ((_, id), function) in locations.iter().zip(functions) {
        let lines = function.ok_or(UnknownReason::NotInSymbolTable).map(|function| {
            let line = line(profile, &function.name(), &function.symbol, "", 0);
            // Another eBPF program can lie there soon.
            if function.module != BPF {
                extents.push((*id, function.extent));
            }
            vec![line]
        });
        profile.set_lines(*id, lines);
    }
}

fn addresses(locations: &[(u64, LocationId)]) -> Vec<u64> {
    locations.iter().map(|(address, _)| *address).collect()
}

fn set_all(profile: &mut Profile, locations: &[(u64, LocationId)], reason: UnknownReason) {
    for (_, id) in locations {
        profile.set_lines(*id, Err(reason));
    }
}

fn set_lines(profile: &mut Profile, id: LocationId, lines: &[SourceLine]) {
    let lines = lines
        .iter()
        .map(|SourceLine { symbol, file, line: number }| line(profile, &readable(symbol), symbol, file, *number));
    let lines = lines.collect();
    profile.set_lines(id, Ok(lines));
}

/// Names can be as hostile as files.
fn readable(symbol: &str) -> Cow<'_, str> {
    guard::run(|| demangle::demangle(symbol)).unwrap_or_else(|guard::Broken| symbol.into())
}

fn line(profile: &mut Profile, name: &str, symbol: &str, file: &str, number: u32) -> Line {
    let function = Function {
        name: profile.string(name),
        system_name: profile.string(symbol),
        file: profile.string(file),
        start_line: 0,
    };
    Line { function: profile.function(function), line: number }
}
