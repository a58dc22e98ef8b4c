//! Real recordings of real programs by the built binary. They need root: `cargo xtask test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cputrace::ebpf::{Config, Filter, Object};
use support::lab::{CPUTRACE, Lab, Running, check_ledger, root, signal, stderr};
use support::{require, skip_unless};

fn workload() -> Option<PathBuf> {
    let mut folder = Path::new(CPUTRACE).to_owned();
    folder.pop();
    folder.pop();
    let program = folder.join("workload/sample_app_fp");
    skip_unless(program.exists(), "the sample workload is not built: run cargo xtask test").then_some(program)
}

/// The sample workload: each function within 2 points of its true share, and the sampled CPU time that of the kernel
/// within 2 %. A host that takes a virtual machine's CPUs away distorts either account: then once more.
#[test]
#[ignore = "needs root"]
fn shares_are_true() {
    let (true, Some(workload)) = (root(), workload()) else { return };
    if let Err(first) = check_shares(&workload) {
        check_shares(&workload).map_err(|second| format!("{first}; and again: {second}")).unwrap();
    }
}

fn check_shares(workload: &Path) -> Result<(), String> {
    let lab = Lab::new();
    let mut app = Running::start(&mut Command::new(workload));
    // Enough samples for the tolerance: 3 standard deviations are 1.5 points.
    let output = lab.record(&["--pid", &app.pid(), "--duration", "30", "--frequency", "199"]);
    assert!(output.status.success(), "{}", stderr(&output));
    signal(&app.0, "TERM");
    let mut truth = String::new();
    app.0.stdout.take().unwrap().read_to_string(&mut truth).unwrap();
    let truth: BTreeMap<String, f64> = serde_json::from_str(&truth).unwrap();
    let all_truth: f64 = truth.values().sum();
    let all_samples: f64 = truth.keys().map(|name| lab.samples_in(name)).sum();
    let trace = lab.trace();
    check_ledger(&trace);
    for (name, seconds) in &truth {
        let (is, seen) = (100.0 * seconds / all_truth, 100.0 * lab.samples_in(name) / all_samples);
        if (is - seen).abs() >= 2.0 {
            return Err(format!("{name}: {is:.1} % in truth, {seen:.1} % seen"));
        }
    }
    let cpu_seconds = trace["processes"][0]["cpu_time_seconds"].as_f64().unwrap();
    let expected = trace["ledger"]["samples_expected"].as_f64().unwrap() / 199.0;
    if (expected / cpu_seconds - 1.0).abs() >= 0.02 {
        return Err(format!("{expected:.2} s sampled, {cpu_seconds:.2} s by utime + stime"));
    }
    Ok(())
}

/// A command is recorded from its first instruction, and its exit status is passed on.
#[test]
#[ignore = "needs root"]
fn commands_pass_on_their_status() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let code = |arguments: &[&str]| lab.record(arguments).status.code();
    assert_eq!(code(&["--", "false"]), Some(1));
    assert_eq!(code(&["--", "true"]), Some(0));
    assert_eq!(code(&["--", "sh", "-c", "exit 42"]), Some(42));
    assert_eq!(code(&["--", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["--", "/no/such/program"]), Some(127));
    assert_eq!(code(&["--", "/etc/passwd"]), Some(126));
}

/// Children are followed through fork and exec, however short they live, and have names.
#[test]
#[ignore = "needs root"]
fn short_children_are_followed() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let script = "for i in $(seq 200); do /bin/ls / > /dev/null; done";
    let output = lab.record(&["--frequency", "4999", "--", "bash", "-c", script]);
    assert!(output.status.success(), "{}", stderr(&output));
    let trace = lab.trace();
    check_ledger(&trace);
    let processes = trace["profile"]["processes"].as_array().unwrap().len();
    assert!(processes > 150, "{processes} processes seen");
    let stacks = lab.stacks();
    let all: f64 = stacks.iter().map(|(_, count)| count).sum();
    let gone: f64 = stacks.iter().filter(|(stack, _)| stack.contains("[process gone]")).map(|(_, count)| count).sum();
    assert!(gone / all < 0.02, "{gone} of {all} samples of processes whose mappings are not known");
    // Without children, only the shell itself.
    lab.record(&["--frequency", "4999", "--no-children", "--", "bash", "-c", script]);
    assert_eq!(lab.trace()["profile"]["processes"].as_array().unwrap().len(), 1);
}

/// A target that ends, ends the recording, and nothing is lost; by name, others may come until the time is over.
#[test]
#[ignore = "needs root"]
fn the_targets_end_is_the_recordings() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let busy = || Running::start(Command::new("bash").args(["-c", "while [ $SECONDS -lt 3 ]; do :; done # target"]));
    let record = |target: &[&str], duration: &str| {
        let output = lab.record(&[target, &["--duration", duration]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(lab.trace()["ledger"]["samples_kept"].as_u64().unwrap() > 0, "{}", stderr(&output));
    };
    let app = busy();
    let start = Instant::now();
    record(&["--pid", &app.pid()], "60");
    assert!(start.elapsed() < Duration::from_secs(30), "it went on for {:?}", start.elapsed());
    let first = busy();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(6));
        busy()
    });
    record(&["--name", "^bash -c .* # target$"], "9");
    let both = lab.trace()["profile"]["processes"].as_array().unwrap().len();
    assert_eq!(both, 2);
    drop((app, first, later.join().unwrap()));
}

