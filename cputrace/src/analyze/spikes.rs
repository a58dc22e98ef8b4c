//! Stretches of a recording in which a process took far more of the CPU than before: by the Z-score of its timeline, against
//! the mean and the deviation of the points before.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::diff::{Side, diff};
use crate::model::{Aspect, Point, ProcessId, Profile, Recording, Spike, SpikeFunction, Timeline};

/// Points that are remembered.
const MEMORY: usize = 100;

/// Points without which nothing is usual.
const WARM_UP: usize = 20;

/// Standard deviations that a spike is from the mean.
const Z_SCORE: f64 = 3.0;

/// Below these it is over.
const CALM: f64 = 1.5;

/// A deviation, in percent of a core, is never taken for less: `/proc` counts in ticks.
const NOISE: f64 = 5.0;

/// Nor is less than this above the mean a spike, nor less than this part of the mean.
const LEAST: f64 = 25.0;
const LEAST_PART: f64 = 0.5;

/// Points in a row that it takes to be one, and to be over.
const POINTS: usize = 3;

/// Spikes of a recording that are kept: the largest.
const MOST: usize = 20;

/// Functions of each.
const FUNCTIONS: usize = 5;

/// The spikes of all processes of a recording, in order of time.
pub fn spikes(recording: &Recording) -> Vec<Spike> {
    let mut spikes: Vec<_> = recording.timelines.iter().flat_map(of_timeline).collect();
    spikes.sort_by(|a, b| b.score.total_cmp(&a.score));
    spikes.truncate(MOST);
    for spike in &mut spikes {
        if let Some(process) = recording.profile.process_by_pid(spike.pid) {
            spike.functions = functions(&recording.profile, process, spike.start..spike.end);
        }
    }
    spikes.sort_by_key(|spike| (spike.start, spike.pid));
    spikes
}

/// What got most more of the time than it had before.
fn functions(profile: &Profile, process: ProcessId, time: Range<Duration>) -> Vec<SpikeFunction> {
    let side = |time: Range<Duration>| Side::of_time(profile, Aspect::OnCpu.name(), process, &time);
    let changes = diff(&side(Duration::ZERO..time.start), &side(time));
    let more = changes.functions.iter().filter(|function| function.own_change() > 0.0 && function.is_certain());
    let more = more.take(FUNCTIONS).map(|function| SpikeFunction {
        name: function.name.clone(),
        before_percent: 100.0 * function.base.own,
        percent: 100.0 * function.against.own,
    });
    more.collect()
}

/// What was usual in the points so far.
#[derive(Default)]
struct Usual {
    values: VecDeque<f64>,
}

impl Usual {
    fn add(&mut self, value: f64) {
        if self.values.len() == MEMORY {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len().max(1) as f64
    }

    /// How many deviations a value is from the mean; `None` while too little is known.
    fn score(&self, value: f64) -> Option<f64> {
        if self.values.len() < WARM_UP {
            return None;
        }
        let mean = self.mean();
        let square = |value: &f64| (value - mean) * (value - mean);
        let variance = self.values.iter().map(square).sum::<f64>() / self.values.len() as f64;
        Some((value - mean) / variance.sqrt().max(NOISE))
    }
}

fn of_timeline(timeline: &Timeline) -> Vec<Spike> {
    let mut spikes = Vec::new();
    let mut usual = Usual::default();
    // The points that are, or may be, those of a spike.
    let mut points: Vec<&Point> = Vec::new();
    let mut calm = 0;
    let mut before = Duration::ZERO;
    let mut start = Duration::ZERO;
    for point in &timeline.points {
        let value = point.cpu_percent;
        let score = usual.score(value);
        let is_open = points.len() - calm >= POINTS;
        let mean = usual.mean();
        let is_high = score.is_some_and(|score| {
            score >= Z_SCORE && value - mean >= LEAST.max(LEAST_PART * mean) || is_open && score >= CALM
        });
        if is_high {
            if points.is_empty() {
                start = before;
            }
            points.push(point);
            calm = 0;
        } else if is_open {
            points.push(point);
            calm += 1;
            if calm == POINTS {
                points.truncate(points.len() - calm);
                spikes.extend(spike(timeline, &points, start, &usual));
                points.drain(..).for_each(|point| usual.add(point.cpu_percent));
                (0..calm).for_each(|_| usual.add(value));
                calm = 0;
            }
        } else {
            points.drain(..).for_each(|point| usual.add(point.cpu_percent));
            usual.add(value);
        }
        before = point.at;
    }
    points.truncate(points.len() - calm);
    spikes.extend(spike(timeline, &points, start, &usual));
    spikes
}

fn spike(timeline: &Timeline, points: &[&Point], start: Duration, usual: &Usual) -> Option<Spike> {
    if points.len() < POINTS {
        return None;
    }
    let peak_percent = points.iter().map(|point| point.cpu_percent).fold(0.0, f64::max);
    Some(Spike {
        pid: timeline.pid,
        name: timeline.name.clone(),
        start,
        end: points.last()?.at,
        usual_percent: usual.mean(),
        peak_percent,
        score: usual.score(peak_percent)?,
        functions: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timeline of tenths of a second with these percentages.
    fn timeline(percents: impl IntoIterator<Item = f64>) -> Timeline {
        let points = percents.into_iter().zip(1..).map(|(cpu_percent, index)| Point {
            at: Duration::from_millis(100) * index,
            cpu_percent,
            ..Point::default()
        });
        Timeline { pid: 1, name: "app".to_owned(), points: points.collect(), cpu_time: Duration::ZERO }
    }

    fn found(percents: impl IntoIterator<Item = f64>) -> Vec<(u128, u128)> {
        let spikes = of_timeline(&timeline(percents));
        spikes.iter().map(|spike| (spike.start.as_millis(), spike.end.as_millis())).collect()
    }

    /// A spike is found with its start and end, in noise of ticks; a second one like it is usual already.
    #[test]
    fn one_spike() {
        let noise = |index: u32| f64::from(index % 3) * 10.0;
        let spike = (30..40).chain(80..90);
        let percents = |index: u32| if spike.clone().any(|at| at == index) { 100.0 } else { noise(index) };
        assert_eq!(found((0..100).map(percents)), [(3000, 4000)]);
        // To the end of the recording.
        assert_eq!(found((0..50).map(|index| if index < 40 { noise(index) } else { 200.0 })), [(4000, 5000)]);
    }

    /// Noise, a steady load, one that comes and goes, a single point, and the time in which nothing is known yet are none.
    #[test]
    fn no_spike() {
        assert_eq!(found((0..300).map(|index| f64::from(index * 7 % 5) * 10.0)), []);
        assert_eq!(found((0..300).map(|_| 100.0)), []);
        assert_eq!(found((0..300).map(|index| if index % 10 < 7 { 100.0 } else { 0.0 })), []);
        assert_eq!(found((0..300).map(|index| if index == 100 { 100.0 } else { 0.0 })), []);
        assert_eq!(found((0..15).map(|index| if index < 10 { 0.0 } else { 100.0 })), []);
        assert_eq!(found([]), []);
    }
}
