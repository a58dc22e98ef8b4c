//! Which counters to count; and what they counted, for people: a line or two for each process and for the host, and what is
//! missing.

use std::fmt::Write;

use crate::model::{CounterScope, CounterSubject, Counters, EventSampling, MetricValue};
use crate::pmu::counting::DEFAULT_SETS;
use crate::pmu::metric as metric_table;

/// What to count.
#[derive(Debug, clap::Args)]
pub(super) struct CounterArgs {
    /// Count what the CPU's counters and the kernel's can tell of the targets (see `cputrace pmu list`)
    #[arg(long)]
    pmu: bool,
    #[arg(long, value_name = "SET,…", value_delimiter = ',', value_parser = metric_table::sets(), help = sets_help())]
    pmu_metrics: Vec<String>,
    /// Read these counters at each sample and switch, up to four, so that stacks have their counts and functions their IPC:
    /// cycles,instructions, l2-misses, cpu/event=0xc3/ …; costs some 0.2 us a switch and counter (see the summary's cost)
    #[arg(long, value_name = "EVENT,…", value_delimiter = ',')]
    pub(super) pmu_stacks: Vec<String>,
}

impl CounterArgs {
    /// The sets of metrics to count; none where none is asked for.
    pub(super) fn sets(&self) -> Vec<String> {
        match &*self.pmu_metrics {
            [] if self.pmu => DEFAULT_SETS.iter().map(|set| (*set).to_owned()).collect(),
            sets => sets.to_vec(),
        }
    }
}

fn sets_help() -> String {
    format!("Count these sets of metrics [default with --pmu: {}]", DEFAULT_SETS.join(","))
}

/// Processes that are listed.
const TOP_PROCESSES: usize = 5;

/// Below this share of the time a number is shown with it.
const WHOLE: f64 = 0.995;

/// The part of the summary.
pub(super) fn write(out: &mut String, counters: &Counters, width: usize) -> std::fmt::Result {
    let is_process = |scope: &&CounterScope| matches!(scope.subject, CounterSubject::Process { .. });
    let processes = counters.scopes.iter().filter(is_process).count();
    let mut left = TOP_PROCESSES;
    for scope in &counters.scopes {
        let whose = match &scope.subject {
            // Of one process its own line says the same.
            CounterSubject::Targets if processes != 1 => "all targets".to_owned(),
            CounterSubject::Process { pid, name } if left > 0 => {
                left -= 1;
                format!("{name} ({pid})")
            }
            CounterSubject::Host => "the whole host".to_owned(),
            CounterSubject::Targets | CounterSubject::Process { .. } | CounterSubject::Thread { .. } => continue,
        };
        let user = if counters.user_only { ", user mode only" } else { "" };
        let parts: Vec<_> = scope.metrics.iter().map(|value| with_total(value, scope)).collect();
        write_wrapped(out, "counters ", &format!("{whose}{user}:"), &parts, width)?;
    }
    if processes > TOP_PROCESSES {
        writeln!(out, "          and {} more processes", processes - TOP_PROCESSES)?;
    }
    for missing in &counters.missing {
        let first = format!("no data for {}:", missing.metrics.join(", "));
        write_wrapped(out, "counters ", "", &[format!("{first} {}", missing.reason)], width)?;
    }
    if counters.lost_groups + counters.backwards > 0 {
        writeln!(
            out,
            "counters  {} groups were lost with threads that ended, {} readings went backwards",
            counters.lost_groups, counters.backwards
        )?;
    }
    Ok(())
}

/// What became of the samples by an event.
pub(super) fn write_event(out: &mut String, event: &EventSampling) -> std::fmt::Result {
    let EventSampling { name, period, kept, idle, filtered, lost, .. } = event;
    let every = if *period == 1 { "each".to_owned() } else { format!("one of {}", grouped(*period)) };
    write!(out, "event     {name}, {every} sampled: {} samples kept", grouped(*kept))?;
    let all_lost: u64 = lost.values().sum();
    for (reason, count) in lost.iter().filter(|(_, count)| **count > 0) {
        write!(out, " + {} lost ({})", grouped(*count), reason.name().replace('_', " "))?;
    }
    write!(out, "{}", if all_lost == 0 { ", none lost" } else { ": raise --event-period" })?;
    write!(out, "; {} of others", grouped(idle + filtered))?;
    match event.missed() {
        0 => writeln!(out),
        missed => writeln!(out, ", {} never came (most while a CPU was idle)", grouped(missed)),
    }
}

/// A metric; the rate of an event behind its total.
fn with_total(rate: &MetricValue, scope: &CounterScope) -> String {
    match scope.counts.iter().find(|count| count.event == rate.name) {
        Some(count) if count.value == 0 => format!("{} 0", rate.name),
        Some(count) => {
            format!("{} {} ({:.1}{}){}", rate.name, grouped(count.value), rate.value, rate.unit, share(rate.coverage))
        }
        None => metric(rate),
    }
}

/// One metric, with its share of the time where that is not all of it.
pub(super) fn metric(metric: &MetricValue) -> String {
    let MetricValue { name, unit, value, coverage } = metric;
    let digits = match value.abs() {
        100.0.. => 0,
        1.0.. => 2,
        _ => 3,
    };
    let space = if unit.starts_with('/') { "" } else { " " };
    format!("{name} {value:.digits$}{space}{unit}{}", share(*coverage))
}

fn share(coverage: f64) -> String {
    if coverage < WHOLE { format!(" (counted {:.0} % of the time)", 100.0 * coverage) } else { String::new() }
}

/// A number with its thousands apart.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A line of this title that begins with `first`, its parts on more lines where they do not fit.
pub(super) fn write_wrapped(
    out: &mut String,
    title: &str,
    first: &str,
    parts: &[String],
    width: usize,
) -> std::fmt::Result {
    let text = format!("{first} {}", parts.join(", "));
    let mut line = title.to_owned();
    for word in text.split_ascii_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > width.max(60) {
            writeln!(out, "{line}")?;
            line = " ".repeat(9);
        }
        line += " ";
        line += word;
    }
    writeln!(out, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 12_345_678].map(grouped).join(" "), "0 999 1,000 12,345,678");
        let value = |value, unit: &str, coverage| {
            metric(&MetricValue { name: "m".to_owned(), unit: unit.to_owned(), value, coverage })
        };
        assert_eq!(value(1.234, "instr/cycle", 1.0), "m 1.23 instr/cycle");
        assert_eq!(value(0.0123, "%", 0.5), "m 0.012 % (counted 50 % of the time)");
        assert_eq!(value(1234.5, "/s", 1.0), "m 1234/s");
    }

    #[test]
    fn lines_are_wrapped() {
        let mut out = String::new();
        let parts = ["page-faults 1,234".to_owned(), "a long reason of many words that goes on".to_owned()];
        assert!(write_wrapped(&mut out, "counters ", "app (1):", &parts, 10).is_ok());
        assert_eq!(out, "counters  app (1): page-faults 1,234, a long reason of many\n          words that goes on\n");
    }
}
