//! What one or many windows came to: sums by stack of functions and by whose stack it was.
//!
//! Smaller than a [`Profile`]: frames are functions (inlined ones too), not addresses and lines, and no sample has a time.
//! That is what windows are stored as, and what windows are merged into, for a longer window or for a reader.
//!
//! The stored form ([`Digest::encode`]) is a protobuf message of columns, compressed by zstd; tables as in pprof, but
//! stacks as a prefix tree.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::io;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use prost::Message;
use prost::bytes::Bytes;
use rustc_hash::FxBuildHasher;

use crate::group::Labels;
use crate::model::{
    BuildId, Function, FunctionId, LocationId, Mapping, MappingId, MappingKind, Profile, Source, StackId, ThreadId,
    Unit,
};

/// zstd's level: higher ones gain a few per cent for a multiple of the time.
const COMPRESSION: i32 = 3;

/// A window that is larger than this is damaged.
const MAX_BYTES: u64 = 256 << 20;

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

/// Ids by what they are of, which is elsewhere: a third of a map's memory.
type Ids = HashTable<u32>;

fn hash(row: impl Hash) -> u64 {
    FxBuildHasher.hash_one(row)
}

/// The id of the next row.
fn next_id(rows: usize) -> u32 {
    u32::try_from(rows).expect("a digest holds fewer than 2^32 rows of a kind")
}

/// Rows that are stored once each.
#[derive(Clone, Debug)]
struct Table<T> {
    rows: Vec<T>,
    ids: Ids,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), ids: Ids::new() }
    }
}

impl<T: Copy + Eq + Hash> Table<T> {
    fn id(&mut self, row: T) -> u32 {
        let rows = &self.rows;
        match self.ids.entry(hash(row), |&id| rows[id as usize] == row, |&id| hash(rows[id as usize])) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let id = next_id(rows.len());
                place.insert(id);
                self.rows.push(row);
                id
            }
        }
    }
}

/// Strings, all in one. Of those that were decoded none is looked for, so they have no ids.
#[derive(Clone, Debug, Default)]
struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<usize>,
    ids: Ids,
}

impl Texts {
    fn id(&mut self, text: &str) -> u32 {
        let (all, ends) = (&self.all, &self.ends);
        let known = |id: u32| part(all, ends, id);
        match self.ids.entry(hash(text), |&id| known(id) == text, |&id| hash(known(id))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let id = next_id(ends.len());
                place.insert(id);
                self.push(text);
                id
            }
        }
    }

    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len());
    }

    fn get(&self, id: u32) -> &str {
        part(&self.all, &self.ends, id)
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

fn part<'a>(all: &'a str, ends: &[usize], id: u32) -> &'a str {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &all[start..ends[id]]
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

/// How to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Keep process and thread ids.
    Process,
    /// Keep groups, names and containers, but no ids: what a window of hours needs.
    Name,
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

/// Source, member, and node (0: none, else one more than its row).
type SumKey = (u32, u32, u32);

/// A sum a key; as in [`Table`], those that were decoded are not looked for.
#[derive(Clone, Debug, Default)]
struct Sums {
    rows: Vec<(SumKey, Sum)>,
    ids: Ids,
}

