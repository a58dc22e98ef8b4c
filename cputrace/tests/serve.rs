//! Windows of a running session, of real processes, and the groups that they are added up to. They need root: `cargo xtask
//! test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "serve/groups.rs"]
mod groups;
mod support;
#[path = "serve/trouble.rs"]
mod trouble;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cputrace::ebpf::Waits;
use cputrace::group::Labels;
use cputrace::metrics::collect::Families;
use cputrace::metrics::counters::CounterSums;
use cputrace::metrics::encode::{Exposition, encode};
use cputrace::model::{CounterSubject, LossReason, Recording, Source, Target, Unit};
use cputrace::session::cost::Look;
use cputrace::session::governor::Decision;
use cputrace::session::{EndReason, Options, Stop, Watch};
use cputrace::store::Store;
use cputrace::symbolize::Detail;
use serde_json::Value;
use support::lab::{Running, root, signal, stderr};
use tempfile::TempDir;

/// One at a time: what one test takes is another one's overhead.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn options(pid: u32) -> Options {
    Options {
        targets: vec![Target::Pid(pid)],
        frequency: 199,
        duration: None,
        interval: Duration::from_secs(1),
        tier: None,
        follow_children: true,
        unwind_kb: 16 * 1024,
        accounting: true,
        waits: Some(Waits { min: Duration::from_millis(1), samples_shorter: false, wakers: false }),
        timeline: false,
        detail: Detail::Lines,
        wait_rules: String::new(),
        pmu: vec!["software".to_owned()],
        event: Some("context-switches".to_owned()),
        stack_counters: vec!["task-clock".to_owned()],
        event_period: None,
        max_overhead: None,
    }
}

/// Each window has its own samples and its own share of the threads' time, and nothing is in two of them: together they
/// are no more than the kernel's own account of the process.
#[test]
#[ignore = "needs root"]
fn windows_follow_each_other() {
    if !root() {
        return;
    }
    let _alone = alone();
    let busy = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let pid = busy.0.id();
    let (sender, stop) = mpsc::channel();
    let mut windows: Vec<Recording> = Vec::new();
    let options = options(pid);
    let end = Watch::start(&options).unwrap().run(
        Duration::from_secs(2),
        &mut |window| {
            windows.push(window);
            if windows.len() == 3 {
                sender.send(Stop).unwrap();
            }
        },
        &|look| look.limit,
        &stop,
    );
    assert_eq!(end, EndReason::Stopped);
    let kernel_ns = {
        let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // The last one lasts from the third to the stop, or from the fourth where names took longer than a window.
    assert!(windows.len() >= 4);
    let mut accounted_ns = 0;
    for window in &windows[..3] {
        assert!(window.ledger.samples_kept > 0, "{:?}", window.ledger);
        assert!(window.profile.process_by_pid(pid).is_some());
        let thread = window.threads.iter().find(|thread| thread.tid == pid).unwrap();
        assert!(thread.on_cpu_ns > 0);
        accounted_ns += thread.on_cpu_ns;
        assert!(window.ledger.samples_lost.contains_key(&LossReason::BadRecord));
    }
    // The counters': each window has its own.
    let mut counted_ns = 0;
    let mut switches = 0;
    for window in &windows {
        let counters = window.pmu.as_ref().unwrap();
        let scope = counters.scopes.iter().find(|scope| scope.subject == CounterSubject::Targets);
        let counts = scope.iter().flat_map(|scope| &scope.counts);
        switches += counts.filter(|count| count.event == "context-switches").map(|count| count.value).sum::<u64>();
        let counted = window.stack_counters.as_ref().unwrap();
        counted_ns += counted.counters[0].in_stacks + counted.counters[0].off_stack;
        let event = window.event.as_ref().unwrap();
        assert!(event.seen >= event.kept && event.lost.values().sum::<u64>() == 0, "{event:?}");
    }
    // Some kernels leave the time of interrupts out of their account.
    let most_ns = kernel_ns + kernel_ns / 4;
    assert!(counted_ns > 0 && counted_ns <= most_ns, "{counted_ns} ns were counted of {kernel_ns} ns");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let all = status.lines().filter_map(|line| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok());
    let all = all.sum::<u64>();
    assert!(switches <= all, "{switches} context switches in the windows, {all} in all");
    assert!(accounted_ns <= kernel_ns, "{accounted_ns} ns in the windows, {kernel_ns} ns in all");
    // A tick between the readings of the two sides is in two windows' ledgers, once more and once less.
    assert_eq!(windows.iter().map(|window| window.ledger.unaccounted()).sum::<i64>(), 0);
    for pair in windows.windows(2) {
        assert!(pair[0].start < pair[1].start);
    }
}

/// Where windows cannot be taken any more, the session ends with what went wrong: whoever keeps a server running has to notice.
#[test]
#[ignore = "needs root"]
fn a_session_without_a_taker_ends() {
    if !root() {
        return;
    }
    let _alone = alone();
    let busy = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let (_sender, stop) = mpsc::channel();
    let started = Instant::now();
    let on_look = |_: &Look| {
        assert!(started.elapsed() < Duration::from_secs(60), "it goes on");
        None
    };
    let options = options(busy.0.id());
    let watch = Watch::start(&options).unwrap();
    let run = || watch.run(Duration::from_secs(1), &mut |_| panic!("no room"), &on_look, &stop);
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"no room"));
}

