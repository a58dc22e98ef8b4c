//! What requests to `cputrace serve` take with a store of 28 hours: scrapes, queries, uploads. Beside it what the ancestor
//! kept, a SQLite row of JSON a window, read by the same SQLite and the same JSON parser. `cargo xtask bench serve` runs it.
//!
//! The windows are made up: 200 groups, each with its own functions, on a host with 40 busy CPUs.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cputrace::export::{Exporter, trace_json::TraceJson};
use cputrace::group::{GroupOptions, Groups, Labels};
use cputrace::model::{
    ElfAddr, Function, Ledger, Line, LocationId, Mapping, MappingKind, Overhead, Profile, Recording, Sampling, Source,
    StackId, Target, ThreadTime, Tier, Unit, View,
};
use cputrace::serve::{PushOptions, Settings, State, WebSettings, router};
use cputrace::session::Options;
use cputrace::store::windows::{Range, WindowFacts};
use cputrace::store::{Digest, Retention, Store};
use cputrace::symbolize::Detail;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Groups of processes, each of one process.
const GROUPS: u32 = 200;

/// Windows that are stored.
const WINDOWS: u32 = 10_000;

/// Their length.
const WINDOW: Duration = Duration::from_secs(10);

/// Windows that differ; then they come again.
const DISTINCT: usize = 60;

/// Samples of a window: 19 Hz on two CPUs, and waits. With these and [`STACKS`] windows take 118 kB each with what is added up of
/// them, three to five times what those of a two-CPU host that compiles Rust do.
const ON_CPU: usize = 380;
const OFF_CPU: usize = 120;

/// Stacks that a group has.
const STACKS: u64 = 16;

/// How often each request is made; the middle one counts.
const ROUNDS: usize = 9;

/// Windows of the peer's: an hour's.
const PEER_WINDOWS: usize = 360;

fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let start = SystemTime::now() - WINDOW * WINDOWS;
    let recordings: Vec<_> = (0..DISTINCT as u64).map(|seed| recording(seed, start)).collect();
    let store = Store::open(directory.path())?;
    let started = Instant::now();
    fill(&store, &recordings, start)?;
    let stored = started.elapsed();
    println!(
        "\n{WINDOWS} windows of {GROUPS} groups: {:.0} MB, {:.1} ms a window to store with all that is added up of them",
        store.bytes() as f64 / 1e6,
        stored.as_secs_f64() * 1e3 / f64::from(WINDOWS)
    );
    let address = serve(directory.path(), store, &recordings)?;
    println!("{:<52} {:>9} {:>9} {:>9}", "", "ms", "worst ms", "kB");
    for (name, accept) in [
        ("scrape, text", "text/plain;version=0.0.4"),
        ("scrape, OpenMetrics", "application/openmetrics-text;version=1.0.0"),
        (
            "scrape, protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
        ),
    ] {
        let url = format!("http://{address}/metrics");
        row(name, || Ok(ureq::get(&url).header("accept", accept).call()?))?;
    }
    for (name, path) in [
        ("flame graph of 15 minutes", "flamegraph"),
        ("flame graph of an hour", "flamegraph?from=now-1h"),
        ("flame graph of a day", "flamegraph?from=now-24h"),
        ("flame graph of a day, one group", "flamegraph?from=now-24h&group=group-3"),
        ("flame graph of a day, off the CPU", "flamegraph?from=now-24h&source=off-cpu"),
        ("pprof of a day", "profile?from=now-24h"),
        ("two days' halves compared", "diff?base=now-24h..now-12h&against=now-12h..now"),
        ("series of a day", "series?from=now-24h"),
        ("timeline of a day", "timeline?from=now-24h"),
        ("status", "status"),
    ] {
        let url = format!("http://{address}/api/{path}");
        row(name, || Ok(ureq::get(&url).call()?))?;
    }
    let mut json = Vec::new();
    TraceJson.export(&recordings[0], View::default(), &mut json)?;
    let pprof = ureq::get(format!("http://{address}/api/profile?from=now-1h")).call()?.body_mut().read_to_vec()?;
    for (name, body) in [("upload of a trace.json", json), ("upload of a pprof profile of an hour", pprof)] {
        let url = format!("http://{address}/api/traces");
        println!("{:<52} {:>19} {:>9.0}", name, "", body.len() as f64 / 1e3);
        row("  until it is stored", || Ok(ureq::post(&url).send(&body)?))?;
    }
    peer(&recordings)
}

