//! From trace.json back to a recording. Whatever the file says is checked before it is believed.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::write::{kind_name, reason_name};
use super::{SCHEMA_VERSION, document};
use crate::model::{
    self, BuildId, Clock, ElfAddr, Event, Host, Ledger, Line, LossReason, MappingKind, OffCpuState, Overhead, Point,
    Profile, ProgramCost, Recording, Sampling, SchedulerLedger, Spike, SpikeFunction, StackEnd, Target, ThreadTime,
    Tier, Timeline, Unit, UnknownReason, Unwinding,
};

/// The largest document that is read, unpacked.
const MAX_BYTES: u64 = 1 << 30;

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no trace.json, or ends too early.
    #[error("it is not a trace.json: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It is newer than this program.
    #[error("it has schema version {0}, and this cputrace reads up to {SCHEMA_VERSION}: use a newer cputrace")]
    Version(u32),
    /// Its parts contradict each other.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Reads a trace.json, plain, gzipped or compressed by zstd.
pub fn read(input: impl Read) -> Result<Recording, ReadError> {
    let mut input = BufReader::new(input);
    let start = input.fill_buf()?;
    let plain: Box<dyn Read> = match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(input)?),
        _ => Box::new(input),
    };
    // serde_json from memory is several times faster than from a reader.
    let mut bytes = Vec::new();
    plain.take(MAX_BYTES).read_to_end(&mut bytes)?;
    recording(serde_json::from_slice(&bytes)?)
}

fn recording(trace: document::Trace) -> Result<Recording, ReadError> {
    if trace.schema_version > SCHEMA_VERSION {
        return Err(ReadError::Version(trace.schema_version));
    }
    let start = OffsetDateTime::parse(&trace.start_time, &Rfc3339);
    let start = start.map_err(|_| ReadError::Damaged("start_time is not an RFC 3339 time"))?;
    let timelines = if trace.schema_version == 0 {
        vec![ancestors_timeline(&trace)?]
    } else {
        trace.processes.iter().map(timeline).collect::<Result<_, _>>()?
    };
    let document::Host { hostname, kernel, arch, cpu_model, cpus, memory_kb } = trace.host;
    let document::Overhead { bpf_run_time_seconds, bpf_runs, bpf_programs, own_cpu_seconds, own_rss_kb, map_kb } =
        trace.overhead;
    Ok(Recording {
        session_id: trace.session_id,
        start: SystemTime::from(start),
        duration: duration(trace.duration_seconds)?,
        host: Host { hostname, kernel, arch, cpu_model, cpus, memory_kb },
        targets: if trace.targets.is_empty() {
            vec![Target::Pid(trace.metadata.pid)]
        } else {
            trace.targets.into_iter().map(target).collect()
        },
        sampling: sampling(trace.sampling)?,
        profile: profile(&trace.profile)?,
        timelines,
        ledger: ledger(&trace.ledger),
        overhead: Overhead {
            bpf_run_time: bpf_run_time_seconds.map(duration).transpose()?,
            bpf_runs,
            bpf_programs: bpf_programs.into_iter().map(program).collect::<Result<_, _>>()?,
            own_cpu: duration(own_cpu_seconds)?,
            own_rss_kb,
            map_kb,
            map_fill: BTreeMap::new(),
        },
        threads: trace.threads.into_iter().map(thread_time).collect::<Result<_, _>>()?,
        scheduler: trace.scheduler.map(scheduler),
        unwinding: trace.unwinding.map(unwinding).transpose()?,
        pmu: trace.pmu.map(super::pmu::counters).transpose()?,
        event: trace.event.map(super::pmu::event),
        stack_counters: trace.stack_counters.map(super::pmu::stack_counters),
        spikes: trace.anomalies.into_iter().map(spike).collect::<Result<_, _>>()?,
        notes: trace.notes,
    })
}

fn spike(anomaly: document::Anomaly) -> Result<Spike, ReadError> {
    let document::Anomaly { signal: _, pid, process_name, start, end, usual_pct, peak_pct, score, functions } = anomaly;
    let function = |function: document::AnomalyFunction| {
        let document::AnomalyFunction { name, before_pct, pct } = function;
        SpikeFunction { name, before_percent: before_pct, percent: pct }
    };
    Ok(Spike {
        pid,
        name: process_name,
        start: duration(start)?,
        end: duration(end)?,
        usual_percent: usual_pct,
        peak_percent: peak_pct,
        score,
        functions: functions.into_iter().map(function).collect(),
    })
}