/// Ctrl-C ends the recording, and the files are written.
#[test]
#[ignore = "needs root"]
fn interrupt_ends_and_writes() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let app = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let mut record =
        lab.command(&["record", "-o", "trace.json", "--pid", &app.pid()]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    signal(&record, "INT");
    assert!(record.wait().unwrap().success());
    assert!(lab.trace()["ledger"]["samples_kept"].as_u64().unwrap() > 0);
}

/// What is wrong is said in one sentence, before any time is spent.
#[test]
#[ignore = "needs root"]
fn mistakes_are_said() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let check = |arguments: &[&str], sentence: &str| {
        let output = lab.command(arguments).output().unwrap();
        assert!(!output.status.success());
        let text = stderr(&output);
        assert!(text.contains(sentence), "{text}");
    };
    check(&["record", "--pid", "4194303"], "there is no process 4194303");
    check(&["record", "--name", "no such process"], "no process's name or command line matches");
    check(&["record", "--all", "--pid", "1"], "--all cannot be combined");
    check(&["record", "--cgroup", "/no/such"], "there is no control group /no/such");
    check(&["record", "--all", "-o", "x.foo"], "no ending of a known format");
    check(&["record", "--all", "-o", "no/such/folder/x.json"], "its directory does not exist");
    check(&["record", "--name", "("], "\"(\" is not a regular expression: unclosed group\n");
    check(&["record"], "no target");
    check(&["report", "/etc/passwd"], "not a trace.json");
}

/// What has no room on a full disk is put elsewhere, and costs no other file.
#[test]
#[ignore = "needs root"]
fn a_full_disk_costs_nothing() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let full = lab.path("full");
    std::fs::create_dir(&full).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"]).arg(&full).status().unwrap();
    if !skip_unless(mounted.success(), "a tmpfs cannot be mounted") {
        return;
    }
    let app = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let elsewhere = lab.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let arguments = ["--frequency", "999", "--duration", "1", "-o", "full/trace.json", "-o", "trace.json"];
    let mut command = lab.command(&["record", "--pid", &app.pid()]);
    let output = command.args(arguments).env("TMPDIR", &elsewhere).output().unwrap();
    let left = std::fs::read_dir(&full).unwrap().count();
    assert!(Command::new("umount").arg(&full).status().unwrap().success());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
    assert_eq!(left, 0, "no half a file is left");
    let trace = lab.trace();
    let rescued: Vec<_> = std::fs::read_dir(&elsewhere).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(rescued.len() == 1 && stderr(&output).contains(rescued[0].to_str().unwrap()), "{}", stderr(&output));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&std::fs::read(&rescued[0]).unwrap()).unwrap(), trace);
}

/// Standard output that is closed or full costs nothing that was gathered.
#[test]
#[ignore = "needs root"]
fn a_closed_stdout_costs_nothing() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    for redirect in [">&-", "> /dev/full"] {
        let script = format!("{CPUTRACE} record --all --duration 0.3 -o trace.json {redirect}");
        let output = Command::new("sh").args(["-c", &script]).current_dir(lab.0.path()).output().unwrap();
        assert!(output.status.success(), "{redirect}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"));
        lab.trace();
        std::fs::remove_file(lab.path("trace.json")).unwrap();
    }
}

/// Without privileges: samples of one's own processes by perf_event_open, of others the timeline alone.
#[test]
#[ignore = "needs root"]
fn a_plain_user_gets_what_is_allowed() {
    if !(root() && require("setpriv")) {
        return;
    }
    let lab = Lab::new();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(arguments);
        command
    };
    // The build's folder may not be anybody's.
    let program = lab.path("cputrace");
    std::fs::copy(CPUTRACE, &program).unwrap();
    Command::new("chmod").args(["-R", "a+rwx"]).arg(lab.0.path()).status().unwrap();
    let program = program.to_str().unwrap();
    let app = Running::start(&mut nobody(&["sh", "-c", "while :; do :; done"]));
    std::thread::sleep(Duration::from_millis(200));
    let record = |pid: &str| {
        let arguments = [program, "record", "-o", "trace.json", "--duration", "1", "--pid", pid];
        let output = nobody(&arguments).current_dir(lab.0.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        lab.trace()
    };
    let paranoid: i32 =
        std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap().trim().parse().unwrap();
    let own = record(&app.pid());
    if skip_unless(paranoid <= 2, "kernel.perf_event_paranoid is above 2") {
        assert_eq!(own["sampling"]["tier"], "perf_event");
        assert!(own["ledger"]["samples_kept"].as_u64().unwrap() > 0, "{}", own["ledger"]);
    }
    let others = record("1");
    assert_eq!(others["sampling"]["tier"], "proc");
    assert!(others["samples"].as_array().unwrap().len() >= 5);
    assert!(others["notes"][0].as_str().unwrap().contains("root"), "{}", others["notes"]);
    // doctor says so too, and its exit status tells scripts.
    assert!(!nobody(&[program, "doctor"]).output().unwrap().status.success());
    assert!(Command::new(CPUTRACE).arg("doctor").output().unwrap().status.success());
}

