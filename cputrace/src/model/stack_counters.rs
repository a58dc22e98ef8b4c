//! Counters that were read at samples and switches: how much of what they counted stacks have.
//!
//! A sample has what its thread counted since its last one, or since it came to the CPU: the counts of a stack are exact for the
//! stretches that end in it, and their ratios are what they are read for.

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
    /// The names of the counters whose ratio is instructions per cycle, where both are there.
    pub fn ipc(&self) -> Option<(&str, &str)> {
        let of = |unit| self.counters.iter().find(|counter| counter.unit == unit).map(|counter| &*counter.name);
        Some((of("instructions")?, of("cycles")?))
    }
}
