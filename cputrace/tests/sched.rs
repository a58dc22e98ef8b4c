//! The scheduler's account of real programs whose waits are known. It needs root: `cargo xtask test` runs them.
//!
//! A loaded machine delays threads, so time that a thread could have run counts as run-queue time wherever the truth is one of
//! the clock on the wall.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::lab::{Lab, Running, root, signal, stderr};
use support::require;

/// The program of known waits.
fn waits(lab: &Lab) -> Option<PathBuf> {
    let program = lab.path("waits");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sched/waits.c");
    if !(root() && require("cc")) {
        return None;
    }
    let built = Command::new("cc").args(["-O2", "-g", "-pthread", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success());
    Some(program)
}

fn record(lab: &Lab, arguments: &[&str]) -> Value {
    let views =
        ["off-cpu", "run-queue", "wakers", "wall"].map(|view| ["-o".to_owned(), format!("stacks.{view}.folded")]);
    let views: Vec<&str> = views.as_flattened().iter().map(String::as_str).collect();
    let output = lab.record(&[&views, arguments].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
    lab.trace()
}

/// Of each thread that lived over a second, the parts add up to its lifetime, to 1 %; and the samples of the wall-clock view to
/// that of all threads.
fn check_identity(lab: &Lab, trace: &Value) {
    let threads = trace["threads"].as_array().unwrap();
    let (mut long, mut worst) = (0, 0.0_f64);
    for thread in threads {
        let elapsed = thread["elapsed_ns"].as_f64().unwrap();
        if elapsed > 1e9 {
            let residual = thread["residual_ns"].as_f64().unwrap().abs() / elapsed;
            (long, worst) = (long + 1, worst.max(residual));
            assert!(residual < 0.01, "{thread:#}");
        }
    }
    eprintln!("{long} of {} threads lived over 1 s; worst residual {:.3} %", threads.len(), worst * 100.0);
    assert!(long > 0);
    for lost in ["threads_lost", "ends_lost"] {
        assert_eq!(trace["scheduler"][lost], 0, "{}", trace["scheduler"]);
    }
    let wall: f64 = stacks(lab, "wall").iter().map(|(_, weight)| weight).sum();
    let all: f64 = threads.iter().map(|thread| thread["elapsed_ns"].as_f64().unwrap() / 1e3).sum();
    assert!((wall / all - 1.0).abs() < 0.01, "the wall-clock view is {wall} us wide, and the threads lived {all} us");
}

fn stacks(lab: &Lab, view: &str) -> Vec<(String, f64)> {
    let text = std::fs::read_to_string(lab.path(&format!("stacks.{view}.folded"))).unwrap();
    let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines.map(|(stack, weight)| (stack.to_owned(), weight.parse().unwrap())).collect()
}

/// The weight of a view's stacks that have all of these frames.
fn weight(lab: &Lab, view: &str, frames: &[&str]) -> f64 {
    let stacks = stacks(lab, view);
    let has = |stack: &str| frames.iter().all(|frame| stack.split(';').any(|name| name == *frame));
    stacks.iter().filter(|(stack, _)| has(stack)).map(|(_, weight)| weight).sum()
}

fn thread<'a>(trace: &'a Value, name: &str) -> &'a Value {
    let threads = trace["threads"].as_array().unwrap();
    threads.iter().find(|thread| thread["comm"] == name).unwrap_or_else(|| panic!("there is no thread {name}"))
}

/// A part of a thread's time, as a share of it.
fn share(thread: &Value, part: &str) -> f64 {
    let part = thread.get(part).unwrap_or_else(|| &thread["off_cpu_ns"][part]);
    // A state that there was none of is left out.
    part.as_f64().unwrap_or(0.0) / thread["elapsed_ns"].as_f64().unwrap()
}

