//! What cputrace says of itself, added up over windows.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{LossReason, Recording, StackEnd, Unwinding, WaitHistogram};

/// Sums since the start, and the last window's state.
#[derive(Clone, Debug, Default)]
pub struct OwnSums {
    /// Windows.
    pub windows: u64,
    /// The frequency of the last window.
    pub frequency_hz: f64,
    /// Samples that were to be expected.
    pub samples_expected: u64,
    /// Those that are there.
    pub samples_kept: u64,
    /// Those that are not.
    pub samples_lost: BTreeMap<LossReason, u64>,
    /// How stacks ended.
    pub stacks: BTreeMap<StackEnd, u64>,
    /// How stacks of waits ended.
    pub wait_stacks: BTreeMap<StackEnd, u64>,
    /// Samples with a guessed frame.
    pub stacks_guessed: u64,
    /// eBPF programs: time, runs.
    pub programs: BTreeMap<String, (Duration, u64)>,
    /// Memory of the maps.
    pub map_kb: u64,
    /// How full they are, by name.
    pub map_fill: BTreeMap<&'static str, f64>,
    /// The unwinder's state.
    pub unwinding: Unwinding,
    /// What the account of the threads' time lost.
    pub scheduler_lost: BTreeMap<&'static str, u64>,
    /// What it left out to bound the cost.
    pub scheduler_limited: BTreeMap<&'static str, u64>,
    /// Time in no part of the account.
    pub residual_ns: u64,
    /// The host's waits for a CPU.
    pub run_queue_waits: WaitHistogram,
    /// Their sum.
    pub run_queue_ns: u64,
    /// Places in code with a name, and without.
    pub symbols: [u64; 2],
}

impl OwnSums {
    /// Adds a window.
    pub fn add(&mut self, window: &Recording) {
        self.windows += 1;
        self.frequency_hz = window.sampling.asked_hz;
        let ledger = &window.ledger;
        self.samples_expected += ledger.samples_expected();
        self.samples_kept += ledger.samples_kept;
        self.stacks_guessed += ledger.stacks_guessed;
        add(&mut self.samples_lost, &ledger.samples_lost);
        add(&mut self.stacks, &ledger.stacks);
        add(&mut self.wait_stacks, &ledger.wait_stacks);
        for program in &window.overhead.bpf_programs {
            let (time, runs) = self.programs.entry(program.name.clone()).or_default();
            *time += program.run_time;
            *runs += program.runs;
        }
        self.map_kb = window.overhead.map_kb;
        self.map_fill.clone_from(&window.overhead.map_fill);
        if let Some(unwinding) = window.unwinding {
            self.unwinding = unwinding;
        }
        if let Some(ledger) = window.scheduler {
            let lost = [
                ("threads", ledger.threads_lost),
                ("ends", ledger.ends_lost),
                ("clock", ledger.clock_errors),
                ("waits", ledger.waits_lost),
                ("wakes", ledger.wakes_lost),
            ];
            add(&mut self.scheduler_lost, &BTreeMap::from(lost));
            let limited = [("waits", ledger.waits_limited), ("wakes", ledger.wakes_limited)];
            add(&mut self.scheduler_limited, &BTreeMap::from(limited));
        }
        for time in &window.threads {
            self.residual_ns += time.residual_ns().unsigned_abs();
            self.run_queue_ns += time.run_queue_ns;
            for (sum, count) in self.run_queue_waits.iter_mut().zip(time.run_queue_waits) {
                *sum += count;
            }
        }
        for location in window.profile.locations() {
            self.symbols[usize::from(location.unknown.is_some())] += 1;
        }
    }
}

fn add<K: Copy + Ord>(sums: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *sums.entry(*key).or_default() += count;
    }
}
