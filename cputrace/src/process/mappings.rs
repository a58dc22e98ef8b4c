//! Which file an address of a process lies in, and where in that file: normalizing, done while the process lives.
//!
//! Fed by [`Change`]s in order of time; a process that was there before is read from `/proc/PID/maps` when it is
//! first asked for. Knows files only as far as an address needs: names are `symbolize`'s.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;

use super::elf::ElfFacts;
use super::jit::PerfMap;
use super::{Change, FileId, Region, target};
use crate::model::{ElfAddr, MappingKind};

type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// How many processes' failed openings of one file are tried again by another.
const OPEN_ATTEMPTS: u32 = 4;

/// Processes whose mappings are kept after their end.
const MAX_ENDED: usize = 256;

/// The path of [`ObjectId::PROCESS_GONE`].
const PROCESS_GONE: &str = "[process gone]";

/// A row of [`Mappings::objects`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ObjectId(usize);

/// Something that code was found in, the same for all processes that map it.
#[derive(Clone, Debug)]
pub struct Object {
    /// What kind of memory it is.
    pub kind: MappingKind,
    /// Path as the process sees it, or a bracketed name.
    pub path: PathBuf,
    /// The open file, and what is known of it, once an address in it was asked for.
    pub file: Option<(Arc<File>, Arc<ElfFacts>)>,
    /// Where the names of code without a file may be, once an address in it was asked for.
    pub perf_map: Option<Arc<PerfMap>>,
    /// A process that maps it.
    pub pid: u32,
    /// The file's inode; 0 without a file.
    inode: u64,
    attempts: u32,
    /// What the open file was like when it was opened.
    version: Option<Version>,
}