/// A program in its own mount namespace, with a file that only it can see, has its names; a deleted one too.
#[test]
#[ignore = "needs root"]
fn hidden_and_deleted_files_have_names() {
    if !(root() && require("cc") && require("unshare")) {
        return;
    }
    let lab = Lab::new();
    let source = lab.path("burn.c");
    std::fs::write(
        &source,
        "volatile long x; __attribute__((noinline)) void burn_here(void) { for (int i = 0; i < 1000000; i++) x += i; }\n\
         int main(void) { for (;;) burn_here(); }\n",
    )
    .unwrap();
    let burn = lab.path("burn");
    let flags = ["-O1", "-fno-omit-frame-pointer", "-o"];
    assert!(Command::new("cc").args(flags).arg(&burn).arg(&source).status().unwrap().success());
    let script = format!(
        "mkdir {0}/hidden && mount -t tmpfs none {0}/hidden && cp {0}/burn {0}/hidden/ && exec {0}/hidden/burn",
        lab.0.path().display()
    );
    let check = |app: &Running, what: &str| {
        std::thread::sleep(Duration::from_millis(300));
        let output = lab.record(&["--pid", &app.pid(), "--duration", "1"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let (named, all): (f64, f64) = (lab.samples_in("burn_here"), lab.stacks().iter().map(|(_, count)| count).sum());
        assert!(named / all > 0.9, "{what}: {named} of {all} samples have the name");
    };
    let hidden = Running::start(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    check(&hidden, "in a mount namespace");
    let deleted = Running::start(&mut Command::new(&burn));
    std::thread::sleep(Duration::from_millis(100));
    std::fs::remove_file(&burn).unwrap();
    check(&deleted, "deleted");
}

/// 2,000 threads are no problem, and those born after the attach are seen.
#[test]
#[ignore = "needs root"]
fn many_threads() {
    if !(root() && require("python3")) {
        return;
    }
    let lab = Lab::new();
    let script = "import threading, time\n\
                  time.sleep(0.5)\n\
                  def work():\n    end = time.time() + 2\n    while time.time() < end: time.sleep(0.01)\n\
                  threads = [threading.Thread(target=work) for _ in range(2000)]\n\
                  [t.start() for t in threads]\n[t.join() for t in threads]";
    let app = Running::start(Command::new("python3").args(["-c", script]));
    let output = lab.record(&["--pid", &app.pid(), "--duration", "3", "--frequency", "999"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let trace = lab.trace();
    check_ledger(&trace);
    let threads = trace["profile"]["threads"].as_array().unwrap().len();
    assert!(threads > 100, "{threads} threads seen");
}

/// The whole host and a control group are recorded, with kernel names.
#[test]
#[ignore = "needs root"]
fn whole_host_and_control_group() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let app = Running::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    let output = lab.record(&["--all", "--duration", "1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    check_ledger(&lab.trace());
    assert!(lab.samples_in("sh") > 5.0);
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", app.pid())).unwrap();
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let output = lab.record(&["--cgroup", unified, "--duration", "1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(lab.samples_in("sh") > 5.0);
}

/// What the kernel says when it is asked for an address is what its list of symbols has there.
#[test]
#[ignore = "needs root"]
fn the_kernel_tells_its_names() {
    if !root() {
        return;
    }
    let config = Config {
        filter: Filter::All,
        ring_bytes: 1 << 20,
        accounting: false,
        waits: None,
        event: None,
        counters: 0,
        newcomers: 0,
        most_stacks: cputrace::ebpf::MOST_STACKS,
    };
    let names = Object::load(config).unwrap().take_kernel_names();
    if !skip_unless(names.is_some(), "the kernel has no bpf_snprintf: Linux 5.13") {
        return;
    }
    let list = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let mut symbols: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
        let kind = words.next().unwrap();
        if matches!(kind, "t" | "T") {
            symbols.entry(address).or_default().push(words.next().unwrap());
        }
    }
    let addresses: Vec<u64> = symbols.keys().copied().step_by(50).collect();
    assert!(addresses.len() > 1000, "{} symbols", symbols.len());
    let names = names.unwrap();
    let answers = names.ask(&addresses).unwrap();
    assert_eq!(answers.len(), addresses.len());
    for (address, answer) in addresses.iter().zip(&answers) {
        let (name, place) = answer.split_once('+').unwrap_or_else(|| panic!("{address:#x}: {answer}"));
        assert!(symbols[address].contains(&name) && place.starts_with("0x0/0x"), "{address:#x}: {answer}");
    }
    // Where nothing is, the address comes back.
    assert!(!names.ask(&[0x1000]).unwrap()[0].contains('+'));
}
