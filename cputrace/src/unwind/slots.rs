//! Numbers in a map of maps: given out in runs, taken back after a while.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a number that was given back is not given out again: no sample takes that long, and one that is being put
/// together may still hold it.
const REST: Duration = Duration::from_millis(100);

/// The numbers that are free.
#[derive(Debug)]
pub(super) struct Slots {
    /// First number and length of free runs, which never touch.
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Instant, u32, u32)>,
}

impl Slots {
    /// The numbers below `count`.
    pub(super) fn new(count: u32) -> Self {
        Self { free: BTreeMap::from([(0, count)]), resting: VecDeque::new() }
    }

    /// `length` numbers in a row, the lowest there are.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        self.take_at(length, Instant::now())
    }

    /// Gives back what [`Self::take`] gave.
    pub(super) fn give_back(&mut self, first: u32, length: u32) {
        self.resting.push_back((Instant::now() + REST, first, length));
    }

    fn take_at(&mut self, length: u32, now: Instant) -> Option<u32> {
        while let Some(&(until, first, run)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.insert(first, run);
        }
        let (&first, &run) = self.free.iter().find(|&(_, &run)| run >= length)?;
        self.free.remove(&first);
        if run > length {
            self.free.insert(first + length, run - length);
        }
        Some(first)
    }

    fn insert(&mut self, mut first: u32, mut length: u32) {
        if let Some((&before, &run)) = self.free.range(..first).next_back()
            && before + run == first
        {
            self.free.remove(&before);
            (first, length) = (before, run + length);
        }
        if let Some(run) = self.free.remove(&(first + length)) {
            length += run;
        }
        self.free.insert(first, length);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No number is given out twice, and all come back as one run.
        #[test]
        fn gives_each_number_once(lengths in prop::collection::vec(1_u32..20, 1..60), order in any::<u64>()) {
            let mut slots = Slots::new(256);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            let later = Instant::now() + Duration::from_secs(60);
            for (at, length) in lengths.into_iter().enumerate() {
                if order >> (at % 64) & 1 == 1 && !taken.is_empty() {
                    let (first, length) = taken.swap_remove(at % taken.len());
                    slots.give_back(first, length);
                }
                if let Some(first) = slots.take_at(length, later) {
                    for &(other, run) in &taken {
                        prop_assert!(first + length <= other || other + run <= first);
                    }
                    prop_assert!(first + length <= 256);
                    taken.push((first, length));
                }
            }
            for (first, length) in taken {
                slots.give_back(first, length);
            }
            prop_assert_eq!(slots.take_at(256, later), Some(0));
        }
    }

    /// What was given back rests for a while.
    #[test]
    fn lets_numbers_rest() {
        let mut slots = Slots::new(1);
        let first = slots.take(1);
        assert_eq!((first, slots.take(1)), (Some(0), None));
        slots.give_back(0, 1);
        assert_eq!(slots.take(1), None);
        assert_eq!(slots.take_at(1, Instant::now() + REST), Some(0));
    }
}
