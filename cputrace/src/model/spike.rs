//! A stretch of a recording in which a process took far more of the CPU than before.

use std::time::Duration;

/// One of them.
#[derive(Clone, PartialEq, Debug)]
pub struct Spike {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// When it began, since the recording's start.
    pub start: Duration,
    /// When it was over.
    pub end: Duration,
    /// What was usual before; 100 is one core.
    pub usual_percent: f64,
    /// The most that it took.
    pub peak_percent: f64,
    /// That in standard deviations from what was usual: its Z-score.
    pub score: f64,
    /// The functions that got most more of the time than before, if samples have stacks and times.
    pub functions: Vec<SpikeFunction>,
}

/// A function's part in a [`Spike`].
#[derive(Clone, PartialEq, Debug)]
pub struct SpikeFunction {
    /// Its name.
    pub name: String,
    /// Time in it before; 100 is one core.
    pub before_percent: f64,
    /// The same in the spike.
    pub percent: f64,
}
