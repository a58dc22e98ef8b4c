//! What counters counted beside the samples: totals and metrics of processes, threads and the host, and what is missing.

/// Whose counts they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CounterSubject {
    /// All targets together.
    Targets,
    /// A process, with the children that it started since.
    Process {
        /// Its id.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A thread that was there when the counting began, with the threads and children that it started since.
    Thread {
        /// Its process.
        pid: u32,
        /// Its id.
        tid: u32,
        /// Its name.
        name: String,
    },
    /// Units that the whole host shares: they count for everybody, and no process has a part of its own.
    Host,
}

/// An event's total.
#[derive(Clone, PartialEq, Debug)]
pub struct Count {
    /// The event.
    pub event: String,
    /// Its unit.
    pub unit: String,
    /// How often, scaled up to all of the time.
    pub value: u64,
    /// Share of the time that was really counted, 0 to 1.
    pub coverage: f64,
}

/// A metric's value over the whole recording.
#[derive(Clone, PartialEq, Debug)]
pub struct MetricValue {
    /// The metric.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Its value.
    pub value: f64,
    /// Share of the time that was really counted, 0 to 1.
    pub coverage: f64,
}

/// What was counted of one subject.
#[derive(Clone, PartialEq, Debug)]
pub struct CounterScope {
    /// Whose.
    pub subject: CounterSubject,
    /// Totals by event.
    pub counts: Vec<Count>,
    /// What they mean.
    pub metrics: Vec<MetricValue>,
}

/// Metrics that were asked for and not counted: no data, which is not 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingMetrics {
    /// The reason's short name.
    pub code: String,
    /// One sentence with the fact and the fix.
    pub reason: String,
    /// Which metrics.
    pub metrics: Vec<String>,
}

/// A metric's value of one subject in a window, or why there is none: for those who export numbers one by one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CounterSeries<'a> {
    /// Whose; `None` of what is missing, which is everybody's.
    pub subject: Option<&'a CounterSubject>,
    /// The metric.
    pub metric: &'a str,
    /// The value, or the short name of the reason why there is none: that is not 0.
    pub value: Result<&'a MetricValue, &'a str>,
}

impl Counters {
    /// Each metric of each subject that was counted, then each that is missing.
    pub fn series(&self) -> impl Iterator<Item = CounterSeries<'_>> {
        let counted = self.scopes.iter().flat_map(|CounterScope { subject, metrics, .. }| {
            metrics.iter().map(move |value| CounterSeries {
                subject: Some(subject),
                metric: &value.name,
                value: Ok(value),
            })
        });
        let missing = self.missing.iter().flat_map(|missing| {
            missing.metrics.iter().map(|metric| CounterSeries { subject: None, metric, value: Err(&missing.code) })
        });
        counted.chain(missing)
    }
}

/// All of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Counters {
    /// Which CPU's events were used.
    pub cpu: String,
    /// The sets of metrics that were asked for.
    pub sets: Vec<String>,
    /// Whether only user mode could be counted.
    pub user_only: bool,
    /// What was counted, all targets first.
    pub scopes: Vec<CounterScope>,
    /// What was not.
    pub missing: Vec<MissingMetrics>,
    /// Readings that went backwards: their time is left out.
    pub backwards: u64,
    /// Groups that could not be opened or read, of threads that were gone already.
    pub lost_groups: u64,
}
