//! Counters and samples by event in recordings of a program whose page faults and sleeps are known. They need root.

use std::path::Path;
use std::process::Command;

use cputrace::pmu::device::Root;

use crate::support::{require, skip_unless};

/// A program that touches fresh pages, 20 times 1,000 of them.
fn toucher(folder: &Path) -> std::path::PathBuf {
    let (source, program) = (folder.join("touch.c"), folder.join("touch"));
    let text = "#include <sys/mman.h>\n#include <unistd.h>\nint main(void) {\n\
                for (int round = 0; round < 20; round++) {\n\
                char *pages = mmap(0, 4096 * 1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n\
                madvise(pages, 4096 * 1000, MADV_NOHUGEPAGE);\n\
                for (int page = 0; page < 1000; page++) pages[page * 4096] = 1;\n\
                munmap(pages, 4096 * 1000); usleep(1000);\n}\nreturn 0;\n}\n";
    std::fs::write(&source, text).unwrap();
    assert!(Command::new("cc").arg("-o").args([&program, &source]).status().unwrap().success());
    program
}

/// `record --pmu` counts a command and its children, to the page, and says in one sentence what it could not count.
#[test]
#[ignore = "needs root"]
fn records_counters() {
    if !require("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = toucher(folder.path());
    let both = format!("{0} & {0}; wait", program.display());
    let trace = folder.path().join("trace.json");
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .args(["record", "--pmu-metrics", "software,base,tsc", "-o"])
        .arg(&trace)
        .args(["--", "sh", "-c", &both])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let scopes = trace["pmu"]["scopes"].as_array().unwrap();
    let scope = |subject: &str| scopes.iter().find(|scope| scope["subject"] == subject).unwrap();
    let count = |subject: &str, event: &str| {
        let counts = scope(subject)["counts"].as_array().unwrap();
        let count = counts.iter().find(|count| count["event"] == event).unwrap();
        assert_eq!(count["coverage"], 1.0);
        count["value"].as_u64().unwrap()
    };
    // Both children's, beside those of three programs being started.
    let faults = count("targets", "page-faults");
    assert!((40_000..44_000).contains(&faults), "{faults} page faults: {text}");
    assert_eq!(count("process", "page-faults"), faults);
    // Each of them sleeps 20 times.
    assert!(count("targets", "context-switches") >= 40);
    assert!(count("host", "tsc") > 0);
    if !Root::new("/").has("sys/bus/event_source/devices/cpu") {
        let missing = trace["pmu"]["missing"].as_array().unwrap();
        assert_eq!(missing.len(), 1, "one sentence: {missing:?}");
        let metrics = missing[0]["metrics"].as_array().unwrap();
        assert!(metrics.iter().any(|metric| metric == "ipc"));
        assert!(missing[0]["reason"].as_str().unwrap().starts_with("no hardware counters: "), "{missing:?}");
        assert!(text.contains("counters  no data for ipc"), "{text}");
        let all = serde_json::to_string(&trace["pmu"]["scopes"]).unwrap();
        assert!(!all.contains("ipc") && !all.contains("cycles\",\"unit\":\"cycles"), "nothing is made up: {all}");
    }
}

/// A process that sleeps all the time has no numbers, not even 0, and the reason is not the hardware's.
#[test]
#[ignore = "needs root"]
fn counts_nothing_of_sleepers() {
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let status = || std::fs::read_to_string(format!("/proc/{}/status", sleeper.id())).unwrap();
    while !(status().contains("Name:\tsleep") && status().contains("State:\tS")) {
        std::thread::yield_now();
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let arguments = ["record", "--pmu-metrics", "software", "-d", "0.3", "--pid", &sleeper.id().to_string(), "-o"];
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace")).args(arguments).arg(&trace).output().unwrap();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let missing = trace["pmu"]["missing"].as_array().unwrap();
    assert_eq!((missing.len(), &missing[0]["code"]), (1, &"never_ran".into()), "{missing:?}");
    assert_eq!(trace["pmu"]["scopes"], serde_json::json!([]));
}

/// Records the toucher with samples by an event: trace.json, and the event's folded stacks.
fn record_event(folder: &Path, arguments: &[&str]) -> (serde_json::Value, Vec<(String, u64)>) {
    let program = toucher(folder);
    let (trace, stacks) = (folder.join("trace.json"), folder.join("stacks.event.folded"));
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .arg("record")
        .args(arguments)
        .args(["-o".as_ref(), trace.as_os_str(), "-o".as_ref(), stacks.as_os_str(), "--".as_ref()])
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let event = &trace["event"];
    let number = |name: &str| event[name].as_u64().unwrap();
    let lost: u64 = event["lost"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(number("seen"), number("idle") + number("filtered") + number("kept") + lost, "{event}");
    let text = std::fs::read_to_string(stacks).unwrap();
    let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
    (trace.clone(), lines.map(|(stack, weight)| (stack.to_owned(), weight.parse().unwrap())).collect())
}

/// The samples of a source: how many, and what they are worth.
fn samples_of(trace: &serde_json::Value, source: &str) -> (u64, u64) {
    let profile = &trace["profile"];
    let name_of = |row: &serde_json::Value| &profile["strings"][row["name"].as_u64().unwrap() as usize];
    let sources = profile["sources"].as_array().unwrap();
    let index = sources.iter().position(|row| name_of(row) == source).unwrap() as u64;
    let column = |name: &str| profile["samples"][name].as_array().unwrap().iter().map(|value| value.as_u64().unwrap());
    let rows = column("source").zip(column("count").zip(column("value"))).filter(|(source, _)| *source == index);
    rows.fold((0, 0), |(counts, values), (_, (count, value))| (counts + count, values + value))
}

/// Where page faults happen: all of them, in the function that touches the pages; and by tens, worth as much.
#[test]
#[ignore = "needs root"]
fn samples_page_faults() {
    if !require("cc") {
        return;
    }
    for (period, arguments) in
        [(1, &["--event", "page-faults"][..]), (10, &["--event", "page-faults", "--event-period", "10"])]
    {
        let folder = tempfile::tempdir().unwrap();
        let (trace, stacks) = record_event(folder.path(), arguments);
        let (count, value) = samples_of(&trace, "page-faults");
        assert_eq!(value, count * period);
        // What the program touches, and what starting it takes; the last ten of a CPU are not whole.
        assert!((19_800..22_000).contains(&value), "{value} page faults at a period of {period}");
        let in_main: u64 = stacks.iter().filter(|(stack, _)| stack.ends_with(";main")).map(|(_, weight)| weight).sum();
        assert!((19_800..=20_100).contains(&in_main), "{in_main} page faults in main: {stacks:?}");
        assert_eq!(stacks.iter().map(|(_, weight)| weight).sum::<u64>(), value);
    }
}

/// Where threads leave the CPU by themselves: in their 20 sleeps.
#[test]
#[ignore = "needs root"]
fn samples_context_switches() {
    if !require("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_, stacks) = record_event(folder.path(), &["--event", "context-switches"]);
    // The kernel's part of the stack: the tables for the program's own may come too late for its first sleep.
    let asleep = |stack: &str| stack.contains("nanosleep_[k];");
    let sleeps: u64 = stacks.iter().filter(|(stack, _)| asleep(stack)).map(|(_, weight)| weight).sum();
    // Preemption on the way into a sleep has such a stack too.
    assert!((20..200).contains(&sleeps), "{sleeps}: {stacks:?}");
}

/// What cannot be sampled is refused before the command starts, with the reason.
#[test]
#[ignore = "needs root"]
fn refuses_events() {
    let refused = |event: &str, reason: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
            .args(["record", "--event", event, "--", "true"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(reason), "{event}: {text}");
    };
    refused("no-such-event", "there is no event");
    refused("msr/tsc/", "cannot interrupt");
    if !Root::new("/").has("sys/bus/event_source/devices/cpu") {
        refused("l2-misses", "no hardware counters");
        refused("r00c3", "no hardware counters");
    }
}

/// Counters read at samples and switches: no fault of the toucher's is in another's stack or in none, however often it sleeps.
#[test]
#[ignore = "needs root"]
fn counts_by_stack() {
    if !require("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = toucher(folder.path());
    let trace = folder.path().join("trace.json");
    let both = format!("{0} & {0}; wait", program.display());
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .args(["record", "-F", "999", "--pmu-metrics", "software", "--pmu-stacks", "page-faults,task-clock", "-o"])
        .arg(&trace)
        .args(["--", "sh", "-c", &both])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let counted = &trace["stack_counters"];
    assert_eq!((counted["not_running"].as_u64(), counted["refused"].as_u64()), (Some(0), Some(0)), "{counted}");
    let faults = &counted["counters"][0];
    let number = |name: &str| faults[name].as_u64().unwrap();
    let all = number("in_stacks") + number("off_stack");
    // The kernel's own count of the processes; it begins a little earlier, and a sample may come in the midst of a switch.
    let totals = trace["pmu"]["scopes"][0]["counts"].as_array().unwrap();
    let total = totals.iter().find(|count| count["event"] == "page-faults").unwrap()["value"].as_u64().unwrap();
    assert!(all <= total && all * 10 >= total * 9, "{all} of {total} page faults: {counted}");
    let (samples, value) = samples_of(&trace, "page-faults");
    assert_eq!((samples > 0, value), (true, number("in_stacks")));
    assert!(text.contains("function, counted in itself"), "{text}");
}

/// A program with two busy functions.
fn spinner(folder: &Path) -> std::path::PathBuf {
    let (source, program) = (folder.join("spin.c"), folder.join("spin"));
    let text = "#include <time.h>\nvolatile unsigned long sum;\n\
                static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); \
                return t.tv_sec + t.tv_nsec / 1e9; }\n\
                __attribute__((noinline)) void once(void) { for (long i = 0; i < 400000; i++) sum += i; }\n\
                __attribute__((noinline)) void thrice(void) { for (long i = 0; i < 1200000; i++) sum += i; }\n\
                int main(void) { double end = now() + 1; while (now() < end) { once(); thrice(); } return 0; }\n";
    std::fs::write(&source, text).unwrap();
    assert!(Command::new("cc").args(["-O1", "-o"]).args([&program, &source]).status().unwrap().success());
    program
}

/// Ticks of this machine's TSC a nanosecond.
#[cfg(target_arch = "x86_64")]
fn tsc_rate() -> f64 {
    // SAFETY: an instruction that every x86-64 has.
    let tsc = || unsafe { std::arch::x86_64::_rdtsc() };
    let (start, before) = (std::time::Instant::now(), tsc());
    std::thread::sleep(std::time::Duration::from_millis(300));
    (tsc() - before) as f64 / start.elapsed().as_nanos() as f64
}

/// A counter of the hardware's, `msr/tsc`, read in the kernel at samples: it goes at its own rate in every function, and comes
/// to the time that the thread was on the CPU by the scheduler's account.
#[test]
#[ignore = "needs root"]
#[cfg(target_arch = "x86_64")]
fn reads_a_hardware_counter_at_samples() {
    if !require("cc") || !Root::new("/").has("sys/bus/event_source/devices/msr") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (program, trace) = (spinner(folder.path()), folder.path().join("trace.json"));
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .args(["record", "--pmu-stacks", "msr/tsc/,task-clock", "-o"])
        .arg(&trace)
        .arg("--")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let counted = &trace["stack_counters"];
    let counters = counted["counters"].as_array().unwrap();
    let number = |counter: usize, name: &str| counters[counter][name].as_u64().unwrap() as f64;
    let rate = number(0, "in_stacks") / number(1, "in_stacks");
    let expected = tsc_rate();
    // The clock that the rate is measured by is corrected by NTP at most by thousandths, but this test may be held up in between.
    assert!((0.9..1.1).contains(&(rate / expected)), "{rate} ticks a nanosecond instead of {expected}: {counted}");
    assert_eq!(samples_of(&trace, "msr/tsc/").0, samples_of(&trace, "task-clock").0);
    let all = number(1, "in_stacks") + number(1, "off_stack");
    let on_cpu: u64 = trace["threads"].as_array().unwrap().iter().map(|row| row["on_cpu_ns"].as_u64().unwrap()).sum();
    let share = all / on_cpu as f64;
    assert!((0.8..1.02).contains(&share), "{all} ns counted of {on_cpu} ns on the CPU: {counted}");
}

/// Counters that stacks cannot have are refused before the command starts.
#[test]
#[ignore = "needs root"]
fn refuses_counters_by_stack() {
    let refused = |counters: &str, reason: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
            .args(["record", "--event", "page-faults", "--pmu-stacks", counters, "--", "true"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(reason), "{counters}: {text}");
    };
    refused("no-such-event", "there is no event");
    refused("page-faults", "is named twice");
    refused("task-clock,task-clock", "is named twice");
    refused("task-clock,context-switches,minor-faults,major-faults,migrations", "at most 4 counters");
    if !Root::new("/").has("sys/bus/event_source/devices/cpu") {
        refused("cycles,instructions", "no hardware counters");
    }
}

/// What a shell with tracefs, and nothing else changed, says to this; and its status.
fn with_tracefs(script: &str) -> (bool, String) {
    let mount = "test -d /sys/kernel/tracing/events || mount -t tracefs nodev /sys/kernel/tracing";
    let script = format!("{{ {mount}; }} && {script}");
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Every hit of a tracepoint, with the stack that leads there: `dd` makes a system call for each byte. By tens, worth as much.
#[test]
#[ignore = "needs root"]
fn samples_tracepoints() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, stacks) = (folder.path().join("trace.json"), folder.path().join("stacks.event.folded"));
    for period in [1, 10] {
        let script = format!(
            "exec {} record --event syscalls:sys_enter_write --event-period {period} -o {} -o {} -- dd if=/dev/zero of=/dev/null bs=1 count=5000",
            env!("CARGO_BIN_EXE_cputrace"),
            trace.display(),
            stacks.display()
        );
        let (recorded, text) = with_tracefs(&script);
        assert!(recorded, "{text}");
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        let event = &trace["event"];
        assert_eq!(event["lost"].as_object().unwrap().values().filter(|lost| **lost != 0).count(), 0, "{event}");
        let (count, value) = samples_of(&trace, "syscalls:sys_enter_write");
        assert_eq!((value, event["kept"].as_u64()), (count * period, Some(count)));
        // Besides the bytes, what it says at its end. By tens, writes of other programs count on each CPU's way to ten.
        let slack = if period == 1 { 20 } else { 1000 };
        assert!((5000 - slack..=5000 + slack).contains(&value), "{value} at a period of {period}: {event}");
        let text = std::fs::read_to_string(&stacks).unwrap();
        assert!(text.lines().all(|line| line.starts_with("dd;") && line.contains("_[k]")), "{text}");
        assert!(text.contains("write;entry_SYSCALL_64"), "{text}");
    }
}

/// Where threads leave the CPU, by the scheduler's own tracepoint, which holds its lock: each of the sleeps.
#[test]
#[ignore = "needs root"]
fn samples_the_schedulers_tracepoint() {
    if !require("cc") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (program, stacks) = (toucher(folder.path()), folder.path().join("stacks.event.folded"));
    let (recorded, text) = with_tracefs(&format!(
        "exec {} record --event sched:sched_switch -o {} -- {}",
        env!("CARGO_BIN_EXE_cputrace"),
        stacks.display(),
        program.display()
    ));
    assert!(recorded, "{text}");
    let text = std::fs::read_to_string(&stacks).unwrap();
    let asleep = text.lines().filter(|line| line.contains("nanosleep_[k];"));
    let sleeps: u64 = asleep.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
    assert!((20..200).contains(&sleeps), "{sleeps}: {text}");
}

/// A tracepoint that is not there, and tracepoints that are not listed, are told apart, with what to do.
#[test]
#[ignore = "needs root"]
fn refuses_tracepoints() {
    let record = |event: &str| format!("{} record --event {event} -- true", env!("CARGO_BIN_EXE_cputrace"));
    let (recorded, text) = with_tracefs(&record("sched:no_such"));
    assert!(!recorded && text.contains("there is no tracepoint sched:no_such"), "{text}");
    let hidden = "mount -t tmpfs nodev /sys/kernel/tracing && mount -t tmpfs nodev /sys/kernel/debug";
    let (recorded, text) = with_tracefs(&format!("{hidden} && {}", record("sched:sched_switch")));
    assert!(!recorded && text.contains("mount -t tracefs nodev /sys/kernel/tracing"), "{text}");
    let counted = format!("{} record --pmu-stacks sched:sched_switch -- true", env!("CARGO_BIN_EXE_cputrace"));
    let (recorded, text) = with_tracefs(&counted);
    assert!(!recorded && text.contains("a tracepoint is no counter"), "{text}");
}

/// Page faults so far, of a process and of its children that have ended.
fn faults_of(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[8..=11].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

/// A control group's counters are its own: not those of processes beside it that do the same, and that many times as often.
#[test]
#[ignore = "needs root"]
fn counts_a_control_group() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    if !skip_unless(unified.is_some() && require("cc"), "there are no control groups of version 2") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = toucher(folder.path());
    let mount = unified.unwrap().split(' ').nth(1).unwrap();
    let group = Path::new(mount).join(format!("cputrace-test-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    let again = format!("while :; do {}; done", program.display());
    let inside =
        format!("echo $$ > {}/cgroup.procs; while :; do sleep 0.2; {}; done", group.display(), program.display());
    let mut programs = [&inside, &again, &again].map(|script| Command::new("sh").args(["-c", script]).spawn().unwrap());
    while std::fs::read_to_string(group.join("cgroup.procs")).unwrap().is_empty() {
        std::thread::yield_now();
    }
    let before = faults_of(programs[0].id());
    let trace = folder.path().join("trace.json");
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
        .args(["record", "--pmu-metrics", "software", "-d", "1", "--cgroup"])
        .args([&group, Path::new("-o"), &trace])
        .output()
        .unwrap();
    let after = faults_of(programs[0].id());
    for program in &mut programs {
        program.kill().unwrap();
        program.wait().unwrap();
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    while std::fs::remove_dir(&group).is_err() {
        // A child of the shell has not ended.
        std::thread::yield_now();
    }
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let scope = &trace["pmu"]["scopes"][0];
    assert_eq!((&scope["subject"], &trace["pmu"]["missing"]), (&"targets".into(), &serde_json::json!([])));
    let counts = scope["counts"].as_array().unwrap();
    let faults = counts.iter().find(|count| count["event"] == "page-faults").unwrap();
    assert_eq!(faults["coverage"], 1.0);
    let faults = faults["value"].as_u64().unwrap();
    // The child that runs at the end is not in the shell's sum yet.
    let most = after - before + 25_000;
    assert!((1..=most).contains(&faults), "{faults} page faults of {most} at most");
}