/// Tells a file from what it was before somebody wrote to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version {
    bytes: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        Some(Self { bytes: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

impl Object {
    fn new(kind: MappingKind, path: PathBuf, inode: u64, pid: u32) -> Self {
        Self { kind, path, file: None, perf_map: None, pid, inode, attempts: 0, version: None }
    }

    /// Whether it stands for processes that ended before their mappings were read.
    pub fn is_process_gone(&self) -> bool {
        self.kind == MappingKind::Unmapped && self.path == Path::new(PROCESS_GONE)
    }

    /// Whether the open file was written to since it was opened: what it has now belongs to other addresses.
    pub fn is_overwritten(&self) -> bool {
        self.file.as_ref().is_some_and(|(file, _)| Version::of(file) != self.version)
    }
}

#[derive(Clone, Debug)]
struct Mapped {
    end: u64,
    file_offset: u64,
    object: ObjectId,
}

#[derive(Clone, Debug, Default)]
struct AddressSpace {
    /// By first address; without overlaps. Shared with the parent until one of them changes it.
    regions: Rc<BTreeMap<u64, Mapped>>,
}

/// The mappings of all processes that matter, and the files behind them.
#[derive(Debug)]
pub struct Mappings {
    spaces: FxMap<u32, Option<AddressSpace>>,
    objects: FxMap<ObjectId, Object>,
    next_object: usize,
    ids: FxMap<(FileId, u32), ObjectId>,
    /// Processes that have ended, the last one last.
    ended: VecDeque<u32>,
    version: u64,
}

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// In what.
    pub object: ObjectId,
    /// Where in it; the process's own address for memory without a file.
    pub address: ElfAddr,
}

impl Place {
    /// A kernel address.
    pub fn in_kernel(address: u64) -> Self {
        Self { object: ObjectId::KERNEL, address: ElfAddr(address) }
    }
}

impl ObjectId {
    /// The kernel.
    pub const KERNEL: Self = Self(0);
    /// No mapping covers the address.
    pub const UNMAPPED: Self = Self(1);
    /// The process ended before its mappings were read.
    pub const PROCESS_GONE: Self = Self(2);
}

impl Default for Mappings {
    fn default() -> Self {
        let named = |kind, name| Object::new(kind, PathBuf::from(name), 0, 0);
        let objects = FxMap::from_iter([
            (ObjectId::KERNEL, named(MappingKind::Kernel, "[kernel]")),
            (ObjectId::UNMAPPED, named(MappingKind::Unmapped, "[unmapped]")),
            (ObjectId::PROCESS_GONE, named(MappingKind::Unmapped, PROCESS_GONE)),
        ]);
        let next_object = objects.len();
        Self {
            spaces: FxMap::default(),
            objects,
            next_object,
            ids: FxMap::default(),
            ended: VecDeque::new(),
            version: 0,
        }
    }
}

impl Mappings {
    /// What an id stands for, that [`Self::normalize`] gave since [`Self::forget_unused`].
    pub fn object(&self, id: ObjectId) -> &Object {
        &self.objects[&id]
    }

    /// Forgets processes that are gone, and closes the files that no other one maps.
    pub fn forget_unused(&mut self) {
        self.version += 1;
        let ended = &self.ended;
        // An end that the kernel could not report in time is seen here.
        self.spaces.retain(|pid, space| space.is_some() && (ended.contains(pid) || target::is_alive(*pid)));
        let mut used = HashSet::from([ObjectId::KERNEL, ObjectId::UNMAPPED, ObjectId::PROCESS_GONE]);
        for space in self.spaces.values().flatten() {
            used.extend(space.regions.values().map(|mapped| mapped.object));
        }
        self.objects.retain(|id, _| used.contains(id));
        self.ids.retain(|_, id| used.contains(id));
    }

    /// The name of a process's main thread; empty if it is gone.
    pub fn process_name(&self, pid: u32) -> String {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end_matches('\n').to_owned()
    }

    /// Follows what happened to a process.
    pub fn apply(&mut self, change: &Change) {
        self.version += 1;
        match change {
            Change::Fork { pid, parent } => {
                // A number that was somebody else's before.
                self.ended.retain(|ended| ended != pid);
                let space = self.space(*parent).cloned();
                self.spaces.insert(*pid, space);
            }
            Change::Exec { pid } => {
                self.spaces.insert(*pid, Some(AddressSpace::default()));
            }
            Change::Map { pid, region } => {
                // A process that is not known yet will be read whole when it is asked for.
                if let Some(Some(mut space)) = self.spaces.remove(pid) {
                    self.map(*pid, &mut space, region);
                    self.spaces.insert(*pid, Some(space));
                }
            }
            Change::Exit { pid, tid } => {
                // Its last samples come later: a process frees its memory after the kernel has reported its end.
                if pid == tid {
                    self.ended.push_back(*pid);
                    if self.ended.len() > MAX_ENDED
                        && let Some(oldest) = self.ended.pop_front()
                    {
                        self.spaces.remove(&oldest);
                    }
                }
            }
        }
    }

    /// Another number after each change: until then an address stays where it is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Where an address of a process lies.
    pub fn normalize(&mut self, pid: u32, address: u64) -> Place {
        let Some(space) = self.space(pid) else {
            return Place { object: ObjectId::PROCESS_GONE, address: ElfAddr(address) };
        };
        let found = space.regions.range(..=address).next_back().filter(|(_, mapped)| address < mapped.end);
        let Some((&start, mapped)) = found else {
            return Place { object: ObjectId::UNMAPPED, address: ElfAddr(address) };
        };
        let Mapped { end, file_offset, object } = mapped.clone();
        let address = match self.objects[&object].kind {
            MappingKind::File | MappingKind::Vdso => {
                let offset = address - start + file_offset;
                self.open(object, pid, start..end);
                let facts = self.objects[&object].file.as_ref();
                facts.and_then(|(_, facts)| facts.elf_addr(offset)).unwrap_or(ElfAddr(offset))
            }
            MappingKind::Anonymous => {
                self.find_perf_map(object);
                ElfAddr(address)
            }
            _ => ElfAddr(address),
        };
        Place { object, address }
    }

    /// A process's mappings, read from `/proc` if they are not known yet; `None` if it is gone.
    fn space(&mut self, pid: u32) -> Option<&AddressSpace> {
        if !self.spaces.contains_key(&pid) {
            let space = read_maps(pid).map(|regions| {
                let mut space = AddressSpace::default();
                regions.iter().for_each(|region| self.map(pid, &mut space, region));
                space
            });
            self.spaces.insert(pid, space);
        }
        self.spaces.get(&pid)?.as_ref()
    }

    /// Adds a region; what it covers of older ones is gone.
    fn map(&mut self, pid: u32, space: &mut AddressSpace, region: &Region) {
        let object = self.object_id(pid, &region.file);
        let regions = Rc::make_mut(&mut space.regions);
        let &Region { start, end, file_offset, .. } = region;
        if start >= end {
            return;
        }
        if let Some((&before, mapped)) = regions.range_mut(..start).next_back()
            && mapped.end > start
        {
            let rest = Mapped { file_offset: mapped.file_offset + (end.wrapping_sub(before)), ..mapped.clone() };
            mapped.end = start;
            if rest.end > end {
                regions.insert(end, rest);
            }
        }
        while let Some((&covered, mapped)) = regions.range(start..end).next() {
            let rest = Mapped { file_offset: mapped.file_offset + (end - covered), ..mapped.clone() };
            regions.remove(&covered);
            if rest.end > end {
                regions.insert(end, rest);
                break;
            }
        }
        regions.insert(start, Mapped { end, file_offset, object });
    }

    fn object_id(&mut self, pid: u32, file: &FileId) -> ObjectId {
        let kind = kind(file);
        // Memory without a file is another one in each process.
        let owner = if kind == MappingKind::Anonymous { pid } else { 0 };
        let next = ObjectId(self.next_object);
        let id = self.ids.entry((file.clone(), owner)).or_insert(next);
        // A program is often built anew in place: then it is another one, by the same name and number.
        if self.objects.get(id).is_some_and(|known| kind == MappingKind::File && known.is_overwritten()) {
            *id = next;
        }
        if *id == next {
            let anonymous = || PathBuf::from(format!("[anon:{pid}]"));
            let path = if kind == MappingKind::Anonymous { anonymous() } else { file.path.clone() };
            self.objects.insert(next, Object::new(kind, path, file.inode, pid));
            self.next_object += 1;
        }
        *id
    }

    /// Looks where the names of a process's code without a file may be, while it lives.
    fn find_perf_map(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        if object.perf_map.is_none() && object.attempts < OPEN_ATTEMPTS {
            object.attempts += 1;
            object.perf_map = PerfMap::of(object.pid).map(Arc::new);
        }
    }

    /// Opens the file behind an object, while a process that maps it lives.
    fn open(&mut self, id: ObjectId, pid: u32, range: std::ops::Range<u64>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        if object.file.is_some() || object.attempts >= OPEN_ATTEMPTS {
            return;
        }
        object.attempts += 1;
        let file = match object.kind {
            MappingKind::Vdso => super::vdso::image().ok(),
            _ => open_mapped(&object.path, object.inode, pid, range),
        };
        let Some(file) = file else { return };
        if let Ok(facts) = ElfFacts::read(&file) {
            object.version = Version::of(&file);
            object.file = Some((Arc::new(file), Arc::new(facts)));
        }
    }
}

pub(crate) fn kind(file: &FileId) -> MappingKind {
    match file.path.to_str() {
        Some("[vdso]") => MappingKind::Vdso,
        _ if file.inode == 0 => MappingKind::Anonymous,
        Some(path)
            if path.starts_with("/memfd:") || path.starts_with("/dev/zero") || path.starts_with("anon_inode:") =>
        {
            MappingKind::Anonymous
        }
        _ => MappingKind::File,
    }
}

/// The very file that is mapped: by the kernel's own link, else by its path in the process's root, else in ours. What
/// has that path by now may be another file.
pub(crate) fn open_mapped(path: &Path, inode: u64, pid: u32, range: std::ops::Range<u64>) -> Option<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
    if let Ok(file) = File::open(link) {
        return Some(file);
    }
    let in_root = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path));
    let is_same = |file: &File| file.metadata().is_ok_and(|meta| meta.size() > 0 && same_inode(meta.ino(), inode));
    [in_root.as_path(), path].into_iter().filter_map(super::file::open_regular).find(is_same)
}

/// overlayfs writes the number of the layer into the upper half.
fn same_inode(a: u64, b: u64) -> bool {
    a as u32 == b as u32
}

/// The executable regions of a process; `None` if it is gone or not ours to see.
pub(crate) fn read_maps(pid: u32) -> Option<Vec<Region>> {
    let text = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
    // A kernel thread, or a process that is ending.
    if text.is_empty() {
        return None;
    }
    Some(text.split(|&byte| byte == b'\n').filter_map(parse_region).collect())
}

/// A line of `/proc/PID/maps`, if it is of executable memory.
fn parse_region(line: &[u8]) -> Option<Region> {
    // procfs parses and copies every line; a process may have 100,000 of which few are executable.
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.splitn(6, ' ');
    let (range, flags) = (fields.next()?, fields.next()?);
    if flags.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let file_offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start();
    let path = PathBuf::from(path.strip_suffix(" (deleted)").unwrap_or(path));
    Some(Region { start: hex(start)?, end: hex(end)?, file_offset, file: FileId { path, device, inode } })
}