/// What sleeps for 300 ms of each second does, and who waits for a lock does so for who holds it.
#[test]
#[ignore = "needs root"]
fn known_waits() {
    let lab = Lab::new();
    let Some(program) = waits(&lab) else { return };
    let app = Running::start(&mut Command::new(program));
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &["--pid", &app.pid(), "--duration", "10"]);
    check_identity(&lab, &trace);
    let sleeper = thread(&trace, "sleeper");
    let (runs, sleeps) = (share(sleeper, "on_cpu_ns") + share(sleeper, "run_queue_ns"), share(sleeper, "sleeping"));
    assert!((0.65..0.8).contains(&runs) && (0.2..0.35).contains(&sleeps), "{sleeper:#}");
    // The kernel's counts are of the same time.
    for thread in trace["threads"].as_array().unwrap() {
        let rows = thread["run_queue_waits"].as_array().into_iter().flatten();
        let waits: u64 = rows.map(|row| row.as_u64().unwrap()).sum();
        let switches = ["switches_voluntary", "switches_involuntary"].map(|name| thread[name].as_u64().unwrap());
        let switches: u64 = switches.iter().sum();
        assert!(switches.abs_diff(waits) <= 5 + switches / 50, "{thread:#}");
    }
    let on_cpu = sleeper["on_cpu_ns"].as_f64().unwrap();
    assert!((on_cpu / sleeper["kernel_on_cpu_ns"].as_f64().unwrap() - 1.0).abs() < 0.02, "{sleeper:#}");
    let in_lock = weight(&lab, "off-cpu", &["take_lock", "[lock]"]);
    assert!(in_lock > 0.05 * 1e7, "{in_lock} us of 10 s");
    let woken = weight(&lab, "wakers", &["take_lock", "[lock]", "[woken by holder]", "hold_lock"]);
    assert!(woken > 0.8 * in_lock, "of {in_lock} us of waiting for the lock, its holder ended {woken}");
    // It waits from before the start to after the end.
    let joins = weight(&lab, "off-cpu", &["main", "[waiting for a thread]"]);
    assert!(joins > 0.9 * 1e7, "{joins} us of 10 s");
}

/// Two threads that want one CPU each wait for it half of the time.
#[test]
#[ignore = "needs root"]
fn two_threads_share_a_cpu() {
    if !(root() && require("taskset")) {
        return;
    }
    let lab = Lab::new();
    let busy = || Running::start(Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]));
    let apps = [busy(), busy()];
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &["--pid", &apps[0].pid(), "--pid", &apps[1].pid(), "--duration", "6"]);
    check_identity(&lab, &trace);
    let threads = trace["threads"].as_array().unwrap();
    assert_eq!(threads.len(), 2);
    for thread in threads {
        let (on_cpu, queued) = (share(thread, "on_cpu_ns"), share(thread, "run_queue_ns"));
        // Other programs may want this CPU, too: then both wait longer.
        assert!(on_cpu < 0.6 && queued > 0.4 && on_cpu + queued > 0.98, "{thread:#}");
        // The kernel has the whole of a wait that the recording began in.
        let (kernel, longest) = (share(thread, "kernel_run_queue_ns"), share(thread, "run_queue_max_ns"));
        assert!((queued - kernel).abs() < 0.05 * kernel + longest, "{thread:#}");
    }
    let preempted = weight(&lab, "wall", &["[preempted]"]);
    let tells = trace["notes"].as_array().unwrap().is_empty();
    assert!(!tells || preempted > 0.2 * 12e6, "{preempted} us of 12 s: {}", trace["scheduler"]);
}

/// A stopped process is stopped, and one that is moved between CPUs loses nothing.
#[test]
#[ignore = "needs root"]
fn stopped_and_moved() {
    let lab = Lab::new();
    let Some(program) = waits(&lab) else { return };
    let app = Running::start(&mut Command::new(program));
    let pid = app.pid();
    let stops = std::thread::spawn(move || {
        // The recording has begun by then.
        std::thread::sleep(Duration::from_secs(3));
        signal(&app.0, "STOP");
        std::thread::sleep(Duration::from_secs(2));
        signal(&app.0, "CONT");
        for cpu in ["0", "1"].iter().cycle().take(40) {
            std::thread::sleep(Duration::from_millis(50));
            // With one CPU there is nowhere to move to.
            let _ = Command::new("taskset").args(["-a", "-p", "-c", cpu, &app.pid()]).output();
        }
        app
    });
    let trace = record(&lab, &["--pid", &pid, "--duration", "9"]);
    drop(stops.join().unwrap());
    check_identity(&lab, &trace);
    for name in ["holder", "waiter", "sleeper"] {
        let stopped = thread(&trace, name)["off_cpu_ns"]["stopped"].as_f64().unwrap();
        assert!((1.8e9..3e9).contains(&stopped), "{:#}", thread(&trace, name));
    }
}

/// As many threads as large servers have.
#[test]
#[ignore = "needs root"]
fn two_thousand_threads() {
    let lab = Lab::new();
    let Some(program) = waits(&lab) else { return };
    let app = Running::start(Command::new(program).arg("2000"));
    std::thread::sleep(Duration::from_secs(1));
    let trace = record(&lab, &["--pid", &app.pid(), "--duration", "5"]);
    check_identity(&lab, &trace);
    assert_eq!(trace["threads"].as_array().unwrap().len(), 2001);
}

