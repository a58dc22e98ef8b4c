//! From a recording to trace.json's document.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{SCHEMA_VERSION, document};
use crate::model::{
    self, LossReason, MappingKind, OffCpuState, Point, ProgramCost, Recording, SchedulerLedger, Spike, SpikeFunction,
    StackEnd, ThreadTime, Timeline, UnknownReason,
};

pub(super) fn document(recording: &Recording) -> document::Trace {
    let Recording {
        session_id,
        start,
        duration,
        host,
        targets,
        sampling,
        profile,
        timelines,
        threads,
        scheduler,
        ledger,
        overhead,
        unwinding,
        pmu,
        event,
        stack_counters,
        spikes,
        notes,
    } = recording;
    let first = timelines.first();
    // RFC 3339 has the years 0 to 9999, and `start` was a clock's time once.
    let start_time =
        OffsetDateTime::from(*start).replace_nanosecond(0).ok().and_then(|time| time.format(&Rfc3339).ok());
    document::Trace {
        schema_version: SCHEMA_VERSION,
        session_id: session_id.clone(),
        start_time: start_time.unwrap_or_default(),
        duration_seconds: seconds(*duration),
        metadata: first.map(metadata).unwrap_or_default(),
        summary: summary(first),
        samples: first.map(|timeline| timeline.points.iter().map(point).collect()).unwrap_or_default(),
        processes: timelines.iter().map(series).collect(),
        host: document::Host {
            hostname: host.hostname.clone(),
            kernel: host.kernel.clone(),
            arch: host.arch.clone(),
            cpu_model: host.cpu_model.clone(),
            cpus: host.cpus,
            memory_kb: host.memory_kb,
        },
        targets: targets.iter().map(target).collect(),
        sampling: Some(document::Sampling {
            tier: sampling.tier.name().to_owned(),
            clock: sampling.clock.map(|clock| clock.name().to_owned()),
            asked_hz: sampling.asked_hz,
            achieved_hz: tenths(sampling.achieved_hz),
        }),
        overhead: document::Overhead {
            bpf_run_time_seconds: overhead.bpf_run_time.map(|time| time.as_secs_f64()),
            bpf_runs: overhead.bpf_runs,
            bpf_programs: overhead.bpf_programs.iter().map(program).collect(),
            own_cpu_seconds: seconds(overhead.own_cpu),
            own_rss_kb: overhead.own_rss_kb,
            map_kb: overhead.map_kb,
        },
        ledger: document::Ledger {
            samples_expected: ledger.samples_expected(),
            samples_kept: ledger.samples_kept,
            samples_lost: LossReason::ALL
                .iter()
                .map(|reason| count(reason.name(), ledger.samples_lost.get(reason)))
                .collect(),
            unaccounted: ledger.unaccounted(),
            stacks: StackEnd::ALL.iter().map(|end| count(end.name(), ledger.stacks.get(end))).collect(),
            wait_stacks: ledger.wait_stacks.iter().map(|(end, ends)| count(end.name(), Some(ends))).collect(),
            stacks_guessed: ledger.stacks_guessed,
            ticks_expected: ledger.ticks_expected,
            ticks: ledger.ticks,
            ticks_idle: ledger.ticks_idle,
            ticks_filtered: ledger.ticks_filtered,
        },
        threads: threads.iter().map(thread_time).collect(),
        scheduler: scheduler.map(self::scheduler),
        unwinding: unwinding.map(|unwinding| document::Unwinding {
            tables: unwinding.tables,
            rows: unwinding.rows,
            table_kb: unwinding.table_kb,
            builds: unwinding.builds,
            build_seconds: seconds(unwinding.build_time),
            failed_builds: unwinding.failed_builds,
            evictions: unwinding.evictions,
            refused: unwinding.refused,
            put_off: unwinding.put_off,
        }),
        pmu: pmu.as_ref().map(super::pmu::document),
        event: event.as_ref().map(super::pmu::event_document),
        stack_counters: stack_counters.as_ref().map(super::pmu::stack_counters_document),
        anomalies: spikes.iter().map(anomaly).collect(),
        notes: notes.clone(),
        profile: self::profile(profile),
    }
}

fn anomaly(spike: &Spike) -> document::Anomaly {
    let Spike { pid, name, start, end, usual_percent, peak_percent, score, functions } = spike;
    let function = |function: &SpikeFunction| document::AnomalyFunction {
        name: function.name.clone(),
        before_pct: tenths(function.before_percent),
        pct: tenths(function.percent),
    };
    document::Anomaly {
        signal: "cpu".to_owned(),
        pid: *pid,
        process_name: name.clone(),
        start: seconds(*start),
        end: seconds(*end),
        usual_pct: tenths(*usual_percent),
        peak_pct: tenths(*peak_percent),
        score: tenths(*score),
        functions: functions.iter().map(function).collect(),
    }
}

