//! Windows of a running session, of real processes. They need root: `cargo xtask test` runs them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use cputrace::ebpf::Waits;
use cputrace::model::{LossReason, Recording, Target};
use cputrace::session::{EndReason, Options, Stop, Watch};
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
        waits: Some(Waits { min: Duration::from_millis(1), wakers: false }),
        timeline: false,
        wait_rules: String::new(),
        pmu: Vec::new(),
        event: None,
        stack_counters: Vec::new(),
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
    assert!(accounted_ns <= kernel_ns, "{accounted_ns} ns in the windows, {kernel_ns} ns in all");
    // A tick between the readings of the two sides is in two windows' ledgers, once more and once less.
    assert_eq!(windows.iter().map(|window| window.ledger.unaccounted()).sum::<i64>(), 0);
    for pair in windows.windows(2) {
        assert!(pair[0].start < pair[1].start);
    }
}
