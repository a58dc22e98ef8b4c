//! What changed from one profile to another: by function, how much more or less of the time is in it.
//!
//! Both sides are normalized by the time that they cover: a value is what came in a second of it, so that sides of different
//! length compare and a program that does more of everything shows as such; shares are beside it. Whether a change is more
//! than the sampling's own noise is said ([`FunctionChange::is_certain`]), not decided: nothing is left out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::shares::waiting_function;
use crate::model::{Aspect, LocationId, ProcessId, Profile, Recording, StackId, Unit, View};

/// Changes of less than this many standard errors may be noise: 2 are the 95 % of a normal distribution.
const CERTAIN: f64 = 2.0;

/// One side of a comparison: weights of stacks, and the time in which they came.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    profile: Cow<'a, Profile>,
    parts: Vec<Part>,
    seconds: f64,
}

/// Equal observations of a side.
#[derive(Clone, Copy, Debug)]
struct Part {
    stack: Option<StackId>,
    count: f64,
    /// In seconds, or a number of events.
    value: f64,
}

impl<'a> Side<'a> {
    /// All samples of a source, by its name (`on-cpu`, `off-cpu`, …), of a profile that covers this time.
    pub fn of_source(profile: &'a Profile, source: &str, duration: Duration) -> Self {
        let mut parts = Vec::new();
        if let Some(id) = profile.source_by_name(source) {
            let unit = unit_value(profile.sources()[id.index()].unit);
            let samples = profile.samples().iter().filter(|sample| sample.source == id);
            parts.extend(samples.map(|sample| Part {
                stack: sample.stack,
                count: sample.count as f64,
                value: sample.value as f64 * unit,
            }));
        }
        Self { profile: Cow::Borrowed(profile), parts, seconds: duration.as_secs_f64() }
    }

    /// Waits with one of these reasons, of a profile that covers this time.
    pub fn of_waits(profile: &'a Profile, reasons: &[&str], duration: Duration) -> Self {
        let mut side = Self::of_source(profile, Aspect::OffCpu.name(), duration);
        side.parts.retain(|part| profile.leaf_label(part.stack).is_some_and(|label| reasons.contains(&label)));
        side
    }

    /// What one process did in a part of a recording's time, by a source whose samples' times were kept. Of a wait counts what
    /// lies in that time.
    pub fn of_time(profile: &'a Profile, source: &str, process: ProcessId, time: &Range<Duration>) -> Self {
        let mut parts = Vec::new();
        if let Some(id) = profile.source_by_name(source) {
            let source = &profile.sources()[id.index()];
            let unit = unit_value(source.unit);
            let samples = profile
                .samples()
                .iter()
                .filter(|sample| sample.source == id && profile.threads()[sample.thread.index()].process == process);
            for sample in samples {
                let mut part = Part { stack: sample.stack, count: 0.0, value: 0.0 };
                for event in &sample.events {
                    // What has no period has a length.
                    let length_ns = if source.period == 0 { event.value } else { 0 };
                    let inside = overlap(event.at_ns, length_ns, time);
                    if inside > 0.0 {
                        part.count += 1.0;
                        part.value += inside * event.value as f64 * unit;
                    }
                }
                if part.count > 0.0 {
                    parts.push(part);
                }
            }
        }
        Self { profile: Cow::Borrowed(profile), parts, seconds: (time.end - time.start).as_secs_f64() }
    }

    /// What a view of a recording shows.
    pub fn of_view(recording: &'a Recording, view: View) -> Self {
        let (profile, weights) = view.of(recording);
        let on_cpu = profile.source_by_name(Aspect::OnCpu.name());
        let unit = match view.aspect {
            Aspect::OnCpu => on_cpu.map_or(0.0, |id| profile.sources()[id.index()].period as f64 / 1e9),
            Aspect::Event => 1.0,
            _ => 1e-6,
        };
        let parts = weights.iter().map(|weight| Part {
            stack: weight.stack,
            count: weight.count as f64,
            value: weight.weight as f64 * unit,
        });
        let parts = parts.collect();
        Self { profile, parts, seconds: recording.duration.as_secs_f64() }
    }
}

/// Values in what is shown: seconds, or events.
fn unit_value(unit: Unit) -> f64 {
    match unit {
        Unit::Nanoseconds => 1e-9,
        Unit::Count => 1.0,
    }
}

/// Which share of an event lies in a time; one without a length lies in it or does not.
fn overlap(at_ns: u64, length_ns: u64, time: &Range<Duration>) -> f64 {
    let [start, end] = [time.start, time.end].map(|time| time.as_nanos() as f64);
    let (from, to) = (at_ns as f64, at_ns as f64 + length_ns as f64);
    if length_ns == 0 {
        return f64::from(u8::from(start <= from && from < end));
    }
    ((to.min(end) - from.max(start)) / length_ns as f64).max(0.0)
}

/// What of a side is in a function, a second of its time: seconds (1 is one CPU, or one thread that waits all the time), or
/// events.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// In the function itself.
    pub own: f64,
    /// In it and in what it called.
    pub total: f64,
}

