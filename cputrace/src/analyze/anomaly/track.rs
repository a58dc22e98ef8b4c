//! One signal of one group: what is usual, whether a value is not, and for how long that has been so.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::baseline::{Baseline, Usual};
use super::engine::{Observation, Reading};
use super::signal::Scale;

/// Robust deviations that are an alarm.
const ALARM: f64 = 6.0;

/// Below these it is none any more.
const CALM: f64 = 3.0;

/// Standard deviations that an alarm has to be, too.
const Z_SCORE: f64 = 3.0;

/// An alarm is so many times as far from what is usual as anything in the last half hour.
pub(super) const BEYOND: f64 = 2.0;

/// Calm windows after which it is over.
pub(super) const CALM_WINDOWS: u32 = 2;

/// Windows after which what has not ended is usual.
const MOST_WINDOWS: u32 = 90;

/// Reports in [`REPORTS_OF`] after which what is as large is usual.
const REPORTS: usize = 2;
const REPORTS_OF: Duration = Duration::from_hours(24);

/// As large: at least this part.
const AS_LARGE: f64 = 0.8;

/// What a value means.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Outcome {
    /// Nothing to be said of.
    Usual,
    /// It begins to be unusual.
    Begins(Reading),
    /// That goes on.
    GoesOn(Reading),
    /// It has gone on for so long that it is usual from now on.
    BecameUsual,
}

/// One signal of one group.
#[derive(Debug, Default)]
pub(super) struct Track {
    baseline: Baseline,
    /// Its last score.
    pub(super) score: Option<f64>,
    /// Windows since it was observed.
    pub(super) absent: u32,
    /// The last windows' values, if those are alarming but too few.
    pending: Vec<f64>,
    /// Values that are not in the baseline yet.
    late: VecDeque<f64>,
    deviant: Option<Deviant>,
    /// When it was reported, and how far from usual it was.
    reports: Vec<(SystemTime, f64)>,
}

/// A signal that is not as usual now.
#[derive(Clone, Copy, Debug)]
struct Deviant {
    /// Since it began to be, with those before it was reported.
    windows: u32,
    calm: u32,
}

impl Track {
    /// Whether it is not as usual now.
    pub(super) fn is_deviant(&self) -> bool {
        self.deviant.is_some()
    }

    /// Windows since that began, this one too.
    pub(super) fn deviant_windows(&self) -> u32 {
        self.deviant.map_or(0, |deviant| deviant.windows)
    }

    /// Whether too little is known to judge it.
    pub(super) fn is_new(&self) -> bool {
        self.deviant.is_none() && !self.baseline.is_enough()
    }

    /// It was not observed; that says nothing of what is usual.
    pub(super) fn not_observed(&mut self) {
        self.settle();
        self.score = None;
        self.deviant = None;
    }

    /// It is not as usual since so many windows: somebody else noticed that, and has the last values of them.
    pub(super) fn deviates(&mut self, windows: u32) {
        self.baseline.take_back(windows as usize);
        self.deviant = Some(Deviant { windows, calm: 0 });
    }

    /// Remembers a report.
    pub(super) fn report(&mut self, at: SystemTime, excess: f64) {
        self.reports.retain(|(reported, _)| at.duration_since(*reported).is_ok_and(|since| since < REPORTS_OF));
        self.reports.push((at, excess));
    }

    /// Takes a window's value.
    pub(super) fn step(&mut self, observation: &Observation<'_>, scale: Scale, end: SystemTime) -> Outcome {
        let &Observation { group: _, signal, value, seasonal } = observation;
        let compared = scale.compared(value);
        // What is not as usual although too little is known to say what that is was noticed by its first values.
        let usual = self.baseline.usual().or_else(|| self.deviant.map(|_| self.baseline.so_far()));
        let Some(mut usual) = usual else {
            self.score = None;
            self.add(compared, scale);
            return Outcome::Usual;
        };
        if let Some(seasonal) = seasonal.map(|seasonal| scale.compared(seasonal)) {
            usual.median = usual.median.max(seasonal);
            usual.mean = usual.mean.max(seasonal);
        }
        let score = robust_score(compared, &usual, scale);
        self.score = Some(score);
        let reading = Reading { signal, value, usual: scale.value(usual.median), score };
        if let Some(deviant) = &mut self.deviant {
            deviant.windows += 1;
            deviant.calm = if score < CALM { deviant.calm + 1 } else { 0 };
            if deviant.calm >= CALM_WINDOWS {
                self.deviant = None;
                self.baseline.add(compared);
                return Outcome::Usual;
            }
            if deviant.windows >= MOST_WINDOWS {
                self.deviant = None;
                self.baseline.clear();
                self.baseline.add(compared);
                return Outcome::BecameUsual;
            }
            return Outcome::GoesOn(reading);
        }
        if !is_alarm(compared, score, value, &usual, scale) || self.is_known(compared - usual.median, end) {
            self.settle();
            self.add(compared, scale);
            return Outcome::Usual;
        }
        self.pending.push(compared);
        if self.pending.len() < scale.windows && score < scale.at_once {
            return Outcome::Usual;
        }
        let windows = self.pending.drain(..).count() as u32;
        self.late.clear();
        self.deviant = Some(Deviant { windows, calm: 0 });
        Outcome::Begins(reading)
    }

    /// What is not as usual is as usual again: the next value is judged.
    pub(super) fn rearm(&mut self) {
        self.deviant = None;
    }

    /// Adds a value to what is usual, when it can no longer be the beginning of something.
    fn add(&mut self, value: f64, scale: Scale) {
        self.late.push_back(value);
        while self.late.len() > scale.late {
            self.late.pop_front().into_iter().for_each(|value| self.baseline.add(value));
        }
    }

    /// Alarming windows that were too few for an alarm are what happens now and then.
    fn settle(&mut self) {
        for value in self.pending.drain(..) {
            self.baseline.add(value);
        }
    }

    /// Whether as much has been reported often enough.
    fn is_known(&self, excess: f64, now: SystemTime) -> bool {
        let recent = |(at, reported): &&(SystemTime, f64)| {
            now.duration_since(*at).is_ok_and(|since| since < REPORTS_OF) && *reported >= AS_LARGE * excess
        };
        self.reports.iter().filter(recent).count() >= REPORTS
    }
}

fn noise(usual: &Usual, scale: Scale) -> f64 {
    scale.floor.max(scale.part * scale.value(usual.median).abs())
}

fn robust_score(compared: f64, usual: &Usual, scale: Scale) -> f64 {
    (compared - usual.median) / usual.deviation.max(noise(usual, scale))
}

fn is_alarm(compared: f64, score: f64, value: f64, usual: &Usual, scale: Scale) -> bool {
    let z_score = (compared - usual.mean) / usual.standard.max(noise(usual, scale));
    let is_new = compared - usual.median > BEYOND * (usual.largest - usual.median);
    score >= ALARM && z_score >= Z_SCORE && is_new && value >= scale.least
}
