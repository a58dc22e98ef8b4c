//! Windows of a running session, of real processes. They need root: `cargo xtask test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use cputrace::ebpf::Waits;
use cputrace::group::Labels;
use cputrace::metrics::collect::Families;
use cputrace::metrics::counters::CounterSums;
use cputrace::metrics::encode::{Exposition, encode};
use cputrace::model::{CounterSubject, LossReason, Recording, Source, Target, Unit};
use cputrace::session::{EndReason, Options, Stop, Watch};
use cputrace::symbolize::Detail;
use support::lab::{Running, root};

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
        &stop,
    );
    assert_eq!(end, EndReason::Stopped);
    let kernel_ns = {
        let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // The last one lasts from the third to the stop.
    assert_eq!(windows.len(), 4);
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
