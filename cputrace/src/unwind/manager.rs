//! Keeps the kernel side supplied: which ranges a process has, and the tables of their files.
//!
//! A thread of its own, off the path of the samples. It waits for the kernel side's questions, which come as soon as a
//! stack ends for want of an answer, and for what is told to [`Unwinder`]; so nothing depends on how often samples are
//! drained.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cputrace_common::config::MAX_PROCESSES;
use cputrace_common::unwind::range::{
    FRAME_POINTERS, JIT, MAX_RANGES, NO_INFO, NO_RANGES, NOT_READY, Question, Range, Ranges, TABLE,
};
use cputrace_common::unwind::table::TABLE_TEXT;
use rustc_hash::{FxHashMap, FxHashSet};

use super::slots::Slots;
use super::tables::{FileKey, FileNumber, FileTables, Known, Loaded, State};
use crate::ebpf::UnwindMaps;
use crate::model::{ElfAddr, MappingKind};
use crate::process::{Region, mappings, vdso};

/// Builders: enough for a program that starts, and no more than the profiled host can miss.
const MAX_BUILDERS: usize = 4;

/// Time between two readings of a process's mappings, as a multiple of what the last one took: at most a twentieth of a
/// CPU for a process that maps all the time, or has very many mappings.
const READ_SHARE: u32 = 20;

/// The same for all processes together, where programs start and end all the time: a tenth of a CPU.
const ALL_READ_SHARE: u32 = 10;

/// But so much may be behind: a second of reading, when a host with very many processes is first looked at.
const READ_AHEAD: Duration = Duration::from_secs(10);

/// A program that has just started maps its libraries in the next moments.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(3), Duration::from_millis(12), Duration::from_millis(60)];

/// How often processes that are gone are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the unwinder has done and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnwindStats {
    /// Processes whose ranges are in the kernel.
    pub processes: u64,
    /// Files whose tables are in the kernel.
    pub tables: u64,
    /// Rows of these tables.
    pub rows: u64,
    /// Kernel memory of these tables, in bytes.
    pub table_bytes: u64,
    /// Files whose tables were built.
    pub builds: u64,
    /// Time that this took, on all builders.
    pub build_time: Duration,
    /// Files that could not be read or understood.
    pub failed_builds: u64,
    /// Entries of `.eh_frame` that could not be understood.
    pub bad_entries: u64,
    /// Rows that no rule can express.
    pub unknown_rows: u64,
    /// Tables that were dropped to make room.
    pub evictions: u64,
    /// Tables that were not loaded for want of room.
    pub refused: u64,
    /// Questions of the kernel side.
    pub questions: u64,
    /// Readings of a process's mappings.
    pub readings: u64,
    /// Questions for new processes that were put off, for there were very many: the next sample asks again.
    pub newcomers_put_off: u64,
    /// Questions that were put off, because the process's mappings had just been read.
    pub put_off: u64,
    /// Ranges that a process has beyond what the kernel side can hold.
    pub ranges_over: u64,
    /// Processes beyond what the kernel side can hold.
    pub processes_over: u64,
}

/// The manager's thread, and what is told to it.
pub struct Unwinder {
    sender: Sender<Message>,
    bell: Arc<Bell>,
    published: Arc<Mutex<Published>>,
    thread: Option<JoinHandle<()>>,
}

/// What others may see of the manager.
#[derive(Debug, Default)]
struct Published {
    stats: UnwindStats,
    notes: Vec<String>,
}

enum Message {
    /// A process will be sampled; the answer comes when its tables are there.
    Prepare(u32, Sender<()>),
    Stop,
}

impl Unwinder {
    /// Starts it. `memory_bytes`: kernel memory that tables may take.
    pub fn start(maps: UnwindMaps, memory_bytes: u64) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let bell = Arc::new(Bell::new()?);
        let published = Arc::new(Mutex::new(Published::default()));
        let builders = std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, MAX_BUILDERS));
        let wake = bell.clone();
        let files = FileTables::new(memory_bytes, builders, move || wake.ring())?;
        let manager = Manager {
            maps,
            files,
            vdso: None,
            processes: FxHashMap::default(),
            slots: Slots::new(MAX_PROCESSES),
            looks: BTreeMap::new(),
            prepared: Vec::new(),
            read_until: Instant::now(),
            stats: UnwindStats::default(),
            published: published.clone(),
        };
        let (wake, name) = (bell.clone(), "unwind".to_owned());
        let thread = std::thread::Builder::new().name(name).spawn(move || manager.run(&receiver, &wake))?;
        Ok(Self { sender, bell, published, thread: Some(thread) })
    }

    /// Gets ready for processes, and waits until their tables are there, or `timeout` is over.
    pub fn prepare(&self, pids: &[u32], timeout: Duration) {
        let (done, ready) = mpsc::channel();
        for &pid in pids {
            if self.sender.send(Message::Prepare(pid, done.clone())).is_err() {
                return;
            }
        }
        drop(done);
        self.bell.ring();
        let until = Instant::now() + timeout;
        for _ in pids {
            if ready.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                return;
            }
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> UnwindStats {
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stats
    }

    /// What is wrong with files, in sentences.
    pub fn notes(&self) -> Vec<String> {
        self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner).notes.clone()
    }
}

