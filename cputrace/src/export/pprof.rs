//! pprof's protobuf, gzipped: `go tool pprof`, Grafana Pyroscope, speedscope and others read it.
//!
//! Format: `profile.proto` of google/pprof; the field numbers below are its. A profile has two columns for each source:
//! how many samples, and their value.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use prost::Message;

use super::Exporter;
use crate::model::view::with_wall;
use crate::model::{MappingId, MappingKind, Profile, Recording, View};

/// pprof.
#[derive(Debug)]
pub struct Pprof;

impl Exporter for Pprof {
    fn name(&self) -> &'static str {
        "pprof"
    }

    fn description(&self) -> &'static str {
        "gzipped protobuf, for go tool pprof and others"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["pb.gz", "pprof"]
    }

    fn content_type(&self) -> &'static str {
        "application/octet-stream"
    }

    fn export(&self, recording: &Recording, _view: View, out: &mut dyn Write) -> io::Result<()> {
        let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::default());
        gzip.write_all(&message(recording).encode_to_vec())?;
        gzip.finish().map(drop)
    }
}

/// The messages of `profile.proto`; their JSON is that of protobuf, but for its numbers.
pub(crate) mod proto {
    #[derive(Clone, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub(crate) sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub(crate) location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub(crate) function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub(crate) string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub(crate) time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub(crate) duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub(crate) period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub(crate) period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub(crate) comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub(crate) default_sample_type: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct ValueType {
        #[prost(int64, tag = "1")]
        pub(crate) r#type: i64,
        #[prost(int64, tag = "2")]
        pub(crate) unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub(crate) location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub(crate) value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) label: Vec<Label>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Label {
        #[prost(int64, tag = "1")]
        pub(crate) key: i64,
        #[prost(int64, tag = "2")]
        pub(crate) str: i64,
        #[prost(int64, tag = "3")]
        pub(crate) num: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Mapping {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) memory_limit: u64,
        #[prost(int64, tag = "5")]
        pub(crate) filename: i64,
        #[prost(int64, tag = "6")]
        pub(crate) build_id: i64,
        #[prost(bool, tag = "7")]
        pub(crate) has_functions: bool,
        #[prost(bool, tag = "8")]
        pub(crate) has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub(crate) has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub(crate) has_inline_frames: bool,
    }

    #[derive(Clone, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Location {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(uint64, tag = "2")]
        pub(crate) mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub(crate) address: u64,
        #[prost(message, repeated, tag = "4")]
        pub(crate) line: Vec<Line>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Line {
        #[prost(uint64, tag = "1")]
        pub(crate) function_id: u64,
        #[prost(int64, tag = "2")]
        pub(crate) line: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct Function {
        #[prost(uint64, tag = "1")]
        pub(crate) id: u64,
        #[prost(int64, tag = "2")]
        pub(crate) name: i64,
        #[prost(int64, tag = "3")]
        pub(crate) system_name: i64,
        #[prost(int64, tag = "4")]
        pub(crate) filename: i64,
        #[prost(int64, tag = "5")]
        pub(crate) start_line: i64,
    }
}

/// The string table; its first entry has to be the empty string.
struct Strings {
    table: Vec<String>,
    ids: HashMap<String, i64>,
}

impl Strings {
    fn id(&mut self, text: &str) -> i64 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = self.table.len() as i64;
        self.table.push(text.to_owned());
        self.ids.insert(text.to_owned(), id);
        id
    }
}

/// Ids start at 1: 0 means none.
fn id(index: usize) -> u64 {
    index as u64 + 1
}

