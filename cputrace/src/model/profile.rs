//! The profile of one window: tables whose rows refer to each other by id, and the samples.
//!
//! Ids are made only by the table they index and are valid only in the [`Profile`] that made them.
//! Stacks are a prefix tree, root at the top: a sample names its whole stack by the id of the leaf.

use std::collections::HashMap;
use std::hash::Hash;

use rustc_hash::FxBuildHasher;

type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(u32);

        impl $name {
            /// The row in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// A row of the string table.
    StringId
);
id!(
    /// A row of [`Profile::mappings`].
    MappingId
);
id!(
    /// A row of [`Profile::functions`].
    FunctionId
);
id!(
    /// A row of [`Profile::locations`].
    LocationId
);
id!(
    /// A node of the stack tree: the leaf of one stack.
    StackId
);
id!(
    /// A row of [`Profile::processes`].
    ProcessId
);
id!(
    /// A row of [`Profile::threads`].
    ThreadId
);
id!(
    /// A row of [`Profile::sources`].
    SourceId
);

/// An address as the ELF file was linked (`p_vaddr` space), or a kernel address for the kernel's mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ElfAddr(pub u64);

/// The contents of an ELF file's `.note.gnu.build-id`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BuildId(pub Vec<u8>);

impl std::fmt::Display for BuildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What kind of memory an address lies in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum MappingKind {
    /// An ELF file mapped by a process.
    File,
    /// The kernel and its modules.
    Kernel,
    /// The kernel's code page in each process.
    Vdso,
    /// Executable memory without a file: a JIT compiler's output.
    Anonymous,
    /// An address that no known mapping covers.
    Unmapped,
    /// No code at all: a frame that says something of the stack below it, in brackets.
    Label,
}

/// A file (or another piece of memory) that code was found in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    /// What kind of memory it is.
    pub kind: MappingKind,
    /// Path as the process sees it, or a bracketed name (`[kernel]`, `[vdso]`, `[anon]`).
    pub path: StringId,
    /// The file's build id, where it has one.
    pub build_id: Option<BuildId>,
}

/// A function, one row a (name, file).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Function {
    /// Demangled name.
    pub name: StringId,
    /// Name as in the symbol table.
    pub system_name: StringId,
    /// Source file; the empty string where it is unknown.
    pub file: StringId,
    /// Line on which the function starts; 0 where it is unknown.
    pub start_line: u32,
}

/// One source line of a location.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Line {
    /// The function.
    pub function: FunctionId,
    /// Line in the function's file; 0 where it is unknown.
    pub line: u32,
}

/// Why a location has no name. Data for the reader, not an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum UnknownReason {
    /// Not looked up (yet).
    NotSymbolized,
    /// No mapping covers the address.
    Unmapped,
    /// Executable memory without a file, and no perf map for it.
    NoJitInfo,
    /// The file could not be opened when its symbols were wanted, or had been written to since.
    FileGone,
    /// The file's symbols cannot be read.
    Damaged,
    /// The file has no symbol table.
    NoSymbols,
    /// The file has symbols, none of them at this address.
    NotInSymbolTable,
    /// The kernel hides its symbols (`kptr_restrict`).
    KernelRestricted,
    /// The process ended before its mappings were read.
    ProcessGone,
}

impl UnknownReason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::NotSymbolized,
        Self::Unmapped,
        Self::NoJitInfo,
        Self::FileGone,
        Self::Damaged,
        Self::NoSymbols,
        Self::NotInSymbolTable,
        Self::KernelRestricted,
        Self::ProcessGone,
    ];

    /// A few words for the reader.
    pub fn describe(self) -> &'static str {
        match self {
            Self::NotSymbolized => "not symbolized",
            Self::Unmapped => "not in any mapping",
            Self::NoJitInfo => "JIT code without a perf map",
            Self::FileGone => "file gone or overwritten",
            Self::Damaged => "file damaged",
            Self::NoSymbols => "no symbols in file",
            Self::NotInSymbolTable => "not in symbol table",
            Self::KernelRestricted => "kernel symbols hidden",
            Self::ProcessGone => "process gone before its mappings were read",
        }
    }
}

/// A place in code: (mapping, address), with the lines it stands for.
#[derive(Clone, Debug)]
pub struct Location {
    /// Where the address lies.
    pub mapping: MappingId,
    /// The instruction; for a caller's frame the call itself (return address minus one).
    pub address: ElfAddr,
    /// Innermost inlined function first. Of code without a name the function that it lies in, called by its first
    /// address, or what else it goes by; empty where nothing is known.
    pub lines: Vec<Line>,
    /// Why the location has no name, where it has none.
    pub unknown: Option<UnknownReason>,
}

