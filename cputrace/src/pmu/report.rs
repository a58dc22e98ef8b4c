//! What a survey found and what a name means, as text. Prints nothing; `cli` does.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::cpu::{Generation, Identity};
use super::device::Root;
use super::event::{self, Catalog, Event, describe, is_of_host};
use super::metric::{METRICS, Metric, sets};
use super::reason::Reason;
use super::survey::{Survey, span};

/// The CPU and its PMUs, the sets of metrics and what is missing.
pub fn list(survey: &Survey) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_list(&mut out, survey);
    out
}

fn write_list(out: &mut String, survey: &Survey) -> std::fmt::Result {
    let cpu = &survey.cpu;
    let name = if cpu.name.is_empty() { "an unknown CPU" } else { &cpu.name };
    write!(out, "CPU       {name}, family {:x}h model {:02x}h: ", cpu.family, cpu.model)?;
    match survey.identity {
        Identity::Known(generation) => writeln!(out, "{generation}")?,
        Identity::Unverified(generation) => {
            writeln!(out, "a model that this version does not know; the events of {generation} are used, unverified")?;
        }
        Identity::Other => writeln!(out, "not an AMD Zen; only events of the kernel's own are known")?,
    }
    writeln!(out)?;
    for (index, (pmu, state)) in survey.states.iter().enumerate() {
        let is_said = survey.states[..index].iter().any(|(_, before)| before.is_err() && before == state);
        match state {
            // Once is enough.
            Err(reason) if is_said => writeln!(out, "{pmu:<9} - [{}]", reason.code())?,
            Ok(usable) => {
                let whose = match is_of_host(pmu) {
                    true => "works, for the whole host",
                    false if usable.user_only => "works, for user mode only",
                    false => "works",
                };
                let counters = match *pmu {
                    "software" | "msr" | "power" => String::new(),
                    _ => format!(", {} counters at once", usable.counters),
                };
                writeln!(out, "{pmu:<9} {whose}{counters}")?;
            }
            Err(reason) => writeln!(out, "{pmu:<9} - [{}] {reason}", reason.code())?,
        }
    }
    for (pmu, state) in &survey.sampling {
        match state {
            Ok(()) => writeln!(out, "{pmu:<9} works, for samples (record --event {})", pmu.replace('_', "-"))?,
            Err(reason) => writeln!(out, "{pmu:<9} - [{}] {reason}", reason.code())?,
        }
    }
    for problem in &survey.problems {
        writeln!(out, "note      {problem}")?;
    }
    writeln!(out)?;
    for set in sets() {
        let plan = survey.plan(&[set]);
        let planned = |metric: &&Metric| plan.groups.iter().any(|group| group.metrics.contains(*metric));
        let names: Vec<_> = METRICS.iter().filter(planned).map(|metric| metric.name).collect();
        if !names.is_empty() {
            let groups = plan.groups.len();
            let turns =
                if groups > 1 && plan.groups[0].pmu == "cpu" { format!(" ({groups} groups)") } else { String::new() };
            writeln!(out, "{set:<9} {}{turns}", names.join(", "))?;
        }
        let mut codes: Vec<_> = plan.refused.iter().map(|(_, reason)| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        for code in codes {
            let reason = plan.refused.iter().find(|(_, reason)| reason.code() == code).map(|(_, reason)| reason);
            let refused = |metric: &&Metric| {
                plan.refused.iter().any(|(other, reason)| other.name == metric.name && reason.code() == code)
            };
            let mut names: Vec<_> = METRICS.iter().filter(refused).map(|metric| metric.name).collect();
            let mut seen = BTreeSet::new();
            names.retain(|name| seen.insert(*name));
            write!(out, "{set:<9} - [{code}] {}", names.join(", "))?;
            // What a PMU's line has said need not be said again.
            let said = |reason: &&Reason| survey.states.iter().any(|(_, state)| state.as_ref().err() == Some(reason));
            let of_table = |reason: &&Reason| matches!(reason, Reason::NotOnGeneration { .. });
            match reason.filter(|reason| of_table(reason) || !said(reason)) {
                Some(reason) => writeln!(out, ": {reason}")?,
                None => writeln!(out)?,
            }
        }
    }
    Ok(())
}

/// Every event of a generation, with its encoding.
pub fn events(generation: Option<Generation>) -> String {
    let mut out = String::new();
    for event in Catalog::of(generation).events() {
        let (description, unit) = event.description();
        let encoding = format!("{}/{}/", event.pmu, event.terms);
        let _ = writeln!(out, "{:<36} {encoding:<60} {unit}: {description}", event.name);
    }
    out
}

/// What a name means: a metric, an event of some generation, or any event that the kernel takes. `None`: nothing is known of it.
pub fn explain(name: &str, survey: &Survey, root: &Root) -> Option<String> {
    let mut out = String::new();
    let dashed = name.replace('_', "-");
    let metrics: Vec<_> = METRICS.iter().filter(|metric| metric.name == dashed).collect();
    for metric in &metrics {
        let on = metric.generations.as_ref().map_or("every CPU".to_owned(), span);
        let _ = writeln!(out, "{}  in {}, set {}, on {on}\n  = {}", metric.name, metric.unit, metric.set, metric.text);
        if metric.is_on(survey.generation()) {
            for event in metric.events().into_iter().filter_map(|name| survey.catalog.find(name)) {
                let _ = writeln!(out, "  {}", line(event));
            }
            let plan = survey.plan(&[metric.set]);
            let refused = plan.refused.iter().find(|(other, _)| other.name == metric.name);
            let here =
                refused.map_or("can be counted".to_owned(), |(_, reason)| format!("cannot be counted: {reason}"));
            let _ = writeln!(out, "  here it {here}");
        }
    }
    let rows = generations_of(name);
    let mut found = !rows.is_empty();
    if let Some((_, event)) = rows.first() {
        let (description, unit) = describe(event.name);
        let _ = writeln!(out, "{}  in {unit}: {description}", event.name);
        if is_of_host(event.pmu) {
            let _ = writeln!(out, "  of the whole host, never of one process");
        }
        if event.weight() > 1 {
            let _ = writeln!(out, "  takes {} counters", event.weight());
        }
    }
    for (generations, event) in rows {
        let _ = writeln!(out, "  {generations}  {}  ({}, {})", line(&event), event.vendor_name, event.source);
    }
    match event::resolve(name, &survey.catalog, &survey.devices, root) {
        Ok(encoded) => {
            let [config, config1, config2] = encoded.config.words;
            let _ = writeln!(
                out,
                "here: type {} ({}), config {config:#x}, config1 {config1:#x}, config2 {config2:#x}",
                encoded.kind, encoded.pmu
            );
            found = true;
        }
        Err(error) if found => {
            let _ = writeln!(out, "here: {error}");
        }
        Err(_) => {}
    }
    (found || !metrics.is_empty()).then_some(out)
}

fn line(event: &Event) -> String {
    format!("{}/{}/", event.pmu, event.terms)
}

/// An event's rows, each with the generations that share it.
fn generations_of(name: &str) -> Vec<(String, Event)> {
    let mut rows: Vec<(Generation, Generation, Event)> = Vec::new();
    for generation in Generation::ALL {
        let Some(event) = Catalog::of(Some(*generation)).find(name).copied() else { continue };
        match rows.last_mut() {
            Some((_, last, row)) if (row.pmu, row.terms) == (event.pmu, event.terms) => *last = *generation,
            _ => rows.push((*generation, *generation, event)),
        }
    }
    let span = |(first, last, event): (Generation, Generation, Event)| {
        let span = if first == last { first.to_string() } else { format!("{first} to {}", last.number()) };
        (if event.pmu == "software" || event.pmu == "msr" { "any CPU".to_owned() } else { span }, event)
    };
    rows.into_iter().map(span).collect()
}