/// A line of the table: what `request` takes until its answer is read.
fn row(name: &str, request: impl Fn() -> Result<ureq::http::Response<ureq::Body>>) -> Result<()> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        bytes = request()?.body_mut().with_config().limit(1 << 30).read_to_vec()?.len();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{name:<52} {:>9.1} {:>9.1} {:>9.0}",
        times[ROUNDS / 2],
        times.last().copied().unwrap_or_default(),
        bytes as f64 / 1e3
    );
    Ok(())
}

fn range(start: SystemTime, number: u32) -> Range {
    let from = start + WINDOW * number;
    Range { from, to: from + WINDOW }
}

fn labels() -> Vec<Labels> {
    (0..GROUPS).map(|group| Labels { group: format!("group-{group}"), ..Labels::default() }).collect()
}

fn fill(store: &Store, recordings: &[Recording], start: SystemTime) -> Result<()> {
    let labels = labels();
    let digests: Vec<_> = recordings
        .iter()
        .map(|recording| {
            let mut digest = Digest::new();
            digest.add_profile(&recording.profile, &labels);
            digest
        })
        .collect();
    let facts = WindowFacts { windows: 1, covered_ms: 10_000, frequency_hz: 19.0, ..WindowFacts::default() };
    for (number, digest) in (0..WINDOWS).zip(digests.iter().cycle()) {
        store.add_window(range(start, number), &facts, digest)?;
    }
    Ok(())
}

/// A server in a thread of its own, until the program ends.
fn serve(directory: &std::path::Path, store: Store, recordings: &[Recording]) -> Result<SocketAddr> {
    let session = Options {
        targets: vec![Target::All],
        frequency: 19,
        duration: None,
        interval: Duration::from_secs(1),
        tier: None,
        follow_children: true,
        unwind_kb: 16 << 10,
        accounting: true,
        waits: None,
        timeline: false,
        detail: Detail::Lines,
        wait_rules: String::new(),
        pmu: Vec::new(),
        event: None,
        event_period: None,
        stack_counters: Vec::new(),
        max_overhead: None,
    };
    let web =
        WebSettings { listen: ([127, 0, 0, 1], 0).into(), config_file: None, allow_anonymous: false, connections: 100 };
    let settings = Settings {
        web,
        data_dir: directory.to_owned(),
        retention: Retention::default(),
        groups: GroupOptions { max: GROUPS as usize + 2, ..GroupOptions::default() },
        window: WINDOW,
        webhook: None,
        push: PushOptions::default(),
        on_demand: session.clone(),
        session,
    };
    let groups = Groups::new(&settings.groups)?;
    let state = Arc::new(State::new(&settings, store, groups, Box::new(|line| println!("{line}"))));
    state.add(&recordings[0]);
    let listener = std::net::TcpListener::bind(settings.web.listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, router(state)).await })
    });
    Ok(address)
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Small numbers come more often.
    fn skewed(&mut self, end: u64) -> u64 {
        let number = self.below(end);
        self.below(number + 1)
    }
}

/// What one window brought: the same groups and functions as in the others, other stacks of theirs.
fn recording(seed: u64, start: SystemTime) -> Recording {
    let mut profile = Profile::new();
    let mut host = MadeUp { random: Random(seed), locations: HashMap::new() };
    let threads: Vec<_> = (0..GROUPS)
        .map(|group| {
            // No process has such an id.
            let process = profile.process(4_200_000 + group, &format!("group-{group}"));
            profile.thread(process, 4_200_000 + group, "worker")
        })
        .collect();
    for (name, samples) in [("on-cpu", ON_CPU), ("off-cpu", OFF_CPU)] {
        let name = profile.string(name);
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 52_631_578 });
        for _ in 0..samples {
            let group = host.random.skewed(u64::from(GROUPS));
            let stack = host.stack(&mut profile, group);
            profile.add((threads[group as usize], source, Some(stack)), 1, 52_631_578, None);
        }
    }
    let threads = (0..GROUPS).map(|group| ThreadTime {
        pid: 4_200_000 + group,
        tid: 4_200_000 + group,
        name: format!("group-{group}"),
        elapsed_ns: 10_000_000_000,
        on_cpu_ns: 1_000_000_000,
        run_queue_ns: 1_000_000_000,
        off_cpu_ns: [8_000_000_000, 0, 0, 0],
        run_queue_waits: [7; 32],
        ..ThreadTime::default()
    });
    Recording {
        session_id: format!("trace-made-up-{seed}"),
        start,
        duration: WINDOW,
        host: cputrace::process::host::host(),
        targets: vec![Target::All],
        sampling: Sampling { tier: Tier::Ebpf, clock: None, asked_hz: 19.0, achieved_hz: 19.0 },
        timelines: Vec::new(),
        threads: threads.collect(),
        scheduler: None,
        ledger: Ledger { ticks: ON_CPU as u64, samples_kept: ON_CPU as u64, ..Ledger::default() },
        overhead: Overhead::default(),
        unwinding: None,
        pmu: None,
        event: None,
        stack_counters: None,
        spikes: Vec::new(),
        notes: Vec::new(),
        profile,
    }
}

