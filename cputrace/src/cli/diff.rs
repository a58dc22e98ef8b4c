//! `cputrace report BEFORE --diff AFTER`: what changed between two recordings, as a table.

use std::fmt::Write;

use super::summary::cut;
use crate::analyze::diff::{Diff, FunctionChange, Side, diff};
use crate::model::{Aspect, Recording, View};

/// Functions that are listed of those that grew, and of those that shrank.
const TOP: usize = 15;

/// What changed in a view from one recording to another, for a terminal of `width` columns.
pub(super) fn text(base: &Recording, against: &Recording, view: View, width: usize) -> String {
    let diff = diff(&Side::of_view(base, view), &Side::of_view(against, view));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_diff(&mut text, [base, against], view, &diff, width);
    text
}

/// The unit of a view's numbers, and how many of it a rate of 1 is.
fn unit(view: View) -> (&'static str, f64) {
    match view.aspect {
        Aspect::OnCpu => ("% of one CPU", 100.0),
        Aspect::Event => ("events a second", 1.0),
        _ => ("% of one thread's time", 100.0),
    }
}

fn write_diff(
    out: &mut String,
    [base, against]: [&Recording; 2],
    view: View,
    diff: &Diff,
    width: usize,
) -> std::fmt::Result {
    let (unit, scale) = unit(view);
    let name = |recording: &Recording| format!("{} ({:.1} s)", recording.session_id, recording.duration.as_secs_f64());
    writeln!(out, "\n{} from {} to {}", view.aspect.title(), name(base), name(against))?;
    let (before, after) = (diff.base * scale, diff.against * scale);
    writeln!(out, "all       {before:.1} before, {after:.1} after, {:+.1}, in {unit}", signed(after - before))?;
    let changed = |change: &&FunctionChange| (change.own_change() * scale).abs() >= 0.05;
    let more: Vec<_> = diff.functions.iter().filter(changed).filter(|change| change.own_change() > 0.0).collect();
    let less: Vec<_> = diff.functions.iter().rev().filter(changed).filter(|change| change.own_change() < 0.0).collect();
    for (title, rows) in [("has more", &more), ("has less", &less)] {
        if rows.is_empty() {
            continue;
        }
        writeln!(out, "\n   change    before     after   with callees  function that {title}")?;
        for row in rows.iter().take(TOP) {
            let doubt = if row.is_certain() { ' ' } else { '~' };
            let [change, before, after] = [row.own_change(), row.base.own, row.against.own].map(|rate| rate * scale);
            let (change, total) = (signed(change), signed(row.total_change() * scale));
            let name = cut(&row.name, width.saturating_sub(47));
            writeln!(out, "{doubt}{change:+8.1}  {before:8.1}  {after:8.1}      {total:+9.1}  {name}")?;
        }
        if rows.len() > TOP {
            writeln!(out, "                                            and {} more", rows.len() - TOP)?;
        }
    }
    match (more.is_empty() && less.is_empty(), more.iter().chain(&less).any(|row| !row.is_certain())) {
        (true, _) => writeln!(out, "\nno function changed"),
        (_, true) => writeln!(out, "\n~ may be the noise of sampling"),
        _ => Ok(()),
    }
}

/// Without the sign of a number that is shown as 0.
fn signed(change: f64) -> f64 {
    if change.abs() < 0.05 { 0.0 } else { change }
}
