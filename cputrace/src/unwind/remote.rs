//! Unwinds threads from outside while they wait: with the step and the tables of the kernel's side, but in this process.
//!
//! For the threads that are still waiting when a recording or a window ends; those that run are unwound in the kernel.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cputrace_common::sample::{End, MAX_USER_FRAMES};
use cputrace_common::unwind::range::{JIT, NO_INFO, NOT_READY, Range};
use cputrace_common::unwind::step::{Machine, State};
use cputrace_common::unwind::table::Chunk;

use super::build::build;
use super::cache::Cache;
use super::manager::{push_loaded, push_plain};
use super::tables::{FileKey, Loaded};
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

/// Tables of the files that stacks of waiting threads lead through, read when the first one does: a process has many others mapped.
#[derive(Default)]
pub struct RemoteUnwinder {
    chunks: Vec<Chunk>,
    /// `None` is one that cannot be read.
    files: HashMap<MappedId, Option<Known>>,
    processes: HashMap<u32, Option<Process>>,
    /// What the builders of the kernel's side have made.
    cache: OnceCell<Option<Cache>>,
}

/// Device and inode.
type MappedId = ((u32, u32), u64);

/// What is known of a file.
struct Known {
    key: FileKey,
    /// Whether it is still the same file, as of this window.
    is_current: bool,
    facts: ElfFacts,
    /// `None` where there are none.
    tables: Option<Loaded>,
}

/// Memory that tables may take from one window to the next: what a host's waiting threads are in fits many times, a compiler's
/// libraries do not need to stay.
const MOST_CHUNKS: usize = (16 << 20) / size_of::<Chunk>();

/// A process's memory and the ranges of its code, sorted.
struct Process {
    memory: File,
    regions: Vec<Region>,
    ranges: Vec<Range>,
}

impl RemoteUnwinder {
    /// The stack of a thread of `pid` from its registers (by DWARF number) on. After `deadline` no more files are read: what
    /// is in them ends as a table that is not ready.
    pub fn unwind(&mut self, pid: u32, registers: [u64; 16], pc: u64, deadline: Instant) -> RemoteStack {
        if !self.processes.contains_key(&pid) {
            let process = self.load(pid);
            self.processes.insert(pid, process);
        }
        loop {
            let Some(Some(process)) = self.processes.get(&pid) else {
                return RemoteStack { frames: vec![pc], end: End::TableNotReady, guessed: false };
            };
            let (stack, state) = self.walk(process, State::interrupted(registers, pc));
            let address = if state.interrupted != 0 { state.pc } else { state.pc.wrapping_sub(1) };
            if stack.end != End::TableNotReady || Instant::now() >= deadline || !self.learn(pid, address) {
                return stack;
            }
        }
    }

    /// As far as what is known of the process's files leads, and where that is.
    fn walk(&self, process: &Process, mut state: State) -> (RemoteStack, State) {
        let mut machine = Waiting { process, chunks: &self.chunks };
        let mut frames = Vec::new();
        let mut end = End::Truncated;
        while frames.len() < MAX_USER_FRAMES {
            if state.searching == 0 {
                frames.push(state.pc);
            }
            if let Some(last) = state.step(&mut machine) {
                end = last;
                break;
            }
        }
        (RemoteStack { frames, end, guessed: state.guessed > 0 }, state)
    }

    /// A window ends: processes may be others by the next one, and what they have mapped, too.
    pub fn end_window(&mut self) {
        self.processes.clear();
        self.files.retain(|_, known| known.is_some());
        self.files.values_mut().flatten().for_each(|known| known.is_current = false);
        if self.chunks.len() > MOST_CHUNKS {
            // All at once: which chunks are whose is not worth its account.
            (self.chunks, self.files) = (Vec::new(), HashMap::new());
        }
    }

    fn load(&self, pid: u32) -> Option<Process> {
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        let regions = mappings::read_maps(pid)?;
        let ranges = self.ranges(&regions);
        Some(Process { memory, regions, ranges })
    }

    /// Ranges of regions by what is known of their files; a file that was not read yet is not ready.
    fn ranges(&self, regions: &[Region]) -> Vec<Range> {
        let mut ranges = Vec::new();
        for region in regions {
            match (mappings::kind(&region.file), self.files.get(&id(region))) {
                (MappingKind::File, Some(Some(Known { facts, tables: Some(loaded), is_current: true, .. }))) => {
                    push_loaded(&mut ranges, region, region.elf_start(facts), loaded);
                }
                (MappingKind::File, Some(Some(Known { is_current: true, .. }))) => {
                    push_plain(&mut ranges, region, NO_INFO);
                }
                (MappingKind::File, Some(None)) => {}
                (MappingKind::File, _) => push_plain(&mut ranges, region, NOT_READY),
                (MappingKind::Anonymous, _) => push_plain(&mut ranges, region, JIT),
                _ => {}
            }
        }
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// Reads the file that is mapped around an address; false if that is no news.
    fn learn(&mut self, pid: u32, address: u64) -> bool {
        let Some(Some(process)) = self.processes.get(&pid) else { return false };
        let regions = &process.regions;
        let Some(region) = regions.iter().find(|region| (region.start..region.end).contains(&address)).cloned() else {
            return false;
        };
        let is_news = match self.files.get(&id(&region)) {
            Some(Some(known)) => !known.is_current,
            Some(None) => false,
            None => true,
        };
        if mappings::kind(&region.file) != MappingKind::File || !is_news {
            return false;
        }
        let known = self.read(&region, pid);
        self.files.insert(id(&region), known);
        let Some(Some(mut process)) = self.processes.remove(&pid) else { return false };
        process.ranges = self.ranges(&process.regions);
        self.processes.insert(pid, Some(process));
        true
    }

    fn read(&mut self, region: &Region, pid: u32) -> Option<Known> {
        let file = mappings::open_mapped(&region.file.path, region.file.inode, pid, region.start..region.end)?;
        let key = FileKey::of(&file).ok()?;
        if let Some(known) = self.files.remove(&id(region)).flatten()
            && known.key == key
        {
            return Some(Known { is_current: true, ..known });
        }
        let facts = ElfFacts::read(&file).ok()?;
        Some(Known { key, is_current: true, facts, tables: self.tables(&file, key) })
    }

    fn tables(&mut self, file: &File, key: FileKey) -> Option<Loaded> {
        let cache = self.cache.get_or_init(Cache::of_system).as_ref();
        let cached = cache.and_then(|cache| cache.load(key));
        let built = cached.map_or_else(|| build(file), Ok).ok()?.tables?;
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

fn id(region: &Region) -> MappedId {
    (region.file.device, region.file.inode)
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