/// Counters as series: of the host with their coverage, what is missing by its reason and in no other series, of groups as
/// sums over windows.
#[test]
fn counters_are_series() {
    let mut window = support::recording();
    let profile = &mut window.profile;
    let name = profile.string("instructions");
    let source = profile.source(Source { name, unit: Unit::Count, period: 0 });
    let sample = profile.samples()[0].clone();
    profile.add((sample.thread, source, sample.stack), 2, 900, None);
    let process = profile.threads()[sample.thread.index()].process;
    let mut labels = vec![Labels::default(); profile.processes().len()];
    labels[process.index()].group = "app".to_owned();
    let mut sums = CounterSums::default();
    sums.add(&window, &labels);
    sums.add(&window, &labels);
    let mut families = Families::default();
    sums.collect(&mut families);
    let text = String::from_utf8(encode(families.finish(), Exposition::Text).unwrap()).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            r#"cputrace_pmu_metric{metric="ipc",unit="instr/cycle"} 1.25"#,
            r#"cputrace_pmu_coverage_ratio{metric="ipc"} 0.5"#,
            r#"cputrace_pmu_missing{metric="l3-miss-ratio",reason="no_pmu_virtual"} 1"#,
            r#"cputrace_group_counted_total{groupname="app",event="instructions"} 1800"#,
        ]
    );
}

