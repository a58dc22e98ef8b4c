//! What is shown at the end: the functions that took the time, the ledger, the cost, the files.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use crate::analyze::shares::{Shares, shares};
use crate::model::{Aspect, LocationId, LossReason, MappingKind, Profile, Recording, Sample, StackEnd, Tier};
use crate::sink::file::Written;

/// Functions that are listed.
const TOP: usize = 15;

/// Threads that are listed.
const TOP_THREADS: usize = 5;

/// Spikes that are listed.
const TOP_SPIKES: usize = 5;

/// Reasons of waits that are listed.
const TOP_WAITS: usize = 6;

/// The summary, for a terminal of `width` columns.
pub(super) fn text(recording: &Recording, hide_idle: bool, written: &[Written], width: usize) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_summary(&mut text, recording, hide_idle, written, width);
    text
}

fn write_summary(
    out: &mut String,
    recording: &Recording,
    hide_idle: bool,
    written: &[Written],
    width: usize,
) -> std::fmt::Result {
    let sampling = &recording.sampling;
    write!(out, "\n{:.1} s", recording.duration.as_secs_f64())?;
    if let Some(clock) = sampling.clock {
        write!(out, ", {} at {:.0} Hz", clock.name(), sampling.asked_hz)?;
        if (sampling.achieved_hz - sampling.asked_hz).abs() >= 0.5 {
            write!(out, " (achieved {:.1} Hz)", sampling.achieved_hz)?;
        }
    }
    writeln!(out, ", tier {}", sampling.tier.name())?;
    write_timelines(out, recording)?;
    if recording.ledger.samples_kept > 0 {
        write_functions(out, &recording.profile, Aspect::OnCpu.name(), Leaf::Any, width)?;
        write_threads(out, &recording.profile)?;
    } else if sampling.tier != Tier::Proc {
        writeln!(out, "no samples: the targets were not on a CPU when the clock ticked")?;
    }
    if let Some(shares) = shares(recording, hide_idle).filter(|shares| shares.elapsed_ns > 0) {
        write_shares(out, recording, &shares, width)?;
    }
    if sampling.tier != Tier::Proc {
        write_ledger(out, recording)?;
    }
    if let Some(event) = &recording.event {
        if event.kept > 0 {
            let leaf = if event.name.contains(':') { Leaf::User(&event.name) } else { Leaf::Event(&event.name) };
            write_functions(out, &recording.profile, &event.name, leaf, width)?;
        }
        super::counters::write_event(out, event)?;
        if let Some(ops) = &event.ops {
            super::ops::write(out, ops, &recording.profile, width)?;
        }
    }
    if let Some(counters) = &recording.stack_counters {
        super::stack_counters::write(out, counters, &recording.profile, width)?;
    }
    if let Some(pmu) = &recording.pmu {
        super::counters::write(out, pmu, width)?;
    }
    write_spikes(out, recording, width)?;
    write_overhead(out, recording)?;
    for note in &recording.notes {
        writeln!(out, "note      {note}")?;
    }
    write_files(out, written);
    Ok(())
}

/// Where a process took far more of the CPU than before.
fn write_spikes(out: &mut String, recording: &Recording, width: usize) -> std::fmt::Result {
    for spike in recording.spikes.iter().take(TOP_SPIKES) {
        let (name, pid) = (&spike.name, spike.pid);
        let [start, end] = [spike.start, spike.end].map(|time| time.as_secs_f64());
        write!(
            out,
            "spike     {name} ({pid}): CPU up to {:.0} % from {start:.1} to {end:.1} s, before {:.0} % (score {:.0})",
            spike.peak_percent, spike.usual_percent, spike.score
        )?;
        if let Some(function) = spike.functions.first() {
            write!(out, ", most of it in {}", cut(&function.name, width.saturating_sub(20)))?;
        }
        writeln!(out)?;
    }
    if recording.spikes.len() > TOP_SPIKES {
        writeln!(out, "          and {} more spikes", recording.spikes.len() - TOP_SPIKES)?;
    }
    Ok(())
}

/// Which files were written.
pub(super) fn write_files(out: &mut String, written: &[Written]) {
    for file in written.iter().filter(|file| file.path.as_os_str() != "-") {
        let _ = writeln!(out, "wrote     {} ({})", file.path.display(), size(file.bytes));
    }
}

