//! All values of a moment, from the sums that windows were added to.

use std::time::SystemTime;

use procfs::process::Process;

use super::own::OwnSums;
use super::*;
use crate::group::Groups;
use crate::model::OffCpuState;

/// Rows of the kernel's histogram that make a classic bucket of a group: a factor of four each.
const ROWS_A_BUCKET: usize = 2;

/// Collects families, each once, with all series of its metric.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

impl Families {
    /// Adds a metric with its series.
    pub fn add(&mut self, metric: &'static Metric, series: impl IntoIterator<Item = (Vec<String>, Value)>) {
        let series: Vec<_> = series.into_iter().collect();
        debug_assert!(series.iter().all(|(labels, _)| labels.len() == metric.labels.len()), "{}", metric.name);
        if !series.is_empty() {
            self.0.push(Family { metric, series });
        }
    }

    /// Adds a metric that has one series.
    pub fn number(&mut self, metric: &'static Metric, value: f64) {
        self.add(metric, [(vec![], Value::Number(value))]);
    }

    /// Adds a metric with one label.
    pub fn by_label<'a>(&mut self, metric: &'static Metric, series: impl IntoIterator<Item = (&'a str, f64)>) {
        self.add(metric, series.into_iter().map(|(label, value)| (vec![label.to_owned()], Value::Number(value))));
    }

    /// Adds a series of a metric to those that are there.
    pub fn push(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let series = (labels.iter().map(|label| (*label).to_owned()).collect(), Value::Number(value));
        match self.0.iter_mut().find(|family| family.metric == metric) {
            Some(family) => family.series.push(series),
            None => self.0.push(Family { metric, series: vec![series] }),
        }
    }

