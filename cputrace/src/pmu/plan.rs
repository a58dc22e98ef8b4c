//! Which events are counted together: each metric's events in one group, no group larger than the counters there are.
//!
//! Groups of one PMU take turns on it, by the kernel's clock; a metric whose events are all in one group is computed from counts
//! of the same moments, so that it is right whatever share of the time its group had.

use super::event::{Catalog, Event};
use super::metric::Metric;
use super::reason::Reason;

/// Events that are counted together.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedGroup {
    /// Their PMU, as the tables call it.
    pub pmu: &'static str,
    /// The events.
    pub events: Vec<Event>,
    /// The metrics that are computed from them.
    pub metrics: Vec<Metric>,
}

impl PlannedGroup {
    /// Counters that it takes.
    pub fn weight(&self) -> u32 {
        self.events.iter().map(Event::weight).sum()
    }
}

/// What is counted, and what is not.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// The groups.
    pub groups: Vec<PlannedGroup>,
    /// The metrics that cannot be had, and why.
    pub refused: Vec<(Metric, Reason)>,
}

/// Puts metrics into groups. `budget` tells, for a PMU, how many counters it has, or why it has none; `too_large` makes the
/// reason for what needs more.
pub fn plan(
    metrics: &[Metric],
    catalog: &Catalog,
    budget: &dyn Fn(&'static str) -> Result<u32, Reason>,
    too_large: &dyn Fn(u32, u32) -> Reason,
) -> Plan {
    let mut plan = Plan::default();
    let weight = |metric: &&Metric| -> u32 {
        metric.events().iter().filter_map(|name| catalog.find(name)).map(Event::weight).sum()
    };
    // The large ones first: the small ones then find most of their events there.
    let mut metrics: Vec<_> = metrics.iter().collect();
    metrics.sort_by_key(|metric| std::cmp::Reverse(weight(metric)));
    for metric in metrics {
        let events: Vec<Event> = metric.events().iter().filter_map(|name| catalog.find(name).copied()).collect();
        let Some(pmu) = events.first().map(|event| event.pmu).filter(|_| events.len() == metric.events().len()) else {
            plan.refused
                .push((metric.clone(), Reason::Encoding(format!("an event of {} has no table row", metric.name))));
            continue;
        };
        let weight = events.iter().map(Event::weight).sum();
        match budget(pmu) {
            Err(reason) => plan.refused.push((metric.clone(), reason)),
            Ok(budget) if weight > budget => plan.refused.push((metric.clone(), too_large(weight, budget))),
            Ok(budget) => place(&mut plan.groups, metric, pmu, events, budget),
        }
    }
    plan
}

/// Into the group that lacks the fewest of its events, of those with room for them; else into a new one.
fn place(groups: &mut Vec<PlannedGroup>, metric: &Metric, pmu: &'static str, events: Vec<Event>, budget: u32) {
    let lacks = |group: &PlannedGroup| -> Vec<Event> {
        events.iter().filter(|event| !group.events.contains(event)).copied().collect()
    };
    let fits = |group: &PlannedGroup| {
        let lacks = lacks(group);
        let more: u32 = lacks.iter().map(Event::weight).sum();
        // Only what shares an event shares a group: else the two would do as well with a turn each.
        group.pmu == pmu && lacks.len() < events.len() && group.weight() + more <= budget
    };
    let best = (0..groups.len()).filter(|&index| fits(&groups[index])).min_by_key(|&index| lacks(&groups[index]).len());
    match best {
        Some(index) => {
            let group = &mut groups[index];
            let more = lacks(group);
            group.events.extend(more);
            group.metrics.push(metric.clone());
        }
        None => groups.push(PlannedGroup { pmu, events, metrics: vec![metric.clone()] }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pmu::cpu::Generation;
    use crate::pmu::metric::METRICS;

    fn plan_of(sets: &[&str], generation: Generation, counters: u32) -> Plan {
        let metrics: Vec<_> = METRICS
            .iter()
            .filter(|metric| sets.contains(&metric.set) && metric.is_on(Some(generation)))
            .cloned()
            .collect();
        let too_large = |weight, budget| Reason::TooLarge { weight, budget, watchdog: "" };
        plan(&metrics, &Catalog::of(Some(generation)), &|_| Ok(counters), &too_large)
    }

    /// Top-down with five counters: fewer groups than anyone's by hand, which have four.
    #[test]
    fn top_down_in_three_groups() {
        let plan = plan_of(&["topdown"], Generation::Zen4, 5);
        assert_eq!(plan.refused, []);
        let groups: Vec<Vec<_>> =
            plan.groups.iter().map(|group| group.events.iter().map(|event| event.name).collect()).collect();
        assert_eq!(
            groups,
            [
                &["ops-dispatched", "ops-retired", "cycles", "branch-misses", "pipeline-restarts"][..],
                &["slots-backend", "cycles", "no-retire-load", "no-retire-waiting", "slots-smt"],
                &["slots-frontend", "cycles-frontend-empty", "cycles", "ops-retired", "microcode-ops-retired"],
            ]
        );
    }

    /// FLOPs take two counters: with one left they go to a group of their own, with one in all they are refused.
    #[test]
    fn flops_take_two() {
        assert_eq!(plan_of(&["flops"], Generation::Zen3, 3).groups.len(), 1);
        assert_eq!(plan_of(&["flops"], Generation::Zen3, 1).refused.len(), 2);
    }

    proptest! {
        /// Whatever is asked for: no group over the budget, each metric's events in one group, none lost without a reason.
        #[test]
        fn plans_hold(
            chosen in proptest::collection::vec(any::<bool>(), METRICS.len()),
            generation in 0_usize..6,
            counters in 0_u32..8,
        ) {
            let generation = Generation::ALL[generation];
            let catalog = Catalog::of(Some(generation));
            let metrics: Vec<_> = METRICS
                .iter()
                .zip(chosen)
                .filter(|(metric, chosen)| *chosen && metric.is_on(Some(generation)))
                .map(|(metric, _)| metric.clone())
                .collect();
            let too_large = |weight, budget| Reason::TooLarge { weight, budget, watchdog: "" };
            let plan = plan(&metrics, &catalog, &|_| Ok(counters), &too_large);
            let placed: usize = plan.groups.iter().map(|group| group.metrics.len()).sum();
            prop_assert_eq!(placed + plan.refused.len(), metrics.len());
            for group in &plan.groups {
                prop_assert!(group.weight() <= counters);
                prop_assert!(group.events.iter().all(|event| event.pmu == group.pmu));
                for metric in &group.metrics {
                    for name in metric.events() {
                        prop_assert!(group.events.iter().any(|event| event.name == name));
                    }
                }
            }
            for (metric, _) in &plan.refused {
                let events = metric.events();
                let weight: u32 = events.iter().filter_map(|name| catalog.find(name)).map(Event::weight).sum();
                prop_assert!(weight > counters, "{} was refused for nothing", metric.name);
            }
        }
    }
}