/// A process, as seen in the window.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    /// Process id (the kernel's tgid) in the host's pid namespace.
    pub pid: u32,
    /// Its name (`comm` of the main thread).
    pub name: StringId,
}

/// A thread, as seen in the window.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Thread {
    /// The process it belongs to.
    pub process: ProcessId,
    /// Thread id in the host's pid namespace.
    pub tid: u32,
    /// Its name (`comm`).
    pub name: StringId,
}

/// The unit of a source's values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    /// Time.
    Nanoseconds,
    /// A number of events.
    Count,
}

impl Unit {
    /// pprof's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "nanoseconds",
            Self::Count => "count",
        }
    }
}

/// A kind of event that yields samples.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    /// Its name: `on-cpu`.
    pub name: StringId,
    /// The unit of its samples' values.
    pub unit: Unit,
    /// What one sample stands for, in `unit`; 0 where samples have values of their own.
    pub period: u64,
}

/// One observation in time, of a [`Sample`] that keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds since the window's start.
    pub at_ns: u64,
    /// Its share of the sample's value.
    pub value: u64,
}

/// Equal observations added up: same thread, source and stack.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Whose.
    pub thread: ThreadId,
    /// Of which kind.
    pub source: SourceId,
    /// Where; `None` where not even one frame could be had.
    pub stack: Option<StackId>,
    /// How many observations.
    pub count: u64,
    /// Their sum, in the source's unit.
    pub value: u64,
    /// Each of them, in order of time, when a timeline was asked for.
    pub events: Vec<Event>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct StackNode {
    parent: Option<StackId>,
    location: LocationId,
}

/// Interned strings.
#[derive(Clone, Debug, Default)]
struct StringTable {
    strings: Vec<Box<str>>,
    ids: FxMap<Box<str>, StringId>,
}

/// Rows that are stored once each.
#[derive(Clone, Debug)]
struct Interner<T, I> {
    ids: FxMap<T, I>,
}

impl<T, I> Default for Interner<T, I> {
    fn default() -> Self {
        Self { ids: FxMap::default() }
    }
}

/// All samples of one window, with the tables that explain them.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    strings: StringTable,
    mappings: Vec<Mapping>,
    functions: Vec<Function>,
    locations: Vec<Location>,
    stacks: Vec<StackNode>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    sources: Vec<Source>,
    samples: Vec<Sample>,
    mapping_ids: Interner<Mapping, MappingId>,
    function_ids: Interner<Function, FunctionId>,
    location_ids: Interner<(MappingId, ElfAddr), LocationId>,
    stack_ids: Interner<StackNode, StackId>,
    process_ids: Interner<u32, ProcessId>,
    thread_ids: Interner<(ProcessId, u32), ThreadId>,
    source_ids: Interner<Source, SourceId>,
    sample_ids: Interner<(ThreadId, SourceId, Option<StackId>), usize>,
}

fn intern<T, K, I>(rows: &mut Vec<T>, ids: &mut Interner<K, I>, key: K, id: fn(u32) -> I, row: impl FnOnce() -> T) -> I
where
    K: Hash + Eq,
    I: Copy,
{
    *ids.ids.entry(key).or_insert_with(|| {
        let next = id(u32::try_from(rows.len()).expect("a window holds fewer than 2^32 rows of a kind"));
        rows.push(row());
        next
    })
}

impl Profile {
    /// An empty profile.
    pub fn new() -> Self {
        Self::default()
    }

    /// The id of a string, stored if it is new.
    pub fn string(&mut self, text: &str) -> StringId {
        let StringTable { strings, ids } = &mut self.strings;
        if let Some(id) = ids.get(text) {
            return *id;
        }
        let id = StringId(u32::try_from(strings.len()).expect("a window holds fewer than 2^32 strings"));
        strings.push(text.into());
        ids.insert(text.into(), id);
        id
    }

    /// The text of a string.
    pub fn text(&self, id: StringId) -> &str {
        &self.strings.strings[id.index()]
    }

    /// The id of a mapping, stored if it is new.
    pub fn mapping(&mut self, mapping: Mapping) -> MappingId {
        intern(&mut self.mappings, &mut self.mapping_ids, mapping.clone(), MappingId, || mapping)
    }

    /// The id of a function, stored if it is new.
    pub fn function(&mut self, function: Function) -> FunctionId {
        intern(&mut self.functions, &mut self.function_ids, function.clone(), FunctionId, || function)
    }