impl Sums {
    fn add(&mut self, key: SumKey, sum: Sum) {
        let rows = &self.rows;
        match self.ids.entry(hash(key), |&id| rows[id as usize].0 == key, |&id| hash(rows[id as usize].0)) {
            Entry::Occupied(known) => self.rows[*known.get() as usize].1.add(sum),
            Entry::Vacant(place) => {
                place.insert(next_id(rows.len()));
                self.rows.push((key, sum));
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(SumKey) -> bool) {
        self.rows.retain(|(key, _)| keep(*key));
        self.ids.clear();
        let rows = &self.rows;
        for ((key, _), id) in rows.iter().zip(0..) {
            self.ids.insert_unique(hash(key), id, |&id| hash(rows[id as usize].0));
        }
    }

    fn sorted(&self) -> Vec<(SumKey, Sum)> {
        let mut rows = self.rows.clone();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }
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

    /// Adds those samples of another digest for which `keep` is true of source and member.
    pub fn merge(&mut self, other: &Self, detail: Detail, keep: &dyn Fn(&str, &Member<'_>) -> bool) {
        let sources: Vec<&str> = other.sources.iter().map(|row| other.text(row.name)).collect();
        let kept: Vec<Vec<bool>> = (0..other.members.rows.len())
            .map(|member| {
                let member = other.member(member);
                sources.iter().map(|source| keep(source, &member)).collect()
            })
            .collect();
        // Only what is used is taken over, each once.
        let mut strings = vec![None; other.strings.len()];
        let mut members = vec![None; other.members.rows.len()];
        let mut nodes = vec![None; other.nodes.rows.len() + 1];
        let mut frames = vec![None; other.frames.rows.len()];
        nodes[0] = Some(0);
        let source_ids: Vec<u32> = other
            .sources
            .iter()
            .map(|&row| {
                let name = self.take_string(other, &mut strings, row.name);
                self.source(SourceRow { name, ..row })
            })
            .collect();
        let mut path = Vec::new();
        for &((source, member, node), sum) in &other.sums.rows {
            if !kept[member as usize][source as usize] {
                continue;
            }
            let member = match members[member as usize] {
                Some(id) => id,
                None => {
                    let id = self.take_member(other, &mut strings, other.members.rows[member as usize], detail);
                    *members[member as usize].insert(id)
                }
            };
            // From the first ancestor that is there down to the node.
            let mut next = node;
            while nodes[next as usize].is_none() {
                path.push(next);
                next = other.nodes.rows[next as usize - 1].0;
            }
            for node in path.drain(..).rev() {
                let (parent, frame) = other.nodes.rows[node as usize - 1];
                let frame = match frames[frame as usize] {
                    Some(id) => id,
                    None => {
                        let id = self.take_frame(other, &mut strings, other.frames.rows[frame as usize]);
                        *frames[frame as usize].insert(id)
                    }
                };
                let parent = nodes[parent as usize].unwrap_or_default();
                nodes[node as usize] = Some(self.nodes.id((parent, frame)) + 1);
            }
            let node = nodes[node as usize].unwrap_or_default();
            self.sums.add((source_ids[source as usize], member, node), sum);
        }
    }

    fn take_string(&mut self, other: &Self, taken: &mut [Option<u32>], id: u32) -> u32 {
        *taken[id as usize].get_or_insert_with(|| self.string(other.text(id)))
    }

    fn take_member(&mut self, other: &Self, taken: &mut [Option<u32>], row: MemberRow, detail: Detail) -> u32 {
        let MemberRow { group, process, thread, cgroup, unit, container, pod, pid, tid } = row;
        let mut take = |id| self.take_string(other, taken, id);
        let row = MemberRow {
            group: take(group),
            process: take(process),
            thread: take(thread),
            cgroup: take(cgroup),
            unit: take(unit),
            container: take(container),
            pod: take(pod),
            pid: if detail == Detail::Process { pid } else { 0 },
            tid: if detail == Detail::Process { tid } else { 0 },
        };
        self.members.id(row)
    }

    fn take_frame(&mut self, other: &Self, taken: &mut [Option<u32>], row: FrameRow) -> u32 {
        let FrameRow { name, file, start_line, mapping } = row;
        let MappingRow { path, kind, build_id } = other.mappings.rows[mapping as usize];
        let mut take = |id| self.take_string(other, taken, id);
        let mapping = MappingRow { path: take(path), kind, build_id: take(build_id) };
        let (name, file) = (take(name), take(file));
        let mapping = self.mappings.id(mapping);
        self.frames.id(FrameRow { name, file, start_line, mapping })
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

    /// For the store.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let sums = self.sums.sorted();
        let frames = &self.frames.rows;
        let members = &self.members.rows;
        let message = proto::Window {
            strings: (0..self.strings.len() as u32)
                .map(|id| Bytes::copy_from_slice(self.text(id).as_bytes()))
                .collect(),
            mapping_path: self.mappings.rows.iter().map(|row| row.path).collect(),
            mapping_kind: self.mappings.rows.iter().map(|row| row.kind).collect(),
            mapping_build_id: self.mappings.rows.iter().map(|row| row.build_id).collect(),
            frame_name: frames.iter().map(|row| row.name).collect(),
            frame_file: frames.iter().map(|row| row.file).collect(),
            frame_start_line: frames.iter().map(|row| row.start_line).collect(),
            frame_mapping: frames.iter().map(|row| row.mapping).collect(),
            node_up: (0..).zip(&self.nodes.rows).map(|(row, &(parent, _))| row - parent).collect(),
            node_frame: self.nodes.rows.iter().map(|row| row.1).collect(),
            member_group: members.iter().map(|row| row.group).collect(),
            member_process: members.iter().map(|row| row.process).collect(),
            member_thread: members.iter().map(|row| row.thread).collect(),
            member_cgroup: members.iter().map(|row| row.cgroup).collect(),
            member_unit: members.iter().map(|row| row.unit).collect(),
            member_container: members.iter().map(|row| row.container).collect(),
            member_pod: members.iter().map(|row| row.pod).collect(),
            member_pid: members.iter().map(|row| row.pid).collect(),
            member_tid: members.iter().map(|row| row.tid).collect(),
            source_name: self.sources.iter().map(|row| row.name).collect(),
            source_unit: self.sources.iter().map(|row| row.unit).collect(),
            source_period: self.sources.iter().map(|row| row.period).collect(),
            sum_source: sums.iter().map(|(key, _)| key.0).collect(),
            sum_member: sums.iter().map(|(key, _)| key.1).collect(),
            sum_node: sums.iter().map(|(key, _)| key.2).collect(),
            sum_count: sums.iter().map(|(_, sum)| sum.count).collect(),
            sum_value: sums.iter().map(|(_, sum)| sum.value).collect(),
        };
        zstd::bulk::compress(&message.encode_to_vec(), COMPRESSION)
    }

    /// What [`Self::encode`] made; whatever else the bytes are is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        // The message keeps references to these bytes, instead of a copy of each name.
        let message = proto::Window::decode(Bytes::from(unpack(bytes)?))?;
        from_message(message).ok_or(DigestError::Reference)
    }
}

/// A stored window's sums by source and whose, of which stacks are not looked at: a fraction of [`Digest::decode`]'s time.
#[derive(Clone, Debug)]
pub struct StoredTotals {
    message: proto::Totals,
    sums: Vec<((u32, u32), Sum)>,
}

impl StoredTotals {
    /// Of what [`Digest::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        // The message keeps references to these bytes, instead of a copy of each name.
        let message = proto::Totals::decode(Bytes::from(unpack(bytes)?))?;
        let mut sums: FxMap<(u32, u32), Sum> = FxMap::default();
        for (row, &source) in message.sum_source.iter().enumerate() {
            let columns = (message.sum_member.get(row), message.sum_count.get(row), message.sum_value.get(row));
            let (Some(&member), Some(&count), Some(&value)) = columns else { return Err(DigestError::Reference) };
            sums.entry((source, member)).or_default().add(Sum { count, value });
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(key, _)| *key);
        Ok(Self { message, sums })
    }

    /// Calls back with each source's name, whose sum, and the sum.
    pub fn each(&self, visit: &mut dyn FnMut(&str, &Member<'_>, Sum)) -> Result<(), DigestError> {
        for &((source, member), sum) in &self.sums {
            let (source, member) = self.source(source).zip(self.member(member)).ok_or(DigestError::Reference)?;
            visit(source, &member, sum);
        }
        Ok(())
    }

    fn source(&self, row: u32) -> Option<&str> {
        self.text(&self.message.source_name, row)
    }

    fn member(&self, row: u32) -> Option<Member<'_>> {
        let message = &self.message;
        Some(Member {
            group: self.text(&message.member_group, row)?,
            process: self.text(&message.member_process, row)?,
            thread: self.text(&message.member_thread, row)?,
            cgroup: self.text(&message.member_cgroup, row)?,
            unit: self.text(&message.member_unit, row)?,
            container: self.text(&message.member_container, row)?,
            pod: self.text(&message.member_pod, row)?,
            pid: *message.member_pid.get(row as usize)?,
        })
    }

    fn text(&self, column: &[u32], row: u32) -> Option<&str> {
        let id = *column.get(row as usize)?;
        std::str::from_utf8(self.message.strings.get(id as usize)?).ok()
    }
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, DigestError> {
    // At once, into as much memory as it says that it takes: half the time of a stream.
    let size = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let size = size.filter(|size| *size <= MAX_BYTES).and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| DigestError::Zstd(io::Error::other("it does not say its size, or one too large")))?;
    zstd::bulk::decompress(bytes, size).map_err(DigestError::Zstd)
}

/// `None` where the message refers to what it does not hold.
fn from_message(message: proto::Window) -> Option<Digest> {
    let mut digest = Digest::new();
    let strings = message.strings.len();
    digest.strings.all.reserve(message.strings.iter().map(Bytes::len).sum());
    digest.strings.ends.reserve(strings);
    digest.frames.rows.reserve(message.frame_name.len());
    digest.nodes.rows.reserve(message.node_up.len());
    for text in &message.strings {
        digest.strings.push(std::str::from_utf8(text).ok()?);
    }
    let text = |column: &[u32], row: usize| column.get(row).copied().filter(|&id| (id as usize) < strings);
    for row in 0..message.mapping_path.len() {
        let build_id = text(&message.mapping_build_id, row)?;
        let path = text(&message.mapping_path, row)?;
        digest.mappings.rows.push(MappingRow { path, kind: *message.mapping_kind.get(row)?, build_id });
    }
    for row in 0..message.frame_name.len() {
        let mapping = *message.frame_mapping.get(row)?;
        digest.mappings.rows.get(mapping as usize)?;
        digest.frames.rows.push(FrameRow {
            name: text(&message.frame_name, row)?,
            file: text(&message.frame_file, row)?,
            start_line: *message.frame_start_line.get(row)?,
            mapping,
        });
    }
    for (row, &up) in message.node_up.iter().enumerate() {
        let frame = *message.node_frame.get(row)?;
        digest.frames.rows.get(frame as usize)?;
        // A parent comes before its children: no circle.
        let parent = u32::try_from(row).ok()?.checked_sub(up)?;
        digest.nodes.rows.push((parent, frame));
    }
    for row in 0..message.member_group.len() {
        digest.members.rows.push(MemberRow {
            group: text(&message.member_group, row)?,
            process: text(&message.member_process, row)?,
            thread: text(&message.member_thread, row)?,
            cgroup: text(&message.member_cgroup, row)?,
            unit: text(&message.member_unit, row)?,
            container: text(&message.member_container, row)?,
            pod: text(&message.member_pod, row)?,
            pid: *message.member_pid.get(row)?,
            tid: *message.member_tid.get(row)?,
        });
    }
    for row in 0..message.source_name.len() {
        let (unit, period) = (*message.source_unit.get(row)?, *message.source_period.get(row)?);
        digest.sources.push(SourceRow { name: text(&message.source_name, row)?, unit, period });
    }
    digest.sums.rows.reserve(message.sum_source.len());
    for (row, &source) in message.sum_source.iter().enumerate() {
        let (member, node) = (*message.sum_member.get(row)?, *message.sum_node.get(row)?);
        digest.sources.get(source as usize)?;
        digest.members.rows.get(member as usize)?;
        (node as usize <= digest.nodes.rows.len()).then_some(())?;
        let sum = Sum { count: *message.sum_count.get(row)?, value: *message.sum_value.get(row)? };
        digest.sums.rows.push(((source, member, node), sum));
    }
    Some(digest)
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

/// The stored message. Columns; new ones get new tags.
mod proto {
    use prost::bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Window {
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub(super) strings: Vec<Bytes>,
        #[prost(uint32, repeated, tag = "2")]
        pub(super) mapping_path: Vec<u32>,
        #[prost(uint32, repeated, tag = "3")]
        pub(super) mapping_kind: Vec<u32>,
        #[prost(uint32, repeated, tag = "4")]
        pub(super) mapping_build_id: Vec<u32>,
        #[prost(uint32, repeated, tag = "5")]
        pub(super) frame_name: Vec<u32>,
        #[prost(uint32, repeated, tag = "6")]
        pub(super) frame_file: Vec<u32>,
        #[prost(uint32, repeated, tag = "7")]
        pub(super) frame_start_line: Vec<u32>,
        #[prost(uint32, repeated, tag = "8")]
        pub(super) frame_mapping: Vec<u32>,
        /// How many rows before it its parent's row ends; as many as there are: it has none. Mostly 0, for a stack's frames
        /// come one after the other.
        #[prost(uint32, repeated, tag = "9")]
        pub(super) node_up: Vec<u32>,
        #[prost(uint32, repeated, tag = "10")]
        pub(super) node_frame: Vec<u32>,
        #[prost(uint32, repeated, tag = "11")]
        pub(super) member_group: Vec<u32>,
        #[prost(uint32, repeated, tag = "12")]
        pub(super) member_process: Vec<u32>,
        #[prost(uint32, repeated, tag = "13")]
        pub(super) member_thread: Vec<u32>,
        #[prost(uint32, repeated, tag = "14")]
        pub(super) member_cgroup: Vec<u32>,
        #[prost(uint32, repeated, tag = "15")]
        pub(super) member_unit: Vec<u32>,
        #[prost(uint32, repeated, tag = "16")]
        pub(super) member_container: Vec<u32>,
        #[prost(uint32, repeated, tag = "17")]
        pub(super) member_pod: Vec<u32>,
        #[prost(uint32, repeated, tag = "18")]
        pub(super) member_pid: Vec<u32>,
        #[prost(uint32, repeated, tag = "19")]
        pub(super) member_tid: Vec<u32>,
        #[prost(uint32, repeated, tag = "20")]
        pub(super) source_name: Vec<u32>,
        #[prost(uint32, repeated, tag = "21")]
        pub(super) source_unit: Vec<u32>,
        #[prost(uint64, repeated, tag = "22")]
        pub(super) source_period: Vec<u64>,
        #[prost(uint32, repeated, tag = "23")]
        pub(super) sum_source: Vec<u32>,
        #[prost(uint32, repeated, tag = "24")]
        pub(super) sum_member: Vec<u32>,
        /// 0: none, else one more than its row.
        #[prost(uint32, repeated, tag = "25")]
        pub(super) sum_node: Vec<u32>,
        #[prost(uint64, repeated, tag = "26")]
        pub(super) sum_count: Vec<u64>,
        #[prost(uint64, repeated, tag = "27")]
        pub(super) sum_value: Vec<u64>,
    }

    /// The part of it that says who has how much.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Totals {
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub(super) strings: Vec<Bytes>,
        #[prost(uint32, repeated, tag = "11")]
        pub(super) member_group: Vec<u32>,
        #[prost(uint32, repeated, tag = "12")]
        pub(super) member_process: Vec<u32>,
        #[prost(uint32, repeated, tag = "13")]
        pub(super) member_thread: Vec<u32>,
        #[prost(uint32, repeated, tag = "14")]
        pub(super) member_cgroup: Vec<u32>,
        #[prost(uint32, repeated, tag = "15")]
        pub(super) member_unit: Vec<u32>,
        #[prost(uint32, repeated, tag = "16")]
        pub(super) member_container: Vec<u32>,
        #[prost(uint32, repeated, tag = "17")]
        pub(super) member_pod: Vec<u32>,
        #[prost(uint32, repeated, tag = "18")]
        pub(super) member_pid: Vec<u32>,
        #[prost(uint32, repeated, tag = "20")]
        pub(super) source_name: Vec<u32>,
        #[prost(uint32, repeated, tag = "23")]
        pub(super) sum_source: Vec<u32>,
        #[prost(uint32, repeated, tag = "24")]
        pub(super) sum_member: Vec<u32>,
        #[prost(uint64, repeated, tag = "26")]
        pub(super) sum_count: Vec<u64>,
        #[prost(uint64, repeated, tag = "27")]
        pub(super) sum_value: Vec<u64>,
    }
}
