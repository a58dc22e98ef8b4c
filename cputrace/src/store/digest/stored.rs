//! How a digest is stored: a protobuf message of columns, compressed by zstd; tables as in pprof, but stacks as a prefix tree.

use std::io;
use std::mem::take;

use prost::Message;

use super::table::Texts;
use super::{Digest, DigestError, FrameRow, FxMap, MappingRow, Member, MemberRow, SourceRow, Sum};

/// zstd's level: higher ones gain a few per cent for a multiple of the time.
const COMPRESSION: i32 = 3;

/// A window that is larger than this is damaged.
const MAX_BYTES: u64 = 256 << 20;

impl Digest {
    /// For the store.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let sums = self.sums.sorted();
        let frames = &self.frames.rows;
        let members = &self.members.rows;
        let message = proto::Window {
            strings: Vec::new(),
            text: self.strings.all().to_owned(),
            text_length: self.strings.lengths().collect(),
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
        let mut message = proto::Window::decode(&*unpack(bytes)?)?;
        let strings = texts(take(&mut message.text), &message.text_length, &message.strings)?;
        from_message(&message, strings).ok_or(DigestError::Reference)
    }
}

/// A stored window's sums by source and whose, of which stacks are not looked at: a fraction of [`Digest::decode`]'s time.
#[derive(Clone, Debug)]
pub struct StoredTotals {
    strings: Texts,
    message: proto::Totals,
    sums: Vec<((u32, u32), Sum)>,
}

impl StoredTotals {
    /// Of what [`Digest::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, DigestError> {
        let mut message = proto::Totals::decode(&*unpack(bytes)?)?;
        let strings = texts(take(&mut message.text), &message.text_length, &message.strings)?;
        let mut sums: FxMap<(u32, u32), Sum> = FxMap::default();
        for (row, &source) in message.sum_source.iter().enumerate() {
            let columns = (message.sum_member.get(row), message.sum_count.get(row), message.sum_value.get(row));
            let (Some(&member), Some(&count), Some(&value)) = columns else { return Err(DigestError::Reference) };
            sums.entry((source, member)).or_default().add(Sum { count, value });
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(key, _)| *key);
        Ok(Self { strings, message, sums })
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
        ((id as usize) < self.strings.len()).then(|| self.strings.get(id))
    }
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, DigestError> {
    // At once, into as much memory as it says that it takes: half the time of a stream.
    let size = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let size = size.filter(|size| *size <= MAX_BYTES).and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| DigestError::Zstd(io::Error::other("it does not say its size, or one too large")))?;
    zstd::bulk::decompress(bytes, size).map_err(DigestError::Zstd)
}

/// A window's strings. Earlier versions stored them one by one.
fn texts(text: String, lengths: &[u32], one_by_one: &[String]) -> Result<Texts, DigestError> {
    if one_by_one.is_empty() {
        return Texts::new(text, lengths).ok_or(DigestError::Reference);
    }
    let mut texts = Texts::default();
    one_by_one.iter().for_each(|text| texts.push(text));
    Ok(texts)
}

/// `None` where the message refers to what it does not hold.
fn from_message(message: &proto::Window, strings: Texts) -> Option<Digest> {
    let mut digest = Digest { strings, ..Digest::new() };
    let strings = digest.strings.len();
    digest.frames.rows.reserve(message.frame_name.len());
    digest.nodes.rows.reserve(message.node_up.len());
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

/// The stored message. Columns; new ones get new tags.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Window {
        /// As earlier versions stored them.
        #[prost(string, repeated, tag = "1")]
        pub(super) strings: Vec<String>,
        /// All strings, one behind the other.
        #[prost(string, tag = "28")]
        pub(super) text: String,
        /// Bytes of each.
        #[prost(uint32, repeated, tag = "29")]
        pub(super) text_length: Vec<u32>,
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
        /// As earlier versions stored them.
        #[prost(string, repeated, tag = "1")]
        pub(super) strings: Vec<String>,
        /// All strings, one behind the other.
        #[prost(string, tag = "28")]
        pub(super) text: String,
        /// Bytes of each.
        #[prost(uint32, repeated, tag = "29")]
        pub(super) text_length: Vec<u32>,
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::group::Labels;
    use crate::model::{Profile, Source, Unit};

    fn digest() -> Digest {
        let mut profile = Profile::new();
        let process = profile.process(7, "größer");
        let thread = profile.thread(process, 8, "worker");
        let name = profile.string("on-cpu");
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 1 });
        profile.add((thread, source, None), 3, 30, None);
        let mut digest = Digest::new();
        digest.add_profile(&profile, &[Labels { group: "all".to_owned(), ..Labels::default() }]);
        digest
    }

    fn packed(message: &proto::Window) -> Vec<u8> {
        zstd::bulk::compress(&message.encode_to_vec(), COMPRESSION).unwrap()
    }

    /// Windows of earlier versions, whose strings lie one by one, are read as today's.
    #[test]
    fn reads_earlier_windows() {
        let bytes = digest().encode().unwrap();
        let mut message = proto::Window::decode(&*unpack(&bytes).unwrap()).unwrap();
        message.text.clear();
        message.text_length.clear();
        let digest = digest();
        message.strings = (0..digest.strings.len() as u32).map(|id| digest.text(id).to_owned()).collect();
        let earlier = packed(&message);
        assert_ne!(earlier, bytes);
        assert_eq!(Digest::decode(&earlier).unwrap().totals(), digest.totals());
        let mut sums = Vec::new();
        let mut visit = |source: &str, member: &Member<'_>, sum| sums.push((source.to_owned(), member.pid, sum));
        StoredTotals::decode(&earlier).unwrap().each(&mut visit).unwrap();
        assert_eq!(sums, [("on-cpu".to_owned(), 7, Sum { count: 3, value: 30 })]);
    }

    /// Lengths that end inside a character or behind the text are refused.
    #[test]
    fn refuses_lengths_that_do_not_fit() {
        let bytes = digest().encode().unwrap();
        let message = proto::Window::decode(&*unpack(&bytes).unwrap()).unwrap();
        let inside = message.text.find('ö').unwrap() as u32 + 1;
        for wrong in [vec![inside], vec![u32::MAX], vec![1, message.text.len() as u32]] {
            let damaged = packed(&proto::Window { text_length: wrong, ..message.clone() });
            assert!(matches!(Digest::decode(&damaged), Err(DigestError::Reference)));
            assert!(matches!(StoredTotals::decode(&damaged), Err(DigestError::Reference)));
        }
    }
}
