//! Unwinds threads from outside while they wait: with the step and the tables of the kernel's side, but in this process.
//!
//! For the threads that are still waiting when a recording or a window ends; those that run are unwound in the kernel.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cputrace_common::sample::{End, MAX_USER_FRAMES};
use cputrace_common::unwind::range::{JIT, NO_INFO, Range};
use cputrace_common::unwind::step::{Machine, State};
use cputrace_common::unwind::table::Chunk;

use super::build::build;
use super::manager::{push_loaded, push_plain};
use super::tables::Loaded;
use crate::model::MappingKind;
use crate::process::elf::ElfFacts;
use crate::process::{Region, mappings};

/// A stack from outside: addresses, leaf first, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteStack {
    /// The addresses.
    pub frames: Vec<u64>,
    /// How it ended.
    pub end: End,
    /// Whether any of them was found where nothing says how.
    pub guessed: bool,
}

/// Tables of the files that waiting threads are in, built when they are needed.
#[derive(Default)]
pub struct RemoteUnwinder {
    chunks: Vec<Chunk>,
    files: HashMap<((u32, u32), u64), Known>,
    processes: HashMap<u32, Option<Process>>,
}

/// What is known of a file.
struct Known {
    facts: ElfFacts,
    /// `None` where there are none, or there was no time.
    tables: Option<Loaded>,
}

/// Memory that tables may take from one window to the next: what a host's waiting threads are in fits many times, a compiler's
/// libraries do not need to stay.
const MOST_CHUNKS: usize = (16 << 20) / size_of::<Chunk>();

/// A process's memory and the ranges of its code, sorted.
struct Process {
    memory: File,
    ranges: Vec<Range>,
}

impl RemoteUnwinder {
    /// The stack of a thread of `pid` from its registers (by DWARF number) on. After `deadline` no more files are read: what
    /// is in them ends as a table that is not ready.
    pub fn unwind(&mut self, pid: u32, registers: [u64; 16], pc: u64, deadline: Instant) -> RemoteStack {
        if !self.processes.contains_key(&pid) {
            let process = self.load(pid, deadline);
            self.processes.insert(pid, process);
        }
        let Some(Some(process)) = self.processes.get(&pid) else {
            return RemoteStack { frames: vec![pc], end: End::TableNotReady, guessed: false };
        };
        let mut machine = Waiting { process, chunks: &self.chunks };
        let mut state = State::interrupted(registers, pc);
        let mut frames = Vec::new();
        while frames.len() < MAX_USER_FRAMES {
            if state.searching == 0 {
                frames.push(state.pc);
            }
            if let Some(end) = state.step(&mut machine) {
                return RemoteStack { frames, end, guessed: state.guessed > 0 };
            }
        }
        RemoteStack { frames, end: End::Truncated, guessed: state.guessed > 0 }
    }

    /// A window ends: processes may be others by the next one, and what they have mapped, too.
    pub fn end_window(&mut self) {
        self.processes.clear();
        // Those that there was no time for are tried again.
        self.files.retain(|_, known| known.tables.is_some());
        if self.chunks.len() > MOST_CHUNKS {
            // All at once: which chunks are whose is not worth its account.
            (self.chunks, self.files) = (Vec::new(), HashMap::new());
        }
    }

    fn load(&mut self, pid: u32, deadline: Instant) -> Option<Process> {
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        let mut ranges = Vec::new();
        for region in mappings::read_maps(pid)? {
            match mappings::kind(&region.file) {
                MappingKind::File => {
                    let Some(Known { facts, tables }) = self.file(&region, pid, deadline) else { continue };
                    match tables {
                        Some(loaded) => push_loaded(&mut ranges, &region, region.elf_start(facts), loaded),
                        None => push_plain(&mut ranges, &region, NO_INFO),
                    }
                }
                MappingKind::Anonymous => push_plain(&mut ranges, &region, JIT),
                _ => {}
            }
        }
        ranges.sort_by_key(|range| range.start);
        Some(Process { memory, ranges })
    }

    /// What a mapped file is; read once.
    fn file(&mut self, region: &Region, pid: u32, deadline: Instant) -> Option<&Known> {
        let id = (region.file.device, region.file.inode);
        if !self.files.contains_key(&id) {
            let addresses = region.start..region.end;
            let file = mappings::open_mapped(&region.file.path, region.file.inode, pid, addresses)?;
            let facts = ElfFacts::read(&file).ok()?;
            let tables = if Instant::now() < deadline { self.tables(&file) } else { None };
            self.files.insert(id, Known { facts, tables });
        }
        self.files.get(&id)
    }

    fn tables(&mut self, file: &File) -> Option<Loaded> {
        let built = build(file).ok()?.tables?;
        let chunks = &mut self.chunks;
        let mut place = |chunks_of: &[Chunk]| {
            let first = chunks.len() as u32;
            chunks.extend_from_slice(chunks_of);
            (first, chunks_of.len() as u32)
        };
        let tables = built.tables.iter().map(|table| place(table.chunks())).collect();
        Some(Loaded { base: built.base, tables })
    }
}

struct Waiting<'a> {
    process: &'a Process,
    chunks: &'a [Chunk],
}

impl Machine for Waiting<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.process.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    fn code(&mut self, address: u64) -> Option<u64> {
        self.word(address)
    }

    fn find_range(&mut self, address: u64, range: &mut Range) -> bool {
        let ranges = &self.process.ranges;
        let after = ranges.partition_point(|range| range.start <= address);
        let Some(found) = ranges[..after].last() else { return false };
        *range = *found;
        range.contains(address)
    }

    fn chunk(&self, slot: u32) -> Option<&Chunk> {
        self.chunks.get(slot as usize)
    }
}
