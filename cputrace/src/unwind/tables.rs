//! Files' tables in the kernel: built by workers when they are first wanted, loaded, and dropped when memory is short.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cputrace_common::config::MAX_CHUNKS;
use cputrace_common::unwind::table::CHUNK_WORDS;
use rustc_hash::FxHashMap;

use super::build::{self, BuildError, Built};
use super::cache::Cache;
use super::slots::Slots;
use super::{Table, UnwindStats};
use crate::ebpf::UnwindMaps;
use crate::process::elf::ElfFacts;

/// Bytes of a chunk in the kernel, about.
const CHUNK_BYTES: u64 = CHUNK_WORDS as u64 * 4;

/// Files that no process maps which are kept with their tables: programs that are started again and again.
const MAX_UNUSED: usize = 64;

/// Files that are named; more are counted only.
const MAX_NOTES: usize = 8;

/// A file as it is: one that was written to since is another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileKey {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified_ns: i64,
}

/// A file in [`FileTables`]; never given to another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FileNumber(u64);

/// What is known of a file's code.
#[derive(Debug)]
pub(super) enum State {
    /// Its tables are being built.
    Building,
    /// Its tables are in the kernel.
    Loaded(Loaded),
    /// It has none.
    Without {
        /// But its functions keep frame pointers.
        frame_pointers: bool,
    },
    /// There was no room, or it was dropped to make some.
    Dropped,
}

/// Tables in the kernel.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The first address of the code, as linked.
    pub(super) base: u64,
    /// First slot and chunks of each table; no chunks: nothing is known there.
    pub(super) tables: Vec<(u32, u32)>,
}

/// A file that processes map.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) state: State,
    /// Where its segments are; `None` for what is no ELF file.
    pub(super) facts: Option<ElfFacts>,
    file: Arc<File>,
    /// Processes that map it.
    pub(super) users: u32,
    /// When it was last wanted, in [`FileTables::clock`].
    used: u64,
    /// Rows of its tables.
    rows: u64,
}

/// A file whose tables are to be built.
struct Job {
    number: FileNumber,
    file: Arc<File>,
}

/// A file whose tables were built, or found in the cache.
struct Finished {
    number: FileNumber,
    result: Result<Arc<Built>, BuildError>,
    /// How long it took to build them; `None` of those found.
    time: Option<Duration>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    closed: bool,
}

/// Work for the builders.
#[derive(Default)]
struct Jobs {
    queue: Mutex<Queue>,
    came: Condvar,
}

/// All files that processes map, and some that they did until lately.
pub(super) struct FileTables {
    keys: FxHashMap<FileKey, FileNumber>,
    files: FxHashMap<FileNumber, Known>,
    next: FileNumber,
    jobs: Arc<Jobs>,
    results: Receiver<Finished>,
    workers: Vec<JoinHandle<()>>,
    slots: Slots,
    /// Bytes of tables that may be in the kernel.
    budget: u64,
    clock: u64,
    notes: Vec<String>,
}

impl FileKey {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let modified_ns = meta.mtime().wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), modified_ns })
    }
}

impl FileTables {
    /// With so many builders, each of which calls `wake` when it is done with a file.
    pub(super) fn new(budget: u64, builders: usize, wake: impl Fn() + Clone + Send + 'static) -> io::Result<Self> {
        let jobs = Arc::new(Jobs::default());
        let (sender, results) = mpsc::channel();
        let cache = Cache::of_system();
        let workers = (0..builders).map(|_| {
            let (jobs, cache, sender, wake) = (jobs.clone(), cache.clone(), sender.clone(), wake.clone());
            let name = "unwind-build".to_owned();
            std::thread::Builder::new().name(name).spawn(move || work(&jobs, cache.as_ref(), &sender, &wake))
        });
        let workers = workers.collect::<io::Result<_>>()?;
        let (keys, files, slots) = (FxHashMap::default(), FxHashMap::default(), Slots::new(MAX_CHUNKS));
        let next = FileNumber(0);
        Ok(Self { keys, files, next, jobs, results, workers, slots, budget, clock: 0, notes: Vec::new() })
    }

    /// The number of a file; a new one is given to the builders.
    pub(super) fn number(&mut self, key: FileKey, file: File) -> FileNumber {
        let next = self.next;
        let number = *self.keys.entry(key).or_insert(next);
        if number == next {
            self.next.0 += 1;
            let facts = ElfFacts::read(&file).ok();
            // What is no ELF file has no code that could be unwound by a table.
            let state = if facts.is_some() { State::Building } else { State::Without { frame_pointers: false } };
            self.insert(number, state, facts, file);
        }
        number
    }