    /// The id of a place in code, stored (without a name) if it is new.
    pub fn location(&mut self, mapping: MappingId, address: ElfAddr) -> LocationId {
        intern(&mut self.locations, &mut self.location_ids, (mapping, address), LocationId, || Location {
            mapping,
            address,
            lines: Vec::new(),
            unknown: Some(UnknownReason::NotSymbolized),
        })
    }

    /// The id of the stack whose leaf is `location`, called from `parent`.
    pub fn stack(&mut self, parent: Option<StackId>, location: LocationId) -> StackId {
        let node = StackNode { parent, location };
        intern(&mut self.stacks, &mut self.stack_ids, node, StackId, || node)
    }

    /// The id of a process; a later name replaces an earlier one (a process may exec).
    pub fn process(&mut self, pid: u32, name: &str) -> ProcessId {
        let name = self.string(name);
        let id = intern(&mut self.processes, &mut self.process_ids, pid, ProcessId, || Process { pid, name });
        self.processes[id.index()].name = name;
        id
    }

    /// The process with this id, if it was seen.
    pub fn process_by_pid(&self, pid: u32) -> Option<ProcessId> {
        self.process_ids.ids.get(&pid).copied()
    }

    /// The id of a thread; a later name replaces an earlier one.
    pub fn thread(&mut self, process: ProcessId, tid: u32, name: &str) -> ThreadId {
        let name = self.string(name);
        let row = Thread { process, tid, name };
        let id = intern(&mut self.threads, &mut self.thread_ids, (process, tid), ThreadId, || row);
        self.threads[id.index()].name = name;
        id
    }

    /// The id of a thread whose name is not known; an earlier name stays.
    pub fn thread_of(&mut self, process: ProcessId, tid: u32) -> ThreadId {
        let name = self.processes[process.index()].name;
        intern(&mut self.threads, &mut self.thread_ids, (process, tid), ThreadId, || Thread { process, tid, name })
    }

    /// The id of a place that is none in code: `text` as a frame.
    pub fn label(&mut self, text: &str) -> LocationId {
        let (name, path, file) = (self.string(text), self.string("[label]"), self.string(""));
        let mapping = self.mapping(Mapping { kind: MappingKind::Label, path, build_id: None });
        let function = self.function(Function { name, system_name: name, file, start_line: 0 });
        let location = self.location(mapping, ElfAddr(u64::from(name.0)));
        self.set_lines(location, Ok(vec![Line { function, line: 0 }]));
        location
    }

    /// A new place that stands for all of a function's code, without an address. It is not interned: whoever asks twice has
    /// two.
    pub fn function_location(&mut self, mapping: MappingId, function: FunctionId) -> LocationId {
        let lines = vec![Line { function, line: 0 }];
        self.locations.push(Location { mapping, address: ElfAddr(0), lines, unknown: None });
        LocationId(u32::try_from(self.locations.len() - 1).expect("a window holds fewer than 2^32 rows of a kind"))
    }

    /// A new row that stands for a process or, with 0 for its id, for several. It is not interned.
    pub fn new_process(&mut self, pid: u32, name: &str) -> ProcessId {
        let name = self.string(name);
        self.processes.push(Process { pid, name });
        ProcessId(u32::try_from(self.processes.len() - 1).expect("a window holds fewer than 2^32 rows of a kind"))
    }

    /// A new row that stands for a thread or, with 0 for its id, for several. It is not interned.
    pub fn new_thread(&mut self, process: ProcessId, tid: u32, name: &str) -> ThreadId {
        let name = self.string(name);
        self.threads.push(Thread { process, tid, name });
        ThreadId(u32::try_from(self.threads.len() - 1).expect("a window holds fewer than 2^32 rows of a kind"))
    }

    /// The text of a label that is a stack's leaf.
    pub fn leaf_label(&self, stack: Option<StackId>) -> Option<&str> {
        let location = &self.locations[self.stacks[stack?.index()].location.index()];
        let is_label = self.mappings[location.mapping.index()].kind == MappingKind::Label;
        let line = location.lines.first().filter(|_| is_label)?;
        Some(self.text(self.functions[line.function.index()].name))
    }

    /// The name of the innermost function of a stack, if it has one.
    pub fn leaf_function(&self, stack: Option<StackId>) -> Option<&str> {
        self.frames(stack).find_map(|location| {
            let row = &self.locations[location.index()];
            let line = row.lines.first()?;
            let is_label = self.mappings[row.mapping.index()].kind == MappingKind::Label;
            (!is_label).then(|| self.text(self.functions[line.function.index()].name))
        })
    }