/// All of a recording.
pub(crate) fn message(recording: &Recording) -> proto::Profile {
    let profile = &if recording.threads.is_empty() { recording.profile.clone() } else { with_wall(recording) };
    let mut strings = Strings { table: vec![String::new()], ids: HashMap::from([(String::new(), 0)]) };
    let sample_type: Vec<_> = profile
        .sources()
        .iter()
        .flat_map(|source| {
            let (count, value) = column_names(profile.text(source.name));
            let count = proto::ValueType { r#type: strings.id(&count), unit: strings.id("count") };
            let value = proto::ValueType { r#type: strings.id(&value), unit: strings.id(source.unit.name()) };
            [count, value]
        })
        .collect();
    let period_type = sample_type.get(1).copied();
    let since_epoch = recording.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    proto::Profile {
        sample: samples(profile, &mut strings),
        mapping: mappings(profile, &mut strings),
        location: locations(profile),
        function: functions(profile, &mut strings),
        time_nanos: since_epoch.as_nanos() as i64,
        duration_nanos: recording.duration.as_nanos() as i64,
        default_sample_type: period_type.map_or(0, |column| column.r#type),
        period_type,
        period: profile.sources().first().map_or(0, |source| source.period as i64),
        comment: recording.notes.iter().map(|note| strings.id(note)).collect(),
        sample_type,
        string_table: strings.table,
    }
}

/// What pprof's users call the columns of on-CPU samples: as in Go's own CPU profiles.
fn column_names(source: &str) -> (String, String) {
    match source {
        "on-cpu" => ("samples".to_owned(), "cpu".to_owned()),
        other => (format!("{other}_samples"), other.to_owned()),
    }
}

fn samples(profile: &Profile, strings: &mut Strings) -> Vec<proto::Sample> {
    let columns = profile.sources().len() * 2;
    let [process_key, pid_key, thread_key, tid_key] = ["process", "pid", "thread", "tid"].map(|key| strings.id(key));
    let samples = profile.samples().iter().map(|sample| {
        let thread = &profile.threads()[sample.thread.index()];
        let process = &profile.processes()[thread.process.index()];
        let label = vec![
            proto::Label { key: process_key, str: strings.id(profile.text(process.name)), num: 0 },
            proto::Label { key: pid_key, str: 0, num: process.pid.into() },
            proto::Label { key: thread_key, str: strings.id(profile.text(thread.name)), num: 0 },
            proto::Label { key: tid_key, str: 0, num: thread.tid.into() },
        ];
        let mut value = vec![0; columns];
        let column = sample.source.index() * 2;
        value[column] = sample.count as i64;
        value[column + 1] = sample.value as i64;
        let location_id = profile.frames(sample.stack).map(|location| id(location.index())).collect();
        proto::Sample { location_id, value, label }
    });
    samples.collect()
}

fn mappings(profile: &Profile, strings: &mut Strings) -> Vec<proto::Mapping> {
    let mut mappings: Vec<_> = profile
        .mappings()
        .iter()
        .enumerate()
        .map(|(index, mapping)| proto::Mapping {
            id: id(index),
            memory_start: u64::MAX,
            memory_limit: 0,
            filename: strings.id(profile.text(mapping.path)),
            build_id: mapping.build_id.as_ref().map_or(0, |id| strings.id(&id.to_string())),
            // What could be looked up was: readers need not try again.
            has_functions: mapping.kind != MappingKind::Unmapped,
            has_filenames: false,
            has_line_numbers: false,
            has_inline_frames: false,
        })
        .collect();
    // Addresses are those of the file; a mapping has to contain its locations.
    for location in profile.locations() {
        let mapping = &mut mappings[location.mapping.index()];
        mapping.memory_start = mapping.memory_start.min(location.address.0 & !0xfff);
        mapping.memory_limit = mapping.memory_limit.max((location.address.0 | 0xfff).saturating_add(1));
        let with_file =
            |line: &crate::model::Line| !profile.text(profile.functions()[line.function.index()].file).is_empty();
        mapping.has_filenames |= location.lines.iter().any(with_file);
        mapping.has_line_numbers |= location.lines.iter().any(|line| line.line > 0);
        mapping.has_inline_frames |= location.lines.len() > 1;
    }
    // Readers call the profile after the first one.
    if let Some(program) = program(profile) {
        mappings.sort_by_key(|mapping| mapping.id != id(program.index()));
    }
    mappings
}

/// The file of the program that has the most samples: where the stacks of processes' first threads begin.
fn program(profile: &Profile) -> Option<MappingId> {
    let mut samples: HashMap<MappingId, u64> = HashMap::new();
    for sample in profile.samples() {
        let thread = &profile.threads()[sample.thread.index()];
        let is_first = thread.tid == profile.processes()[thread.process.index()].pid;
        if let Some(outermost) = profile.frames(sample.stack).last().filter(|_| is_first) {
            *samples.entry(profile.locations()[outermost.index()].mapping).or_default() += sample.count;
        }
    }
    let of_file = |mapping: &MappingId| profile.mappings()[mapping.index()].kind == MappingKind::File;
    samples
        .into_iter()
        .filter(|(mapping, _)| of_file(mapping))
        .max_by_key(|&(mapping, count)| (count, mapping))
        .map(|(mapping, _)| mapping)
}

fn locations(profile: &Profile) -> Vec<proto::Location> {
    let locations = profile.locations().iter().enumerate().map(|(index, location)| proto::Location {
        id: id(index),
        mapping_id: id(location.mapping.index()),
        address: location.address.0,
        line: location
            .lines
            .iter()
            .map(|line| proto::Line { function_id: id(line.function.index()), line: line.line.into() })
            .collect(),
    });
    locations.collect()
}

fn functions(profile: &Profile, strings: &mut Strings) -> Vec<proto::Function> {
    let functions = profile.functions().iter().enumerate().map(|(index, function)| proto::Function {
        id: id(index),
        name: strings.id(profile.text(function.name)),
        system_name: strings.id(profile.text(function.system_name)),
        filename: strings.id(profile.text(function.file)),
        start_line: function.start_line.into(),
    });
    functions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ElfAddr, Mapping, Source, Unit};

    /// The program comes first, whatever was seen first: readers show its name as the profile's.
    #[test]
    fn the_program_comes_first() {
        let mut profile = Profile::new();
        let [library, app] = ["/lib/libc.so.6", "/usr/bin/app"].map(|path| {
            let path = profile.string(path);
            profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None })
        });
        let [leaf, start] = [(library, 0x10), (app, 0x20)].map(|(file, at)| profile.location(file, ElfAddr(at)));
        let root = profile.stack(None, start);
        let stack = profile.stack(Some(root), leaf);
        let process = profile.process(7, "app");
        let threads = [profile.thread(process, 7, "app"), profile.thread(process, 8, "worker")];
        let name = profile.string("on-cpu");
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 1 });
        profile.add((threads[0], source, Some(stack)), 1, 1, None);
        // Other threads begin in the C library.
        let worker = profile.stack(None, leaf);
        profile.add((threads[1], source, Some(worker)), 5, 5, None);
        let mut strings = Strings { table: vec![String::new()], ids: HashMap::new() };
        let mappings = mappings(&profile, &mut strings);
        let names = mappings.iter().map(|mapping| &*strings.table[mapping.filename as usize]);
        assert_eq!(names.collect::<Vec<_>>(), ["/usr/bin/app", "/lib/libc.so.6"]);
    }
}
