//! Counters that were read at samples and switches: how much of what they counted stacks have.
//!
//! A sample has what its thread counted since its last one, or since it came to the CPU: the counts of a stack are exact for the
//! stretches that end in it, and their ratios are what they are read for.

use std::collections::BTreeMap;

use super::{ProcessId, Profile};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StackCounter {
    /// The event; the source of its values has this name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Counted in stretches that ended with a sample of the profile.
    pub in_stacks: u64,
    /// Counted between threads' last samples and their leaving the CPU.
    pub off_stack: u64,
}

/// What was counted so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StackCounters {
    /// The counters.
    pub counters: Vec<StackCounter>,
    /// Samples that have counts.
    pub counted: u64,
    /// Samples without, for the counters were not read when their thread came to the CPU.
    pub no_start: u64,
    /// Stretches that were left out, for some counter did not run all of the time: others have had the hardware.
    pub not_running: u64,
    /// Readings that the kernel refused.
    pub refused: u64,
}

impl StackCounters {
    /// What came since `before`, of the same counters or of none.
    pub fn since(&self, before: &Self) -> Self {
        let Self { counters, counted, no_start, not_running, refused } = self;
        let counter = |(index, counter): (usize, &StackCounter)| {
            let before = before.counters.get(index).map_or(0, |before| before.off_stack);
            StackCounter { off_stack: counter.off_stack.saturating_sub(before), ..counter.clone() }
        };
        Self {
            counters: counters.iter().enumerate().map(counter).collect(),
            counted: counted.saturating_sub(before.counted),
            no_start: no_start.saturating_sub(before.no_start),
            not_running: not_running.saturating_sub(before.not_running),
            refused: refused.saturating_sub(before.refused),
        }
    }

    /// By process of the profile, what each counter counted in its stacks.
    pub fn by_process(&self, profile: &Profile) -> Vec<(ProcessId, Vec<u64>)> {
        let mut counts: BTreeMap<ProcessId, Vec<u64>> = BTreeMap::new();
        for (column, counter) in self.counters.iter().enumerate() {
            let source = profile.source_by_name(&counter.name);
            for sample in profile.samples().iter().filter(|sample| Some(sample.source) == source) {
                let process = profile.threads()[sample.thread.index()].process;
                counts.entry(process).or_insert_with(|| vec![0; self.counters.len()])[column] += sample.value;
            }
        }
        counts.into_iter().collect()
    }

    /// The names of the counters whose ratio is instructions per cycle, where both are there.
    pub fn ipc(&self) -> Option<(&str, &str)> {
        let of = |unit| self.counters.iter().find(|counter| counter.unit == unit).map(|counter| &*counter.name);
        Some((of("instructions")?, of("cycles")?))
    }
}
