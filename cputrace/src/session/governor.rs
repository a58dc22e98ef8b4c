//! Decides how much is sampled, so that cputrace costs no more than it may. Pure: what it costs is measured elsewhere
//! ([`super::cost`]), and what is decided is done elsewhere.
//!
//! What is not spent of the limit is saved up, as much of it as [`SAVED_SPANS`] may cost; a span is as long as a window. Many
//! costs come once, such as the tables of a new program, and are over when it is known that they were dear: to sample less then
//! would gain nothing. Only when what was saved is spent, and the last span was too dear, half as much is sampled. The next level
//! has a span's cost to show what it is worth. If it has cost clearly less for long enough, twice as much is sampled again; where
//! that turns out to be too much, the next try waits twice as long.
//!
//! The first spans count for nothing: all of the host's programs are new then, and what is made for them is made once.

use std::collections::VecDeque;
use std::time::Duration;

/// The part of the limit below which more may be sampled. Twice as much may cost up to twice as much, but most of what it
/// costs at such a rate does not depend on it.
const CALM: f64 = 0.7;

/// A span is no shorter: one look at a busy machine is no measure.
const MIN_SPAN: Duration = Duration::from_secs(5);

/// Spans that a try to sample more waits at most.
const MAX_PATIENCE: u32 = 32;

/// Spans whose cost can be saved up.
const SAVED_SPANS: u32 = 3;

/// Spans of the start: in the first all programs are met, in the second their functions are named.
const START_SPANS: u32 = 2;

/// What the governor wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Half as much as before.
    Lower,
    /// Twice as much as before.
    Raise,
    /// Less, but there is nothing left to lower. Wanted once, until something was raised.
    Exhausted,
}

/// What one look said.
#[derive(Clone, Copy, Debug)]
struct Look {
    elapsed: Duration,
    share: f64,
}

/// The decisions of one session.
#[derive(Debug)]
pub struct Governor {
    limit: f64,
    span: Duration,
    level: u32,
    max_level: u32,
    /// How much of the start is left.
    start: Duration,
    /// What is saved of the limit: seconds of the host's CPU time.
    saved: f64,
    /// Since the last decision, and of no more than a span.
    looks: VecDeque<Look>,
    /// What they cost as a share of a span.
    mean: f64,
    /// How long it has cost clearly less.
    calm: Duration,
    /// How many spans that has to last.
    patience: u32,
    /// Time since more was sampled, if that was the last decision.
    raised: Option<Duration>,
    is_exhausted: bool,
}

impl Governor {
    /// With `limit` as a share of the host's CPU time, and up to `max_level` halvings.
    pub fn new(limit: f64, window: Duration, max_level: u32) -> Self {
        let span = window.max(MIN_SPAN);
        Self {
            limit,
            span,
            level: 0,
            max_level,
            start: START_SPANS * span,
            saved: f64::INFINITY,
            looks: VecDeque::new(),
            mean: 0.0,
            calm: Duration::ZERO,
            patience: 1,
            raised: None,
            is_exhausted: false,
        }
    }

    /// The share that nothing may cost more than.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Nothing may cost more than this share from now on.
    pub fn set_limit(&mut self, limit: f64) {
        if limit != self.limit {
            (self.limit, self.is_exhausted) = (limit, false);
        }
    }

    /// What was looked at for the last decision, as a share of the host's CPU time in a span.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// How often what is sampled is halved.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Takes what the last `elapsed` cost, as a share of the host's CPU time.
    pub fn look(&mut self, elapsed: Duration, share: f64) -> Option<Decision> {
        if !self.start.is_zero() {
            self.start = self.start.saturating_sub(elapsed);
            return None;
        }
        self.looks.push_back(Look { elapsed, share });
        let mut covered: Duration = self.looks.iter().map(|look| look.elapsed).sum();
        while let Some(oldest) = self.looks.front().map(|look| look.elapsed)
            && covered - oldest >= self.span
        {
            covered -= oldest;
            self.looks.pop_front();
        }
        let spent: f64 = self.looks.iter().map(|look| look.share * look.elapsed.as_secs_f64()).sum();
        let mean = spent / covered.max(self.span).as_secs_f64();
        self.mean = mean;
        let saved = self.saved + (self.limit - share) * elapsed.as_secs_f64();
        self.saved = saved.min(self.cost_of(SAVED_SPANS));
        self.raised = self.raised.map(|since| since + elapsed);
        let trial = 2 * self.span * self.patience;
        if self.raised.is_some_and(|since| since > trial) && self.saved >= self.cost_of(1) {
            // It went well: no more was spent than saved.
            (self.raised, self.patience) = (None, 1);
        }
        if self.saved < 0.0 && mean > self.limit {
            return self.lower();
        }
        let is_calm = covered >= self.span && mean < CALM * self.limit;
        self.calm = if is_calm { self.calm + elapsed } else { Duration::ZERO };
        // The first look that covers a span has seen all of it.
        (self.level > 0 && self.calm + self.span > self.span * self.patience && is_calm).then(|| self.raise())
    }

    /// What so many spans may cost: seconds of the host's CPU time.
    fn cost_of(&self, spans: u32) -> f64 {
        self.limit * (self.span * spans).as_secs_f64()
    }

    fn lower(&mut self) -> Option<Decision> {
        self.calm = Duration::ZERO;
        self.saved = self.cost_of(1);
        if self.level == self.max_level {
            let is_news = !std::mem::replace(&mut self.is_exhausted, true);
            return is_news.then_some(Decision::Exhausted);
        }
        if self.raised.take().is_some() {
            self.patience = (self.patience * 2).min(MAX_PATIENCE);
        }
        self.level += 1;
        self.looks.clear();
        Some(Decision::Lower)
    }