    fn insert(&mut self, number: FileNumber, state: State, facts: Option<ElfFacts>, file: File) {
        let file = Arc::new(file);
        if matches!(state, State::Building) {
            self.jobs.push(number, file.clone());
        }
        self.files.insert(number, Known { state, facts, file, users: 0, used: self.clock, rows: 0 });
    }

    /// `None` if it was forgotten, which those that processes map are not.
    pub(super) fn get(&self, number: FileNumber) -> Option<&Known> {
        self.files.get(&number)
    }

    /// One more process maps a file, or one less.
    pub(super) fn count_user(&mut self, number: FileNumber, more: bool) {
        if let Some(known) = self.files.get_mut(&number) {
            known.users = if more { known.users + 1 } else { known.users.saturating_sub(1) };
        }
    }

    /// Closes files that no process maps, but for the latest.
    pub(super) fn forget_unused(&mut self, stats: &mut UnwindStats) {
        let is_unused = |known: &Known| known.users == 0 && !matches!(known.state, State::Building);
        let mut unused: Vec<_> = self
            .files
            .iter()
            .filter(|(_, known)| is_unused(known))
            .map(|(&number, known)| (known.used, number))
            .collect();
        unused.sort_unstable_by_key(|&(used, number)| (used, number.0));
        let surplus = unused.len().saturating_sub(MAX_UNUSED);
        for (_, number) in unused.drain(..surplus) {
            self.drop_tables(number, stats);
            self.files.remove(&number);
        }
        if surplus > 0 {
            let files = &self.files;
            self.keys.retain(|_, number| files.contains_key(number));
        }
    }

    /// A sample hit the file: it is to stay, to be built before those that none has hit, and to be built again if it was
    /// dropped.
    pub(super) fn want(&mut self, number: FileNumber) {
        self.clock += 1;
        let Some(known) = self.files.get_mut(&number) else { return };
        known.used = self.clock;
        match known.state {
            State::Building => self.jobs.hurry(number),
            State::Dropped => {
                known.state = State::Building;
                self.jobs.push(number, known.file.clone());
            }
            State::Loaded(_) | State::Without { .. } => {}
        }
    }

    /// Loads what the builders have finished; gives the files whose state changed.
    pub(super) fn load_finished(&mut self, maps: &mut UnwindMaps, stats: &mut UnwindStats) -> Vec<FileNumber> {
        let mut changed = Vec::new();
        while let Ok(Finished { number, result, time }) = self.results.try_recv() {
            stats.build_time += time.unwrap_or_default();
            changed.push(number);
            if !self.files.contains_key(&number) {
                continue;
            }
            let built = match result {
                Ok(built) => built,
                Err(error) => {
                    self.note(number, &format!("has no unwind table: {error}"));
                    stats.failed_builds += 1;
                    self.set_state(number, State::Without { frame_pointers: false });
                    continue;
                }
            };
            stats.builds += u64::from(time.is_some());
            stats.bad_entries += built.stats.bad_entries;
            if built.stats.bad_entries > 0 {
                let bad = built.stats.bad_entries;
                self.note(
                    number,
                    &format!("has {bad} entries of unwind information that are damaged: stacks may end there"),
                );
            }
            stats.unknown_rows += built.stats.unknown_rows;
            let Some(tables) = &built.tables else {
                self.set_state(number, State::Without { frame_pointers: built.keeps_frame_pointers });
                continue;
            };
            let needed = tables.bytes() as u64;
            changed.extend(self.make_room(needed, stats));
            let slots = if stats.table_bytes + needed <= self.budget { self.load(&tables.tables, maps) } else { None };
            let Some(known) = self.files.get_mut(&number) else { continue };
            known.state = match slots {
                Some(slots) => {
                    known.rows = built.stats.merged_rows;
                    stats.tables += 1;
                    stats.rows += known.rows;
                    stats.table_bytes += needed;
                    State::Loaded(Loaded { base: tables.base, tables: slots })
                }
                None => {
                    stats.refused += 1;
                    State::Dropped
                }
            };
        }
        changed
    }