fn write_timelines(out: &mut String, recording: &Recording) -> std::fmt::Result {
    let timelines = &recording.timelines;
    for timeline in timelines.iter().take(TOP_THREADS) {
        let points = &timeline.points;
        let largest = points.iter().map(|point| point.cpu_percent).fold(0.0, f64::max);
        let mean = 100.0 * timeline.cpu_time.as_secs_f64() / recording.duration.as_secs_f64().max(0.001);
        let rss = points.iter().map(|point| point.rss_kb).max().unwrap_or(0);
        let threads = points.iter().map(|point| point.threads).max().unwrap_or(0);
        let (name, pid) = (&timeline.name, timeline.pid);
        writeln!(
            out,
            "process   {name} ({pid}): CPU {mean:.1} % on average, {largest:.0} % at most; RSS {}; threads {threads}",
            size(rss * 1024)
        )?;
    }
    if timelines.len() > TOP_THREADS {
        writeln!(out, "          and {} more processes", timelines.len() - TOP_THREADS)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Weight {
    own: u64,
    total: u64,
}

/// Which function of a stack it is that has a sample itself.
#[derive(Clone, Copy)]
enum Leaf<'a> {
    /// The innermost.
    Any,
    /// The same, by an event.
    Event(&'a str),
    /// The innermost of the process: at a tracepoint, the kernel's is always the same.
    User(&'a str),
}

/// By name: what each function took itself, and together with what it called.
fn functions(profile: &Profile, source: &str, of: Leaf<'_>) -> (Vec<(String, Weight)>, u64) {
    let mut weights: HashMap<String, Weight> = HashMap::new();
    let mut all = 0;
    let names: Vec<Vec<String>> = profile.location_ids().map(|id| profile.function_names(id)).collect();
    for sample in samples_of(profile, source) {
        all += sample.count;
        // A function that calls itself is on the stack only once for its total.
        let mut seen = HashSet::new();
        let mut leaf = true;
        let in_kernel = |location: &LocationId| {
            let mapping = profile.locations()[location.index()].mapping;
            profile.mappings()[mapping.index()].kind == MappingKind::Kernel
        };
        let is_label = |location: &LocationId| {
            let mapping = profile.locations()[location.index()].mapping;
            profile.mappings()[mapping.index()].kind == MappingKind::Label
        };
        let below_kernel = matches!(of, Leaf::User(_)) && profile.frames(sample.stack).any(|frame| !in_kernel(&frame));
        for location in profile.frames(sample.stack) {
            // What a label says of a function is no function of its own.
            let may_be_leaf = !(below_kernel && in_kernel(&location) || is_label(&location));
            for name in &names[location.index()] {
                if !weights.contains_key(name) {
                    weights.insert(name.clone(), Weight::default());
                }
                let Some(weight) = weights.get_mut(name) else { continue };
                weight.own += if leaf && may_be_leaf { sample.count } else { 0 };
                leaf &= !may_be_leaf;
                weight.total += if seen.insert(name) { sample.count } else { 0 };
            }
        }
    }
    let mut rows: Vec<_> = weights.into_iter().collect();
    rows.sort_by(|(a_name, a), (b_name, b)| (b.own, b.total, a_name).cmp(&(a.own, a.total, b_name)));
    (rows, all)
}

pub(super) fn samples_of<'a>(profile: &'a Profile, source: &str) -> impl Iterator<Item = &'a Sample> {
    let source = profile.source_by_name(source);
    profile.samples().iter().filter(move |sample| Some(sample.source) == source)
}

/// The functions that have the most of a source's samples.
fn write_functions(
    out: &mut String,
    profile: &Profile,
    source: &str,
    leaf: Leaf<'_>,
    width: usize,
) -> std::fmt::Result {
    let (rows, all) = functions(profile, source, leaf);
    let by = match leaf {
        Leaf::Any => String::new(),
        Leaf::Event(name) => format!(", by {name}"),
        Leaf::User(name) => format!(" of the process, by {name}"),
    };
    let percent = |count: u64| 100.0 * count as f64 / all.max(1) as f64;
    writeln!(out, "\n  self %   total %  function{by}")?;
    for (name, weight) in rows.iter().filter(|(_, weight)| weight.own > 0).take(TOP) {
        let name = cut(name, width.saturating_sub(20));
        writeln!(out, "{:8.1}  {:8.1}  {name}", percent(weight.own), percent(weight.total))?;
    }
    let more = rows.iter().filter(|(_, weight)| weight.own > 0).count().saturating_sub(TOP);
    if more > 0 {
        writeln!(out, "                    and {more} more")?;
    }
    writeln!(out)
}

/// At most `width` characters.
pub(super) fn cut(name: &str, width: usize) -> String {
    let width = width.max(10);
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
}

fn write_threads(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let mut counts: HashMap<_, u64> = HashMap::new();
    for sample in samples_of(profile, Aspect::OnCpu.name()) {
        *counts.entry(sample.thread).or_default() += sample.count;
    }
    if counts.len() < 2 {
        return Ok(());
    }
    let all: u64 = counts.values().sum();
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(thread, count)| (std::cmp::Reverse(*count), *thread));
    let rows: Vec<_> = rows
        .iter()
        .take(TOP_THREADS)
        .map(|(thread, count)| {
            let thread = &profile.threads()[thread.index()];
            let share = 100.0 * *count as f64 / all as f64;
            format!("{} ({}) {share:.1} %", profile.text(thread.name), thread.tid)
        })
        .collect();
    writeln!(out, "threads   {}", rows.join(", "))
}

