//! The first hour on real hardware: each event of the table counted alone under load, pairs that bound each other counted
//! together, and whether samples come. Says what it saw; whether an event counts the right thing, people judge.

use std::fmt::Write;
use std::time::Duration;

use super::event::Event;
use super::reading::{Reading, scale};
use super::reason::Reason;
use super::source::{CounterSource, Request, Scope, burn};
use super::survey::{Place, Survey};

/// CPU time that each event gets.
const TRIAL: Duration = Duration::from_millis(50);

/// Of each pair the first can never be more than the second.
const BOUNDS: &[(&str, &str)] = &[
    ("branch-misses", "branches"),
    ("branches-taken", "branches"),
    ("branches", "instructions"),
    ("op-cache-misses", "op-cache-accesses"),
    ("l1i-misses", "l1i-accesses"),
    ("dtlb-walks", "dtlb-l1-misses"),
    ("no-retire-load", "no-retire-waiting"),
    ("cycles-frontend-empty", "cycles"),
    ("l3-misses", "l3-accesses"),
    ("umc-reads", "umc-accesses"),
    ("minor-faults", "page-faults"),
];

/// Events whose interrupt is tried, and after how many of them it should come.
const INTERRUPTS: &[(&str, u64)] = &[("task-clock", 1_000_000), ("cycles", 1_000_000)];

/// What a self-test came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Everything that was seen, for people.
    pub text: String,
    /// Events that counted.
    pub counted: usize,
    /// Events that stayed at 0.
    pub zero: usize,
    /// What cannot be: a bound that did not hold, an event that opened and never ran, an interrupt that never came.
    pub wrong: usize,
}

/// Tries everything that the survey found usable.
pub fn run(survey: &Survey, source: &dyn CounterSource) -> Outcome {
    let mut outcome = Outcome::default();
    // Writing to a string cannot fail.
    let _ = try_all(&mut outcome, survey, source);
    outcome
}

fn try_all(outcome: &mut Outcome, survey: &Survey, source: &dyn CounterSource) -> std::fmt::Result {
    for event in survey.catalog.events().iter().filter(|event| survey.state(event.pmu).is_ok()) {
        let place = format!("{}/{}/", event.pmu, event.terms);
        write!(outcome.text, "{:<30} {place:<50} ", event.name)?;
        let seen = count(survey, source, &[*event]).map(|values| values[0]);
        let (_, unit) = event.description();
        match seen {
            Ok(0) => writeln!(outcome.text, "0 under load")?,
            Ok(value) => writeln!(outcome.text, "{value} {unit}")?,
            Err(ref reason) => writeln!(outcome.text, "WRONG [{}] {reason}", reason.code())?,
        }
        match seen {
            Ok(0) => outcome.zero += 1,
            Ok(_) => outcome.counted += 1,
            Err(_) => outcome.wrong += 1,
        }
    }
    writeln!(outcome.text)?;
    for (part, whole) in BOUNDS {
        let Some(pair) = pair(survey, part, whole) else { continue };
        let (verdict, seen) = match count(survey, source, &pair) {
            Ok(values) if values[0] <= values[1] => ("ok   ", format!("{} <= {}", values[0], values[1])),
            Ok(values) => ("WRONG", format!("{} > {}", values[0], values[1])),
            Err(reason) => ("WRONG", reason.to_string()),
        };
        outcome.wrong += usize::from(verdict == "WRONG");
        writeln!(outcome.text, "{verdict} {part} <= {whole}: {seen}")?;
    }
    for (name, period) in INTERRUPTS {
        let event = survey.catalog.find(name).filter(|event| survey.state(event.pmu).is_ok());
        let Some(Ok(places)) = event.map(|event| survey.places(&[*event])) else { continue };
        let came = source.interrupts(&places[0].events[0], *period);
        let verdict = match came {
            Ok(samples) if samples > 0 => format!("ok    {name} interrupts: {samples} samples"),
            Ok(_) => format!("WRONG {name}: {}", Reason::NoInterrupt),
            Err(error) => {
                format!("WRONG {name}: {}", Reason::of_errno(error.errno, &places[0].events[0].pmu, &survey.facts))
            }
        };
        outcome.wrong += usize::from(verdict.starts_with("WRONG"));
        writeln!(outcome.text, "{verdict}")?;
    }
    let mut reasons: Vec<_> =
        survey.states.iter().filter_map(|(pmu, state)| Some((pmu, state.as_ref().err()?))).collect();
    reasons.sort_by(|a, b| a.1.cmp(b.1));
    writeln!(outcome.text)?;
    for reasons in reasons.chunk_by(|a, b| a.1 == b.1) {
        let pmus: Vec<_> = reasons.iter().map(|(pmu, _)| **pmu).collect();
        writeln!(outcome.text, "not tried: {} - {}", pmus.join(", "), reasons[0].1)?;
    }
    let Outcome { counted, zero, wrong, .. } = outcome;
    let line = format!("{counted} events counted, {zero} stayed at 0 (right for rare ones), {wrong} things are wrong");
    writeln!(outcome.text, "{line}")
}

/// Both events, where they are usable and fit in one group.
fn pair(survey: &Survey, part: &str, whole: &str) -> Option<[Event; 2]> {
    let pair = [*survey.catalog.find(part)?, *survey.catalog.find(whole)?];
    let usable = survey.state(pair[0].pmu).ok()?;
    let weight: u32 = pair.iter().map(Event::weight).sum();
    (pair[0].pmu == pair[1].pmu && weight <= usable.counters).then_some(pair)
}

/// Counts a group under load, everywhere that it can be opened, added up.
fn count(survey: &Survey, source: &dyn CounterSource, events: &[Event]) -> Result<Vec<u64>, Reason> {
    let pmu = events[0].pmu;
    let user_only = survey.state(pmu)?.user_only;
    let mut groups = Vec::new();
    for Place { events, cpu } in survey.places(events)? {
        let scope = cpu.map_or(Scope::Own, Scope::Cpu);
        let opened = source.open(Request { events: &events, scope, user_only });
        let mut group = opened.map_err(|error| Reason::of_errno(error.errno, pmu, &survey.facts))?;
        group.enable().map_err(|error| Reason::Errno(error.0))?;
        groups.push(group);
    }
    burn(TRIAL);
    let mut sums = vec![0_u64; events.len()];
    for group in &mut groups {
        let Reading { enabled_ns, running_ns, values } = group.read().map_err(|error| Reason::Errno(error.0))?;
        for (sum, value) in sums.iter_mut().zip(values) {
            let value = scale(value, enabled_ns, running_ns);
            *sum = sum.saturating_add(value.ok_or_else(|| Reason::never_scheduled(&survey.facts))?);
        }
    }
    Ok(sums)
}