fn count(name: &str, count: Option<&u64>) -> (String, u64) {
    (name.to_owned(), count.copied().unwrap_or(0))
}

fn metadata(timeline: &Timeline) -> document::Metadata {
    let last = timeline.points.last().copied().unwrap_or_default();
    document::Metadata {
        pid: timeline.pid,
        process_name: timeline.name.clone(),
        threads: last.threads,
        vm_rss_kb: last.rss_kb,
    }
}

fn summary(timeline: Option<&Timeline>) -> document::Summary {
    let points = timeline.map(|timeline| &*timeline.points).unwrap_or_default();
    let sum: f64 = points.iter().map(|point| point.cpu_percent).sum();
    document::Summary {
        cpu_avg_percent: if points.is_empty() { 0.0 } else { tenths(sum / points.len() as f64) },
        cpu_max_percent: tenths(points.iter().map(|point| point.cpu_percent).fold(0.0, f64::max)),
        sample_count: points.len() as u64,
    }
}

fn point(point: &Point) -> document::Point {
    document::Point {
        t: seconds(point.at),
        cpu_pct: tenths(point.cpu_percent),
        rss_kb: point.rss_kb,
        threads: point.threads,
        user_pct: tenths(point.user_percent),
        system_pct: tenths(point.system_percent),
        voluntary_switches: point.voluntary_switches,
        involuntary_switches: point.involuntary_switches,
        minor_faults: point.minor_faults,
        major_faults: point.major_faults,
    }
}

fn series(timeline: &Timeline) -> document::ProcessSeries {
    fn column<T>(timeline: &Timeline, of: impl Fn(document::Point) -> T) -> Vec<T> {
        timeline.points.iter().map(|row| of(point(row))).collect()
    }
    document::ProcessSeries {
        pid: timeline.pid,
        name: timeline.name.clone(),
        cpu_time_seconds: seconds(timeline.cpu_time),
        t: column(timeline, |row| row.t),
        cpu_pct: column(timeline, |row| row.cpu_pct),
        user_pct: column(timeline, |row| row.user_pct),
        system_pct: column(timeline, |row| row.system_pct),
        rss_kb: column(timeline, |row| row.rss_kb),
        threads: column(timeline, |row| row.threads),
        voluntary_switches: column(timeline, |row| row.voluntary_switches),
        involuntary_switches: column(timeline, |row| row.involuntary_switches),
        minor_faults: column(timeline, |row| row.minor_faults),
        major_faults: column(timeline, |row| row.major_faults),
    }
}

fn thread_time(time: &ThreadTime) -> document::ThreadTime {
    let waits = &time.run_queue_waits;
    let rows = waits.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    document::ThreadTime {
        pid: time.pid,
        tid: time.tid,
        comm: time.name.clone(),
        elapsed_ns: time.elapsed_ns,
        on_cpu_ns: time.on_cpu_ns,
        run_queue_ns: time.run_queue_ns,
        run_queue_max_ns: time.run_queue_max_ns,
        off_cpu_ns: OffCpuState::ALL
            .iter()
            .zip(time.off_cpu_ns)
            .filter(|(_, ns)| *ns > 0)
            .map(|(state, ns)| (state.name().to_owned(), ns))
            .collect(),
        residual_ns: time.residual_ns(),
        kernel_on_cpu_ns: time.kernel_on_cpu_ns,
        kernel_run_queue_ns: time.kernel_run_queue_ns,
        switches_voluntary: time.switches_voluntary,
        switches_involuntary: time.switches_involuntary,
        migrations: time.migrations,
        run_queue_waits: waits[..rows].to_vec(),
        ended: time.ended,
    }
}

fn scheduler(ledger: SchedulerLedger) -> document::Scheduler {
    let SchedulerLedger {
        threads_lost,
        ends_lost,
        clock_errors,
        recovered,
        waits,
        waits_lost,
        waits_limited,
        wakes,
        wakes_lost,
        wakes_limited,
        sampled_below_ns,
    } = ledger;
    document::Scheduler {
        threads_lost,
        ends_lost,
        clock_errors,
        recovered,
        waits,
        waits_lost,
        waits_limited,
        wakes,
        wakes_lost,
        wakes_limited,
        sampled_below_ns,
    }
}

fn program(program: &ProgramCost) -> document::BpfProgram {
    let ProgramCost { name, run_time, runs, verified_instructions } = program;
    document::BpfProgram {
        name: name.clone(),
        run_time_seconds: run_time.as_secs_f64(),
        runs: *runs,
        verified_instructions: *verified_instructions,
    }
}