    /// The source with this name, if there is one.
    pub fn source_by_name(&self, name: &str) -> Option<SourceId> {
        let index = self.sources.iter().position(|source| self.text(source.name) == name)?;
        u32::try_from(index).ok().map(SourceId)
    }

    /// The id of a source, stored if it is new.
    pub fn source(&mut self, source: Source) -> SourceId {
        intern(&mut self.sources, &mut self.source_ids, source.clone(), SourceId, || source)
    }

    /// Adds `count` observations worth `value` to the sample of (thread, source, stack).
    /// `event` keeps this one's time, for a timeline.
    pub fn add(&mut self, key: (ThreadId, SourceId, Option<StackId>), count: u64, value: u64, event: Option<Event>) {
        let (thread, source, stack) = key;
        let next = self.samples.len();
        let row = *self.sample_ids.ids.entry(key).or_insert(next);
        if row == next {
            self.samples.push(Sample { thread, source, stack, count: 0, value: 0, events: Vec::new() });
        }
        let sample = &mut self.samples[row];
        // Saturating: a file that is read back may say anything.
        sample.count = sample.count.saturating_add(count);
        sample.value = sample.value.saturating_add(value);
        sample.events.extend(event);
    }

    /// Gives a location its names, or the reason why it has none.
    pub fn set_lines(&mut self, location: LocationId, lines: Result<Vec<Line>, UnknownReason>) {
        let row = &mut self.locations[location.index()];
        match lines {
            Ok(lines) => (row.lines, row.unknown) = (lines, None),
            Err(reason) => (row.lines, row.unknown) = (Vec::new(), Some(reason)),
        }
    }

    /// Says why a location has no name. The function that it lies in stays.
    pub fn set_unknown(&mut self, location: LocationId, reason: UnknownReason) {
        self.locations[location.index()].unknown = Some(reason);
    }

    /// The frames of a stack, leaf first.
    pub fn frames(&self, leaf: Option<StackId>) -> impl Iterator<Item = LocationId> + '_ {
        let mut next = leaf;
        std::iter::from_fn(move || {
            let node = self.stacks[next?.index()];
            next = node.parent;
            Some(node.location)
        })
    }

    /// Parent and location of one node of the stack tree.
    pub fn stack_node(&self, id: StackId) -> (Option<StackId>, LocationId) {
        let StackNode { parent, location } = self.stacks[id.index()];
        (parent, location)
    }

    /// What to call a location: its innermost function, or mapping and address with the reason.
    /// One entry for each function inlined there, innermost first.
    pub fn names(&self, location: LocationId) -> Vec<String> {
        let row = &self.locations[location.index()];
        if row.lines.is_empty() {
            return vec![self.address_name(row.mapping, row.address)];
        }
        row.lines.iter().map(|line| self.text(self.functions[line.function.index()].name).to_owned()).collect()
    }

    /// [`Self::names`] for a table of functions: an address that is in no known function goes by its file, or else each would
    /// be a row.
    pub fn function_names(&self, location: LocationId) -> Vec<String> {
        let row = &self.locations[location.index()];
        let Some(reason) = row.unknown.filter(|_| row.lines.is_empty()) else { return self.names(location) };
        vec![self.unknown_name(row.mapping, reason)]
    }

    /// What to call an address that has no name: `postgres+0x1a2b40`.
    pub fn address_name(&self, mapping: MappingId, address: ElfAddr) -> String {
        format!("{}+{:#x}", self.file_name(mapping), address.0)
    }

    /// What to call all addresses of a mapping that have no name for the same reason: `postgres (no symbols in file)`.
    pub fn unknown_name(&self, mapping: MappingId, reason: UnknownReason) -> String {
        format!("{} ({})", self.file_name(mapping), reason.describe())
    }

    /// The last part of a mapping's path.
    pub fn file_name(&self, mapping: MappingId) -> &str {
        let path = self.text(self.mappings[mapping.index()].path);
        path.rsplit('/').next().unwrap_or(path)
    }

    /// All strings, by id.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.strings.strings.iter().map(AsRef::as_ref)
    }

    /// All mappings, by id.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// All functions, by id.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// All locations, by id.
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// All locations' ids.
    pub fn location_ids(&self) -> impl Iterator<Item = LocationId> + use<> {
        (0..u32::try_from(self.locations.len()).expect("ids are 32 bits")).map(LocationId)
    }

    /// All nodes of the stack tree, by id; a parent always comes before its children.
    pub fn stacks(&self) -> impl ExactSizeIterator<Item = (Option<StackId>, LocationId)> + '_ {
        self.stacks.iter().map(|node| (node.parent, node.location))
    }

    /// All processes, by id.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// All threads, by id.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// All sources, by id.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}
