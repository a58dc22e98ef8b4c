//! Groups of which too little is known to say what is usual, and which do what they have not been seen to do: a program that takes
//! a CPU for its first time, new threads that fight for a lock.
//!
//! They are judged together, by how much more they do than they ever did: where new programs come all the time, that is usual, too.

use std::collections::HashMap;
use std::time::SystemTime;

use super::engine::{Observation, Reading};
use super::signal::Signal;
use super::track::{BEYOND, Outcome, Track};

/// The signals that they are judged by; the others mean nothing without something to compare with.
const SIGNALS: [Signal; 2] = [Signal::Cpu, Signal::OffCpu];

/// Groups that are remembered. Where there are more, names are made up as programs start: all are forgotten.
const MAX_KNOWN: usize = 10_000;

/// Windows that are not looked at: to a server that has just started everything is new.
const FIRST: u32 = 6;

/// The most that a group has been seen to do. A window counts two windows later: what begins in it may be noticed in those.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    most: f64,
    recent: [f64; 2],
}

impl Known {
    fn add(&mut self, value: f64) {
        let [older, newer] = self.recent;
        *self = Self { most: self.most.max(older), recent: [newer, value] };
    }
}

/// All that have been seen, and what those come to that are new.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    known: HashMap<String, [Known; SIGNALS.len()]>,
    tracks: [Track; SIGNALS.len()],
    windows: u32,
}

/// A group that does what it has not been seen to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) group: &'a str,
    pub(super) reading: Reading,
    /// Windows since that began, this one too.
    pub(super) windows: u32,
}

impl Newcomers {
    /// Takes a window's values; `is_new` tells of each whether too little is known of it.
    pub(super) fn window<'a>(
        &mut self,
        observations: &[Observation<'a>],
        is_new: &[bool],
        end: SystemTime,
    ) -> Vec<Arrival<'a>> {
        self.windows = self.windows.saturating_add(1);
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        let mut arrivals = Vec::new();
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            let mut sum = 0.0;
            // By how much: who, what it came to, the most that it came to before.
            let mut first: Option<(f64, &'a str, f64, f64)> = None;
            for (observation, &is_new) in observations.iter().zip(is_new) {
                let &Observation { group, signal: of, value, seasonal } = observation;
                if of != signal {
                    continue;
                }
                if !self.known.contains_key(group) {
                    self.known.insert(group.to_owned(), Default::default());
                }
                let Some(known) = self.known.get_mut(group).map(|known| &mut known[index]) else { continue };
                let most = known.most.max(seasonal.unwrap_or(0.0));
                let more = (value - BEYOND * most).max(0.0);
                known.add(value);
                if is_new {
                    sum += more;
                    first = first.filter(|(of_first, ..)| *of_first >= more).or(Some((more, group, value, most)));
                }
            }
            if self.windows <= FIRST {
                continue;
            }
            let track = &mut self.tracks[index];
            let all = Observation { group: "", signal, value: sum, seasonal: None };
            if let Outcome::Begins(reading) = track.step(&all, signal.scale_of_newcomers(), end)
                && let Some((_, group, value, usual)) = first
            {
                track.report(end, reading.value - reading.usual);
                let windows = track.deviant_windows();
                arrivals.push(Arrival { group, reading: Reading { value, usual, ..reading }, windows });
            }
            // From here on the group itself is not as usual, and what others do is judged again.
            track.rearm();
        }
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names without end do not take memory without end.
    #[test]
    fn memory_is_bounded() {
        let mut newcomers = Newcomers::default();
        for number in 0..3 * MAX_KNOWN {
            let group = format!("g{number}");
            let one = Observation { group: &group, signal: Signal::Cpu, value: 0.5, seasonal: None };
            newcomers.window(&[one], &[true], SystemTime::UNIX_EPOCH);
        }
        assert!(newcomers.known.len() <= MAX_KNOWN + 1, "{}", newcomers.known.len());
    }
}