/// What a control group waits for once its CPU quota is used up is called so.
#[test]
#[ignore = "needs root"]
fn quota() {
    // Where there is a controller: as one of version 1, or in the unified hierarchy.
    let (v1, v2) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
    let of_v2 = std::fs::read_to_string(v2.join("cgroup.subtree_control"));
    let parent = match of_v2 {
        _ if v1.join("cpu.cfs_quota_us").exists() => v1,
        Ok(controllers) if controllers.split_whitespace().any(|name| name == "cpu") => v2,
        _ => {
            eprintln!("SKIPPED: no control group can have a CPU quota here");
            return;
        }
    };
    if !root() {
        return;
    }
    let group = Group(parent.join(format!("cputrace-test-{}", std::process::id())));
    std::fs::create_dir(&group.0).unwrap();
    let write = |file: &str, text: &str| std::fs::write(group.0.join(file), text).unwrap();
    if parent == v1 {
        write("cpu.cfs_period_us", "100000");
        write("cpu.cfs_quota_us", "20000");
    } else {
        write("cpu.max", "20000 100000");
    }
    let lab = Lab::new();
    let app = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    write("cgroup.procs", &app.pid());
    let trace = record(&lab, &["--pid", &app.pid(), "--duration", "4"]);
    check_identity(&lab, &trace);
    let throttled = weight(&lab, "run-queue", &["[CPU quota]"]);
    let queued = trace["threads"][0]["run_queue_ns"].as_f64().unwrap() / 1e3;
    // It has a fifth of a CPU; on a busy machine it waits for its turn, too.
    assert!(queued > 0.7 * 4e6, "{:#}", trace["threads"][0]);
    assert!(throttled > 0.2 * queued, "{throttled} us of {queued}");
}

/// A control group, removed once it is empty.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // Its last task may take a moment to go.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Of many short waits a sample is kept, and it comes to what they are together.
#[test]
#[ignore = "needs root"]
fn sampled_waits() {
    let lab = Lab::new();
    let Some(program) = waits(&lab) else { return };
    let app = Running::start(Command::new(program).arg("50"));
    std::thread::sleep(Duration::from_millis(300));
    let trace = record(&lab, &["--pid", &app.pid(), "--duration", "6", "--off-cpu-sample", "100"]);
    check_identity(&lab, &trace);
    assert_eq!(trace["scheduler"]["sampled_below_ns"], 100_000_000);
    let sleepers = trace["threads"].as_array().unwrap().iter().filter(|thread| thread["tid"] != thread["pid"]);
    let slept: f64 = sleepers.map(|thread| thread["off_cpu_ns"]["sleeping"].as_f64().unwrap() / 1e3).sum();
    let sampled = weight(&lab, "off-cpu", &["sleeps", "[sleep]"]);
    assert!((sampled / slept - 1.0).abs() < 0.15, "{sampled} us in samples, of {slept} us");
    let woken = weight(&lab, "wakers", &["sleeps", "[sleep]", "[woken by an interrupt]"]);
    assert!(woken > 0.8 * sampled, "of {sampled} us in samples, {woken} us have a waker");
    // 10 ms each, and one in ten or so is kept: the longer they get on a loaded machine, the more.
    let (waits, all) = (trace["scheduler"]["waits"].as_f64().unwrap(), slept / 10_000.0);
    assert!(waits < 0.5 * all, "{waits} of some {all} waits kept");
}

/// Storms of switches and of short-lived processes.
#[test]
#[ignore = "needs root"]
fn storms() {
    if !(root() && require("stress-ng")) {
        return;
    }
    for storm in ["--switch", "--fork"] {
        let lab = Lab::new();
        let trace = record(&lab, &["--", "stress-ng", storm, "2", "--timeout", "4"]);
        check_identity(&lab, &trace);
    }
}

/// Without the account its programs are not in the kernel, and nothing is made up.
#[test]
#[ignore = "needs root"]
fn switched_off() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let arguments = ["--no-sched", "--", "sh", "-c", "for i in 1 2 3; do sleep 0.1; done"];
    let output = lab.record(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let trace = lab.trace();
    assert_eq!(trace["threads"].as_array().unwrap().len(), 0);
    assert!(trace["scheduler"].is_null());
    let programs = trace["overhead"]["bpf_programs"].as_array().unwrap();
    assert!(programs.iter().all(|program| !program["name"].as_str().unwrap().starts_with("sched")), "{programs:?}");
    // What it does not have it does not show.
    let refused = lab.record(&[&["-o", "wall.svg"], &arguments[..]].concat());
    assert!(!refused.status.success() && stderr(&refused).contains("leave out --no-sched"), "{}", stderr(&refused));
}