/// A server of its own, by the real program.
struct Serving {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Serving {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cputrace"))
            .arg("serve")
            .args(arguments)
            .env("CPUTRACE_WINDOW", "60s")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, said) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, said }
    }

    /// The first line with this in it.
    fn says(&self, expected: &str) -> String {
        loop {
            let line = self.said.recv_timeout(Duration::from_secs(60)).expect(expected);
            if line.contains(expected) {
                return line;
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real server from its start to its end: it keeps no right that it does not need, takes up a changed configuration and
/// keeps the old one where the new one is wrong, and stores what the last window brought before it ends.
#[test]
#[ignore = "needs root"]
fn a_server_from_start_to_end() {
    if !root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("cputrace.toml");
    let data = directory.path().join("store");
    fs::write(&file, "[web]\nlisten = '127.0.0.1:0'\nenable_lifecycle = true\n").unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let mut serving = Serving::start(&arguments);
    let said = serving.says("watching this host");
    let url = said.rsplit_once(' ').unwrap().1.to_owned();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |path: &str| agent.get(format!("{url}{path}")).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(get("/").contains("openapi.json"));
    assert!(get("/-/ready").contains("takes samples"));

    // Every thread has the least.
    for thread in fs::read_dir(format!("/proc/{}/task", serving.child.id())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        let (dac_read_search, sys_ptrace, syslog, perfmon, bpf) = (1 << 2, 1 << 19, 1 << 34, 1 << 38, 1_u64 << 39);
        assert_eq!(capabilities & !(dac_read_search | sys_ptrace | syslog | perfmon | bpf), 0, "{status}");
        assert_eq!(field("NoNewPrivs:"), "1");
    }

    // What can change does, and what cannot is said.
    let reload = || signal(&serving.child, "HUP");
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let push = format!("[push]\notlp = 'http://ann:secret@{}'\n", receiver.local_addr().unwrap());
    fs::write(
        &file,
        format!(
            "[web]\nlisten = '127.0.0.1:1'\nenable_lifecycle = true\n[sampling]\nmax_overhead = '7%'\n[groups]\nmax = 3\n\
             [store]\nsize = '7MB'\n{push}"
        ),
    )
    .unwrap();
    reload();
    let said = serving.says("read again");
    let expected = "changed: sampling.max_overhead, groups.max, store.size, push.otlp; changed, but only after a restart: web.listen";
    assert!(said.contains(expected), "{said}");
    let allowed =
        || serde_json::from_str::<Value>(&get("/api/status")).unwrap()["max_overhead"].as_f64().unwrap_or(0.01);
    let changed = Instant::now();
    // The governor looks once a second.
    while allowed() != 0.07 {
        assert!(changed.elapsed() < Duration::from_secs(20), "{} allowed", allowed());
        thread::sleep(Duration::from_millis(200));
    }
    let limit = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("cputrace_store_limit_bytes ")).unwrap();
        line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(limit(&get("/metrics")), f64::from(7 << 20));
    fs::write(&file, "[store]\nsize = 'large'\n").unwrap();
    reload();
    let said = serving.says("the settings before stay in effect");
    assert!(said.contains("cputrace.toml: store.size: \"large\" is no size"), "{said}");
    let metrics = get("/metrics");
    assert_eq!(limit(&metrics), f64::from(7 << 20));
    assert!(metrics.contains("cputrace_config_last_reload_successful 0\n"));
    fs::write(&file, format!("[web]\nlisten = '127.0.0.1:0'\nenable_lifecycle = true\n{push}")).unwrap();
    let reloaded = agent.post(format!("{url}/-/reload")).send_empty().unwrap();
    assert_eq!(reloaded.status(), 200);
    assert_eq!(limit(&get("/metrics")), f64::from(1 << 30));

    // The last window comes to the receiver that it was told of while it ran.
    let handed_on = thread::spawn(move || {
        let (mut stream, _) = receiver.accept().unwrap();
        let head: Vec<String> =
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        head
    });
    // Its window would last for a minute; a reader of the live stream holds up nothing.
    let live = agent.get(format!("{url}/api/live")).call().unwrap();
    thread::sleep(Duration::from_secs(1));
    signal(&serving.child, "TERM");
    assert!(serving.child.wait().unwrap().success());
    drop(live);
    let head = handed_on.join().unwrap();
    assert!(head[0].starts_with("POST /v1development/profiles"), "{head:?}");
    // ann:secret
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Basic YW5uOnNlY3JldA==")), "{head:?}");
    let store = Store::open(&data).unwrap();
    assert_eq!(store.notes(), &[] as &[String]);
    let span = store.span().unwrap().unwrap();
    assert!(span.from < span.to);
}

/// What would let everybody in is refused, unless it is meant; so is what is wrong with the configuration.
#[test]
fn what_is_not_served() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let refused = |arguments: &[&str], expected: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cputrace")).arg("serve").args(arguments).output().unwrap();
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(expected) && said.lines().count() == 1, "{said}");
    };
    refused(
        &["--data-dir", data, "--listen", "0.0.0.0:0"],
        "give --web-config with basic_auth_users, or --allow-anonymous",
    );
    refused(&["--frequency", "0"], "cputrace: --frequency: 0 is not between 1 and 10000");
    refused(&["--config", "/nope"], "cputrace: the configuration /nope cannot be read: ");
    let file = directory.path().join("cputrace.toml");
    fs::write(&file, "[web]\nport = 1\n").unwrap();
    refused(&["--config", file.to_str().unwrap()], "there is no key \"port\" in [web]; known are listen");
    fs::write(&file, "[groups]\nmax = 7\n").unwrap();
    let shown = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .args(["serve", "--print-config", "--pmu", "--window=5", "--config"])
        .arg(&file)
        .env("CPUTRACE_RETENTION", "1d")
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in ["max = 7", "pmu = true", "window = \"5s\"", "age = \"1d\""] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    fs::write(&file, &shown).unwrap();
    let again =
        Command::new(env!("CARGO_BIN_EXE_cputrace")).args(["serve", "--print-config", "--config"]).arg(&file).output();
    assert_eq!(String::from_utf8(again.unwrap().stdout).unwrap(), shown);
}

