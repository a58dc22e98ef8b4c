//! Stacks that are hard to unwind: very deep ones, and code that was not there when the recording began. They need root:
//! `cargo xtask test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::lab::{Lab, Running, check_ledger, root, stderr};
use support::require;

/// The program, as `name` in the lab's folder.
fn build(lab: &Lab, name: &str, more: &[&str]) -> Option<PathBuf> {
    if !(root() && require("cc")) {
        return None;
    }
    let program = lab.path(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwinding/stacks.c");
    let flags = ["-O1", "-g", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"];
    let mut cc = Command::new("cc");
    assert!(cc.args(flags).args(more).arg("-o").arg(&program).arg(source).status().unwrap().success());
    Some(program)
}

fn record(lab: &Lab, app: &Running, hz: &str, seconds: &str) -> Value {
    let output = lab.record(&["--pid", &app.pid(), "--frequency", hz, "--duration", seconds]);
    assert!(output.status.success(), "{}", stderr(&output));
    let trace = lab.trace();
    check_ledger(&trace);
    trace
}

/// How many samples' stacks ended so.
fn ended(trace: &Value, end: &str) -> u64 {
    trace["ledger"]["stacks"][end].as_u64().unwrap()
}

/// A recursion of 500 calls is there from its first to its last.
#[test]
#[ignore = "needs root"]
fn deep_recursion_is_whole() {
    let lab = Lab::new();
    let Some(program) = build(&lab, "stacks", &[]) else { return };
    let app = Running::start(Command::new(program).args(["deep", "500"]));
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &app, "199", "3");
    let kept = trace["ledger"]["samples_kept"].as_u64().unwrap();
    assert!(kept > 20 && ended(&trace, "complete") * 100 >= kept * 99, "{}", trace["ledger"]);
    for (stack, _) in lab.stacks() {
        let calls = stack.split(';').filter(|name| *name == "recurse").count();
        assert!(calls == 500 && stack.contains(";main;"), "{calls} calls: {}", &stack[..stack.len().min(200)]);
    }
}

/// A recursion of 100,000 calls is cut, which is counted, and does no harm.
#[test]
#[ignore = "needs root"]
fn endless_recursion_is_cut() {
    let lab = Lab::new();
    let Some(program) = build(&lab, "stacks", &[]) else { return };
    let mut app = Running::start(Command::new(program).args(["deep", "100000"]));
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &app, "199", "3");
    let kept = trace["ledger"]["samples_kept"].as_u64().unwrap();
    assert!(kept > 20 && ended(&trace, "truncated") * 100 >= kept * 99, "{}", trace["ledger"]);
    assert!(app.0.try_wait().unwrap().is_none(), "the program has ended");
}

/// What a program becomes, and what it opens, is unwound from the second sample on.
#[test]
#[ignore = "needs root"]
fn new_code_is_unwound() {
    let lab = Lab::new();
    let Some(program) = build(&lab, "stacks", &["-ldl"]) else { return };
    // A file of its own, so that nothing of it is known.
    let (Some(other), Some(library)) =
        (build(&lab, "other", &["-ldl"]), build(&lab, "library.so", &["-DLIBRARY", "-shared", "-fPIC"]))
    else {
        return;
    };
    let [other, library] = [other, library].map(|path| path.to_str().unwrap().to_owned());
    for (arguments, function) in
        [(&["exec", &*other, "deep", "40"][..], "recurse"), (&["open", &*library], "work_inside")]
    {
        let app = Running::start(Command::new(&program).args(arguments));
        // Time enough between two samples for a table, on a machine that has other things to do.
        let trace = record(&lab, &app, "5", "8");
        let kept = trace["ledger"]["samples_kept"].as_u64().unwrap();
        let complete = ended(&trace, "complete");
        assert!(kept >= 10 && complete + 1 >= kept, "{function}: {}", trace["ledger"]);
        let inside = lab.samples_in(function);
        assert!(inside >= 5.0 && lab.samples_in("work_before") >= 1.0, "{inside} samples in {function}");
    }
}

/// A program whose code begins in the page that another segment ends in, as lld links: Rust's linker.
#[test]
#[ignore = "needs root"]
fn code_that_begins_within_a_page() {
    if !(root() && require("rustc")) {
        return;
    }
    let lab = Lab::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwinding/recursion.rs");
    let (program, mut rustc) = (lab.path("recursion"), Command::new("rustc"));
    assert!(rustc.args(["-O", "-o"]).arg(&program).arg(source).status().unwrap().success());
    let app = Running::start(&mut Command::new(program));
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &app, "199", "3");
    let kept = trace["ledger"]["samples_kept"].as_u64().unwrap();
    let guessed = trace["ledger"]["stacks_guessed"].as_u64().unwrap();
    assert!(kept > 20 && ended(&trace, "complete") * 100 >= kept * 99 && guessed == 0, "{}", trace["ledger"]);
    for (stack, _) in lab.stacks() {
        assert!(stack.contains(";main;") && stack.contains(";recursion::recurse"), "{stack}");
    }
}