struct MadeUp {
    random: Random,
    locations: HashMap<(u64, u64), LocationId>,
}

impl MadeUp {
    /// One of the group's stacks, the first of them more often than the last.
    fn stack(&mut self, profile: &mut Profile, group: u64) -> StackId {
        // Of a number of its own: the same stack is the same in all windows.
        let mut own = Random(group << 32 | self.random.skewed(STACKS));
        let depth = 8 + own.below(32);
        let mut stack = None;
        for level in 0..depth {
            // The outer frames are few.
            let function = level * 64 + own.below(1 + level * 2);
            let location = self.location(profile, group, function);
            stack = Some(profile.stack(stack, location));
        }
        stack.expect("a stack is eight frames deep or more")
    }

    fn location(&mut self, profile: &mut Profile, group: u64, function: u64) -> LocationId {
        *self.locations.entry((group, function)).or_insert_with(|| {
            let path = profile.string(&format!("/usr/lib/group-{group}/bin/program"));
            let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
            let name = format!("group_{group}::module_{}::Type<u{function}>::function_{function}", function % 23);
            let (name, file) = (profile.string(&name), profile.string(&format!("src/module_{}.rs", function % 23)));
            let function_id = profile.function(Function { name, system_name: name, file, start_line: 7 });
            let location = profile.location(mapping, ElfAddr(function));
            profile.set_lines(location, Ok(vec![Line { function: function_id, line: 8 }]));
            location
        })
    }
}

/// The ancestor's shape: a row a window, its samples as JSON. An hour of on-CPU samples alone as a tree.
fn peer(recordings: &[Recording]) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("peer.db");
    let mut connection = rusqlite::Connection::open(&file)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE trace (id INTEGER PRIMARY KEY, start INTEGER NOT NULL, samples TEXT NOT NULL)",
    )?;
    let transaction = connection.transaction()?;
    for (start, recording) in (0..PEER_WINDOWS).zip(recordings.iter().cycle()) {
        let (profile, weights) = View::default().of(recording);
        let samples: Vec<_> = weights
            .iter()
            .map(|weight| {
                let mut stack: Vec<_> =
                    profile.frames(weight.stack).flat_map(|location| profile.names(location)).collect();
                stack.reverse();
                json!({ "stack": stack, "count": weight.count })
            })
            .collect();
        let samples = Value::Array(samples).to_string();
        transaction.execute("INSERT INTO trace (start, samples) VALUES (?1, ?2)", (start as i64, samples))?;
    }
    transaction.commit()?;
    drop(connection);
    let mut times = Vec::new();
    let mut nodes = 0;
    for _ in 0..ROUNDS.min(3) {
        let started = Instant::now();
        let connection = rusqlite::Connection::open(&file)?;
        let mut query = connection.prepare("SELECT samples FROM trace WHERE start >= 0 AND start < ?1")?;
        let rows = query.query_map([PEER_WINDOWS as i64], |row| row.get::<_, String>(0))?;
        let mut tree: HashMap<(usize, String), (usize, u64)> = HashMap::new();
        for row in rows {
            let samples: Vec<Value> = serde_json::from_str(&row?)?;
            for sample in &samples {
                let mut node = 0;
                for name in sample["stack"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let next = tree.len() + 1;
                    let (id, count) = tree.entry((node, name.to_owned())).or_insert((next, 0));
                    *count += sample["count"].as_u64().unwrap_or(0);
                    node = *id;
                }
            }
        }
        nodes = tree.len();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{:<52} {:>9.1} {:>9.1}   ({nodes} nodes; {:.0} kB a window with its on-CPU samples alone)",
        "the same as rows of JSON: an hour, without HTTP",
        times[times.len() / 2],
        times.last().copied().unwrap_or_default(),
        std::fs::metadata(&file)?.len() as f64 / 1e3 / PEER_WINDOWS as f64
    );
    Ok(())
}
