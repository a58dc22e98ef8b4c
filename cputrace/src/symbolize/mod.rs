//! Names, inlined functions and source lines of locations, through blazesym: the only module that knows it.
//!
//! Each location is asked for once, at a window's end. Files are sorted through in batches and forgotten one by one,
//! which keeps memory low. A name that is not to be had is data with a reason, not an error.
//! - [`perf_map`]: names that a JIT compiler keeps.
//! - [`demangle`]: names as a user reads them.

mod demangle;
mod perf_map;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use blazesym::MaybeDefault;
use blazesym::symbolize::source::{Elf, Kernel, Source};
use blazesym::symbolize::{CodeInfo, Input, Reason, Sym, Symbolized, Symbolizer};

use crate::model::{Function, Line, LocationId, MappingId, Profile, UnknownReason};

/// Addresses looked up at once: larger batches need more memory and are no faster.
const BATCH: usize = 100;

/// Where the code of a mapping can be read.
#[derive(Debug)]
pub enum Code {
    /// In an open ELF file; deleted and replaced files, and those of containers, are read all the same.
    Elf {
        /// The file.
        file: Arc<File>,
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

/// Looks up every location that was not looked up before. `code` says where a mapping's code is; when `stopped`
/// turns true the rest stays without names.
pub fn symbolize(profile: &mut Profile, code: &dyn Fn(MappingId) -> Code, stopped: &dyn Fn() -> bool) {
    let mut wanted: BTreeMap<MappingId, Vec<(u64, LocationId)>> = BTreeMap::new();
    for id in profile.location_ids() {
        let location = &profile.locations()[id.index()];
        if location.unknown == Some(UnknownReason::NotSymbolized) {
            wanted.entry(location.mapping).or_default().push((location.address.0, id));
        }
    }
    for (mapping, mut locations) in wanted {
        locations.sort_unstable();
        if stopped() {
            return;
        }
        let found = match code(mapping) {
            Code::Elf { file } => symbolize_elf(profile, &file, &locations, stopped),
            Code::PerfMap { file } => symbolize_jit(profile, &file, &locations),
            Code::Kernel => symbolize_kernel(profile, &locations, stopped),
            Code::Missing(reason) => Err(reason),
        };
        if let Err(reason) = found {
            for (_, id) in locations {
                profile.set_lines(id, Err(reason));
            }
        }
    }
}

fn symbolize_elf(
    profile: &mut Profile,
    file: &File,
    locations: &[(u64, LocationId)],
    stopped: &dyn Fn() -> bool,
) -> Result<(), UnknownReason> {
    let elf = Elf::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    symbolize_source(profile, &Source::Elf(elf), |addresses| Input::VirtOffset(addresses), locations, stopped)
}

fn symbolize_jit(profile: &mut Profile, file: &File, locations: &[(u64, LocationId)]) -> Result<(), UnknownReason> {
    let map = perf_map::PerfMap::read(file).map_err(|_| UnknownReason::NoJitInfo)?;
    for (address, id) in locations {
        let lines = map.name(*address).map(|name| vec![line(profile, name, None)]);
        profile.set_lines(*id, lines.ok_or(UnknownReason::NoJitInfo));
    }
    Ok(())
}

fn symbolize_kernel(
    profile: &mut Profile,
    locations: &[(u64, LocationId)],
    stopped: &dyn Fn() -> bool,
) -> Result<(), UnknownReason> {
    if kallsyms_are_hidden() {
        return Err(UnknownReason::KernelRestricted);
    }
    // A vmlinux with debug information takes hundreds of megabytes; kallsyms has the modules too.
    let kernel = Kernel { vmlinux: MaybeDefault::None, debug_syms: false, ..Kernel::default() };
    symbolize_source(profile, &Source::Kernel(kernel), |addresses| Input::AbsAddr(addresses), locations, stopped)
}

/// `kptr_restrict`: all addresses read as 0.
fn kallsyms_are_hidden() -> bool {
    use std::io::Read;
    let mut start = [0; 16];
    let read = File::open("/proc/kallsyms").and_then(|mut file| file.read_exact(&mut start));
    read.is_err()
        || start == [b'0'; 16] && !std::fs::read_to_string("/proc/kallsyms").is_ok_and(|text| has_address(&text))
}

fn has_address(kallsyms: &str) -> bool {
    kallsyms.lines().rev().take(100).any(|line| line.bytes().take(16).any(|digit| digit != b'0'))
}

fn symbolize_source(
    profile: &mut Profile,
    source: &Source<'_>,
    input: for<'a> fn(&'a [u64]) -> Input<&'a [u64]>,
    locations: &[(u64, LocationId)],
    stopped: &dyn Fn() -> bool,
) -> Result<(), UnknownReason> {
    // One for each file: dropped, it forgets the file.
    let symbolizer = Symbolizer::builder().enable_demangling(false).enable_auto_reload(false).build();
    for batch in locations.chunks(BATCH) {
        if stopped() {
            return Ok(());
        }
        let addresses: Vec<u64> = batch.iter().map(|(address, _)| *address).collect();
        // A hostile file must not end the session, whatever it does to the library.
        let found = catch_unwind(AssertUnwindSafe(|| symbolizer.symbolize(source, input(&addresses))));
        let found = found.map_err(|_| UnknownReason::Damaged)?.map_err(|_| UnknownReason::Damaged)?;
        for ((_, id), symbolized) in batch.iter().zip(found) {
            let lines = match symbolized {
                Symbolized::Sym(symbol) => Ok(lines(profile, &symbol)),
                Symbolized::Unknown(reason) => Err(unknown(reason)),
            };
            profile.set_lines(*id, lines);
        }
    }
    Ok(())
}

fn unknown(reason: Reason) -> UnknownReason {
    match reason {
        Reason::MissingSyms => UnknownReason::NoSymbols,
        Reason::Unmapped => UnknownReason::Unmapped,
        _ => UnknownReason::NotInSymbolTable,
    }
}

/// A symbol and what is inlined in it, innermost first. The line of each function is that of the call in it; blazesym
/// reports them outermost first, each with the line within itself.
fn lines(profile: &mut Profile, symbol: &Sym<'_>) -> Vec<Line> {
    let outermost = (&*symbol.name, symbol.code_info.as_deref());
    let inlined = symbol.inlined.iter().map(|inlined| (&*inlined.name, inlined.code_info.as_ref()));
    let mut lines: Vec<_> =
        std::iter::once(outermost).chain(inlined).map(|(name, info)| line(profile, name, info)).collect();
    lines.reverse();
    lines
}

fn line(profile: &mut Profile, name: &str, info: Option<&CodeInfo<'_>>) -> Line {
    let file = info.map(|info| info.to_path().to_string_lossy().into_owned()).unwrap_or_default();
    let function = Function {
        name: profile.string(&demangle::demangle(name)),
        system_name: profile.string(name),
        file: profile.string(&file),
        start_line: 0,
    };
    Line { function: profile.function(function), line: info.and_then(|info| info.line).unwrap_or(0) }
}
