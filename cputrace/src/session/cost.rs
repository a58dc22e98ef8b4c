//! What the session costs, second by second, and what becomes of that: the [`Governor`] decides, here it is measured and done.

use std::time::{Duration, Instant, SystemTime};

use super::Options;
use super::governor::{Decision, Governor};
use super::run::Session;
use crate::model::Tier;
use crate::process::host;
use crate::process::own::{self, monotonic_ns};
use crate::tier::Sampler;

/// What an interrupt of the sampling clock takes beside the eBPF program that it runs: an estimate, for nobody counts it.
const INTERRUPT_NS: u64 = 3_000;

/// CPU time that cputrace took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Its own process, all threads.
    pub own: Duration,
    /// Its eBPF programs, by their own account.
    pub bpf: Duration,
    /// The samples' interrupts, estimated.
    pub interrupts_estimated: Duration,
}

impl Cost {
    fn so_far(sampler: &mut dyn Sampler) -> Self {
        let ticks = sampler.ticks().map_or(0, |ticks| ticks.seen);
        Self {
            own: own::cpu_time(),
            bpf: sampler.bpf_costs().into_iter().flatten().map(|program| program.run_time).sum(),
            interrupts_estimated: Duration::from_nanos(INTERRUPT_NS.saturating_mul(ticks)),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            bpf: self.bpf.saturating_sub(before.bpf),
            interrupts_estimated: self.interrupts_estimated.saturating_sub(before.interrupts_estimated),
        }
    }

    /// All of it.
    pub fn total(self) -> Duration {
        self.own + self.bpf + self.interrupts_estimated
    }
}

/// What one look at the cost said.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When.
    pub at: SystemTime,
    /// What was taken since the last look.
    pub cost: Cost,
    /// That as a share of the host's CPU time.
    pub share: f64,
    /// The same of the last window's length of time: without it being too much nothing is lowered.
    pub window_share: f64,
    /// What may be taken; `None` where nothing is held back.
    pub limit: Option<f64>,
    /// Samples a second and CPU from now on.
    pub frequency_hz: f64,
    /// What was decided.
    pub decision: Option<Decision>,
}

/// Looks at the cost, and changes what is sampled.
pub(super) struct Watchman {
    governor: Option<Governor>,
    cpus: f64,
    at: Instant,
    before: Cost,
}

impl Watchman {
    pub(super) fn new(options: &Options, window: Duration, sampler: &mut dyn Sampler) -> Self {
        // Only there can the rate be changed.
        let is_governed = sampler.tier() == Tier::Ebpf;
        let max_level = options.frequency.max(1).ilog2();
        let governor = is_governed.then(|| Governor::new(limit(options.max_overhead), window, max_level));
        Self { governor, cpus: f64::from(host::online_cpus()), at: Instant::now(), before: Cost::so_far(sampler) }
    }

    /// What may be taken from now on; `None`: nothing is held back.
    pub(super) fn set_limit(&mut self, max_overhead: Option<f64>) {
        self.governor.iter_mut().for_each(|governor| governor.set_limit(limit(max_overhead)));
    }

    fn look(&mut self, sampler: &mut dyn Sampler) -> (Look, u32) {
        let now = Instant::now();
        let so_far = Cost::so_far(sampler);
        let (elapsed, cost) = (now.saturating_duration_since(self.at), so_far.since(self.before));
        (self.at, self.before) = (now, so_far);
        let share = cost.total().as_secs_f64() / (elapsed.as_secs_f64() * self.cpus).max(1e-6);
        let decision = self.governor.as_mut().and_then(|governor| governor.look(elapsed, share));
        let limit = self.governor.as_ref().map(Governor::limit).filter(|limit| limit.is_finite());
        let window_share = self.governor.as_ref().map_or(share, Governor::mean);
        let look = Look { at: SystemTime::now(), cost, share, window_share, limit, frequency_hz: 0.0, decision };
        (look, self.governor.as_ref().map_or(0, Governor::level))
    }
}

fn limit(max_overhead: Option<f64>) -> f64 {
    max_overhead.unwrap_or(f64::INFINITY)
}

/// The sampling frequency over a window.
pub(super) struct Rate {
    hz: f64,
    since: Instant,
    /// Ticks a CPU up to then, since the window's start.
    ticks: f64,
    window_start: Instant,
}

impl Rate {
    pub(super) fn new(hz: f64) -> Self {
        let now = Instant::now();
        Self { hz, since: now, ticks: 0.0, window_start: now }
    }

    fn change(&mut self, hz: f64) {
        let now = Instant::now();
        self.ticks += self.hz * now.saturating_duration_since(self.since).as_secs_f64();
        (self.hz, self.since) = (hz, now);
    }

    /// The mean since the window's start; the next one begins.
    pub(super) fn close_window(&mut self) -> f64 {
        let is_steady = self.ticks == 0.0;
        self.change(self.hz);
        let seconds = self.since.saturating_duration_since(self.window_start).as_secs_f64();
        let mean = if is_steady || seconds <= 0.0 { self.hz } else { self.ticks / seconds };
        (self.ticks, self.window_start) = (0.0, self.since);
        mean
    }
}

impl Session<'_> {
    /// Looks at what was taken since the last time; more or less is sampled then.
    pub(super) fn look_at_cost(&mut self, watchman: &mut Watchman) -> Look {
        let (mut look, halvings) = watchman.look(&mut *self.sampler);
        if matches!(look.decision, Some(Decision::Lower | Decision::Raise)) {
            match self.sampler.halve(halvings) {
                Ok(period) => {
                    // What came up to here stands for the old period.
                    self.drain(monotonic_ns());
                    self.aggregator.set_period(period);
                    self.period = Some(period);
                    self.rate.change(1.0 / period.as_secs_f64().max(1e-9));
                }
                Err(error) => self.window_notes.push(format!("the sampling frequency could not be changed: {error}")),
            }
        }
        look.frequency_hz = self.rate.hz;
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window's frequency is the mean of those that held in it, each for its time.
    #[test]
    fn frequencies_are_weighted() {
        let start = Instant::now();
        let mut rate = Rate { hz: 5.0, since: start, ticks: 19.0 * 3.0, window_start: start };
        // Three seconds at 19, then one at 5, which has just begun to count.
        rate.window_start = start.checked_sub(Duration::from_secs(4)).unwrap_or(start);
        rate.since = start.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        let mean = rate.close_window();
        assert!((mean - 15.5).abs() < 0.5, "{mean}");
        rate.window_start = rate.since.checked_sub(Duration::from_secs(1)).unwrap_or(start);
        rate.since = rate.window_start;
        assert!((rate.close_window() - 5.0).abs() < 0.1);
    }
}
