//! What counters say, and how readings of counters that shared the hardware become counts.

use std::collections::BTreeMap;

/// One reading of a group: its members were counted over the same time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Time that the group was enabled, in nanoseconds.
    pub enabled_ns: u64,
    /// Of this, time that it really counted.
    pub running_ns: u64,
    /// A value a member.
    pub values: Vec<u64>,
}

/// `value * enabled / running`: what would have been counted had the counter run all the time. `None` where it did not run:
/// then nothing is known.
pub fn scale(value: u64, enabled_ns: u64, running_ns: u64) -> Option<u64> {
    if running_ns == 0 || enabled_ns == 0 {
        return None;
    }
    // The clocks of the two times are read one after the other.
    if running_ns >= enabled_ns {
        return Some(value);
    }
    let scaled = u128::from(value) * u128::from(enabled_ns) / u128::from(running_ns);
    Some(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// Sums up a group's readings, each scaled by its own window.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    last: Reading,
    /// The counts so far, scaled; `None` until the group has run.
    pub counts: Option<Vec<u64>>,
    /// Time that the group was enabled, in nanoseconds.
    pub enabled_ns: u64,
    /// Of this, time that it counted.
    pub running_ns: u64,
    /// Time enabled since then, without a turn on the hardware: what happened in it is not in the counts.
    pub waiting_ns: u64,
    /// Readings whose values or times went backwards: their windows are left out.
    pub backwards: u64,
}

impl Tally {
    /// Adds a reading; readings add up from 0 at the start.
    pub fn add(&mut self, reading: &Reading) {
        let members = reading.values.len();
        self.last.values.resize(members, 0);
        let values = reading.values.iter().zip(&self.last.values);
        let deltas: Option<Vec<u64>> = values.map(|(now, before)| now.checked_sub(*before)).collect();
        let enabled = reading.enabled_ns.checked_sub(self.last.enabled_ns);
        let running = reading.running_ns.checked_sub(self.last.running_ns);
        let (Some(deltas), Some(enabled_ns), Some(running_ns)) = (deltas, enabled, running) else {
            self.backwards += 1;
            self.waiting_ns = 0;
            self.last = reading.clone();
            return;
        };
        let before = self.last.enabled_ns;
        if running_ns == 0 {
            // Not on the hardware in this window: the next one speaks for it too.
            self.waiting_ns = enabled_ns;
            return;
        }
        self.waiting_ns = 0;
        self.enabled_ns = self.enabled_ns.saturating_add(reading.enabled_ns - before);
        self.running_ns = self.running_ns.saturating_add(running_ns.min(enabled_ns));
        self.last = reading.clone();
        let counts = self.counts.get_or_insert_with(|| vec![0; members]);
        counts.resize(members, 0);
        for (count, delta) in counts.iter_mut().zip(deltas) {
            *count = count.saturating_add(scale(delta, enabled_ns, running_ns).unwrap_or(0));
        }
    }

    /// Starts again from 0: what is added from now on is a window of its own.
    pub fn start_again(&mut self) {
        let last = std::mem::take(&mut self.last);
        *self = Self { last, ..Self::default() };
    }

    /// Share of the enabled time that was counted, 0 to 1; `None` where it never was.
    pub fn coverage(&self) -> Option<f64> {
        coverage(self.enabled_ns, self.running_ns, self.waiting_ns)
    }
}

fn coverage(enabled_ns: u64, running_ns: u64, waiting_ns: u64) -> Option<f64> {
    (running_ns > 0 && enabled_ns > 0).then(|| running_ns as f64 / (enabled_ns as f64 + waiting_ns as f64))
}

/// The counts of several tallies of the same group, added up.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Sum {
    /// By event.
    pub counts: BTreeMap<String, u64>,
    /// Time enabled, of all of them, in nanoseconds.
    pub enabled_ns: u64,
    /// Time that they counted.
    pub running_ns: u64,
    /// Time in which some of them had no turn on the hardware, and that no later one spoke for.
    pub waiting_ns: u64,
}

