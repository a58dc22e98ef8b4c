//! What one or many windows came to: sums by stack of functions and by whose stack it was.
//!
//! Smaller than a [`Profile`]: frames are functions (inlined ones too), not addresses and lines, and no sample has a time.
//! That is what windows are stored as, and what windows are merged into, for a longer window or for a reader.
//!
//! - [`table`]: what its rows are kept in.
//! - [`merge`]: adding one to another.
//! - [`stored`]: how it is stored.

mod merge;
mod stored;
mod table;

use std::collections::HashMap;
use std::io;

use rustc_hash::FxBuildHasher;

use crate::group::Labels;
use crate::model::{
    BuildId, Function, FunctionId, LocationId, Mapping, MappingId, MappingKind, Profile, Source, StackId, ThreadId,
    Unit,
};

pub use merge::Detail;
pub use stored::StoredTotals;
use table::{Sums, Table, Texts};

type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// Whose samples: all that has the same labels is one. Strings are ids of the digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct MemberRow {
    group: u32,
    process: u32,
    thread: u32,
    cgroup: u32,
    unit: u32,
    container: u32,
    pod: u32,
    /// 0 where several are added up.
    pid: u32,
    /// 0 where several are added up.
    tid: u32,
}

/// Whose samples, as a filter sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// The group of processes.
    pub group: &'a str,
    /// The process's name.
    pub process: &'a str,
    /// The thread's name.
    pub thread: &'a str,
    /// The control group's path.
    pub cgroup: &'a str,
    /// The systemd unit.
    pub unit: &'a str,
    /// The container's id.
    pub container: &'a str,
    /// The Kubernetes pod's uid.
    pub pod: &'a str,
    /// The process id; 0 in windows that were added up.
    pub pid: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct MappingRow {
    path: u32,
    kind: u32,
    build_id: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct FrameRow {
    name: u32,
    file: u32,
    start_line: u32,
    mapping: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct SourceRow {
    name: u32,
    unit: u32,
    period: u64,
}

/// Number and sum of equal samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Their sum, in the source's unit.
    pub value: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        // Saturating: a file may say anything.
        self.count = self.count.saturating_add(other.count);
        self.value = self.value.saturating_add(other.value);
    }
}

/// Why stored bytes are no window.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// They cannot be decompressed.
    #[error("it cannot be decompressed: {0}")]
    Zstd(io::Error),
    /// They are no such message.
    #[error("it cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// It refers to what it does not hold.
    #[error("it refers to what it does not hold")]
    Reference,
}

/// Sums by source, whose, and stack.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    strings: Texts,
    mappings: Table<MappingRow>,
    frames: Table<FrameRow>,
    /// Parent (0: none, else one more than its row) and frame.
    nodes: Table<(u32, u32)>,
    members: Table<MemberRow>,
    sources: Vec<SourceRow>,
    sums: Sums,
}

