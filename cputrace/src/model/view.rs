//! One way to look at a recording: where threads were on the CPU, where they were not, or all of their time.
//!
//! The wall-clock view is no source of its own that was recorded: it follows from the others and the threads' exact times.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Profile, Recording, Sample, Source, SourceId, StackId, ThreadId, Unit};

/// Labels of waits in which a thread has nothing to do start so.
pub const IDLE: &str = "[idle";

/// What to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aspect {
    /// Where time on the CPU went, in samples.
    #[default]
    OnCpu,
    /// What was waited for.
    OffCpu,
    /// Where threads waited for a CPU.
    RunQueue,
    /// Who ended the waits.
    Wakers,
    /// All of the threads' time.
    Wall,
    /// Where the event happened that was sampled beside the clock.
    Event,
}

impl Aspect {
    /// All of them.
    pub const ALL: &[Self] = &[Self::OnCpu, Self::OffCpu, Self::RunQueue, Self::Wakers, Self::Wall, Self::Event];

    /// Its name: that of the source whose samples it shows, but of [`Self::Event`], which has the event's own.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnCpu => "on-cpu",
            Self::OffCpu => "off-cpu",
            Self::RunQueue => "run-queue",
            Self::Wakers => "wakers",
            Self::Wall => "wall",
            Self::Event => "event",
        }
    }

    /// What it shows, as a title.
    pub fn title(self) -> &'static str {
        match self {
            Self::OnCpu => "On-CPU time",
            Self::OffCpu => "Off-CPU time",
            Self::RunQueue => "Run-queue time",
            Self::Wakers => "Off-CPU time and its wakers",
            Self::Wall => "Wall-clock time",
            Self::Event => "Events",
        }
    }
}

/// What to look at, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// What.
    pub aspect: Aspect,
    /// Whether to leave out waits in which a thread has nothing to do.
    pub hide_idle: bool,
}

/// A stack of a view, and how wide it is: of [`Aspect::OnCpu`] in samples, of [`Aspect::Event`] in events, of the
/// others in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight {
    /// Whose.
    pub thread: ThreadId,
    /// Where.
    pub stack: Option<StackId>,
    /// How much.
    pub weight: u64,
    /// Of how many observations.
    pub count: u64,
}

impl View {
    /// The unit of its weights.
    pub fn unit(self) -> &'static str {
        match self.aspect {
            Aspect::OnCpu => "samples",
            Aspect::Event => "events",
            _ => "microseconds",
        }
    }

    /// Its stacks, and the profile that explains them.
    pub fn of(self, recording: &Recording) -> (Cow<'_, Profile>, Vec<Weight>) {
        let profile = match self.aspect {
            Aspect::Wall => Cow::Owned(with_wall(recording)),
            _ => Cow::Borrowed(&recording.profile),
        };
        let name = match (self.aspect, &recording.event) {
            (Aspect::Event, Some(event)) => &event.name,
            (aspect, _) => aspect.name(),
        };
        let source = profile.source_by_name(name);
        let samples = profile.samples().iter().filter(|sample| Some(sample.source) == source);
        let shown = samples.filter(|sample| {
            !self.hide_idle || profile.leaf_label(sample.stack).is_none_or(|label| !label.starts_with(IDLE))
        });
        let weights = shown.map(|sample| {
            let weight = match self.aspect {
                Aspect::OnCpu => in_periods(sample, &profile.sources()[sample.source.index()]),
                Aspect::Event => sample.value,
                _ => sample.value / 1000,
            };
            Weight { thread: sample.thread, stack: sample.stack, weight, count: sample.count }
        });
        let weights = weights.filter(|weight| weight.weight > 0).collect();
        (profile, weights)
    }
}

/// Samples on the CPU, by what they stand for: where the frequency was lowered, each is worth several of the source's.
fn in_periods(sample: &Sample, source: &Source) -> u64 {
    match source.period {
        0 => sample.count,
        period => (sample.value.saturating_add(period / 2) / period).max(sample.count),
    }
}

/// What a thread's time came to, exactly.
#[derive(Clone, Copy, Default)]
struct Exact {
    on_cpu_ns: u64,
    run_queue_ns: u64,
    off_cpu_ns: u64,
    residual_ns: u64,
}