/// All of the threads' time, in parts that add up.
fn write_shares(out: &mut String, recording: &Recording, shares: &Shares, width: usize) -> std::fmt::Result {
    let all = shares.elapsed_ns.max(1) as f64;
    let seconds = shares.elapsed_ns as f64 / 1e9;
    let lived_on = (seconds / recording.duration.as_secs_f64().max(0.001) - shares.threads as f64).abs()
        < 0.01 * shares.threads as f64;
    let of = match shares.threads {
        1 => format!("of {seconds:.1} s of 1 thread"),
        threads if lived_on => format!("of {:.1} s x {threads} threads", recording.duration.as_secs_f64()),
        threads => format!("of {seconds:.1} s of {threads} threads"),
    };
    let mut parts =
        vec![(shares.on_cpu_ns, "on the CPU".to_owned()), (shares.run_queue_ns, "waiting for one".to_owned())];
    parts.extend(shares.waits.iter().take(TOP_WAITS).map(|wait| {
        let function = wait.function.as_ref().map_or(String::new(), |function| format!(" in {}", cut(function, 40)));
        (wait.ns, format!("{}{function}", wait.reason))
    }));
    let others = shares.waits.iter().skip(TOP_WAITS).map(|wait| wait.ns).sum();
    parts.push((others, "other waits".to_owned()));
    let scheduler = recording.scheduler.unwrap_or_default();
    let left_out = scheduler.waits_lost + scheduler.waits_limited > 0;
    parts.push((shares.brief_ns, if left_out { "waits without a stack" } else { "short waits" }.to_owned()));
    parts.push((shares.residual_ns, "not accounted".to_owned()));
    let mut line = format!("time      {of}:");
    let mut separator = "";
    for (ns, what) in parts {
        let percent = 100.0 * ns as f64 / all;
        if percent < 0.05 {
            continue;
        }
        let part = if percent < 9.95 { format!("{percent:.1} % {what}") } else { format!("{percent:.0} % {what}") };
        let length = line.lines().last().unwrap_or_default().chars().count();
        line += separator;
        line += if length + part.chars().count() + 3 > width.max(60) { "\n          " } else { " " };
        line += &part;
        separator = ",";
    }
    writeln!(out, "{line}")?;
    let count: u64 = shares.run_queue_waits.iter().sum();
    let percentiles = (shares.run_queue_percentile_ns(50), shares.run_queue_percentile_ns(99));
    if let (Some(half), Some(most)) = percentiles {
        let [half, most, longest] = [half, most, shares.run_queue_max_ns].map(time);
        writeln!(
            out,
            "queue     {count} waits for a CPU: half under {half}, 99 % under {most}, the longest {longest}"
        )?;
    }
    Ok(())
}