fn program(program: document::BpfProgram) -> Result<ProgramCost, ReadError> {
    let document::BpfProgram { name, run_time_seconds, runs, verified_instructions } = program;
    Ok(ProgramCost { name, run_time: duration(run_time_seconds)?, runs, verified_instructions })
}

fn unwinding(unwinding: document::Unwinding) -> Result<Unwinding, ReadError> {
    let document::Unwinding {
        tables,
        rows,
        table_kb,
        builds,
        build_seconds,
        failed_builds,
        evictions,
        refused,
        put_off,
    } = unwinding;
    let build_time = duration(build_seconds)?;
    Ok(Unwinding { tables, rows, table_kb, builds, build_time, failed_builds, evictions, refused, put_off })
}

/// Values above this are no time of any recording, and could not be added up.
const MAX_NS: u64 = 1 << 56;

fn thread_time(time: document::ThreadTime) -> Result<ThreadTime, ReadError> {
    let of_state = |state: &OffCpuState| time.off_cpu_ns.get(state.name()).copied().unwrap_or(0);
    let off_cpu_ns = OffCpuState::ALL.each_ref().map(of_state);
    let mut run_queue_waits = [0; 32];
    let rows = run_queue_waits.get_mut(..time.run_queue_waits.len());
    rows.ok_or(ReadError::Damaged("a histogram of run-queue waits has too many rows"))?
        .copy_from_slice(&time.run_queue_waits);
    let times = [time.elapsed_ns, time.on_cpu_ns, time.run_queue_ns, time.run_queue_max_ns];
    if times.iter().chain(&off_cpu_ns).chain(&run_queue_waits).any(|&ns| ns > MAX_NS) {
        return Err(ReadError::Damaged("a thread's time is too large"));
    }
    Ok(ThreadTime {
        pid: time.pid,
        tid: time.tid,
        name: time.comm,
        elapsed_ns: time.elapsed_ns,
        on_cpu_ns: time.on_cpu_ns,
        run_queue_ns: time.run_queue_ns,
        run_queue_max_ns: time.run_queue_max_ns,
        off_cpu_ns,
        kernel_on_cpu_ns: time.kernel_on_cpu_ns,
        kernel_run_queue_ns: time.kernel_run_queue_ns,
        switches_voluntary: time.switches_voluntary,
        switches_involuntary: time.switches_involuntary,
        migrations: time.migrations,
        run_queue_waits,
        ended: time.ended,
    })
}