impl Digest {
    /// Of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.sums.rows.is_empty()
    }

    fn string(&mut self, text: &str) -> u32 {
        self.strings.id(text)
    }

    fn text(&self, id: u32) -> &str {
        self.strings.get(id)
    }

    /// Adds a window; `labels` by [`crate::model::ProcessId`].
    pub fn add_profile(&mut self, profile: &Profile, labels: &[Labels]) {
        let mut nodes: Vec<u32> = Vec::with_capacity(profile.stacks().len());
        let mut frames: FxMap<LocationId, Vec<u32>> = FxMap::default();
        for (parent, location) in profile.stacks() {
            let mut node = parent.map_or(0, |parent| nodes[parent.index()]);
            let frames = frames.entry(location).or_insert_with(|| self.frames_of(profile, location));
            // Innermost inlined function first, there.
            for frame in frames.iter().rev() {
                node = self.nodes.id((node, *frame)) + 1;
            }
            nodes.push(node);
        }
        let threads: Vec<u32> = profile
            .threads()
            .iter()
            .map(|thread| {
                let process = &profile.processes()[thread.process.index()];
                let none = Labels::default();
                let Labels { group, cgroup, unit, container, pod } =
                    labels.get(thread.process.index()).unwrap_or(&none);
                let row = MemberRow {
                    group: self.string(group),
                    process: self.string(profile.text(process.name)),
                    thread: self.string(profile.text(thread.name)),
                    cgroup: self.string(cgroup),
                    unit: self.string(unit),
                    container: self.string(container),
                    pod: self.string(pod),
                    pid: process.pid,
                    tid: thread.tid,
                };
                self.members.id(row)
            })
            .collect();
        let sources: Vec<u32> = profile
            .sources()
            .iter()
            .map(|source| {
                let name = self.string(profile.text(source.name));
                self.source(SourceRow { name, unit: unit_code(source.unit), period: source.period })
            })
            .collect();
        for sample in profile.samples() {
            let node = sample.stack.map_or(0, |stack| nodes[stack.index()]);
            let key = (sources[sample.source.index()], threads[sample.thread.index()], node);
            self.sums.add(key, Sum { count: sample.count, value: sample.value });
        }
    }

    /// A source is one whatever its period is: values say what their samples stand for. Of several periods the shortest is kept.
    fn source(&mut self, row: SourceRow) -> u32 {
        let same = self.sources.iter().position(|known| (known.name, known.unit) == (row.name, row.unit));
        let position = same.unwrap_or_else(|| {
            self.sources.push(row);
            self.sources.len() - 1
        });
        let known = &mut self.sources[position];
        if row.period > 0 && (known.period == 0 || row.period < known.period) {
            known.period = row.period;
        }
        position as u32
    }

    fn frames_of(&mut self, profile: &Profile, location: LocationId) -> Vec<u32> {
        let row = &profile.locations()[location.index()];
        let mapping = &profile.mappings()[row.mapping.index()];
        let build_id = mapping.build_id.as_ref().map(ToString::to_string).unwrap_or_default();
        let mapping_row = MappingRow {
            path: self.string(profile.text(mapping.path)),
            kind: kind_code(mapping.kind),
            build_id: self.string(&build_id),
        };
        let mapping = self.mappings.id(mapping_row);
        if row.lines.is_empty() {
            // All that has no name for the same reason is one frame: an address each would be as many as there are samples.
            let name = match row.unknown {
                Some(reason) => profile.unknown_name(row.mapping, reason),
                None => profile.file_name(row.mapping).to_owned(),
            };
            let (name, file) = (self.string(&name), self.string(""));
            let frame = FrameRow { name, file, start_line: 0, mapping };
            return vec![self.frames.id(frame)];
        }
        let functions = row.lines.iter().map(|line| &profile.functions()[line.function.index()]);
        functions
            .map(|function| {
                let &Function { name, system_name: _, file, start_line } = function;
                let frame = FrameRow {
                    name: self.string(profile.text(name)),
                    file: self.string(profile.text(file)),
                    start_line,
                    mapping,
                };
                self.frames.id(frame)
            })
            .collect()
    }

    /// Drops the sums of all stacks but those that begin with these functions, root first.
    pub fn retain_below(&mut self, call_site: &[String]) {
        // How many of the functions a stack has met; more than there are where it went another way.
        let lost = call_site.len() + 1;
        let mut met = vec![0];
        for &(parent, frame) in &self.nodes.rows {
            let so_far = met[parent as usize];
            let name = self.text(self.frames.rows[frame as usize].name);
            met.push(match call_site.get(so_far) {
                Some(wanted) if wanted == name => so_far + 1,
                Some(_) => lost,
                None => so_far,
            });
        }
        self.sums.retain(|(_, _, node)| met[node as usize] == call_site.len());
    }

    fn member(&self, row: usize) -> Member<'_> {
        let MemberRow { group, process, thread, cgroup, unit, container, pod, pid, tid: _ } = self.members.rows[row];
        Member {
            group: self.text(group),
            process: self.text(process),
            thread: self.text(thread),
            cgroup: self.text(cgroup),
            unit: self.text(unit),
            container: self.text(container),
            pod: self.text(pod),
            pid,
        }
    }

    /// Everyone who has samples of a source (by its name), with their sum.
    pub fn totals(&self) -> Vec<(&str, Member<'_>, Sum)> {
        let mut totals: FxMap<(u32, u32), Sum> = FxMap::default();
        for &((source, member, _), sum) in &self.sums.rows {
            totals.entry((source, member)).or_default().add(sum);
        }
        let text = |source: u32| self.text(self.sources[source as usize].name);
        let mut totals: Vec<_> = totals.into_iter().collect();
        totals.sort_unstable_by_key(|(key, _)| *key);
        totals.into_iter().map(|((source, member), sum)| (text(source), self.member(member as usize), sum)).collect()
    }

    /// As a profile: a process for each (group, process id) and its names' threads. Locations are functions without an
    /// address.
    pub fn into_profile(self) -> Profile {
        let mut profile = Profile::new();
        let mappings: Vec<MappingId> = self
            .mappings
            .rows
            .iter()
            .map(|row| {
                let path = profile.string(self.text(row.path));
                let build_id = parse_build_id(self.text(row.build_id));
                profile.mapping(Mapping { kind: kind(row.kind), path, build_id })
            })
            .collect();
        let frames: Vec<LocationId> = self
            .frames
            .rows
            .iter()
            .map(|row| {
                let name = profile.string(self.text(row.name));
                let file = profile.string(self.text(row.file));
                let function = Function { name, system_name: name, file, start_line: row.start_line };
                let function: FunctionId = profile.function(function);
                profile.function_location(mappings[row.mapping as usize], function)
            })
            .collect();
        let mut nodes: Vec<Option<StackId>> = vec![None];
        for &(parent, frame) in &self.nodes.rows {
            let parent = nodes[parent as usize];
            nodes.push(Some(profile.stack(parent, frames[frame as usize])));
        }
        let mut processes = FxMap::default();
        let threads: Vec<ThreadId> = self
            .members
            .rows
            .iter()
            .map(|row| {
                // Without ids a group is a process and its processes' names are part of their threads'.
                let name = if row.pid == 0 { row.group } else { row.process };
                let process = *processes
                    .entry((row.group, row.pid, name))
                    .or_insert_with(|| profile.new_process(row.pid, self.text(name)));
                profile.new_thread(process, row.tid, self.text(row.thread))
            })
            .collect();
        let sources: Vec<_> = self
            .sources
            .iter()
            .map(|row| {
                let name = profile.string(self.text(row.name));
                profile.source(Source { name, unit: unit(row.unit), period: row.period })
            })
            .collect();
        for ((source, member, node), sum) in self.sums.sorted() {
            let key = (threads[member as usize], sources[source as usize], nodes[node as usize]);
            profile.add(key, sum.count, sum.value, None);
        }
        profile
    }
}

fn kind_code(kind: MappingKind) -> u32 {
    match kind {
        MappingKind::File => 0,
        MappingKind::Kernel => 1,
        MappingKind::Vdso => 2,
        MappingKind::Anonymous => 3,
        MappingKind::Unmapped => 4,
        MappingKind::Label => 5,
    }
}

fn kind(code: u32) -> MappingKind {
    match code {
        0 => MappingKind::File,
        1 => MappingKind::Kernel,
        2 => MappingKind::Vdso,
        3 => MappingKind::Anonymous,
        5 => MappingKind::Label,
        _ => MappingKind::Unmapped,
    }
}

fn unit_code(unit: Unit) -> u32 {
    match unit {
        Unit::Nanoseconds => 0,
        Unit::Count => 1,
    }
}

fn unit(code: u32) -> Unit {
    if code == 0 { Unit::Nanoseconds } else { Unit::Count }
}

fn parse_build_id(text: &str) -> Option<BuildId> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?));
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    (!bytes.is_empty()).then_some(BuildId(bytes))
}
