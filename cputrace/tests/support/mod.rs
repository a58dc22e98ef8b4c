//! What several tests need.

#![allow(dead_code, clippy::allow_attributes, reason = "each test binary uses its own part of it")]

pub(crate) mod lab;
pub(crate) mod symbols;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cputrace::analyze::reasons::WaitReasons;
use cputrace::model::*;

/// Whether a program is there. Without it the test is skipped, loudly; with CPUTRACE_REQUIRE_ALL=1 it fails.
pub(crate) fn require(program: &str) -> bool {
    skip_unless(is_there(program), &format!("there is no {program}"))
}

/// As [`require`], for anything else.
pub(crate) fn skip_unless(there: bool, reason: &str) -> bool {
    if !there {
        assert!(std::env::var_os("CPUTRACE_REQUIRE_ALL").is_none(), "this test has to run here, but {reason}");
        eprintln!("SKIPPED: {reason}");
    }
    there
}

/// As [`require`], for a program that takes too long to install only for a test: then it is skipped everywhere.
pub(crate) fn optional(program: &str) -> bool {
    let there = is_there(program);
    if !there {
        eprintln!("SKIPPED: there is no {program}, which the tests do without");
    }
    there
}

fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

/// A small recording with one of everything: inlined functions, kernel frames, names that are missing for a reason,
/// an empty stack, two threads, two processes.
pub(crate) fn recording() -> Recording {
    let mut profile = Profile::new();
    let name = profile.string("on-cpu");
    let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 10_101_010 });
    let app_path = profile.string("/usr/bin/app");
    let app =
        profile.mapping(Mapping { kind: MappingKind::File, path: app_path, build_id: Some(BuildId(vec![0xab; 20])) });
    let kernel_path = profile.string("[kernel]");
    let kernel = profile.mapping(Mapping { kind: MappingKind::Kernel, path: kernel_path, build_id: None });
    let function = |profile: &mut Profile, name: &str, file: &str| {
        let (name, file) = (profile.string(name), profile.string(file));
        profile.function(Function { name, system_name: name, file, start_line: 0 })
    };
    let main = function(&mut profile, "main", "app.c");
    let parse = function(&mut profile, "parse<T>; with a semicolon", "parse.h");
    let write = function(&mut profile, "vfs_write", "");
    let location = |profile: &mut Profile, mapping, address, lines: &[(FunctionId, u32)]| {
        let id = profile.location(mapping, ElfAddr(address));
        let lines: Vec<_> = lines.iter().map(|&(function, line)| Line { function, line }).collect();
        profile.set_lines(id, if lines.is_empty() { Err(UnknownReason::NoSymbols) } else { Ok(lines) });
        id
    };
    let in_main = location(&mut profile, app, 0x1234, &[(main, 10)]);
    let in_parse = location(&mut profile, app, 0x1300, &[(parse, 20), (main, 12)]);
    let nameless = location(&mut profile, app, 0x2000, &[]);
    let in_kernel = location(&mut profile, kernel, 0xffff_ffff_8123_4567, &[(write, 0)]);
    let root = profile.stack(None, in_main);
    let parse_stack = profile.stack(Some(root), in_parse);
    let nameless_stack = profile.stack(Some(root), nameless);
    let kernel_stack = profile.stack(Some(parse_stack), in_kernel);
    let process = profile.process(1234, "app");
    let threads = [profile.thread(process, 1234, "app"), profile.thread(process, 1235, "worker")];
    let other = profile.process(99, "other");
    let other_thread = profile.thread(other, 99, "other");
    let samples = [
        (threads[0], Some(parse_stack), 3_u64),
        (threads[1], Some(parse_stack), 1),
        (threads[1], Some(kernel_stack), 2),
        (threads[0], Some(nameless_stack), 1),
        (other_thread, None, 1),
    ];
    for (thread, stack, count) in samples {
        for index in 0..count {
            let event = Event { at_ns: (index + 1) * 20_000_000, value: 10_101_010 };
            profile.add((thread, source, stack), 1, 10_101_010, Some(event));
        }
    }
    let mut waits = Waits::new(true);
    let wake = waits.wake(profile.string("app"), Some(parse_stack), None);
    let state = WaitState::OffCpu(OffCpuState::Sleeping);
    let key = WaitKey { thread: threads[1], state, stack: Some(kernel_stack), wake: Some(wake) };
    for (key, at_ns, blocked_ns, queued_ns) in
        [(key, 10_000_000, 60_000_000, 5_000_000), (WaitKey { wake: None, ..key }, 90_000_000, 50_000_000, 0)]
    {
        let event = WaitEvent { at_ns, blocked_ns, queued_ns };
        waits.add(key, event, WaitSum::of(&event));
    }
    let mut reasons = WaitReasons::new("disk: state=sleeping kernel=vfs_write").unwrap();
    cputrace::analyze::waits::add_to(&mut profile, &waits, &mut reasons);
    let point = |at, cpu_percent| Point {
        at: Duration::from_millis(at),
        cpu_percent,
        user_percent: cpu_percent - 10.0,
        system_percent: 10.0,
        rss_kb: 45_320,
        threads: 2,
        voluntary_switches: 5,
        involuntary_switches: 1,
        minor_faults: 100,
        major_faults: 0,
    };
    Recording {
        session_id: "trace-20260221-050852".to_owned(),
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_771_650_532),
        duration: Duration::from_millis(200),
        host: Host {
            hostname: "host".to_owned(),
            kernel: "6.18.0".to_owned(),
            arch: "x86_64".to_owned(),
            cpu_model: "A CPU".to_owned(),
            cpus: 2,
            memory_kb: 1_000_000,
        },
        targets: vec![Target::Pid(1234), Target::Command(vec!["other".to_owned()])],
        sampling: Sampling { tier: Tier::Ebpf, clock: Some(Clock::CpuClock), asked_hz: 99.0, achieved_hz: 98.5 },
        profile,
        timelines: vec![Timeline {
            pid: 1234,
            name: "app".to_owned(),
            points: vec![point(100, 72.4), point(200, 98.1)],
            cpu_time: Duration::from_millis(170),
        }],
        threads: vec![ThreadTime {
            pid: 1234,
            tid: 1235,
            name: "worker".to_owned(),
            elapsed_ns: 200_000_000,
            on_cpu_ns: 30_000_000,
            run_queue_ns: 9_000_000,
            run_queue_max_ns: 8_000_000,
            off_cpu_ns: [150_000_000, 10_000_000, 0, 0],
            kernel_on_cpu_ns: 30_100_000,
            kernel_run_queue_ns: 8_900_000,
            switches_voluntary: 3,
            switches_involuntary: 1,
            migrations: 1,
            run_queue_waits: std::array::from_fn(|row| u64::from(row == 22) + u64::from(row == 19)),
            ended: true,
        }],
        scheduler: Some(SchedulerLedger { waits: 3, wakes: 2, ..SchedulerLedger::default() }),
        pmu: Some(Counters {
            cpu: "Zen 3".to_owned(),
            sets: vec!["base".to_owned(), "l3".to_owned()],
            user_only: true,
            scopes: vec![
                CounterScope {
                    subject: CounterSubject::Targets,
                    counts: vec![Count {
                        event: "cycles".to_owned(),
                        unit: "cycles".to_owned(),
                        value: 1_000_000,
                        coverage: 0.5,
                    }],
                    metrics: vec![MetricValue {
                        name: "ipc".to_owned(),
                        unit: "instr/cycle".to_owned(),
                        value: 1.25,
                        coverage: 0.5,
                    }],
                },
                CounterScope {
                    subject: CounterSubject::Process { pid: 1234, name: "app".to_owned() },
                    counts: Vec::new(),
                    metrics: Vec::new(),
                },
                CounterScope {
                    subject: CounterSubject::Thread { pid: 1234, tid: 1235, name: "worker".to_owned() },
                    counts: Vec::new(),
                    metrics: Vec::new(),
                },
                CounterScope { subject: CounterSubject::Host, counts: Vec::new(), metrics: Vec::new() },
            ],
            missing: vec![MissingMetrics {
                code: "no_pmu_virtual".to_owned(),
                reason: "no hardware counters".to_owned(),
                metrics: vec!["l3-miss-ratio".to_owned()],
            }],
            backwards: 1,
            lost_groups: 2,
        }),
        event: Some(EventSampling {
            name: "page-faults".to_owned(),
            period: 1,
            expected: 10,
            seen: 9,
            idle: 1,
            filtered: 2,
            kept: 5,
            lost: BTreeMap::from([(LossReason::RingBufferFull, 1)]),
            ops: Some(Ops {
                unread: 1,
                loads: BTreeMap::from([(DataSource::L3, Loads { count: 3, timed: 2, cycles: 90, most_cycles: 50 })]),
                stores: BTreeMap::from([(DataSource::BeyondL2, 1)]),
                prefetches: BTreeMap::from([(DataSource::Pending, 1)]),
                locked: 1,
                translated: 4,
                second_tlb: 2,
                walks: 1,
                walk_cycles: 30,
                branches: 5,
                mispredicted: 1,
                others: 6,
            }),
        }),
        stack_counters: Some(StackCounters {
            counters: vec![StackCounter {
                name: "instructions".to_owned(),
                unit: "instructions".to_owned(),
                in_stacks: 900,
                off_stack: 100,
            }],
            counted: 7,
            no_start: 1,
            not_running: 2,
            refused: 3,
        }),
        ledger: Ledger {
            ticks_expected: 40,
            ticks: 39,
            ticks_idle: 20,
            ticks_filtered: 10,
            samples_kept: 8,
            samples_lost: BTreeMap::from([(LossReason::RingBufferFull, 1), (LossReason::ClockMissed, 1)]),
            stacks: BTreeMap::from([(StackEnd::Complete, 7), (StackEnd::NoUnwindInfo, 1)]),
            wait_stacks: BTreeMap::from([(StackEnd::Complete, 3)]),
            stacks_guessed: 2,
        },
        overhead: Overhead {
            bpf_run_time: Some(Duration::from_micros(50)),
            bpf_runs: 39,
            bpf_programs: vec![ProgramCost {
                name: "on_cpu".to_owned(),
                run_time: Duration::from_micros(50),
                runs: 39,
                verified_instructions: Some(1_234),
            }],
            own_cpu: Duration::from_millis(2),
            own_rss_kb: 20_000,
            map_kb: 1_500,
            ..Overhead::default()
        },
        unwinding: Some(Unwinding { tables: 3, rows: 1000, table_kb: 10, builds: 3, ..Unwinding::default() }),
        spikes: vec![Spike {
            pid: 1234,
            name: "app".to_owned(),
            start: Duration::from_millis(100),
            end: Duration::from_millis(200),
            usual_percent: 12.5,
            peak_percent: 98.1,
            score: 7.5,
            functions: vec![SpikeFunction { name: "main".to_owned(), before_percent: 1.5, percent: 80.0 }],
        }],
        notes: vec!["children of the targets are not followed: no BTF".to_owned()],
    }
}