fn scheduler(ledger: document::Scheduler) -> SchedulerLedger {
    let document::Scheduler {
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
    SchedulerLedger {
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

fn duration(seconds: f64) -> Result<Duration, ReadError> {
    Duration::try_from_secs_f64(seconds).map_err(|_| ReadError::Damaged("a time is negative or too large"))
}

/// The ancestor had one process and no CPU time: it is what the percentages add up to.
fn ancestors_timeline(trace: &document::Trace) -> Result<Timeline, ReadError> {
    let points = trace.samples.iter().map(point).collect::<Result<Vec<_>, _>>()?;
    let cpu_time = duration(trace.duration_seconds * (trace.summary.cpu_avg_percent / 100.0).max(0.0))?;
    Ok(Timeline { pid: trace.metadata.pid, name: trace.metadata.process_name.clone(), points, cpu_time })
}

fn point(point: &document::Point) -> Result<Point, ReadError> {
    Ok(Point {
        at: duration(point.t)?,
        cpu_percent: point.cpu_pct,
        user_percent: point.user_pct,
        system_percent: point.system_pct,
        rss_kb: point.rss_kb,
        threads: point.threads,
        voluntary_switches: point.voluntary_switches,
        involuntary_switches: point.involuntary_switches,
        minor_faults: point.minor_faults,
        major_faults: point.major_faults,
    })
}

fn timeline(series: &document::ProcessSeries) -> Result<Timeline, ReadError> {
    let row = |index: usize| {
        Some(document::Point {
            t: *series.t.get(index)?,
            cpu_pct: *series.cpu_pct.get(index)?,
            rss_kb: *series.rss_kb.get(index)?,
            threads: *series.threads.get(index)?,
            user_pct: *series.user_pct.get(index)?,
            system_pct: *series.system_pct.get(index)?,
            voluntary_switches: *series.voluntary_switches.get(index)?,
            involuntary_switches: *series.involuntary_switches.get(index)?,
            minor_faults: *series.minor_faults.get(index)?,
            major_faults: *series.major_faults.get(index)?,
        })
    };
    let rows =
        (0..series.t.len()).map(|index| row(index).ok_or(ReadError::Damaged("columns of a process differ in length")));
    let points = rows.map(|row| row.and_then(|row| point(&row))).collect::<Result<_, _>>()?;
    Ok(Timeline { pid: series.pid, name: series.name.clone(), points, cpu_time: duration(series.cpu_time_seconds)? })
}

fn target(target: document::Target) -> Target {
    match target {
        document::Target::Pid(pid) => Target::Pid(pid),
        document::Target::Name(pattern) => Target::Name(pattern),
        document::Target::Cgroup(path) => Target::Cgroup(path),
        document::Target::All(_) => Target::All,
        document::Target::Command(words) => Target::Command(words),
    }
}

fn sampling(sampling: Option<document::Sampling>) -> Result<Sampling, ReadError> {
    let Some(document::Sampling { tier, clock, asked_hz, achieved_hz }) = sampling else {
        return Ok(Sampling { tier: Tier::Proc, clock: None, asked_hz: 0.0, achieved_hz: 0.0 });
    };
    let tier = [Tier::Ebpf, Tier::PerfEvent, Tier::Proc].into_iter().find(|known| known.name() == tier);
    let known_clock = |name: String| [Clock::Cycles, Clock::CpuClock].into_iter().find(|known| known.name() == name);
    Ok(Sampling {
        tier: tier.ok_or(ReadError::Damaged("a tier that there is not"))?,
        clock: clock.and_then(known_clock),
        asked_hz,
        achieved_hz,
    })
}

fn ledger(ledger: &document::Ledger) -> Ledger {
    let lost =
        LossReason::ALL.iter().map(|&reason| (reason, ledger.samples_lost.get(reason.name()).copied().unwrap_or(0)));
    let ends = |stacks: &BTreeMap<String, u64>| {
        let ends = StackEnd::ALL.iter().map(|&end| (end, stacks.get(end.name()).copied().unwrap_or(0)));
        ends.filter(|(_, count)| *count > 0).collect()
    };
    Ledger {
        stacks_guessed: ledger.stacks_guessed,
        ticks_expected: ledger.ticks_expected,
        ticks: ledger.ticks,
        ticks_idle: ledger.ticks_idle,
        ticks_filtered: ledger.ticks_filtered,
        samples_kept: ledger.samples_kept,
        samples_lost: lost.filter(|(_, count)| *count > 0).collect(),
        stacks: ends(&ledger.stacks),
        wait_stacks: ends(&ledger.wait_stacks),
    }
}

/// The id at an index of a table, as the table's own method gave it.
fn at<T: Copy>(ids: &[T], index: u32) -> Result<T, ReadError> {
    ids.get(index as usize).copied().ok_or(ReadError::Damaged("an index is outside of its table"))
}

fn profile(tables: &document::Profile) -> Result<Profile, ReadError> {
    let mut profile = Profile::new();
    let strings: Vec<_> = tables.strings.iter().map(|text| profile.string(text)).collect();
    let mut mappings = Vec::new();
    for mapping in &tables.mappings {
        let kinds = [
            MappingKind::File,
            MappingKind::Kernel,
            MappingKind::Vdso,
            MappingKind::Anonymous,
            MappingKind::Unmapped,
            MappingKind::Label,
        ];
        let kind = kinds.into_iter().find(|kind| kind_name(*kind) == mapping.kind);
        let kind = kind.ok_or(ReadError::Damaged("a kind of mapping that there is not"))?;
        let build_id = mapping.build_id.as_deref().map(build_id).transpose()?;
        mappings.push(profile.mapping(model::Mapping { kind, path: at(&strings, mapping.path)?, build_id }));
    }
    let mut functions = Vec::new();
    let document::Functions { name, system_name, file, start_line } = &tables.functions;
    for (((name, system_name), file), start_line) in name.iter().zip(system_name).zip(file).zip(start_line) {
        functions.push(profile.function(model::Function {
            name: at(&strings, *name)?,
            system_name: at(&strings, *system_name)?,
            file: at(&strings, *file)?,
            start_line: *start_line,
        }));
    }
    let mut locations = Vec::new();
    let document::Locations { mapping, address, lines, unknown } = &tables.locations;
    for ((mapping, address), lines) in mapping.iter().zip(address).zip(lines) {
        let address =
            u64::from_str_radix(address, 16).map_err(|_| ReadError::Damaged("an address is not hexadecimal"))?;
        let mapping = at(&mappings, *mapping)?;
        let (pairs, rest) = lines.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(ReadError::Damaged("lines are not pairs of function and line"));
        }
        let lines = pairs.iter().map(|&[function, line]| Ok(Line { function: at(&functions, function)?, line }));
        let lines = lines.collect::<Result<Vec<_>, ReadError>>()?;
        // Many functions are at address 0: that of those whose address is not known.
        if let (0, &[Line { function, line: 0 }]) = (address, &*lines) {
            locations.push(profile.function_location(mapping, function));
            continue;
        }
        let location = profile.location(mapping, ElfAddr(address));
        profile.set_lines(location, if lines.is_empty() { Err(UnknownReason::NotSymbolized) } else { Ok(lines) });
        locations.push(location);
    }
    for (name, rows) in unknown {
        let reason = UnknownReason::ALL.iter().copied().find(|reason| reason_name(*reason) == name);
        let reason = reason.ok_or(ReadError::Damaged("a reason for a missing name that there is not"))?;
        for &index in rows {
            profile.set_unknown(at(&locations, index)?, reason);
        }
    }
    let mut stacks = Vec::new();
    for (&back, &location) in tables.stacks.parent.iter().zip(&tables.stacks.location) {
        // A parent comes before its children, so there can be no cycle.
        let parent = match back {
            0 => None,
            back => Some(at(&stacks, (stacks.len() as u32).wrapping_sub(back))?),
        };
        stacks.push(profile.stack(parent, at(&locations, location)?));
    }
    let mut processes = Vec::new();
    for process in &tables.processes {
        let name = text(&tables.strings, process.name)?;
        // Many rows can have id 0: each stands for several processes or threads.
        processes.push(match process.pid {
            0 => profile.new_process(0, name),
            pid => profile.process(pid, name),
        });
    }
    let mut threads = Vec::new();
    for thread in &tables.threads {
        let name = text(&tables.strings, thread.name)?;
        let process = at(&processes, thread.process)?;
        threads.push(match thread.tid {
            0 => profile.new_thread(process, 0, name),
            tid => profile.thread(process, tid, name),
        });
    }
    let mut sources = Vec::new();
    for source in &tables.sources {
        let unit = [Unit::Nanoseconds, Unit::Count].into_iter().find(|unit| unit.name() == source.unit);
        let unit = unit.ok_or(ReadError::Damaged("a unit that there is not"))?;
        let name = at(&strings, source.name)?;
        sources.push(profile.source(model::Source { name, unit, period: source.period }));
    }
    let document::Samples { thread, source, stack, count, value, at_us, values } = &tables.samples;
    let lengths = [source.len(), stack.len(), count.len(), value.len(), at_us.len()];
    if lengths.iter().any(|&length| length != thread.len()) {
        return Err(ReadError::Damaged("columns of the samples differ in length"));
    }
    for row in 0..thread.len() {
        let stack = stack[row].map(|stack| at(&stacks, stack)).transpose()?;
        let key = (at(&threads, thread[row])?, at(&sources, source[row])?, stack);
        profile.add(key, count[row], value[row], None);
        let period = tables.sources[source[row] as usize].period;
        let values = values.get(row).map_or(&[][..], Vec::as_slice);
        let mut at_us_so_far = 0_u64;
        for (index, delta) in at_us[row].iter().enumerate() {
            at_us_so_far = at_us_so_far.saturating_add(*delta);
            let value = values.get(index).copied().unwrap_or(period);
            profile.add(key, 0, 0, Some(Event { at_ns: at_us_so_far.saturating_mul(1000), value }));
        }
    }
    Ok(profile)
}

fn text(strings: &[String], index: u32) -> Result<&str, ReadError> {
    strings.get(index as usize).map(String::as_str).ok_or(ReadError::Damaged("an index is outside of its table"))
}

fn build_id(hex: &str) -> Result<BuildId, ReadError> {
    let damaged = ReadError::Damaged("a build id is not hexadecimal");
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<_>> = pairs.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty()).map(BuildId).ok_or(damaged)
}