/// How a function's part changed.
#[derive(Clone, PartialEq, Debug)]
pub struct FunctionChange {
    /// Its name; a reason of waits in brackets.
    pub name: String,
    /// The file that its code is in, without its folders.
    pub file: String,
    /// Before.
    pub base: Rates,
    /// After.
    pub against: Rates,
    /// Of the change of `own`, one standard error by which samples alone can be off.
    pub error: f64,
}

impl FunctionChange {
    /// By how much more there is in the function itself; below 0 if it is less.
    pub fn own_change(&self) -> f64 {
        self.against.own - self.base.own
    }

    /// The same with what it called.
    pub fn total_change(&self) -> f64 {
        self.against.total - self.base.total
    }

    /// Whether the change is unlikely to come from sampling alone.
    pub fn is_certain(&self) -> bool {
        self.own_change().abs() > CERTAIN * self.error
    }
}

/// What changed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Diff {
    /// All of the base, a second of its time.
    pub base: f64,
    /// All of what it is compared with.
    pub against: f64,
    /// All functions, what grew most in itself first, what shrank most last.
    pub functions: Vec<FunctionChange>,
}

/// What of a side is in a function, before it is normalized.
#[derive(Clone, Copy, Default)]
struct Sum {
    own: f64,
    total: f64,
    /// Of `own`: with n equal observations of v in all, v²/n (compound Poisson).
    variance: f64,
    file: Option<LocationId>,
}

/// Compares what came before with what came after, by the names of functions.
///
/// A wait is the waiting function's own: the program's innermost one, for all waits end in the same few of the kernel.
pub fn diff(base: &Side<'_>, against: &Side<'_>) -> Diff {
    let [before, after] = [sums(base), sums(against)];
    let all = |side: &Side<'_>| side.parts.iter().map(|part| part.value).sum::<f64>() / seconds(side);
    let names: HashSet<&String> = before.keys().chain(after.keys()).collect();
    let functions = names.into_iter().map(|name| {
        let [old, new] = [&before, &after].map(|sums| sums.get(name).copied().unwrap_or_default());
        let rates = |sum: Sum, side| Rates { own: sum.own / seconds(side), total: sum.total / seconds(side) };
        let file = |sum: Sum, side: &Side<'_>| {
            let mapping = side.profile.locations()[sum.file?.index()].mapping;
            Some(side.profile.file_name(mapping).to_owned())
        };
        let variance = old.variance / seconds(base).powi(2) + new.variance / seconds(against).powi(2);
        FunctionChange {
            name: name.clone(),
            file: file(new, against).or_else(|| file(old, base)).unwrap_or_default(),
            base: rates(old, base),
            against: rates(new, against),
            error: variance.sqrt(),
        }
    });
    let mut functions: Vec<_> = functions.collect();
    functions.sort_by(|a, b| {
        let by_own = b.own_change().total_cmp(&a.own_change());
        by_own.then(b.total_change().total_cmp(&a.total_change())).then_with(|| a.name.cmp(&b.name))
    });
    Diff { base: all(base), against: all(against), functions }
}

/// A side without time has no rates; whatever is in it came in an instant.
fn seconds(side: &Side<'_>) -> f64 {
    side.seconds.max(1e-3)
}