    /// All of them.
    pub fn finish(self) -> Vec<Family> {
        self.0
    }
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// What groups of processes came to.
pub fn groups(families: &mut Families, groups: &Groups) {
    let all: Vec<_> = groups.all().collect();
    let one = |value: f64, name: &str| (vec![name.to_owned()], Value::Number(value));
    macro_rules! single {
        ($metric:ident, $sums:ident => $value:expr) => {
            families.add(&$metric, all.iter().map(|(name, $sums)| one($value, name)))
        };
    }
    macro_rules! several {
        ($metric:ident, $sums:ident => $values:expr) => {
            families.add(
                &$metric,
                all.iter().flat_map(|(name, $sums)| {
                    $values
                        .into_iter()
                        .map(|(label, value): (&str, f64)| {
                            (vec![(*name).to_owned(), label.to_owned()], Value::Number(value))
                        })
                        .collect::<Vec<_>>()
                }),
            )
        };
    }
    single!(GROUP_PROCESSES, sums => sums.processes as f64);
    single!(GROUP_THREADS, sums => sums.threads as f64);
    let boot = procfs::boot_time_secs().unwrap_or_default() as f64;
    let start = |ticks: u64| boot + ticks as f64 / procfs::ticks_per_second() as f64;
    let oldest = all.iter().filter_map(|(name, sums)| Some(one(start(sums.oldest_start_ticks?), name)));
    families.add(&GROUP_OLDEST_START, oldest);
    several!(GROUP_CPU, sums => [("user", seconds(sums.on_cpu_ns - sums.system_ns)), ("system", seconds(sums.system_ns))]);
    single!(GROUP_RUN_QUEUE, sums => seconds(sums.run_queue_ns));
    let waits = |sums: u64, rows: &WaitHistogram, rows_a_bucket| Value::Waits {
        sum: seconds(sums),
        rows: Box::new(*rows),
        rows_a_bucket,
    };
    let latency = all
        .iter()
        .map(|(name, sums)| (vec![(*name).to_owned()], waits(sums.run_queue_ns, &sums.run_queue_waits, ROWS_A_BUCKET)));
    families.add(&GROUP_RUN_QUEUE_LATENCY, latency);
    several!(GROUP_OFF_CPU, sums => OffCpuState::ALL.iter().zip(sums.off_cpu_ns).map(|(state, ns)| (state.name(), seconds(ns))));
    several!(GROUP_SWITCHES, sums => [("voluntary", sums.switches_voluntary as f64), ("involuntary", sums.switches_involuntary as f64)]);
    single!(GROUP_MIGRATIONS, sums => sums.migrations as f64);
    several!(GROUP_FAULTS, sums => [("minor", sums.minor_faults as f64), ("major", sums.major_faults as f64)]);
    single!(GROUP_RESIDENT, sums => sums.resident_bytes as f64);
    single!(GROUP_VIRTUAL, sums => sums.virtual_bytes as f64);
    single!(GROUP_STARTS, sums => sums.starts as f64);
    single!(GROUP_EXITS, sums => sums.exits as f64);
    several!(GROUP_SAMPLES, sums => [("user", sums.samples_user as f64), ("kernel", sums.samples_kernel as f64)]);
    families.number(&GROUPS, all.len() as f64);
    families.number(&GROUPS_LIMIT, groups.max() as f64);
    families.number(&GROUPS_OVERFLOWED, groups.overflowed() as f64);
}

/// What cputrace says of itself.
pub fn own(families: &mut Families, own: &OwnSums) {
    let waits = Value::Waits { sum: seconds(own.run_queue_ns), rows: Box::new(own.run_queue_waits), rows_a_bucket: 1 };
    families.add(&RUN_QUEUE_LATENCY, [(vec![], waits)]);
    families.number(&RESIDUAL, seconds(own.residual_ns));
    let counts = |counts: &std::collections::BTreeMap<&'static str, u64>| -> Vec<(&'static str, f64)> {
        counts.iter().map(|(what, count)| (*what, *count as f64)).collect()
    };
    families.by_label(&SCHED_LOST, counts(&own.scheduler_lost));
    families.by_label(&SCHED_LIMITED, counts(&own.scheduler_limited));
    families.number(&WINDOWS, own.windows as f64);
    families.number(&SAMPLES_EXPECTED, own.samples_expected as f64);
    families.number(&SAMPLES, own.samples_kept as f64);
    families.by_label(&SAMPLES_LOST, own.samples_lost.iter().map(|(reason, count)| (reason.name(), *count as f64)));
    families.by_label(&STACKS, own.stacks.iter().map(|(end, count)| (end.name(), *count as f64)));
    families.number(&STACKS_GUESSED, own.stacks_guessed as f64);
    families.by_label(&WAIT_STACKS, own.wait_stacks.iter().map(|(end, count)| (end.name(), *count as f64)));
    families.by_label(&BPF_RUN, own.programs.iter().map(|(name, (time, _))| (name.as_str(), time.as_secs_f64())));
    families.by_label(&BPF_RUNS, own.programs.iter().map(|(name, (_, runs))| (name.as_str(), *runs as f64)));
    families.number(&BPF_MAPS, own.map_kb as f64 * 1024.0);
    families.by_label(&BPF_MAP_FILL, own.map_fill.iter().map(|(map, fill)| (*map, *fill)));
    let unwinding = &own.unwinding;
    families.number(&UNWIND_TABLES, unwinding.tables as f64);
    families.number(&UNWIND_BYTES, unwinding.table_kb as f64 * 1024.0);
    let builds = [("built", unwinding.builds), ("failed", unwinding.failed_builds)];
    families.by_label(&UNWIND_BUILDS, builds.map(|(result, count)| (result, count as f64)));
    let dropped = [("evicted", unwinding.evictions), ("no_room", unwinding.refused), ("put_off", unwinding.put_off)];
    families.by_label(&UNWIND_DROPPED, dropped.map(|(reason, count)| (reason, count as f64)));
    families.by_label(&SYMBOLS, [("named", own.symbols[0] as f64), ("unknown", own.symbols[1] as f64)]);
}

/// What `/proc` says of this process, by the names that all exporters use.
pub fn process(families: &mut Families) {
    let Ok(process) = Process::myself() else { return };
    let Ok(stat) = process.stat() else { return };
    let ticks = procfs::ticks_per_second() as f64;
    families.number(&PROCESS_CPU, (stat.utime + stat.stime) as f64 / ticks);
    families.number(&PROCESS_RESIDENT, (stat.rss * procfs::page_size()) as f64);
    families.number(&PROCESS_VIRTUAL, stat.vsize as f64);
    if let Ok(fds) = process.fd_count() {
        families.number(&PROCESS_FDS, fds as f64);
    }
    if let Ok(limits) = process.limits()
        && let procfs::process::LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        families.number(&PROCESS_MAX_FDS, max as f64);
    }
    families.number(&PROCESS_THREADS, stat.num_threads as f64);
    let boot = procfs::boot_time_secs().unwrap_or_default() as f64;
    families.number(&PROCESS_START, boot + stat.starttime as f64 / ticks);
    let kernel = crate::process::host::host().kernel;
    let labels = vec![env!("CARGO_PKG_VERSION").to_owned(), std::env::consts::ARCH.to_owned(), kernel];
    families.add(&BUILD_INFO, [(labels, Value::Number(1.0))]);
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