impl Sum {
    /// Adds one group's tally, whose members have these names.
    pub fn add(&mut self, names: &[&str], tally: &Tally) {
        self.waiting_ns = self.waiting_ns.saturating_add(tally.waiting_ns);
        let Some(counts) = &tally.counts else { return };
        for (name, count) in names.iter().zip(counts) {
            let sum = self.counts.entry((*name).to_owned()).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.enabled_ns = self.enabled_ns.saturating_add(tally.enabled_ns);
        self.running_ns = self.running_ns.saturating_add(tally.running_ns);
    }

    /// Share of the enabled time that was counted, 0 to 1; `None` where it never was.
    pub fn coverage(&self) -> Option<f64> {
        coverage(self.enabled_ns, self.running_ns, self.waiting_ns)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use proptest::prelude::*;

    use super::*;

    fn reading(enabled_ns: u64, running_ns: u64, value: u64) -> Reading {
        Reading { enabled_ns, running_ns, values: vec![value] }
    }

    /// Half the time on the hardware, then none of it, then all of it, then a reset.
    #[test]
    fn windows() {
        let mut tally = Tally::default();
        assert_eq!((tally.coverage(), tally.counts.clone()), (None, None));
        tally.add(&reading(100, 0, 0));
        assert_eq!(tally.counts, None, "not 0: nothing was counted");
        tally.add(&reading(200, 100, 50));
        assert_eq!(tally.counts, Some(vec![100]));
        tally.add(&reading(300, 200, 80));
        assert_eq!(tally.counts, Some(vec![130]));
        tally.add(&reading(400, 200, 80));
        assert_eq!(tally.counts, Some(vec![130]));
        tally.add(&reading(500, 300, 10));
        assert_eq!((tally.backwards, tally.counts.clone()), (1, Some(vec![130])));
        tally.add(&reading(600, 400, 30));
        assert_eq!(tally.counts, Some(vec![150]));
        assert_eq!(tally.coverage(), Some(0.75));
    }

    /// A window has what was counted in it, and nothing of the one before.
    #[test]
    fn a_new_window() {
        let mut tally = Tally::default();
        tally.add(&reading(100, 100, 50));
        tally.start_again();
        assert_eq!((tally.counts.clone(), tally.coverage()), (None, None));
        tally.add(&reading(300, 200, 70));
        assert_eq!((tally.counts, tally.enabled_ns, tally.running_ns), (Some(vec![40]), 200, 100));
    }

    /// A thread that had no turn lowers the share of all.
    #[test]
    fn a_silent_thread_is_not_forgotten() {
        let (mut counted, mut silent) = (Tally::default(), Tally::default());
        counted.add(&reading(100, 100, 7));
        silent.add(&reading(300, 0, 0));
        let mut sum = Sum::default();
        sum.add(&["cycles"], &counted);
        sum.add(&["cycles"], &silent);
        assert_eq!((sum.counts["cycles"], sum.coverage()), (7, Some(0.25)));
        assert_eq!((silent.coverage(), silent.counts), (None, None));
    }

    proptest! {
        #[test]
        fn scaling(value: u64, enabled in 1_u64.., running: u64) {
            let scaled = scale(value, enabled, running);
            prop_assert_eq!(scaled.is_none(), running == 0);
            if let Some(scaled) = scaled {
                prop_assert!(scaled >= value);
                if running >= enabled {
                    prop_assert_eq!(scaled, value);
                }
                prop_assert!(scale(value / 2, enabled, running).unwrap() <= scaled);
            }
        }

        /// At a constant share of the hardware it does not matter how often is read.
        #[test]
        fn windows_add_up(steps in proptest::collection::vec((1_u64..1 << 30, 0_u64..1 << 40), 1..20), share in 1_u64..8) {
            let mut tally = Tally::default();
            let mut total = reading(0, 0, 0);
            for (running, value) in &steps {
                total = reading(total.enabled_ns + running * share, total.running_ns + running, total.values[0] + value);
                tally.add(&total);
            }
            let at_once = scale(total.values[0], total.enabled_ns, total.running_ns).unwrap();
            prop_assert_eq!(tally.counts, Some(vec![at_once]));
        }

        /// The ratio of two members of a group is that of their raw values, whatever share of the hardware they had.
        #[test]
        fn ratios_survive(enabled in 1_u64..1 << 40, running in 1_u64..1 << 40, a in 1_u64..1 << 20, times in 1_u64..100) {
            let mut tally = Tally::default();
            tally.add(&Reading { enabled_ns: enabled.max(running), running_ns: running, values: vec![a, a * times] });
            let counts = tally.counts.unwrap();
            let error = (counts[1] as f64 / counts[0] as f64 / times as f64 - 1.0).abs();
            prop_assert!(error < 2.0 / counts[0] as f64 + 1e-9);
        }

        /// No reading makes it panic.
        #[test]
        fn anything_is_survived(readings in proptest::collection::vec((any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u64>(), 0..4)), 0..8)) {
            let mut tally = Tally::default();
            for (enabled_ns, running_ns, values) in readings {
                tally.add(&Reading { enabled_ns, running_ns, values });
            }
        }
    }
}
