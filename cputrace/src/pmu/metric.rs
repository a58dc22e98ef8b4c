//! The metrics: formulas over events, in sets that users ask for. The table is `metrics.txt` beside this file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use super::cpu::Generation;
use super::event::{Catalog, is_of_host, lines};
use super::formula::Formula;

/// One line of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The set it belongs to.
    pub set: &'static str,
    /// The generations that have it; `None`: every Linux.
    pub generations: Option<RangeInclusive<u32>>,
    /// Its unit.
    pub unit: String,
    /// The formula, as it is written.
    pub text: &'static str,
    formula: Formula,
}

/// What is known beside the counts when a metric is computed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Context {
    /// Whose CPU it is.
    pub generation: Option<Generation>,
    /// Wall-clock time.
    pub seconds: f64,
    /// Time that the counters were enabled, added up.
    pub cpu_seconds: f64,
}

/// Names in formulas that are no events.
const CONTEXT: [&str; 3] = ["seconds", "cpu-seconds", "slots"];

impl Metric {
    /// The events that it needs.
    pub fn events(&self) -> Vec<&'static str> {
        self.formula.names().into_iter().filter(|name| !CONTEXT.contains(name)).collect()
    }

    /// Whether it is by the time of tasks on the CPU, which is not known where everything on a CPU is counted, idle time too.
    pub fn is_by_cpu_time(&self) -> bool {
        self.formula.names().contains(&"cpu-seconds")
    }

    /// Its value; `None`: no data.
    pub fn value(&self, counts: &BTreeMap<String, f64>, context: Context) -> Option<f64> {
        self.formula.value(&|name| match name {
            "seconds" => Some(context.seconds),
            "cpu-seconds" => Some(context.cpu_seconds),
            "slots" => context.generation.and_then(Generation::slots),
            _ => counts.get(name).copied(),
        })
    }

    /// Whether a generation has it.
    pub fn is_on(&self, generation: Option<Generation>) -> bool {
        let Some(generations) = &self.generations else { return true };
        generation.is_some_and(|generation| generations.contains(&generation.number()))
    }

    /// Whether it is of the host as a whole, and never of one task.
    pub fn is_of_host(&self, catalog: &Catalog) -> bool {
        self.events().iter().any(|name| catalog.find(name).is_some_and(|event| is_of_host(event.pmu)))
    }
}

/// All metrics, in the order in which they are shown.
pub static METRICS: LazyLock<Vec<Metric>> =
    LazyLock::new(|| lines(include_str!("metrics.txt")).filter_map(metric).collect());

/// The sets, in the order in which they are shown.
pub fn sets() -> Vec<&'static str> {
    let mut sets = Vec::new();
    for metric in METRICS.iter() {
        if !sets.contains(&metric.set) {
            sets.push(metric.set);
        }
    }
    sets
}

fn metric(line: &'static str) -> Option<Metric> {
    let (name, rest) = line.split_once(' ')?;
    let (set, rest) = rest.trim_start().split_once(' ')?;
    let (generations, rest) = rest.trim_start().split_once(' ')?;
    // Units and formulas have blanks, but never two.
    let (unit, text) = rest.trim_start().split_once("  ")?;
    let generations = match generations {
        "any" => None,
        range => {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse().ok()?..=last.parse().ok()?)
        }
    };
    let text = text.trim_start();
    Some(Metric { name, set, generations, unit: unit.to_owned(), text, formula: Formula::parse(text)? })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// Every line is a metric; its events are there on all its generations, of one PMU; a name is there once a
    /// generation.
    #[test]
    fn table_is_whole() {
        assert_eq!(METRICS.len(), lines(include_str!("metrics.txt")).count());
        for generation in Generation::ALL {
            let catalog = Catalog::of(Some(*generation));
            for metric in METRICS.iter().filter(|metric| metric.is_on(Some(*generation))) {
                let name = metric.name;
                let events: Vec<_> = metric.events().iter().map(|event| catalog.find(event)).collect();
                assert!(events.iter().all(Option::is_some), "{generation}: {name} needs {:?}", metric.events());
                let pmu = events[0].unwrap().pmu;
                assert!(events.iter().all(|event| event.unwrap().pmu == pmu), "{name} mixes PMUs");
                let same = METRICS.iter().filter(|other| other.name == name && other.is_on(Some(*generation)));
                assert_eq!(same.count(), 1, "{generation}: {name}");
            }
        }
    }

    /// Top-down of one scripted reading a generation, against numbers worked out by hand.
    #[test]
    fn top_down_by_hand() {
        let counts = |rows: &[(&str, f64)]| rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        // 1,000 cycles. Zen 4 has 6,000 slots: 1,200 lost to the front end, 600 of them in 100 cycles without any op;
        // 1,800 to the back end; 300 to the other thread; 2,700 ops dispatched, 2,400 retired, 240 from microcode;
        // 15 mispredictions and 5 restarts; the oldest op not done in 400 cycles, of these 300 a load.
        let script: BTreeMap<String, f64> = counts(&[
            ("cycles", 1000.0),
            ("slots-frontend", 1200.0),
            ("cycles-frontend-empty", 100.0),
            ("slots-backend", 1800.0),
            ("slots-smt", 300.0),
            ("ops-dispatched", 2700.0),
            ("ops-retired", 2400.0),
            ("microcode-ops-retired", 240.0),
            ("branch-misses", 15.0),
            ("pipeline-restarts", 5.0),
            ("no-retire-waiting", 400.0),
            ("no-retire-load", 300.0),
        ]);
        let zen4 = [20.0, 10.0, 10.0, 5.0, 3.75, 1.25, 30.0, 22.5, 7.5, 5.0, 40.0, 36.0, 4.0];
        // 8,000 slots of the same counts; 100 empty cycles now cost 800 slots.
        let zen5 = [15.0, 10.0, 5.0, 3.75, 2.8125, 0.9375, 22.5, 16.875, 5.625, 3.75, 30.0, 27.0, 3.0];
        for (generation, expected) in [(Generation::Zen4, zen4), (Generation::Zen5, zen5), (Generation::Zen6, zen5)] {
            let context = Context { generation: Some(generation), seconds: 1.0, cpu_seconds: 1.0 };
            let metrics = METRICS.iter().filter(|metric| metric.set == "topdown" && metric.is_on(Some(generation)));
            let values: Vec<_> = metrics.map(|metric| metric.value(&script, context).unwrap()).collect();
            assert_eq!(values.len(), expected.len());
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-9, "{generation}: {values:?}");
            }
        }
        // Older generations do not count slots, and nothing is made up for them.
        assert!(METRICS.iter().all(|metric| metric.set != "topdown" || !metric.is_on(Some(Generation::Zen3))));
    }

    /// No clock, no cycles, no data.
    #[test]
    fn zero_is_no_data() {
        let ipc = METRICS.iter().find(|metric| metric.name == "ipc").unwrap();
        let context = Context { generation: Some(Generation::Zen3), seconds: 1.0, cpu_seconds: 1.0 };
        let counts = [("instructions".to_owned(), 0.0), ("cycles".to_owned(), 0.0)];
        assert_eq!(ipc.value(&counts.into_iter().collect(), context), None);
        assert_eq!(ipc.value(&BTreeMap::new(), context), None);
    }
}