fn sums(side: &Side<'_>) -> HashMap<String, Sum> {
    let profile = &*side.profile;
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut of_location: HashMap<LocationId, Vec<usize>> = HashMap::new();
    let mut sums: Vec<Sum> = Vec::new();
    // The last part that each name was on the stack of.
    let mut seen: Vec<usize> = Vec::new();
    for (index, part) in side.parts.iter().enumerate() {
        let is_wait = profile.leaf_label(part.stack).is_some();
        let waiting = if is_wait { waiting_function(profile, part.stack) } else { None };
        let mut has_owner = false;
        for location in profile.frames(part.stack) {
            let names = of_location.entry(location).or_insert_with(|| {
                let names = profile.function_names(location).into_iter().map(|name| {
                    let next = ids.len();
                    *ids.entry(name).or_insert(next)
                });
                names.collect()
            });
            sums.resize(ids.len(), Sum::default());
            seen.resize(ids.len(), usize::MAX);
            for &id in &*names {
                let owns = !has_owner && waiting.as_ref().is_none_or(|name| ids.get(name) == Some(&id));
                has_owner |= owns;
                let sum = &mut sums[id];
                if owns {
                    sum.own += part.value;
                    sum.variance += part.value * part.value / part.count.max(1.0);
                }
                // A function that calls itself is on the stack only once for its total.
                if seen[id] != index {
                    seen[id] = index;
                    sum.file.get_or_insert(location);
                    sum.total += part.value;
                }
            }
        }
    }
    ids.into_iter().map(|(name, id)| (name, sums[id])).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::{ElfAddr, Event, Function, Line, Mapping, MappingKind, Source};

    /// A profile of stacks, root first, with their samples of a millisecond each, a tenth of a second apart.
    fn profile(source: &str, stacks: &[(&str, u64)]) -> Profile {
        let mut profile = Profile::new();
        let (name, path, none) = (profile.string(source), profile.string("/bin/app"), profile.string(""));
        let period = if source == "on-cpu" { 1_000_000 } else { 0 };
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period });
        let process = profile.process(1, "app");
        let thread = profile.thread(process, 1, "app");
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        for (stack, samples) in stacks {
            let mut leaf = None;
            for frame in stack.split(';') {
                let location = if frame.starts_with('[') {
                    profile.label(frame)
                } else {
                    let name = profile.string(frame);
                    let location = profile.location(mapping, ElfAddr(u64::try_from(name.index()).unwrap()));
                    let function = Function { name, system_name: name, file: none, start_line: 0 };
                    let function = profile.function(function);
                    profile.set_lines(location, Ok(vec![Line { function, line: 0 }]));
                    location
                };
                leaf = Some(profile.stack(leaf, location));
            }
            for index in 0..*samples {
                let event = Event { at_ns: index * 100_000_000, value: 1_000_000 };
                profile.add((thread, source, leaf), 1, 1_000_000, Some(event));
            }
        }
        profile
    }

    fn changes(base: &Side<'_>, against: &Side<'_>) -> Vec<(String, i64, i64)> {
        let diff = diff(base, against);
        let round = |value: f64| (value * 1e3).round() as i64;
        let rows = diff.functions.iter();
        rows.map(|row| (row.name.clone(), round(row.own_change()), round(row.total_change()))).collect()
    }

    /// What grew comes first, what shrank last; sides of different length compare by the second.
    #[test]
    fn functions_by_change() {
        let base = profile("on-cpu", &[("main;parse", 100), ("main;old", 50), ("main;main", 10)]);
        let against = profile("on-cpu", &[("main;parse", 200), ("main;burn;parse", 600), ("main;burn", 400)]);
        let second = Duration::from_secs(1);
        let found =
            changes(&Side::of_source(&base, "on-cpu", second), &Side::of_source(&against, "on-cpu", 2 * second));
        let expected = [("parse", 300, 300), ("burn", 200, 500), ("main", -10, 440), ("old", -50, -50)];
        assert_eq!(found, expected.map(|(name, own, total)| (name.to_owned(), own, total)));
        let same = changes(&Side::of_source(&base, "on-cpu", second), &Side::of_source(&base, "on-cpu", second));
        assert!(same.iter().all(|(_, own, total)| (*own, *total) == (0, 0)), "{same:?}");
        let none = diff(&Side::of_source(&base, "no such", second), &Side::of_source(&base, "no such", second));
        assert_eq!(none, Diff::default());
    }

    /// A change by a few samples is not certain, one by many is.
    #[test]
    fn noise_is_known() {
        let (base, against) =
            (profile("on-cpu", &[("a", 100), ("b", 100)]), profile("on-cpu", &[("a", 110), ("b", 160)]));
        let second = Duration::from_secs(1);
        let diff = diff(&Side::of_source(&base, "on-cpu", second), &Side::of_source(&against, "on-cpu", second));
        let certain: Vec<_> = diff.functions.iter().map(|row| (row.name.as_str(), row.is_certain())).collect();
        assert_eq!(certain, [("b", true), ("a", false)]);
    }

    /// A wait is that of the program's function, not of the libraries' below it; its reason has a row too.
    #[test]
    fn waits_belong_to_the_program() {
        let base = profile("off-cpu", &[("main;serve;pthread_cond_wait;[condition variable]", 100)]);
        let against = profile(
            "off-cpu",
            &[
                ("main;serve;pthread_cond_wait;[condition variable]", 100),
                ("main;fight;pthread_mutex_lock;[lock]", 300),
            ],
        );
        let second = Duration::from_secs(1);
        let found = changes(&Side::of_source(&base, "off-cpu", second), &Side::of_source(&against, "off-cpu", second));
        assert_eq!(found[0], ("fight".to_owned(), 300, 300));
        assert!(found.contains(&("[lock]".to_owned(), 0, 300)), "{found:?}");
    }

    /// A part of the time has the samples of that time, and of a wait what lies in it.
    #[test]
    fn parts_of_the_time() {
        let profile = profile("on-cpu", &[("a", 10)]);
        let process = profile.process_by_pid(1).unwrap();
        let half = |from, to| Duration::from_millis(from)..Duration::from_millis(to);
        let side = |time: Range<Duration>| Side::of_time(&profile, "on-cpu", process, &time);
        let found = diff(&side(half(0, 300)), &side(half(300, 1000)));
        assert_eq!((found.base * 1e3).round(), 10.0);
        assert_eq!((found.against * 1e3).round(), 10.0);
        assert_eq!(overlap(100, 100, &(Duration::from_nanos(150)..Duration::from_nanos(1000))), 0.5);
        assert_eq!(overlap(100, 100, &(Duration::from_nanos(300)..Duration::from_nanos(1000))), 0.0);
        assert_eq!(overlap(100, 100, &(Duration::ZERO..Duration::from_nanos(1000))), 1.0);
        assert_eq!(overlap(100, 0, &(Duration::from_nanos(100)..Duration::from_nanos(101))), 1.0);
    }
}