/// The recording's profile with one more source, `wall`: of each thread whose time was accounted, its samples on the CPU made
/// as wide as the time that it was there, its waits, and in labels what has no stack. They add up to the time that it lived.
pub fn with_wall(recording: &Recording) -> Profile {
    let mut profile = recording.profile.clone();
    let threads = exact_times(recording, &mut profile);
    let name = profile.string(Aspect::Wall.name());
    let wall = profile.source(super::Source { name, unit: Unit::Nanoseconds, period: 0 });
    for (aspect, exact_ns, rest) in [
        (Aspect::OnCpu, (|exact| exact.on_cpu_ns) as fn(&Exact) -> u64, "[on the CPU, between samples]"),
        (Aspect::RunQueue, |exact| exact.run_queue_ns, "[waiting for a CPU, no stack]"),
        (Aspect::OffCpu, |exact| exact.off_cpu_ns, "[waiting, no stack]"),
    ] {
        let source = profile.source_by_name(aspect.name());
        let parts = parts(&recording.profile, source);
        for (&thread, exact) in &threads {
            let parts = parts.get(&thread).map_or(&[][..], |parts| parts);
            let sampled_ns: u64 = parts.iter().fold(0, |sum, part| sum.saturating_add(part.ns));
            // Samples stand for all of the time; of waits, the short ones have no stacks.
            let wanted_ns = if aspect == Aspect::OnCpu { exact_ns(exact) } else { exact_ns(exact).min(sampled_ns) };
            for Part { stack, count, ns } in apportion(parts, sampled_ns, wanted_ns) {
                profile.add((thread, wall, stack), count, ns, None);
            }
            let rest_ns = exact_ns(exact) - if sampled_ns == 0 { 0 } else { wanted_ns };
            add_label(&mut profile, thread, wall, rest, rest_ns);
        }
    }
    for (&thread, exact) in &threads {
        add_label(&mut profile, thread, wall, "[not accounted]", exact.residual_ns);
    }
    profile
}

fn add_label(profile: &mut Profile, thread: ThreadId, source: SourceId, text: &str, ns: u64) {
    if ns > 0 {
        let location = profile.label(text);
        let stack = profile.stack(None, location);
        profile.add((thread, source, Some(stack)), 1, ns, None);
    }
}

fn exact_times(recording: &Recording, profile: &mut Profile) -> BTreeMap<ThreadId, Exact> {
    let mut threads: BTreeMap<ThreadId, Exact> = BTreeMap::new();
    for time in &recording.threads {
        let process = profile.process_by_pid(time.pid).unwrap_or_else(|| {
            let main = recording.threads.iter().find(|other| other.tid == time.pid);
            profile.process(time.pid, &main.unwrap_or(time).name)
        });
        let thread = profile.thread(process, time.tid, &time.name);
        let exact = threads.entry(thread).or_default();
        exact.on_cpu_ns += time.on_cpu_ns;
        exact.run_queue_ns += time.run_queue_ns;
        exact.off_cpu_ns += time.off_cpu_total_ns();
        exact.residual_ns += u64::try_from(time.residual_ns()).unwrap_or(0);
    }
    threads
}

/// A sample of a thread.
#[derive(Clone, Copy)]
struct Part {
    stack: Option<StackId>,
    count: u64,
    ns: u64,
}

fn parts(profile: &Profile, source: Option<SourceId>) -> BTreeMap<ThreadId, Vec<Part>> {
    let mut parts: BTreeMap<ThreadId, Vec<_>> = BTreeMap::new();
    for sample in profile.samples().iter().filter(|sample| Some(sample.source) == source) {
        let part = Part { stack: sample.stack, count: sample.count, ns: sample.value };
        parts.entry(sample.thread).or_default().push(part);
    }
    parts
}

/// The parts scaled so that their sum changes from `sum` to `wanted`, to the nanosecond.
fn apportion(parts: &[Part], sum_ns: u64, wanted_ns: u64) -> impl Iterator<Item = Part> {
    let scaled = move |ns: u64| (u128::from(ns) * u128::from(wanted_ns) / u128::from(sum_ns.max(1))) as u64;
    let mut so_far_ns = 0;
    parts.iter().map(move |part| {
        let before_ns = scaled(so_far_ns);
        so_far_ns = so_far_ns.saturating_add(part.ns);
        Part { ns: scaled(so_far_ns) - before_ns, ..*part }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the parts are, they add up.
    #[test]
    fn parts_add_up() {
        for (parts, wanted) in [(&[1, 1, 1][..], 100), (&[7, 0, 5], 3), (&[u64::MAX / 4, 3], 1 << 60), (&[0], 0)] {
            let parts: Vec<_> = parts.iter().map(|&ns| Part { stack: None, count: 1, ns }).collect();
            let sum = parts.iter().map(|part| part.ns).sum();
            assert_eq!(apportion(&parts, sum, wanted).map(|part| part.ns).sum::<u64>(), wanted);
        }
    }
}
