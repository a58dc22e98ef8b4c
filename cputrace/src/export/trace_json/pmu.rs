//! The counters and the samples by event in trace.json, there and back.

use std::collections::BTreeMap;

use super::document::{self, Pmu, PmuCount, PmuMetric, PmuMissing, PmuScope};
use super::read::ReadError;
use crate::model::{
    Count, CounterScope, CounterSubject, Counters, DataSource, EventSampling, Loads, LossReason, MetricValue,
    MissingMetrics, Ops, StackCounter, StackCounters,
};

pub(super) fn document(counters: &Counters) -> Pmu {
    let Counters { cpu, sets, user_only, scopes, missing, backwards, lost_groups } = counters;
    let missing =
        missing.iter().cloned().map(|MissingMetrics { code, reason, metrics }| PmuMissing { code, reason, metrics });
    Pmu {
        cpu: cpu.clone(),
        sets: sets.clone(),
        user_only: *user_only,
        scopes: scopes.iter().cloned().map(scope).collect(),
        missing: missing.collect(),
        backwards: *backwards,
        lost_groups: *lost_groups,
    }
}

fn scope(scope: CounterScope) -> PmuScope {
    let CounterScope { subject, counts, metrics } = scope;
    let (subject, pid, tid, name) = match subject {
        CounterSubject::Targets => ("targets", None, None, String::new()),
        CounterSubject::Process { pid, name } => ("process", Some(pid), None, name),
        CounterSubject::Thread { pid, tid, name } => ("thread", Some(pid), Some(tid), name),
        CounterSubject::Host => ("host", None, None, String::new()),
    };
    let count = |Count { event, unit, value, coverage }| PmuCount { event, unit, value, coverage };
    let metric = |MetricValue { name, unit, value, coverage }| PmuMetric { name, unit, value, coverage };
    PmuScope {
        subject: subject.to_owned(),
        pid,
        tid,
        name,
        counts: counts.into_iter().map(count).collect(),
        metrics: metrics.into_iter().map(metric).collect(),
    }
}

pub(super) fn counters(pmu: Pmu) -> Result<Counters, ReadError> {
    let Pmu { cpu, sets, user_only, scopes, missing, backwards, lost_groups } = pmu;
    let missing =
        missing.into_iter().map(|PmuMissing { code, reason, metrics }| MissingMetrics { code, reason, metrics });
    Ok(Counters {
        cpu,
        sets,
        user_only,
        scopes: scopes.into_iter().map(scope_of).collect::<Result<_, _>>()?,
        missing: missing.collect(),
        backwards,
        lost_groups,
    })
}

fn scope_of(scope: PmuScope) -> Result<CounterScope, ReadError> {
    let PmuScope { subject, pid, tid, name, counts, metrics } = scope;
    let subject = match (&*subject, pid, tid) {
        ("targets", ..) => CounterSubject::Targets,
        ("process", Some(pid), _) => CounterSubject::Process { pid, name },
        ("thread", Some(pid), Some(tid)) => CounterSubject::Thread { pid, tid, name },
        ("host", ..) => CounterSubject::Host,
        _ => return Err(ReadError::Damaged("counters are of nobody")),
    };
    let share = |coverage: f64| {
        let valid = (0.0..=1.0).contains(&coverage);
        valid.then_some(coverage).ok_or(ReadError::Damaged("a share of the time is below 0 or above 1"))
    };
    let count = |PmuCount { event, unit, value, coverage }| {
        Ok::<_, ReadError>(Count { event, unit, value, coverage: share(coverage)? })
    };
    let metric = |PmuMetric { name, unit, value, coverage }| {
        Ok::<_, ReadError>(MetricValue { name, unit, value, coverage: share(coverage)? })
    };
    Ok(CounterScope {
        subject,
        counts: counts.into_iter().map(count).collect::<Result<_, _>>()?,
        metrics: metrics.into_iter().map(metric).collect::<Result<_, _>>()?,
    })
}

