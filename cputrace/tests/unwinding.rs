//! Stacks that are hard to unwind: very deep ones, and code that was not there when the recording began. They need root:
//! `cargo xtask test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::BufRead;
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

/// Stacks in the ways that leave them without plain frames: each is whole.
#[test]
#[ignore = "needs root"]
fn odd_stacks_are_whole() {
    let lab = Lab::new();
    let Some(program) = build(&lab, "stacks", &["-ldl"]) else { return };
    for (arguments, inner, below) in [
        (["signal", "own"], "handle", "be_interrupted"),
        (["signal", "other"], "handle", "be_interrupted"),
        (["trampoline", "-"], "work_for_ever", "trampoline"),
        (["clock", "-"], "now", "ask_for_time"),
    ] {
        let app = Running::start(Command::new(&program).args(arguments));
        std::thread::sleep(Duration::from_millis(300));
        let trace = record(&lab, &app, "499", "3");
        let kept = trace["ledger"]["samples_kept"].as_u64().unwrap();
        assert!(kept > 50 && ended(&trace, "complete") * 100 >= kept * 99, "{arguments:?}: {}", trace["ledger"]);
        let (mut inside, mut whole) = (0.0, 0.0);
        for (stack, count) in lab.stacks().iter().filter(|(stack, _)| stack.split(';').any(|name| plain(name) == inner))
        {
            inside += count;
            let names: Vec<_> = stack.split(';').map(plain).collect();
            whole += if names.contains(&below) && names.contains(&"main") { *count } else { 0.0 };
        }
        assert!(
            inside >= 5.0 && whole >= 0.99 * inside,
            "{arguments:?}: {whole} of {inside} whole: {:?}",
            lab.stacks()
        );
    }
}

/// Without the mark of an inlined function.
fn plain(name: &str) -> &str {
    name.trim_end_matches("_[i]")
}

/// A process with more mappings of code than the kernel side keeps is recorded all the same, and it is said.
#[test]
#[ignore = "needs root"]
fn very_many_mappings() {
    let lab = Lab::new();
    let Some(program) = build(&lab, "stacks", &["-ldl"]) else { return };
    let mut app = Running::start(Command::new(program).args(["mapped", "20000"]));
    let mut line = String::new();
    std::io::BufReader::new(app.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let trace = record(&lab, &app, "99", "4");
    let notes = trace["notes"].to_string();
    assert!(notes.contains("executable mappings"), "{notes}");
    assert!(lab.samples_in("work") >= 5.0, "{}", trace["ledger"]);
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
    let (mut all, mut inside) = (0.0, 0.0);
    for (stack, count) in lab.stacks() {
        assert!(stack.contains(";main;") && stack.contains(";recursion::main"), "{stack}");
        all += count;
        inside += if stack.contains(";recursion::recurse") { count } else { 0.0 };
    }
    // Now and then it is in main itself.
    assert!(inside > 0.9 * all, "{inside} of {all}");
}

/// A library whose unwind information is damaged is named, and costs nothing but its own stacks.
#[test]
#[ignore = "needs root"]
fn damaged_files_are_named() {
    use object::{Object as _, ObjectSection as _};

    let lab = Lab::new();
    let (Some(program), Some(library)) =
        (build(&lab, "stacks", &["-ldl"]), build(&lab, "library.so", &["-DLIBRARY", "-shared", "-fPIC"]))
    else {
        return;
    };
    let whole = std::fs::read(&library).unwrap();
    let section = object::File::parse(&*whole).unwrap().section_by_name(".eh_frame").unwrap().file_range().unwrap();
    let eh_frame = section.0 as usize..(section.0 + section.1) as usize;
    let fill = |bytes: &mut [u8], pattern: &[u8]| {
        bytes.iter_mut().zip(pattern.iter().cycle()).for_each(|(byte, new)| *byte = *new);
    };
    // Lengths that lead nowhere; entries of 20 bytes each that are all in each other's way; noise.
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (index, pattern) in [&[0xff, 0xff, 0xff, 0x7f][..], &[0x10, 0, 0, 0], &noise].into_iter().enumerate() {
        let mut damaged = whole.clone();
        fill(&mut damaged[eh_frame.clone()], pattern);
        let path = lab.path(&format!("damaged{index}.so"));
        std::fs::write(&path, damaged).unwrap();
        let app = Running::start(Command::new(&program).arg("open").arg(&path));
        let trace = record(&lab, &app, "99", "6");
        assert!(lab.samples_in("work_before") >= 1.0 && lab.samples_in("work_inside") >= 1.0, "{}", trace["ledger"]);
        let notes = trace["notes"].to_string();
        assert!(notes.contains(path.to_str().unwrap()), "{notes} {}", trace["unwinding"]);
    }
}