fn target(target: &model::Target) -> document::Target {
    match target {
        model::Target::Pid(pid) => document::Target::Pid(*pid),
        model::Target::Name(pattern) => document::Target::Name(pattern.clone()),
        model::Target::Cgroup(path) => document::Target::Cgroup(path.clone()),
        model::Target::All => document::Target::All(true),
        model::Target::Command(words) => document::Target::Command(words.clone()),
    }
}

/// A table's index; tables have fewer than 2^32 rows.
fn row(index: usize) -> u32 {
    index as u32
}

fn profile(profile: &model::Profile) -> document::Profile {
    let functions = profile.functions();
    document::Profile {
        strings: profile.strings().map(str::to_owned).collect(),
        mappings: profile
            .mappings()
            .iter()
            .map(|mapping| document::Mapping {
                kind: kind_name(mapping.kind).to_owned(),
                path: row(mapping.path.index()),
                build_id: mapping.build_id.as_ref().map(ToString::to_string),
            })
            .collect(),
        functions: document::Functions {
            name: functions.iter().map(|function| row(function.name.index())).collect(),
            system_name: functions.iter().map(|function| row(function.system_name.index())).collect(),
            file: functions.iter().map(|function| row(function.file.index())).collect(),
            start_line: functions.iter().map(|function| function.start_line).collect(),
        },
        locations: locations(profile.locations()),
        stacks: document::Stacks {
            parent: profile
                .stacks()
                .enumerate()
                .map(|(index, (parent, _))| parent.map_or(0, |parent| row(index - parent.index())))
                .collect(),
            location: profile.stacks().map(|(_, location)| row(location.index())).collect(),
        },
        processes: profile
            .processes()
            .iter()
            .map(|process| document::Process { pid: process.pid, name: row(process.name.index()) })
            .collect(),
        threads: profile
            .threads()
            .iter()
            .map(|thread| document::Thread {
                process: row(thread.process.index()),
                tid: thread.tid,
                name: row(thread.name.index()),
            })
            .collect(),
        sources: profile
            .sources()
            .iter()
            .map(|source| document::Source {
                name: row(source.name.index()),
                unit: source.unit.name().to_owned(),
                period: source.period,
            })
            .collect(),
        samples: samples(profile),
    }
}

fn locations(locations: &[model::Location]) -> document::Locations {
    let mut unknown: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (index, location) in locations.iter().enumerate() {
        if let Some(reason) = location.unknown {
            unknown.entry(reason_name(reason).to_owned()).or_default().push(row(index));
        }
    }
    document::Locations {
        mapping: locations.iter().map(|location| row(location.mapping.index())).collect(),
        address: locations.iter().map(|location| format!("{:x}", location.address.0)).collect(),
        lines: locations
            .iter()
            .map(|location| location.lines.iter().flat_map(|line| [row(line.function.index()), line.line]).collect())
            .collect(),
        unknown,
    }
}

fn samples(profile: &model::Profile) -> document::Samples {
    let mut columns = document::Samples::default();
    for sample in profile.samples() {
        let period = profile.sources()[sample.source.index()].period;
        let mut last = 0;
        let at_us = sample.events.iter().map(|event| {
            let at = event.at_ns / 1000;
            let delta = at.saturating_sub(last);
            last = at.max(last);
            delta
        });
        let uniform = sample.events.iter().all(|event| event.value == period);
        let values = if uniform { Vec::new() } else { sample.events.iter().map(|event| event.value).collect() };
        columns.thread.push(row(sample.thread.index()));
        columns.source.push(row(sample.source.index()));
        columns.stack.push(sample.stack.map(|stack| row(stack.index())));
        columns.count.push(sample.count);
        columns.value.push(sample.value);
        columns.at_us.push(at_us.collect());
        columns.values.push(values);
    }
    if columns.values.iter().all(Vec::is_empty) {
        columns.values.clear();
    }
    columns
}

/// A kind of mapping's name in the document.
pub(super) fn kind_name(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::File => "file",
        MappingKind::Kernel => "kernel",
        MappingKind::Vdso => "vdso",
        MappingKind::Anonymous => "anonymous",
        MappingKind::Unmapped => "unmapped",
        MappingKind::Label => "label",
    }
}

/// A reason's name in the document.
pub(super) fn reason_name(reason: UnknownReason) -> &'static str {
    match reason {
        UnknownReason::NotSymbolized => "not_symbolized",
        UnknownReason::Unmapped => "unmapped",
        UnknownReason::NoJitInfo => "no_jit_info",
        UnknownReason::FileGone => "file_gone",
        UnknownReason::Damaged => "damaged",
        UnknownReason::NoSymbols => "no_symbols",
        UnknownReason::NotInSymbolTable => "not_in_symbol_table",
        UnknownReason::KernelRestricted => "kernel_restricted",
        UnknownReason::ProcessGone => "process_gone",
    }
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// One digit, as the ancestor wrote percentages.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
