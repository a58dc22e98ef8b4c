//! Every format: the same small recording through each exporter, judged by the format's own readers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;

use cputrace::export::{self, Exporter, Format, trace_json};
use cputrace::model::*;
use proptest::prelude::*;
use serde_json::Value;
use support::{recording, require};

fn exported(name: &str, recording: &Recording) -> Vec<u8> {
    let mut bytes = Vec::new();
    export::by_name(name).unwrap().export(recording, View::default(), &mut bytes).unwrap();
    bytes
}

fn stacks(recording: &Recording, aspect: Aspect) -> Vec<(String, u64)> {
    let mut bytes = Vec::new();
    let view = View { aspect, hide_idle: false };
    export::by_name("folded").unwrap().export(recording, view, &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines.map(|(stack, weight)| (stack.to_owned(), weight.parse().unwrap())).collect()
}

fn json(recording: &Recording) -> Value {
    serde_json::from_slice(&exported("json", recording)).unwrap()
}

fn check_schema(document: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../schema/trace.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// A recording that a program of this version cannot have made, but that has all the same shape.
fn empty() -> Recording {
    Recording { profile: Profile::new(), timelines: Vec::new(), ledger: Ledger::default(), ..recording() }
}

/// The published schema describes every field that is written, and the ancestor's files.
#[test]
fn trace_json_follows_its_schema() {
    check_schema(&json(&recording()));
    check_schema(&json(&empty()));
    check_schema(&serde_json::from_str(include_str!("fixtures/ancestor.json")).unwrap());
}

/// The ancestor's names have the ancestor's meanings.
#[test]
fn trace_json_has_the_ancestors_fields() {
    let document = json(&recording());
    assert_eq!(document["session_id"], "trace-20260221-050852");
    assert_eq!(document["start_time"], "2026-02-21T05:08:52Z");
    assert_eq!(
        document["metadata"],
        serde_json::json!({ "pid": 1234, "process_name": "app", "threads": 2, "vm_rss_kb": 45320 })
    );
    assert_eq!(document["summary"]["cpu_max_percent"], 98.1);
    assert_eq!(document["summary"]["sample_count"], 2);
    assert_eq!(document["samples"][0]["t"], 0.1);
    assert_eq!(document["samples"][0]["cpu_pct"], 72.4);
}

/// The ledger adds up: expected = kept + lost.
#[test]
fn ledger_adds_up() {
    let ledger = &json(&recording())["ledger"];
    assert_eq!(ledger["samples_expected"], 10);
    assert_eq!(ledger["samples_kept"], 8);
    assert_eq!(ledger["unaccounted"], 0);
    assert_eq!(ledger["samples_lost"]["ring_buffer_full"], 1);
}

/// Written, read and written again is the same; compressed files are read too.
#[test]
fn trace_json_reads_back() {
    for recording in [recording(), empty()] {
        let first = exported("json", &recording);
        let again = exported("json", &trace_json::read(&*first).unwrap());
        assert_eq!(String::from_utf8(first).unwrap(), String::from_utf8(again).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["t.json", "t.json.gz", "t.json.zst"] {
        let path = folder.path().join(name);
        let format = Format { exporter: export::by_path(&path).unwrap(), view: View::default() };
        cputrace::sink::file::write(&recording(), format, &path).unwrap();
        let read = trace_json::read(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(json(&read), json(&recording()), "{name}");
    }
}

/// A function without a name is one in every format, and a trace still says that it has none, and why.
#[test]
fn functions_without_names_stay_unnamed() {
    let mut recording = recording();
    let profile = &mut recording.profile;
    let is_unknown = |id: &LocationId| profile.locations()[id.index()].unknown == Some(UnknownReason::NoSymbols);
    let id = profile.location_ids().find(is_unknown).unwrap();
    let (name, none) = (profile.string("app+0x1000"), profile.string(""));
    let function = profile.function(Function { name, system_name: none, file: none, start_line: 0 });
    profile.set_lines(id, Ok(vec![Line { function, line: 0 }]));
    profile.set_unknown(id, UnknownReason::NoSymbols);
    let read = trace_json::read(&*exported("json", &recording)).unwrap().profile;
    let location = &read.locations()[id.index()];
    assert_eq!((read.names(id), location.unknown), (vec!["app+0x1000".to_owned()], Some(UnknownReason::NoSymbols)));
    assert!(stacks(&recording, Aspect::OnCpu).iter().any(|(stack, _)| stack.contains("app+0x1000")));
    check_schema(&json(&recording));
}

/// A file of the ancestor reads: its time series is all that it has.
#[test]
fn the_ancestors_file_reads() {
    let recording = trace_json::read(&include_bytes!("fixtures/ancestor.json")[..]).unwrap();
    assert_eq!((recording.timelines[0].pid, recording.timelines[0].points.len()), (1234, 2));
    assert_eq!(recording.sampling.tier, Tier::Proc);
    assert!(recording.profile.samples().is_empty());
}

/// What is no trace says so in a sentence.
#[test]
fn other_files_are_refused() {
    let check = |text: &str, sentence: &str| {
        let error = trace_json::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    };
    check("", "not a trace.json");
    check("[1, 2]", "not a trace.json");
    check(&"[".repeat(100_000), "not a trace.json");
    let mut document = json(&recording());
    document["schema_version"] = 99.into();
    check(&document.to_string(), "use a newer cputrace");
    let mut document = json(&recording());
    document["profile"]["stacks"]["parent"][0] = 1.into();
    check(&document.to_string(), "outside of its table");
    let mut document = json(&recording());
    document["duration_seconds"] = (-1).into();
    check(&document.to_string(), "negative");
}

proptest! {
    /// A damaged file is an error or another recording, never a panic.
    #[test]
    fn damaged_files_do_no_harm(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = exported("json", &recording());
        let position = at.index(bytes.len());
        bytes[position] = byte;
        let _ = trace_json::read(&*bytes).map(|recording| exported("json", &recording));
        bytes.truncate(cut.index(bytes.len()));
        let _ = trace_json::read(&*bytes);
    }
}

/// Folded stacks, root first, with the marks of flame graph tools.
#[test]
fn folded() {
    insta::assert_snapshot!(String::from_utf8(exported("folded", &recording())).unwrap(), @r"
    app;main;app+0x2000 1
    app;main;main;parse<T>: with a semicolon_[i] 4
    app;main;main;parse<T>: with a semicolon_[i];vfs_write_[k] 2
    other;[no stack] 1
    ");
}

/// Each view has its own stacks; what is waited for is their leaf, and who ended the wait stands on top of it.
#[test]
fn views() {
    let recording = recording();
    let wait = "app;main;main;parse<T>: with a semicolon_[i];vfs_write_[k];[disk]";
    assert_eq!(stacks(&recording, Aspect::OffCpu), [(wait.to_owned(), 110_000)]);
    let queued = wait.replace("[disk]", "[waiting for a CPU]");
    assert_eq!(stacks(&recording, Aspect::RunQueue), [(queued.clone(), 5000)]);
    let woken = format!("{wait};[woken by app];main;main;parse<T>: with a semicolon_[i]");
    assert_eq!(stacks(&recording, Aspect::Wakers), [(woken, 60_000)]);
    // On the CPU 30 ms, queued 9, blocked 160, and one millisecond more that it lived.
    let wall = stacks(&recording, Aspect::Wall);
    assert_eq!(wall.iter().map(|(_, weight)| weight).sum::<u64>(), 200_000, "{wall:#?}");
    let part = |stack: &str| wall.iter().find(|(text, _)| text == stack).map(|(_, weight)| *weight);
    assert_eq!(part("app;main;main;parse<T>: with a semicolon_[i];vfs_write_[k]"), Some(20_000));
    assert_eq!(part(&queued), Some(5000));
    assert_eq!(part("app;[waiting for a CPU, no stack]"), Some(4000));
    assert_eq!(part("app;[waiting, no stack]"), Some(50_000));
    assert_eq!(part("app;[not accounted]"), Some(1000));
}

/// The Firefox Profiler's document: a thread of ours is one of its, with its samples, and its waits are markers.
#[test]
fn firefox() {
    let document: Value = serde_json::from_slice(&exported("firefox", &recording())).unwrap();
    assert_eq!(document["meta"]["product"], "cputrace");
    let threads = document["threads"].as_array().unwrap();
    let worker = threads.iter().find(|thread| thread["name"] == "worker").unwrap();
    assert_eq!((worker["pid"].as_str(), worker["samples"]["length"].as_u64()), (Some("1234"), Some(3)));
    let markers = &worker["markers"];
    let strings = document.pointer("/shared/stringArray").or(worker.get("stringArray")).unwrap();
    let waits: Vec<_> = (0..markers["length"].as_u64().unwrap() as usize)
        .map(|row| {
            let name = &strings[markers["name"][row].as_u64().unwrap() as usize];
            (
                name.as_str().unwrap(),
                markers["startTime"][row].as_f64().unwrap(),
                markers["endTime"][row].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(waits, [("disk", 10.0, 70.0), ("waiting for a CPU", 70.0, 75.0), ("disk", 90.0, 140.0)]);
}

/// Trace events: waits are slices with a length, and each thread has its name.
#[test]
fn perfetto() {
    let document: Value = serde_json::from_slice(&exported("perfetto", &recording())).unwrap();
    let events = document.as_array().unwrap();
    let of = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
    let waits: Vec<_> = of("X").map(|event| (&event["name"], &event["ts"], &event["dur"], &event["tid"])).collect();
    assert_eq!(waits.len(), 3);
    assert_eq!(waits[0], (&"disk".into(), &10_000.0.into(), &60_000.0.into(), &1235.into()));
    assert_eq!(of("i").count(), 8);
    let names: Vec<_> = of("M").map(|event| event["args"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["app", "worker", "app", "app", "other", "other"]);
    assert_eq!(exported("perfetto", &empty()), b"[]\n");
}

/// A file's name says what it shows.
#[test]
fn names_of_views() {
    for (name, aspect) in [
        ("flame.svg", None),
        ("flame.off-cpu.svg", Some(Aspect::OffCpu)),
        ("wall.folded", Some(Aspect::Wall)),
        ("a.wakers.folded.zst", Some(Aspect::Wakers)),
    ] {
        assert_eq!(export::aspect_of(Path::new(name)), aspect, "{name}");
    }
}

/// The flame graph is an SVG with every function in it; one of nothing is drawn too.
#[test]
fn flamegraph() {
    let svg = String::from_utf8(exported("flamegraph", &recording())).unwrap();
    for word in ["<svg", "vfs_write", "parse&lt;T&gt;", "On-CPU time of app (1234), other", "8 samples in 0.2 s"] {
        assert!(svg.contains(word), "{word} in {svg}");
    }
    assert!(String::from_utf8(exported("flamegraph", &empty())).unwrap().contains("no samples"));
}

/// A differential flame graph has the later recording's functions, each with its change where it is the leaf; what the earlier
/// one took is scaled to the same time.
#[test]
fn differential_flamegraph() {
    let (base, mut later) = (recording(), recording());
    let (main, source) =
        (later.profile.stacks().position(|(parent, _)| parent.is_none()), later.profile.sources()[0].clone());
    let (thread, source) = (later.profile.samples()[0].thread, later.profile.source(source));
    let main = later.profile.samples().iter().find_map(|sample| {
        std::iter::successors(sample.stack, |id| later.profile.stack_node(*id).0).find(|id| Some(id.index()) == main)
    });
    later.profile.add((thread, source, main), 4, 40_404_040, None);
    let draw = |base: &Recording, later: &Recording| {
        let mut bytes = Vec::new();
        export::flamegraph::Differential { base }.export(later, View::default(), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let svg = draw(&base, &later);
    for word in ["Change of On-CPU time", "vfs_write", "main (11 samples, 91.67%; +33.33%)"] {
        assert!(svg.contains(word), "{word} in {svg}");
    }
    let twice = Recording { duration: base.duration * 2, ..base.clone() };
    assert!(draw(&twice, &base).contains("vfs_write (2 samples, 25.00%; +12.50%)"), "{}", draw(&twice, &base));
    assert!(draw(&base, &empty()).contains("no samples"));
}

/// Go's own pprof reads the profile: values, names, inlined functions, labels, build id.
#[test]
fn pprof_by_go() {
    if !require("go") {
        return;
    }
    let file = tempfile::NamedTempFile::with_suffix(".pb.gz").unwrap();
    std::fs::write(file.path(), exported("pprof", &recording())).unwrap();
    let pprof = |arguments: &[&str]| {
        let output = Command::new("go").args(["tool", "pprof"]).args(arguments).arg(file.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let top = pprof(&["-top"]);
    for word in ["Type: cpu", "Total samples = 80.81ms", "vfs_write", "parse; with a semicolon (inline)"] {
        assert!(top.contains(word), "{word} in {top}");
    }
    let raw = pprof(&["-raw"]);
    for word in ["samples/count cpu/nanoseconds", "thread:[worker]", "tid:[1235]", &"ab".repeat(20), "parse.h:20:0"] {
        assert!(raw.contains(word), "{word} in {raw}");
    }
}

/// The file's ending chooses the format, below a compression.
#[test]
fn formats_by_ending() {
    let format = |name: &str| export::by_path(Path::new(name)).map(Exporter::name).map_err(|error| error.to_string());
    assert_eq!(format("a/trace.json").unwrap(), "json");
    assert_eq!(format("trace.json.zst").unwrap(), "json");
    assert_eq!(format("x.svg").unwrap(), "flamegraph");
    assert_eq!(format("x.folded.gz").unwrap(), "folded");
    assert_eq!(format("x.pb.gz").unwrap(), "pprof");
    assert_eq!(format("x.firefox.json").unwrap(), "firefox");
    assert_eq!(format("x.perfetto.json.gz").unwrap(), "perfetto");
    assert!(format("x.gz").unwrap_err().contains("known are json, svg, folded, pb.gz, firefox.json"));
}

/// Half a minute of a busy host of two CPUs at 99 Hz: 6,000 samples, 45 frames deep, from 1,500 different stacks.
#[test]
fn trace_json_stays_small() {
    let mut recording = recording();
    let mut profile = Profile::new();
    let name = profile.string("on-cpu");
    let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 10_101_010 });
    let path = profile.string("/usr/lib/postgresql/15/bin/postgres");
    let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
    let process = profile.process(1, "postgres");
    let threads: Vec<_> = (0..20).map(|tid| profile.thread(process, tid, "postgres")).collect();
    let mut random = 1_u64;
    let mut next = move |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for index in 0..6000 {
        // Stacks branch near their leaves: 25 frames in common, then wider and wider.
        let mut stack = None;
        for depth in 0..45_u64 {
            let choice = if depth < 25 { depth % 3 } else { next(2) * u64::from(next(20) == 0) + depth };
            let location = profile.location(mapping, ElfAddr(0x40_0000 + depth * 0x1000 + choice * 16));
            stack = Some(profile.stack(stack, location));
        }
        for id in profile.location_ids().collect::<Vec<_>>() {
            if profile.locations()[id.index()].unknown.is_some() {
                let name = profile.string(&format!("ExecSomeNodeOfThePlan_{}", id.index()));
                let function = profile.function(Function { name, system_name: name, file: name, start_line: 0 });
                profile.set_lines(id, Ok(vec![Line { function, line: 100 }]));
            }
        }
        let event = Event { at_ns: index * 5_000_000, value: 10_101_010 };
        profile.add((threads[next(20) as usize], source, stack), 1, 10_101_010, Some(event));
    }
    recording.profile = profile;
    let bytes = exported("json", &recording).len();
    assert!(bytes < 2_000_000, "{bytes} bytes");
}
