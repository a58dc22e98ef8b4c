//! Programs that nobody built for a profiler: their stacks are complete, and agree with perf's.
//!
//! Distribution binaries without frame pointers ([`load`]), and `perf record --call-graph dwarf` on the same program at the
//! same time ([`beside_perf`]). They need root: `cargo xtask test` installs the programs and runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod beside_perf;
mod load;
#[path = "../support/mod.rs"]
mod support;
mod tree;

use load::Load;
use support::lab::{Lab, check_ledger, root, stderr};

/// Stacks that have to end at their end, in percent.
const COMPLETE: f64 = 99.0;

/// Fewer samples say nothing.
const ENOUGH: u64 = 200;

/// What became of the stacks of a recording.
struct Stacks {
    kept: u64,
    complete: f64,
    guessed: f64,
    /// All ways in which they ended, for people.
    ends: String,
}

/// Records processes, for longer where the machine has no time for them.
fn record(lab: &Lab, pids: &[u32]) -> Stacks {
    let targets: Vec<_> = pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]).collect();
    for seconds in ["4", "15", "60"] {
        let mut arguments = vec!["--tier", "ebpf", "--frequency", "499", "--duration", seconds];
        arguments.extend(targets.iter().map(String::as_str));
        let output = lab.record(&arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let trace = lab.trace();
        check_ledger(&trace);
        let ledger = &trace["ledger"];
        let kept = ledger["samples_kept"].as_u64().unwrap();
        if kept < ENOUGH {
            continue;
        }
        let of = |end: &str| ledger["stacks"][end].as_u64().unwrap();
        let share = |count: u64| 100.0 * count as f64 / kept as f64;
        let ends = ledger["stacks"].as_object().unwrap().keys().filter(|end| of(end) != 0);
        let ends: Vec<_> = ends.map(|end| format!("{end} {:.2} %", share(of(end)))).collect();
        // How soon the tables are there is for the bench: this machine may be slow, and the build one for debugging.
        let (late, complete) = (of("table_not_ready"), of("complete"));
        assert!(late * 4 < kept, "tables come late: {}", ends.join(", "));
        return Stacks {
            kept,
            complete: 100.0 * complete as f64 / (kept - late) as f64,
            guessed: share(ledger["stacks_guessed"].as_u64().unwrap()),
            ends: ends.join(", "),
        };
    }
    panic!("fewer than {ENOUGH} samples in a minute");
}

/// Records what is at work, prints its figure, and holds it to `least` percent.
fn check(name: &str, pids: &[u32], least: f64) -> Lab {
    let lab = Lab::new();
    let Stacks { kept, complete, guessed, ends } = record(&lab, pids);
    eprintln!(
        "figure: {name}: of {kept} stacks with tables {complete:.2} % complete, {guessed:.2} % with guessed frames ({ends})"
    );
    assert!(complete >= least, "{name}: {complete:.2} % complete ({ends})");
    lab
}

fn check_program(name: &str, load: impl FnOnce() -> Option<Load>) {
    check_program_for(name, load, COMPLETE);
}

fn check_program_for(name: &str, load: impl FnOnce() -> Option<Load>, least: f64) {
    if root()
        && let Some(load) = load()
    {
        check(name, &load.pids(), least);
    }
}

/// A compressor.
#[test]
#[ignore = "needs root"]
fn xz() {
    check_program("xz", load::xz);
}

/// Hand-written assembler, with and without unwind information.
#[test]
#[ignore = "needs root"]
fn openssl() {
    check_program("openssl", || load::openssl(&["sha256", "aes-256-cbc", "ecdsap256", "ed25519"]));
    check_program("openssl rsa", || load::openssl(&["rsa2048"]));
}

/// An interpreter.
#[test]
#[ignore = "needs root"]
fn python() {
    check_program("python3", load::python);
}

/// A server of one thread.
#[test]
#[ignore = "needs root"]
fn redis() {
    check_program("redis", load::redis);
}

/// A server of many processes, as a user of its own.
#[test]
#[ignore = "needs root"]
fn postgres() {
    check_program("postgres", load::postgres);
}

/// A server whose work is in its libraries.
#[test]
#[ignore = "needs root"]
fn nginx() {
    check_program("nginx", load::nginx);
}

/// Code that is compiled while it runs, between code that was not.
#[test]
#[ignore = "needs root"]
fn node() {
    check_program("node", || load::node(&[]));
}

/// Stacks of the runtime's own between those of goroutines, on the CPU and waiting.
#[test]
#[ignore = "needs root"]
fn go() {
    if !root() {
        return;
    }
    let Some(load) = load::go() else { return };
    let lab = check("go", &load.pids(), COMPLETE);
    assert!(lab.samples_in("main.recurse") > 50.0, "{:?}", lab.stacks());
    let waits = &lab.trace()["ledger"]["wait_stacks"];
    let of = |end: &str| waits[end].as_u64().unwrap();
    let late = of("table_not_ready");
    let all: u64 = waits.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(all > 50 && of("complete") * 100 >= (all - late) * 98, "{waits}");
}

/// 200 libraries, and assembler of x264's that nothing describes and that keeps kilobytes on the stack.
#[test]
#[ignore = "needs root"]
fn ffmpeg() {
    if cfg!(debug_assertions) {
        eprintln!("SKIPPED: a debug build takes too long for the tables of 200 libraries; use cargo test --release");
        return;
    }
    check_program_for("ffmpeg", load::ffmpeg, 98.0);
}

/// A binary that keeps frame pointers, with little unwind information, and its many processes.
#[test]
#[ignore = "needs root"]
fn chromium() {
    check_program("chromium", load::chromium);
}

/// perf's first twenty functions by total time have the same shares here.
#[test]
#[ignore = "needs root"]
fn agrees_with_perf() {
    if !root() {
        return;
    }
    let check = |name: &str, load: Option<Load>| {
        let Some(load) = load else { return };
        // A program does not do the same all the time, and perf starts a moment earlier: then once more.
        let agrees = || {
            let (agreed, of) = beside_perf::agreement(name, &load)?;
            eprintln!("figure: {name}: {agreed} of {of} functions agree");
            Some(of > 2 && agreed * 10 >= of * 8)
        };
        assert!(agrees().is_none_or(|agrees| agrees) || agrees() == Some(true), "{name}");
    };
    check("xz", load::xz());
    check("openssl", load::openssl(&["rsa2048"]));
    check("python3", load::python());
    check("postgres", load::postgres());
    check("redis", load::redis());
    check("nginx", load::nginx());
    check("node", load::node(&[]));
}