/// Nanoseconds, for people.
fn time(ns: u64) -> String {
    match ns {
        ..1000 => format!("{ns} ns"),
        1000..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn write_ledger(out: &mut String, recording: &Recording) -> std::fmt::Result {
    let ledger = &recording.ledger;
    write!(out, "samples   {} expected = {} kept", ledger.samples_expected(), ledger.samples_kept)?;
    for reason in LossReason::ALL {
        let lost = ledger.samples_lost.get(reason).copied().unwrap_or(0);
        if lost > 0 {
            write!(out, " + {lost} lost ({})", reason.name().replace('_', " "))?;
        }
    }
    match ledger.unaccounted() {
        0 if ledger.lost() == 0 => writeln!(out, ", none lost")?,
        0 => writeln!(out)?,
        unaccounted => writeln!(out, " + {unaccounted} unaccounted")?,
    }
    let kept = ledger.samples_kept.max(1) as f64;
    let ends: Vec<_> = StackEnd::ALL
        .iter()
        .filter_map(|end| Some((end, *ledger.stacks.get(end)?)))
        .filter(|(_, count)| *count > 0)
        .map(|(end, count)| format!("{:.1} % {}", 100.0 * count as f64 / kept, end.name().replace('_', " ")))
        .collect();
    if ends.is_empty() {
        return Ok(());
    }
    write!(out, "stacks    {}", ends.join(", "))?;
    if ledger.stacks_guessed > 0 {
        write!(out, "; {:.1} % with guessed frames", 100.0 * ledger.stacks_guessed as f64 / kept)?;
    }
    writeln!(out)?;
    write_waits(out, recording)?;
    let unwinding = recording.unwinding.filter(|unwinding| unwinding.tables > 0);
    let Some(unwinding) = unwinding else { return Ok(()) };
    write!(out, "unwind    {} tables, {} rows, {}", unwinding.tables, unwinding.rows, size(unwinding.table_kb * 1024))?;
    for (count, what) in [
        (unwinding.failed_builds, "files without a table"),
        (unwinding.evictions, "tables dropped to make room"),
        (unwinding.refused, "tables left out: --unwind-memory has no room for them, or a note says why"),
        (unwinding.put_off, "looks at new processes put off, for very many programs start"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)
}

fn write_waits(out: &mut String, recording: &Recording) -> std::fmt::Result {
    let Some(scheduler) = recording.scheduler else { return Ok(()) };
    if scheduler.waits > 0 {
        let ends = &recording.ledger.wait_stacks;
        let complete = ends.get(&StackEnd::Complete).copied().unwrap_or(0);
        let percent = 100.0 * complete as f64 / ends.values().sum::<u64>().max(1) as f64;
        write!(out, "waits     {} kept with their stacks, {percent:.1} % of them complete", scheduler.waits)?;
        if scheduler.sampled_below_ns > 0 {
            let length = time(scheduler.sampled_below_ns);
            write!(out, ", those below {length} one for each {length}: scaled")?;
        }
        let too_many = match scheduler.sampled_below_ns {
            0 => "left out: too many (--off-cpu-sample 100 keeps a sample of all)",
            _ => "left out: too many, give --off-cpu-sample more time",
        };
        for (count, what) in [
            (scheduler.waits_limited, too_many),
            (scheduler.waits_lost, "lost"),
            (scheduler.wakes_limited + scheduler.wakes_lost, "wake-ups left out or lost"),
        ] {
            if count > 0 {
                write!(out, ", {count} {what}")?;
            }
        }
        writeln!(out)?;
    }
    let lost = scheduler.threads_lost + scheduler.ends_lost;
    if lost > 0 {
        writeln!(out, "          the time of {lost} threads is lost: there were too many at once")?;
    }
    Ok(())
}

fn write_overhead(out: &mut String, recording: &Recording) -> std::fmt::Result {
    let overhead = &recording.overhead;
    let seconds = recording.duration.as_secs_f64().max(0.001);
    let share = |time: std::time::Duration| 100.0 * time.as_secs_f64() / seconds;
    write!(out, "cost      {:.2} % of one CPU in cputrace itself", share(overhead.own_cpu))?;
    if let Some(time) = overhead.bpf_run_time {
        write!(out, " + about {:.2} % in eBPF", share(time))?;
        let each: Vec<_> = [
            ("on_cpu", "tick"),
            ("sched_switch", "switch"),
            ("count_at_switch", "switch for counters"),
            ("sched_waking", "wake-up"),
        ]
        .into_iter()
        .filter_map(|(name, what)| {
            let program = overhead.bpf_programs.iter().find(|program| program.name == name)?;
            Some(format!("{:.2} us a {what}", program.run_time.as_secs_f64() * 1e6 / program.runs.max(1) as f64))
        })
        .collect();
        if !each.is_empty() {
            write!(out, " ({})", each.join(", "))?;
        }
    }
    writeln!(out, "; RSS {}, eBPF maps {}", size(overhead.own_rss_kb * 1024), size(overhead.map_kb * 1024))
}

/// Bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        ..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
