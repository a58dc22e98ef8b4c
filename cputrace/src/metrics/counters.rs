//! What hardware and kernel counters came to: of the host in the last window, of groups since the start.

use std::collections::BTreeMap;

use super::collect::Families;
use super::{GROUP_COUNTED, PMU_COVERAGE, PMU_METRIC, PMU_MISSING, Value};
use crate::group::{Groups, Labels};
use crate::model::{CounterSubject, Counters, Recording};

/// The last window's metrics, and sums by group.
#[derive(Clone, Debug, Default)]
pub struct CounterSums {
    host: Option<Counters>,
    /// By group and event.
    groups: BTreeMap<String, BTreeMap<String, u64>>,
}

impl CounterSums {
    /// Adds a window; `labels` are those of each process of its profile.
    pub fn add(&mut self, window: &Recording, labels: &[Labels]) {
        self.host.clone_from(&window.pmu);
        let Some(counters) = &window.stack_counters else { return };
        for (process, counts) in counters.by_process(&window.profile) {
            let Some(labels) = labels.get(process.index()) else { continue };
            let sums = self.groups.entry(labels.group.clone()).or_default();
            for (counter, count) in counters.counters.iter().zip(counts) {
                *sums.entry(counter.name.clone()).or_default() += count;
            }
        }
    }

    /// Forgets groups that are gone.
    pub fn retain(&mut self, groups: &Groups) {
        self.groups.retain(|name, _| groups.all().any(|(group, _)| group == name));
    }

    /// All series. What was not counted is in none but that of its reason.
    pub fn collect(&self, families: &mut Families) {
        let of_host = |subject: Option<&CounterSubject>| {
            matches!(subject, None | Some(CounterSubject::Targets | CounterSubject::Host))
        };
        let series: Vec<_> =
            self.host.iter().flat_map(Counters::series).filter(|series| of_host(series.subject)).collect();
        let counted = || series.iter().filter_map(|series| series.value.ok());
        let value = |value: &crate::model::MetricValue| {
            (vec![value.name.clone(), value.unit.clone()], Value::Number(value.value))
        };
        families.add(&PMU_METRIC, counted().map(value));
        families.by_label(&PMU_COVERAGE, counted().map(|value| (&*value.name, value.coverage)));
        let missing = series.iter().filter_map(|series| Some((series.metric, series.value.err()?)));
        let missing = missing.map(|(metric, reason)| (vec![metric.to_owned(), reason.to_owned()], Value::Number(1.0)));
        families.add(&PMU_MISSING, missing);
        let groups = self.groups.iter().flat_map(|(group, sums)| {
            sums.iter().map(|(event, sum)| (vec![group.clone(), event.clone()], Value::Number(*sum as f64)))
        });
        families.add(&GROUP_COUNTED, groups);
    }
}