    fn raise(&mut self) -> Decision {
        self.level -= 1;
        self.raised = Some(Duration::ZERO);
        self.is_exhausted = false;
        self.calm = Duration::ZERO;
        self.saved = self.cost_of(1);
        self.looks.clear();
        Decision::Raise
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(10);

    /// Seconds after the start at which something was decided, of a load whose cost is told by second and level.
    fn decisions(seconds: u32, cost: impl Fn(u32, u32) -> f64) -> (Governor, Vec<(u32, Decision)>) {
        let mut governor = Governor::new(0.01, WINDOW, 4);
        // Whatever the start costs.
        for _ in 0..20 {
            assert_eq!(governor.look(SECOND, 0.5), None);
        }
        let decided = (0..seconds).filter_map(|second| {
            let share = cost(second, governor.level());
            Some((second, governor.look(SECOND, share)?))
        });
        let decided = decided.collect();
        (governor, decided)
    }

    /// What a window's end costs, several times the limit for a second, is no reason, nor is a window that costs three times the
    /// limit once; a load that costs much all the time is one within seconds, and a load slightly over the limit in minutes.
    #[test]
    fn saves_for_what_comes_once() {
        let (_, decided) = decisions(600, |second, _| if second % 10 == 9 { 0.06 } else { 0.003 });
        assert_eq!(decided, []);
        let (_, decided) = decisions(600, |second, _| if second % 120 < 10 { 0.03 } else { 0.006 });
        assert_eq!(decided, []);
        let (_, decided) = decisions(5, |_, _| 0.1);
        assert_eq!(decided[0], (4, Decision::Lower));
        let (_, decided) = decisions(400, |_, level| if level == 0 { 0.011 } else { 0.008 });
        assert_eq!(decided, [(300, Decision::Lower)]);
    }

    /// Whatever comes, on average no more than the limit is spent, as long as there is something to lower: what was saved, and a
    /// span's cost at each step.
    #[test]
    fn keeps_to_the_limit() {
        let spent = std::cell::Cell::new(0.0);
        let (_, decided) = decisions(3600, |second, level| {
            let share = if second % 300 < 200 { 0.03 } else { 0.002 } / f64::from(1 << level);
            spent.set(spent.get() + share);
            share
        });
        let steps = decided.iter().filter(|(_, decision)| *decision == Decision::Lower).count() as f64;
        assert!(spent.get() < 36.0 + 0.3 + 0.1 * steps, "{} s in {decided:?}", spent.get());
    }

    /// A load makes it step down until it fits, and when the load is over it comes up again, all the way.
    #[test]
    fn down_and_up_again() {
        let (governor, decided) =
            decisions(
                200,
                |second, level| if (20..60).contains(&second) { 0.036 / f64::from(1 << level) } else { 0.002 },
            );
        let lower: Vec<_> = decided.iter().filter(|(_, decision)| *decision == Decision::Lower).collect();
        assert_eq!(lower.len(), 2, "{decided:?}");
        assert!(lower.iter().all(|(second, _)| (20..60).contains(second)), "{decided:?}");
        assert_eq!(governor.level(), 0, "{decided:?}");
    }

    /// What cannot be lowered is said once.
    #[test]
    fn a_floor_is_said() {
        let (governor, decided) = decisions(1000, |_, _| 0.02);
        assert_eq!(governor.level(), 4);
        let said = decided.iter().filter(|(_, decision)| *decision == Decision::Exhausted).count();
        assert_eq!((said, decided.len()), (1, 5), "{decided:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is fixed and whatever depends on the rate: a steady load that stays below the limit changes nothing; none
        /// makes it flap; and where a level fits it is found and kept.
        #[test]
        fn steady_loads(fixed in 0.0..0.02_f64, per_level in 0.0..0.1_f64, noise in 0.0..0.2_f64) {
            let at = |level: u32| fixed + per_level / f64::from(1 << level);
            let hours = 2;
            let (governor, decided) = decisions(hours * 3600, |second, level| {
                at(level) * if second % 2 == 0 { 1.0 + noise } else { 1.0 - noise }
            });
            if at(0) * (1.0 + noise) < 0.01 {
                prop_assert!(decided.is_empty(), "{decided:?}");
            }
            // Tries: one each time that patience doubles, and then one in 32 spans; each is a step up and one down.
            let most = 2 * (6 + hours * 3600 / 320) + 8;
            prop_assert!(decided.len() < most as usize, "{} decisions: {decided:?}", decided.len());
            if at(4) * (1.0 + noise) < 0.01 {
                let level = governor.level();
                // Where it is or, in a try, one below.
                prop_assert!(at(level) < 0.0101 || at(level + 1) < 0.0101, "level {level} costs {}", at(level));
            } else if at(4) * (1.0 - noise) > 0.01 {
                prop_assert_eq!(governor.level(), 4);
            }
        }

        /// After any load whatsoever, peace brings it back to all of the rate.
        #[test]
        fn peace_brings_it_back(loads in prop::collection::vec(0.0..0.2_f64, 1..300)) {
            let length = loads.len() as u32;
            let (governor, _) = decisions(length + 4 * 700, |second, _| {
                loads.get(second as usize).copied().unwrap_or(0.001)
            });
            prop_assert_eq!(governor.level(), 0);
        }
    }
}
