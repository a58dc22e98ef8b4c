//! Sums over time.
//!
//! A point at T is what there was after T - step, up to T. A window that lies in several such stretches is shared out among
//! them, as if its samples were spread evenly: windows of 10 s in steps of 15 s would else be a saw.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::Querier;
use super::connect::Error;
use super::labels::{self, Subject};
use super::messages::{LabelPair, Point, SelectSeriesRequest, SelectSeriesResponse, Series};
use super::query::{self, Query};
use crate::store::digest::{Digest, Member, Sum};
use crate::store::windows::Range;
use crate::store::{from_unix_ms, unix_ms};

/// Points of a series: as Prometheus has it.
const MAX_POINTS: i64 = 11_000;

/// Series of one answer, before a limit.
const MAX_SERIES: usize = 20_000;

/// Windows whose stacks one request looks at; where there are more, coarser ones are.
const MAX_STACKS: usize = 500;

/// The average of a step's windows, not their sum.
const AVERAGE: i32 = 1;

/// Where points are, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Axis {
    start: i64,
    step: i64,
    points: i64,
}

impl Axis {
    fn new(start: i64, end: i64, step: f64) -> Result<Self, Error> {
        query::range(start, end)?;
        let step_ms = (step * 1e3).round();
        if step_ms < 1.0 || step_ms.is_nan() {
            return Err(Error::invalid(format!("a step of {step} s is shorter than a millisecond")));
        }
        // What is longer than any range is one step.
        let step = if step_ms < 9e15 { step_ms as i64 } else { i64::MAX };
        let points = (end - start) / step + 1;
        if points > MAX_POINTS {
            return Err(Error::invalid(format!("{points} points are more than {MAX_POINTS}: give a longer step")));
        }
        Ok(Self { start, step, points })
    }

    /// All time that some point stands for.
    fn range(self) -> Range {
        let end = self.start.saturating_add(self.step.saturating_mul(self.points - 1));
        Range { from: from_unix_ms(self.start.saturating_sub(self.step)), to: from_unix_ms(end) }
    }

    fn step(self) -> Duration {
        Duration::from_millis(self.step.unsigned_abs())
    }

    /// The points of a window, each with its share of it.
    fn shares(self, window: Range) -> impl Iterator<Item = (i64, f64)> {
        let (from, to) = (unix_ms(window.from), unix_ms(window.to));
        let to = to.max(from.saturating_add(1));
        let length = (to - from) as f64;
        let first = (from - self.start).div_euclid(self.step) + 1;
        let last = (to - 1 - self.start).div_euclid(self.step) + 1;
        (first.max(0)..=last.min(self.points - 1)).map(move |point| {
            let end = self.start.saturating_add(self.step.saturating_mul(point));
            let inside = end.min(to) - end.saturating_sub(self.step).max(from);
            (point, inside as f64 / length)
        })
    }
}

/// A point's sum, and of how many windows; the last of these may come again, with others' samples.
#[derive(Clone, Copy, Default)]
struct Amount {
    sum: f64,
    windows: f64,
    last: Option<SystemTime>,
}

/// Series that are added up.
struct Sums {
    axis: Axis,
    series: BTreeMap<Vec<LabelPair>, BTreeMap<i64, Amount>>,
}

impl Sums {
    fn add(&mut self, labels: Vec<LabelPair>, window: Range, amount: u64) {
        if amount == 0 || (self.series.len() >= MAX_SERIES && !self.series.contains_key(&labels)) {
            return;
        }
        let points = self.series.entry(labels).or_default();
        for (point, share) in self.axis.shares(window) {
            let point = points.entry(point).or_default();
            point.sum += amount as f64 * share;
            if point.last.replace(window.from) != Some(window.from) {
                point.windows += share;
            }
        }
    }
}

/// Sums of a type over time, by labels.
pub(super) fn select(querier: &Querier, request: &SelectSeriesRequest) -> Result<SelectSeriesResponse, Error> {
    let query = Query::new(&request.profile_type_id, &request.label_selector, request.stack_trace_selector.as_ref())?;
    let axis = Axis::new(request.start, request.end, request.step)?;
    let group_by: Vec<&str> = request.group_by.iter().map(String::as_str).collect();
    let mut sums = Sums { axis, series: BTreeMap::new() };
    add_all(querier, &query, &group_by, &mut sums)?;
    if sums.series.len() >= MAX_SERIES {
        return Err(Error::too_much(format!("these are {MAX_SERIES} series or more: group by other labels")));
    }
    let is_average = request.aggregation == Some(AVERAGE);
    let mut series: Vec<(f64, Series)> = sums
        .series
        .into_iter()
        .filter(|(_, points)| !points.is_empty())
        .map(|(labels, points)| {
            let total = points.values().map(|amount| amount.sum).sum();
            let points = points.into_iter().map(|(point, Amount { sum, windows, .. })| Point {
                value: if is_average { sum / windows } else { sum },
                timestamp: axis.start + axis.step.saturating_mul(point),
            });
            (total, Series { labels, points: points.collect() })
        })
        .collect();
    if let Some(limit) = request.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0) {
        series.sort_by(|a, b| b.0.total_cmp(&a.0));
        series.truncate(limit);
        series.sort_by(|a, b| a.1.labels.cmp(&b.1.labels));
    }
    Ok(SelectSeriesResponse { series: series.into_iter().map(|(_, series)| series).collect() })
}

/// From what costs least: sums by group, sums by member, stacks.
fn add_all(querier: &Querier, query: &Query, group_by: &[&str], sums: &mut Sums) -> Result<(), Error> {
    let store = &querier.state.store;
    let (range, step) = (sums.axis.range(), sums.axis.step());
    let Query { profile_type, selector, .. } = query;
    let labels = |member: &Member<'_>| {
        let subject = Subject { profile_type, hostname: &querier.hostname, member };
        subject.labels(group_by.iter().copied())
    };
    let asked = || selector.labels().chain(group_by.iter().copied());
    let needs_ids = asked().any(|label| label == labels::PID);
    if needs_ids {
        query::check_finest(querier, range)?;
    }
    let resolution = if needs_ids { Duration::ZERO } else { step };
    let mut add = |window, source: &str, member: &Member<'_>, sum| {
        if source == profile_type.source && query.keeps(&querier.hostname, member) {
            sums.add(labels(member), window, profile_type.number.of(sum));
        }
    };
    if !query.call_site().is_empty() {
        return Ok(store.stored(range, resolution, MAX_STACKS, |window, bytes| {
            let mut digest = Digest::decode(bytes)?;
            digest.retain_below(query.call_site());
            digest.totals().into_iter().for_each(|(source, member, sum)| add(window, source, &member, sum));
            Ok(())
        })?);
    }
    if asked().all(labels::is_of_group) {
        for total in store.totals(range, &profile_type.source, step)? {
            let (window, sum) =
                (Range { from: total.start, to: total.end }, Sum { count: total.count, value: total.value });
            add(window, &profile_type.source, &labels::of_group(&total.group), sum);
        }
        return Ok(());
    }
    query::each_total(querier, range, resolution, &mut add)
}