impl Drop for Unwinder {
    fn drop(&mut self) {
        // If it is gone already there is nobody to stop.
        let _ = self.sender.send(Message::Stop);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Wakes the manager: an `eventfd`.
struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Self> {
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn ring(&self) {
        // SAFETY: the eight bytes of a number. Only a counter that is full could refuse it: the bell rings already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const ONE).cast(), 8) };
    }

    fn silence(&self) {
        let mut count = 0_u64;
        // SAFETY: room for the eight bytes of a number.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

static ONE: u64 = 1;

/// A process in the kernel's maps.
struct Process {
    /// Where its ranges are; `None` before they were published.
    slot: Option<u32>,
    regions: Vec<(Region, Code)>,
    /// When its mappings may be read again.
    next_reading: Instant,
}

/// What is in a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Code {
    File(FileNumber),
    Jit,
    Unreadable,
}

struct Manager {
    maps: UnwindMaps,
    files: FileTables,
    vdso: Option<Code>,
    processes: FxHashMap<u32, Process>,
    slots: Slots,
    /// Processes to look at again, by when.
    looks: BTreeMap<(Instant, u32), ()>,
    /// Who waits for the tables of a process.
    prepared: Vec<(u32, Sender<()>)>,
    /// When the readings so far are made up for.
    read_until: Instant,
    stats: UnwindStats,
    published: Arc<Mutex<Published>>,
}

impl Manager {
    fn run(mut self, messages: &Receiver<Message>, bell: &Bell) {
        let mut sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            let now = Instant::now();
            let next = self.looks.keys().next().map_or(sweep, |&(at, _)| at.min(sweep));
            self.wait(bell, next.saturating_duration_since(now));
            bell.silence();
            let mut changed = FxHashSet::default();
            for message in messages.try_iter() {
                match message {
                    Message::Stop => return,
                    Message::Prepare(pid, done) => {
                        changed.extend(self.read(pid).then_some(pid));
                        self.prepared.push((pid, done));
                    }
                }
            }
            while let Some(question) = self.maps.question() {
                self.stats.questions += 1;
                changed.extend(self.answer(&question).then_some(question.tgid));
            }
            let now = Instant::now();
            while let Some((&(at, pid), ())) = self.looks.first_key_value()
                && at <= now
            {
                self.looks.remove(&(at, pid));
                changed.extend(self.read(pid).then_some(pid));
            }
            let files: FxHashSet<_> = self.files.load_finished(&mut self.maps, &mut self.stats).into_iter().collect();
            if !files.is_empty() {
                let uses = |process: &Process| {
                    process.regions.iter().any(|(_, code)| matches!(code, Code::File(file) if files.contains(file)))
                };
                changed.extend(self.processes.iter().filter(|(_, process)| uses(process)).map(|(&pid, _)| pid));
            }
            for pid in changed {
                self.publish(pid);
            }
            self.answer_prepared();
            if now >= sweep {
                self.sweep();
                self.files.forget_unused(&mut self.stats);
                sweep = now + SWEEP_INTERVAL;
            }
            self.stats.processes = self.processes.len() as u64;
            let mut published = self.published.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            published.stats = self.stats;
            if published.notes.len() < self.files.notes().len() {
                published.notes = self.files.notes().to_vec();
            }
            drop(published);
        }
    }

    fn wait(&self, bell: &Bell, timeout: Duration) {
        let poll = |fd: &dyn AsRawFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut fds = [poll(&self.maps.questions_fd()), poll(&bell.0)];
        let timeout_ms = timeout.as_micros().div_ceil(1000).min(1000) as libc::c_int;
        // SAFETY: the array of so many elements. Its error could only be a signal: then the loop comes here again.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    }

    /// The kernel side had no ranges, or no table, for an address. Whether there is something to publish.
    fn answer(&mut self, question: &Question) -> bool {
        let &Question { address, tgid: pid, slot } = question;
        let now = Instant::now();
        // The kernel side knows nothing of it: it was born, or it runs another program now, whatever is known of it here.
        let is_new = slot == NO_RANGES;
        let changed = match self.processes.get(&pid).filter(|_| !is_new).map(|process| process.next_reading) {
            None if self.read_until > now + READ_AHEAD => {
                self.stats.newcomers_put_off += 1;
                return false;
            }
            None => {
                self.looks.extend(LOOK_AGAIN.map(|after| ((now + after, pid), ())));
                self.read(pid) || is_new
            }
            Some(next_reading) if now < next_reading => {
                self.stats.put_off += 1;
                self.looks.insert((next_reading, pid), ());
                false
            }
            Some(_) => self.read(pid),
        };
        let regions = self.processes.get(&pid).map_or(&[][..], |process| &process.regions);
        let region = regions.iter().find(|(region, _)| (region.start..region.end).contains(&address));
        if let Some(&(_, Code::File(file))) = region {
            self.files.want(file);
        }
        changed
    }

    /// Reads a process's mappings and sees to their files. Whether they changed.
    fn read(&mut self, pid: u32) -> bool {
        let started = Instant::now();
        self.stats.readings += 1;
        let Some(regions) = mappings::read_maps(pid) else {
            self.forget(pid);
            return false;
        };
        let old = self.processes.remove(&pid);
        let slot = old.as_ref().and_then(|process| process.slot);
        let old = old.map_or_else(Vec::new, |process| process.regions);
        let known: FxHashMap<_, _> = old.iter().map(|(region, code)| (region, *code)).collect();
        let mut regions: Vec<_> = regions
            .into_iter()
            .filter(|region| region.file.path.as_os_str() != "[vsyscall]")
            .map(|region| {
                let code = known.get(&region).copied().unwrap_or_else(|| self.code(pid, &region));
                (region, code)
            })
            .collect();
        regions.sort_by_key(|(region, _)| region.start);
        let changed = regions != old;
        self.count_users(&regions, true);
        self.count_users(&old, false);
        let (now, took) = (Instant::now(), started.elapsed());
        let next_reading = now + took * READ_SHARE;
        self.read_until = self.read_until.max(now) + took * ALL_READ_SHARE;
        self.processes.insert(pid, Process { slot, regions, next_reading });
        changed
    }

    fn code(&mut self, pid: u32, region: &Region) -> Code {
        match mappings::kind(&region.file) {
            MappingKind::Vdso => return self.vdso(),
            MappingKind::Anonymous => return Code::Jit,
            _ => {}
        }
        let path = &region.file.path;
        let file = mappings::open_mapped(path, region.file.inode, pid, region.start..region.end);
        match file.and_then(|file| Some((FileKey::of(&file).ok()?, file))) {
            Some((key, file)) => Code::File(self.files.number(key, file)),
            None => Code::Unreadable,
        }
    }

    /// All 64-bit processes have the same.
    fn vdso(&mut self) -> Code {
        let files = &mut self.files;
        let mut number = || {
            let file = vdso::image().ok()?;
            let number = files.number(FileKey::of(&file).ok()?, file);
            // Never forgotten.
            files.count_user(number, true);
            Some(Code::File(number))
        };
        *self.vdso.get_or_insert_with(|| number().unwrap_or(Code::Unreadable))
    }

    fn count_users(&mut self, regions: &[(Region, Code)], more: bool) {
        let files: FxHashSet<_> = regions
            .iter()
            .filter_map(|(_, code)| if let Code::File(file) = code { Some(*file) } else { None })
            .collect();
        for file in files {
            self.files.count_user(file, more);
        }
    }

    /// Gives the kernel side the ranges of a process.
    fn publish(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let mut ranges = Vec::with_capacity(process.regions.len());
        for (region, code) in &process.regions {
            match code {
                Code::File(file) => match self.files.get(*file) {
                    Some(known) => push_file(&mut ranges, region, known),
                    None => push_plain(&mut ranges, region, NO_INFO),
                },
                Code::Jit => push_plain(&mut ranges, region, JIT),
                Code::Unreadable => push_plain(&mut ranges, region, NO_INFO),
            }
        }
        if let Some(over) = ranges.len().checked_sub(MAX_RANGES).filter(|&over| over > 0) {
            self.stats.ranges_over += over as u64;
            self.files.say(format!(
                "process {pid} has more than {MAX_RANGES} executable mappings: code in the smaller ones is not unwound"
            ));
            ranges.sort_unstable_by_key(|range| std::cmp::Reverse(range.length));
            ranges.truncate(MAX_RANGES);
            ranges.sort_unstable_by_key(|range| range.start);
        }
        let mut value = Box::new(Ranges { count: ranges.len() as u32, ..Ranges::EMPTY });
        value.ranges[..ranges.len()].copy_from_slice(&ranges);
        // At a new place, for a sample may be reading at the old one.
        let Some(slot) = self.slots.take(1) else {
            self.stats.processes_over += 1;
            return;
        };
        let set = self.maps.set_ranges(slot, &value).and_then(|()| self.maps.set_process(pid, slot));
        if set.is_err() {
            self.stats.processes_over += 1;
            self.slots.give_back(slot, 1);
        } else if let Some(old) = self.processes.get_mut(&pid).and_then(|process| process.slot.replace(slot)) {
            self.slots.give_back(old, 1);
        }
    }

    /// Tells those who wait for processes whose files are all built.
    fn answer_prepared(&mut self) {
        let Self { prepared, processes, files, .. } = self;
        let builds = |code: &Code| matches!(code, Code::File(file) if files.get(*file).is_some_and(|known| matches!(known.state, State::Building)));
        prepared.retain(|(pid, done)| {
            let waits = processes.get(pid).is_some_and(|process| process.regions.iter().any(|(_, code)| builds(code)));
            // Nobody may be waiting any more.
            waits || done.send(()).is_err()
        });
        prepared.retain(|(pid, _)| {
            processes.get(pid).is_some_and(|process| process.regions.iter().any(|(_, code)| builds(code)))
        });
    }

    fn sweep(&mut self) {
        // SAFETY: signal 0 only asks whether the process is there.
        let is_gone = |pid: u32| unsafe { libc::kill(pid.cast_signed(), 0) } != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        let gone: Vec<_> = self.processes.keys().copied().filter(|&pid| is_gone(pid)).collect();
        gone.into_iter().for_each(|pid| self.forget(pid));
    }

    fn forget(&mut self, pid: u32) {
        self.maps.remove_process(pid);
        if let Some(process) = self.processes.remove(&pid) {
            self.count_users(&process.regions, false);
            if let Some(slot) = process.slot {
                self.slots.give_back(slot, 1);
            }
        }
    }
}

/// Appends the ranges of a region of a file.
fn push_file(ranges: &mut Vec<Range>, region: &Region, known: &Known) {
    match &known.state {
        State::Loaded(loaded) => {
            let facts = known.facts.as_ref();
            push_loaded(ranges, region, facts.and_then(|facts| region.elf_start(facts)), loaded);
        }
        State::Building | State::Dropped => push_plain(ranges, region, NOT_READY),
        State::Without { frame_pointers: true } => push_plain(ranges, region, FRAME_POINTERS),
        State::Without { frame_pointers: false } => push_plain(ranges, region, NO_INFO),
    }
}

/// Appends the ranges of a region that begins at an address of a file with tables: several where these are several.
pub(super) fn push_loaded(ranges: &mut Vec<Range>, region: &Region, elf_address: Option<ElfAddr>, loaded: &Loaded) {
    // A region that is of no segment, or before the code: mapped by hand.
    let Some(offset) = elf_address.and_then(|address| address.0.checked_sub(loaded.base)) else {
        return push_plain(ranges, region, NO_INFO);
    };
    let (mut start, mut offset) = (region.start, offset);
    while start < region.end {
        let length = (region.end - start).min(TABLE_TEXT - offset % TABLE_TEXT);
        let table = loaded.tables.get((offset / TABLE_TEXT) as usize).filter(|(_, chunks)| *chunks > 0);
        ranges.push(Range {
            start,
            length: length as u32,
            offset: (offset % TABLE_TEXT) as u32,
            slot: table.map_or(0, |(slot, _)| *slot),
            kind: if table.is_some() { TABLE } else { NO_INFO },
        });
        start += length;
        offset += length;
    }
}

/// Appends a region without a table; one right behind another like it makes one range with it.
pub(super) fn push_plain(ranges: &mut Vec<Range>, region: &Region, kind: u32) {
    let bytes = region.end - region.start;
    if let Some(last) = ranges.last_mut()
        && last.kind == kind
        && kind == JIT
        && let Ok(length) = u32::try_from(region.end - last.start)
    {
        last.length = length;
        return;
    }
    // Longer ones, which only code compiled at run time could be, are cut.
    let length = u32::try_from(bytes).unwrap_or(u32::MAX);
    ranges.push(Range { start: region.start, length, offset: 0, slot: 0, kind });
}
