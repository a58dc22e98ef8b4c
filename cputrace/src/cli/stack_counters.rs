//! What functions counted, for people: each counter by function, the instructions per cycle, and what has no stack.

use std::collections::HashMap;
use std::fmt::Write;

use super::counters::grouped;
use super::summary::{cut, samples_of};
use crate::model::{Profile, StackCounters};

/// Functions that are listed.
const TOP: usize = 10;

/// The part of the summary.
pub(super) fn write(out: &mut String, counters: &StackCounters, profile: &Profile, width: usize) -> std::fmt::Result {
    let functions = functions(counters, profile);
    if !functions.is_empty() {
        let ipc = counters.ipc().and_then(|(instructions, cycles)| {
            let column = |name| counters.counters.iter().position(|counter| counter.name == name);
            Some((column(instructions)?, column(cycles)?))
        });
        let indent = 18 * counters.counters.len() + if ipc.is_some() { 8 } else { 0 };
        let width = width.saturating_sub(indent);
        for counter in &counters.counters {
            write!(out, "{:>16}  ", cut(&counter.name, 16))?;
        }
        let title = if ipc.is_some() { "   IPC  " } else { "" };
        writeln!(out, "{title}function, counted in itself")?;
        for (name, counts) in functions.iter().take(TOP) {
            for count in counts {
                write!(out, "{:>16}  ", grouped(*count))?;
            }
            match ipc {
                // Without a cycle there is no ratio.
                Some((_, cycles)) if counts[cycles] == 0 => write!(out, "     -  ")?,
                Some((instructions, cycles)) => {
                    write!(out, "{:6.2}  ", counts[instructions] as f64 / counts[cycles] as f64)?;
                }
                None => {}
            }
            writeln!(out, "{}", cut(name, width))?;
        }
        if functions.len() > TOP {
            writeln!(out, "{:indent$}and {} more", "", functions.len() - TOP)?;
        }
        writeln!(out)?;
    }
    let StackCounters { counters, counted, no_start, not_running, refused } = counters;
    write!(out, "stretches {} samples with counts", grouped(*counted))?;
    for (count, what) in [
        (no_start, "without: their thread's coming to the CPU was not seen"),
        (not_running, "left out: the counters were not on the hardware all of the time"),
        (refused, "readings refused by the kernel"),
    ] {
        if *count > 0 {
            write!(out, ", {} {what}", grouped(*count))?;
        }
    }
    let shares = counters.iter().filter(|counter| counter.in_stacks + counter.off_stack > 0).map(|counter| {
        let all = (counter.in_stacks + counter.off_stack) as f64;
        format!("{:.0} % of {} {}", 100.0 * counter.in_stacks as f64 / all, grouped(all as u64), counter.name)
    });
    let shares: Vec<_> = shares.collect();
    if shares.is_empty() {
        return writeln!(out);
    }
    writeln!(out, "; {} in stacks, the rest after a thread's last sample", shares.join(", "))
}

/// By function, what each counter counted in itself; those with the most of the first counter first.
fn functions(counters: &StackCounters, profile: &Profile) -> Vec<(String, Vec<u64>)> {
    let mut functions: HashMap<String, Vec<u64>> = HashMap::new();
    for (column, counter) in counters.counters.iter().enumerate() {
        for sample in samples_of(profile, &counter.name).filter(|sample| sample.value > 0) {
            let leaf = profile.frames(sample.stack).next();
            let name = leaf.and_then(|location| profile.function_names(location).into_iter().next());
            let counts = functions.entry(name.unwrap_or_else(|| "[no stack]".to_owned()));
            counts.or_insert_with(|| vec![0; counters.counters.len()])[column] += sample.value;
        }
    }
    let mut rows: Vec<_> = functions.into_iter().collect();
    rows.sort_by(|(a_name, a), (b_name, b)| (b, a_name).cmp(&(a, b_name)));
    rows
}
