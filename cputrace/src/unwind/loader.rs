//! Keeps the kernel's side in unwind tables: builds a file's when one of its mappings is first seen, on threads of
//! its own, and follows the processes' mappings.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use cputrace_common::unwind::table::{MAX_RANGES, MAX_TABLES, Range, Ranges, Table, table_flags};

use super::build::{BuildError, BuiltTable, build};
use crate::ebpf::{EbpfError, Object};
use crate::process::{Mappings, ObjectId};

/// A file of which nothing is known, and nothing will be.
const NO_TABLE: Table = Table { text_start: 0, first_block: 0, blocks: 0, flags: table_flags::READY, first_rule: 0 };

/// Threads that build tables.
const BUILDERS: usize = 2;

/// What was built and loaded so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoaderStats {
    /// Tables that the kernel has.
    pub tables: u32,
    /// Their rows.
    pub rows: u64,
    /// Files of which no table could be made.
    pub failed: u32,
    /// Files whose table did not fit into `--unwind-memory`.
    pub over_budget: u32,
    /// Functions whose call frame information makes no sense.
    pub damaged_functions: u64,
    /// Mappings that found no room: a process has more than 256, or there are more than 4096 files.
    pub mappings_left_out: u64,
    /// Time spent building, on all threads.
    pub build_time: Duration,
}

struct Built {
    table: u32,
    outcome: Result<BuiltTable, BuildError>,
    time: Duration,
}

/// Keeps the kernel's side in tables.
pub struct Loader {
    tables: HashMap<ObjectId, u32>,
    /// Processes whose mappings the kernel has.
    processes: HashSet<u32>,
    jobs: Sender<(u32, Arc<File>)>,
    built: Receiver<Built>,
    pending: u32,
    stats: LoaderStats,
}

impl Default for Loader {
    fn default() -> Self {
        Self::new()
    }
}

impl Loader {
    /// Nothing loaded yet.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<(u32, Arc<File>)>();
        let (done, built) = mpsc::channel();
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for _ in 0..BUILDERS {
            let (queue, done) = (queue.clone(), done.clone());
            std::thread::spawn(move || {
                loop {
                    // Poisoned only by a panic of `recv`, which has none.
                    let job = queue.lock().map(|queue| queue.recv());
                    let Ok(Ok((table, file))) = job else { return };
                    let start = Instant::now();
                    let outcome = build(&file);
                    if done.send(Built { table, outcome, time: start.elapsed() }).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            tables: HashMap::new(),
            processes: HashSet::new(),
            jobs,
            built,
            pending: 0,
            stats: LoaderStats::default(),
        }
    }

    /// What was built and loaded so far.
    pub fn stats(&self) -> LoaderStats {
        self.stats
    }

    /// Whether the kernel has this process's mappings.
    pub fn knows(&self, pid: u32) -> bool {
        self.processes.contains(&pid)
    }

    /// Gives the kernel a process's mappings as they are now; tables of files that are new begin to be built.
    pub fn update(&mut self, pid: u32, mappings: &mut Mappings, object: &mut Object) -> Result<(), EbpfError> {
        let Some(executables) = mappings.executables(pid) else {
            self.processes.remove(&pid);
            return Ok(());
        };
        let unused = Range { start: u64::MAX, ..Range::default() };
        let mut ranges = Box::new(Ranges { count: 0, reserved: 0, ranges: [unused; MAX_RANGES] });
        for executable in executables {
            let count = ranges.count as usize;
            let table = self.table(executable.object, mappings, object)?;
            let Some((range, table)) = ranges.ranges.get_mut(count).zip(table) else {
                self.stats.mappings_left_out += 1;
                continue;
            };
            let (start, end, bias) = (executable.start, executable.end, executable.bias);
            *range = Range { start, end, bias, table, reserved: 0 };
            ranges.count += 1;
        }
        object.set_process(pid, &ranges)?;
        self.processes.insert(pid);
        Ok(())
    }

    /// A process is gone; the kernel's side has forgotten it by itself.
    pub fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }

    /// The number of a file's table; a new one begins to be built.
    fn table(&mut self, id: ObjectId, mappings: &Mappings, object: &mut Object) -> Result<Option<u32>, EbpfError> {
        if let Some(table) = self.tables.get(&id) {
            return Ok(Some(*table));
        }
        let next = self.tables.len() as u32;
        if next >= MAX_TABLES {
            return Ok(None);
        }
        self.tables.insert(id, next);
        if let Some((file, _)) = &mappings.object(id).file
            && self.jobs.send((next, file.clone())).is_ok()
        {
            self.pending += 1;
        } else {
            self.stats.failed += 1;
            object.set_table(next, NO_TABLE)?;
        }
        Ok(Some(next))
    }

    /// Loads the tables that are built by now.
    pub fn load_built(&mut self, object: &mut Object) -> Result<(), EbpfError> {
        while let Ok(built) = self.built.try_recv() {
            self.load(built, object)?;
        }
        Ok(())
    }

    /// Waits until all tables that are being built are loaded, or for at most `timeout`.
    pub fn wait(&mut self, timeout: Duration, object: &mut Object) -> Result<(), EbpfError> {
        let deadline = Instant::now() + timeout;
        while self.pending > 0 {
            let Ok(built) = self.built.recv_timeout(deadline.saturating_duration_since(Instant::now())) else { break };
            self.load(built, object)?;
        }
        Ok(())
    }

    fn load(&mut self, built: Built, object: &mut Object) -> Result<(), EbpfError> {
        let Built { table, outcome, time } = built;
        self.pending -= 1;
        self.stats.build_time += time;
        let Ok(built) = outcome else {
            self.stats.failed += 1;
            return object.set_table(table, NO_TABLE);
        };
        self.stats.damaged_functions += u64::from(built.damaged);
        let start = object.pool().position();
        let (words, placed) = built.place(start);
        if !object.pool().has_room_for(words.len()) {
            self.stats.over_budget += 1;
            return object.set_table(table, NO_TABLE);
        }
        object.pool().write(&words)?;
        self.stats.tables += 1;
        self.stats.rows += built.rows.len() as u64;
        object.set_table(table, placed)?;
        if self.pending == 0 {
            // The builders' memory is not needed for a while.
            drop((words, built));
            // SAFETY: glibc's own; it takes no pointers.
            unsafe { libc::malloc_trim(0) };
        }
        Ok(())
    }
}