/// Threads of this process that keep half of the CPUs busy until they are told to stop: what is taken here counts as cputrace's
/// own, for its process is this one.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().unwrap().get().div_ceil(2) {
            let stopped = stopped.clone();
            thread::Builder::new()
                .name("spinner".to_owned())
                .spawn(move || {
                    // Whatever else runs, it has its CPU. SAFETY: a number for the calling thread; no memory is involved.
                    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
                    while !stopped.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
                .unwrap();
        }
        Self(stopped)
    }

    fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Over the limit half as much is sampled, again and again, and all of it again when that is over. What samples stand for
/// follows: their time is that on the CPU all along, and no tick is taken for missed.
#[test]
#[ignore = "needs root"]
fn the_governor_steps_down_and_back() {
    if !root() {
        return;
    }
    let _alone = alone();
    let busy = Busy::start();
    let sampled = Running::start(Command::new("nice").args(["-n", "-15", "sh", "-c", "while :; do :; done"]));
    let (sender, stop) = mpsc::channel();
    let options = Options {
        pmu: Vec::new(),
        event: None,
        stack_counters: Vec::new(),
        max_overhead: Some(0.15),
        ..options(sampled.0.id())
    };
    let started = Instant::now();
    let looks = RefCell::new(Vec::new());
    let on_look = |look: &Look| {
        let looks = &mut *looks.borrow_mut();
        looks.push(*look);
        let steps = |wanted| looks.iter().filter(|look| look.decision == Some(wanted)).count();
        if steps(Decision::Lower) == 2 {
            busy.stop();
        }
        let is_back = steps(Decision::Raise) > 0 && look.frequency_hz > 198.0;
        if is_back || started.elapsed() > Duration::from_secs(90) {
            let _ = sender.send(Stop);
        }
        options.max_overhead
    };
    let mut windows: Vec<Recording> = Vec::new();
    let length = Duration::from_secs(1);
    Watch::start(&options).unwrap().run(length, &mut |window| windows.push(window), &on_look, &stop);
    let looks = looks.into_inner();
    let steps: Vec<_> = looks.iter().filter(|look| look.decision.is_some()).collect();
    eprintln!("{steps:#?}");
    assert_eq!(steps[0].decision, Some(Decision::Lower));
    assert!((steps[0].frequency_hz - 99.5).abs() < 0.1);
    assert!(looks.last().unwrap().frequency_hz > 198.0, "it did not come back: {steps:#?}");
    // Both sides of the account, over all frequencies.
    let (mut sampled_ns, mut on_cpu_ns, mut expected, mut missed) = (0, 0, 0, 0);
    let mut frequencies = Vec::new();
    for window in &windows {
        let profile = &window.profile;
        let on_cpu = profile.source_by_name("on-cpu");
        let samples = profile.samples().iter().filter(|sample| Some(sample.source) == on_cpu);
        sampled_ns += samples.map(|sample| sample.value).sum::<u64>();
        on_cpu_ns += window.threads.iter().map(|time| time.on_cpu_ns).sum::<u64>();
        expected += window.ledger.samples_expected();
        missed += window.ledger.samples_lost.get(&LossReason::ClockMissed).copied().unwrap_or(0);
        frequencies.push(window.sampling.asked_hz);
    }
    eprintln!(
        "{frequencies:?}: {sampled_ns} ns sampled, {on_cpu_ns} ns on the CPU; {missed} of {expected} samples missed"
    );
    assert!(frequencies.iter().any(|&hz| hz < 100.0) && frequencies.iter().any(|&hz| hz > 99.5 && hz < 199.0));
    let ratio = sampled_ns as f64 / on_cpu_ns as f64;
    assert!((0.6..1.25).contains(&ratio), "samples stand for {ratio:.2} of the time");
    assert!(missed * 3 < expected, "{missed} of {expected} samples are said to be missed");
    assert_eq!(windows.iter().map(|window| window.ledger.unaccounted()).sum::<i64>(), 0);
}
