//! What is usual for one signal of one group.

use std::collections::VecDeque;

/// Windows that are remembered: half an hour of the usual ones.
const MEMORY: usize = 180;

/// Windows without which nothing is known: eleven minutes, in which what comes each five minutes, such as a database's checkpoint,
/// has been there twice.
const WARM_UP: usize = 66;

/// A normal distribution's standard deviation is so many median absolute deviations.
const NORMAL: f64 = 1.4826;

/// The last windows' values.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    values: VecDeque<f32>,
}

/// What they come to.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usual {
    /// Half of them are above.
    pub median: f64,
    /// The robust deviation, which a few outliers do not change.
    pub deviation: f64,
    /// Their mean.
    pub mean: f64,
    /// The standard deviation, to which outliers that come again and again belong.
    pub standard: f64,
    /// The largest.
    pub largest: f64,
}

impl Baseline {
    /// Adds a window's value.
    pub fn add(&mut self, value: f64) {
        if self.values.len() == MEMORY {
            self.values.pop_front();
        }
        self.values.push_back(value as f32);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.values.clear();
    }

    /// Forgets the last windows' values.
    pub fn take_back(&mut self, windows: usize) {
        self.values.truncate(self.values.len().saturating_sub(windows));
    }

    /// Whether enough is known to say what is usual.
    pub fn is_enough(&self) -> bool {
        self.values.len() >= WARM_UP
    }

    /// What is usual; `None` while too little is known.
    pub fn usual(&self) -> Option<Usual> {
        self.is_enough().then(|| self.so_far())
    }

    /// What is usual by what is known so far; all is 0 where that is nothing.
    pub fn so_far(&self) -> Usual {
        if self.values.is_empty() {
            return Usual::default();
        }
        let mut values: Vec<f32> = self.values.iter().copied().collect();
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let square = |value: f64| value * value;
        let variance = values.iter().map(|&value| square(f64::from(value) - mean)).sum::<f64>() / count;
        let largest = values.iter().copied().fold(f32::MIN, f32::max);
        let median = median(&mut values);
        values.iter_mut().for_each(|value| *value = (*value - median).abs());
        let deviation = f64::from(self::median(&mut values)) * NORMAL;
        let (median, largest) = (f64::from(median), f64::from(largest));
        Usual { median, deviation, mean, standard: variance.sqrt(), largest }
    }
}

/// The middle one; there is at least one.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outliers move mean and standard deviation, not median and deviation; old values go.
    #[test]
    fn robust() {
        let mut baseline = Baseline::default();
        (1..WARM_UP as u32).for_each(|index| baseline.add(f64::from(index % 2)));
        assert_eq!(baseline.usual(), None);
        baseline.add(1000.0);
        let usual = baseline.usual();
        let usual = usual.as_ref().map(|usual| (usual.median, usual.largest, usual.mean > 3.0, usual.standard > 10.0));
        assert_eq!(usual, Some((1.0, 1000.0, true, true)));
        (0..MEMORY).for_each(|_| baseline.add(2.0));
        let all_two = Usual { median: 2.0, deviation: 0.0, mean: 2.0, standard: 0.0, largest: 2.0 };
        assert_eq!(baseline.usual(), Some(all_two));
    }
}