pub(super) fn event_document(sampling: &EventSampling) -> document::EventSampling {
    let EventSampling { name, period, expected, seen, idle, filtered, kept, lost, ops } = sampling;
    document::EventSampling {
        name: name.clone(),
        period: *period,
        expected: *expected,
        seen: *seen,
        idle: *idle,
        filtered: *filtered,
        kept: *kept,
        lost: lost.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
        ops: ops.as_ref().map(ops_document),
    }
}

pub(super) fn event(sampling: document::EventSampling) -> EventSampling {
    let document::EventSampling { name, period, expected, seen, idle, filtered, kept, lost, ops: tagged } = sampling;
    let reason = |name: &str| LossReason::ALL.iter().copied().find(|reason| reason.name() == name);
    let lost = lost.into_iter().filter_map(|(name, count)| Some((reason(&name)?, count))).collect();
    EventSampling { name, period, expected, seen, idle, filtered, kept, lost, ops: tagged.map(ops) }
}

fn ops_document(ops: &Ops) -> document::Ops {
    let &Ops {
        unread,
        ref loads,
        ref stores,
        ref prefetches,
        locked,
        translated,
        second_tlb,
        walks,
        walk_cycles,
        branches,
        mispredicted,
        others,
    } = ops;
    let loads_document =
        |&Loads { count, timed, cycles, most_cycles }: &Loads| document::Loads { count, timed, cycles, most_cycles };
    let counts = |counts: &BTreeMap<DataSource, u64>| {
        counts.iter().map(|(source, count)| (source.name().to_owned(), *count)).collect()
    };
    document::Ops {
        loads: loads.iter().map(|(source, loads)| (source.name().to_owned(), loads_document(loads))).collect(),
        stores: counts(stores),
        prefetches: counts(prefetches),
        locked,
        translated,
        second_tlb,
        walks,
        walk_cycles,
        branches,
        mispredicted,
        others,
        unread,
    }
}

fn ops(ops: document::Ops) -> Ops {
    let document::Ops {
        loads,
        stores,
        prefetches,
        locked,
        translated,
        second_tlb,
        walks,
        walk_cycles,
        branches,
        mispredicted,
        others,
        unread,
    } = ops;
    // A name of a later version.
    let source = |name: &str| {
        DataSource::ALL.iter().copied().find(|source| source.name() == name).unwrap_or(DataSource::Unknown)
    };
    let loads_of = |document::Loads { count, timed, cycles, most_cycles }| Loads { count, timed, cycles, most_cycles };
    let counts = |counts: BTreeMap<String, u64>| counts.iter().map(|(name, count)| (source(name), *count)).collect();
    Ops {
        unread,
        loads: loads.into_iter().map(|(name, loads)| (source(&name), loads_of(loads))).collect(),
        stores: counts(stores),
        prefetches: counts(prefetches),
        locked,
        translated,
        second_tlb,
        walks,
        walk_cycles,
        branches,
        mispredicted,
        others,
    }
}

pub(super) fn stack_counters_document(counters: &StackCounters) -> document::StackCounters {
    let StackCounters { counters, counted, no_start, not_running, refused } = counters.clone();
    let counter =
        |StackCounter { name, unit, in_stacks, off_stack }| document::StackCounter { name, unit, in_stacks, off_stack };
    let counters = counters.into_iter().map(counter).collect();
    document::StackCounters { counters, counted, no_start, not_running, refused }
}

pub(super) fn stack_counters(counters: document::StackCounters) -> StackCounters {
    let document::StackCounters { counters, counted, no_start, not_running, refused } = counters;
    let counter =
        |document::StackCounter { name, unit, in_stacks, off_stack }| StackCounter { name, unit, in_stacks, off_stack };
    let counters = counters.into_iter().map(counter).collect();
    StackCounters { counters, counted, no_start, not_running, refused }
}