    /// What is wrong with files and processes, in sentences.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a sentence, once.
    pub(super) fn say(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn note(&mut self, number: FileNumber, what: &str) {
        if let Some(known) = self.files.get(&number) {
            let link = format!("/proc/self/fd/{}", known.file.as_raw_fd());
            let path = std::fs::read_link(link).unwrap_or_default();
            self.say(format!("{} {what}", path.display()));
        }
    }

    fn set_state(&mut self, number: FileNumber, state: State) {
        if let Some(known) = self.files.get_mut(&number) {
            known.state = state;
        }
    }

    fn load(&mut self, tables: &[Table], maps: &mut UnwindMaps) -> Option<Vec<(u32, u32)>> {
        let mut loaded = Vec::with_capacity(tables.len());
        for table in tables {
            let chunks = table.chunks();
            let count = chunks.len() as u32;
            let first = if count == 0 { Some(0) } else { self.slots.take(count) };
            if let Some(first) = first {
                loaded.push((first, count));
                match (first..).zip(chunks).try_for_each(|(slot, chunk)| maps.set_chunk(slot, chunk)) {
                    Ok(()) => continue,
                    Err(error) => self.say(format!("unwind tables cannot be put into the kernel: {error}")),
                }
            }
            self.unload(&loaded);
            return None;
        }
        Some(loaded)
    }

    fn unload(&mut self, tables: &[(u32, u32)]) {
        for &(first, count) in tables.iter().filter(|(_, count)| *count > 0) {
            self.slots.give_back(first, count);
        }
    }

    /// Drops tables until there is room for so many bytes: first those that no process maps, then those that were not
    /// wanted for the longest time.
    fn make_room(&mut self, needed: u64, stats: &mut UnwindStats) -> Vec<FileNumber> {
        let mut dropped = Vec::new();
        while stats.table_bytes + needed > self.budget && needed <= self.budget {
            let loaded = self.files.iter().filter(|(_, known)| matches!(known.state, State::Loaded(_)));
            let Some(number) = loaded.min_by_key(|(_, known)| (known.users > 0, known.used)).map(|(&number, _)| number)
            else {
                break;
            };
            self.drop_tables(number, stats);
            stats.evictions += 1;
            dropped.push(number);
        }
        dropped
    }

    /// Takes a file's tables out of the kernel.
    fn drop_tables(&mut self, number: FileNumber, stats: &mut UnwindStats) {
        let Some(known) = self.files.get_mut(&number) else { return };
        if !matches!(known.state, State::Loaded(_)) {
            return;
        }
        if let State::Loaded(loaded) = std::mem::replace(&mut known.state, State::Dropped) {
            stats.rows -= known.rows;
            stats.table_bytes -= loaded.tables.iter().map(|&(_, count)| u64::from(count) * CHUNK_BYTES).sum::<u64>();
            stats.tables -= 1;
            self.unload(&loaded.tables);
        }
    }
}

impl Drop for FileTables {
    fn drop(&mut self) {
        self.jobs.close();
        for worker in self.workers.drain(..) {
            // One that panicked has nothing to add.
            let _ = worker.join();
        }
    }
}

impl Jobs {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn push(&self, number: FileNumber, file: Arc<File>) {
        self.lock().waiting.push_back(Job { number, file });
        self.came.notify_one();
    }

    /// A job that waits is the next one.
    fn hurry(&self, number: FileNumber) {
        let waiting = &mut self.lock().waiting;
        let job = waiting.iter().position(|job| job.number == number).and_then(|at| waiting.remove(at));
        job.into_iter().for_each(|job| waiting.push_front(job));
    }

    fn close(&self) {
        self.lock().closed = true;
        self.came.notify_all();
    }

    /// The next one; `None` when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.waiting.pop_front() {
                return Some(job);
            }
            queue = self.came.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

fn work(jobs: &Jobs, cache: Option<&Cache>, sender: &Sender<Finished>, wake: &impl Fn()) {
    while let Some(Job { number, file }) = jobs.next() {
        let cache = cache.and_then(|cache| Some((cache, FileKey::of(&file).ok()?)));
        let found = cache.and_then(|(cache, key)| cache.load(key)).map(Arc::new);
        let started = Instant::now();
        let is_found = found.is_some();
        let result = found.map_or_else(|| build::build(&file).map(Arc::new), Ok);
        let built = result.as_ref().ok().filter(|_| !is_found).cloned();
        let time = (!is_found).then(|| started.elapsed());
        if sender.send(Finished { number, result, time }).is_err() {
            break;
        }
        wake();
        // Others wait for the tables, nobody for this.
        if let (Some((cache, key)), Some(built)) = (cache, built) {
            cache.store(key, &built);
        }
    }
}
