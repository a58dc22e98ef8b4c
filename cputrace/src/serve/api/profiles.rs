//! What was sampled in a range of time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::problem::{Problem, blocking};
use super::query::{Filter, Id, Params, RangeParams, RangeText, parse_range, small};
use crate::analyze::tree::{Row, Tree};
use crate::export::{self, EXPORTERS, Format};
use crate::metrics::collect::unix_seconds;
use crate::model::{Ledger, Overhead, Recording, Sampling, Target, Tier, View};
use crate::process::host;
use crate::serve::State;
use crate::session::session_id;
use crate::store::digest::Detail;
use crate::store::events::EventKind;
use crate::store::windows::{Merged, Range};

/// Nodes of a flame graph that are told apart, where a request does not say how many.
const DEFAULT_NODES: usize = 8192;

/// As many as a request may ask for.
const MAX_NODES: usize = 1 << 20;

/// Points of a series that a request may ask for: as Prometheus has it.
const MAX_POINTS: u64 = 11_000;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FormatParams {
    /// The format: `pprof` where nothing else is said; `flamegraph` is an SVG, `json` a trace.json.
    #[param(value_type = Option<FormatText>, inline, example = "folded")]
    format: Option<String>,
}

/// What the document says of a format: the registry's names.
struct FormatText;

impl PartialSchema for FormatText {
    fn schema() -> RefOr<Schema> {
        let names = EXPORTERS.iter().map(|exporter| exporter.name());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build().into()
    }
}

impl ToSchema for FormatText {}

impl FormatParams {
    pub(super) fn format(&self) -> &str {
        self.format.as_deref().unwrap_or("pprof")
    }
}

/// The samples of a range in one of the formats that recordings are written in.
#[utoipa::path(
    get, path = "/api/profile", tag = "profiles",
    params(RangeParams, Filter, FormatParams),
    responses(
        (status = 200, description = "The profile", content(
            (Vec<u8> = "application/octet-stream"), (String = "text/plain"), (String = "image/svg+xml"), (serde_json::Value = "application/json"),
        )),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn profile(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
    Params(filter): Params<Filter>,
    Params(format): Params<FormatParams>,
) -> Result<Response, Problem> {
    let exporter = export::by_name(format.format())?;
    let (range, view) = (range.range()?, filter.view());
    let body = blocking(move || {
        let recording = recording(merge(&state, range, &filter, view)?, range);
        written(&recording, Format { exporter, view })
    });
    Ok(([(header::CONTENT_TYPE, exporter.content_type())], body.await?).into_response())
}

/// A recording in a format.
pub(super) fn written(recording: &Recording, format: Format<'_>) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    let wrong =
        |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the profile cannot be written: {error}"));
    format.exporter.export(recording, format.view, &mut body).map_err(wrong)?;
    Ok(body)
}

fn merge(state: &State, range: Range, filter: &Filter, view: View) -> Result<Merged, Problem> {
    let detail = if filter.needs_ids() { Detail::Process } else { Detail::Name };
    let source = view.aspect.name();
    Ok(state.store.merge(range, detail, &|name, member| name == source && filter.keeps(member))?)
}

/// What was merged, as if it had been recorded in one.
pub(in crate::serve) fn recording(merged: Merged, range: Range) -> Recording {
    let Merged { digest, facts, read: _, damaged } = merged;
    let damaged = (damaged > 0).then(|| format!("{damaged} stored windows are damaged and missing here"));
    let hz = facts.frequency_hz;
    let lost = facts.samples_expected.saturating_sub(facts.samples_kept);
    Recording {
        session_id: session_id(range.from),
        start: range.from,
        duration: range.to.duration_since(range.from).unwrap_or_default(),
        host: host::host(),
        targets: vec![Target::All],
        sampling: Sampling { tier: Tier::Ebpf, clock: None, asked_hz: hz, achieved_hz: hz },
        profile: digest.into_profile(),
        timelines: Vec::new(),
        threads: Vec::new(),
        scheduler: None,
        ledger: Ledger { ticks: facts.samples_expected, samples_kept: facts.samples_kept, ..Ledger::default() },
        overhead: Overhead {
            bpf_run_time: Some(Duration::from_nanos(facts.bpf_ns)),
            own_cpu: Duration::from_nanos(facts.own_cpu_ns),
            ..Overhead::default()
        },
        unwinding: None,
        pmu: None,
        event: None,
        stack_counters: None,
        spikes: Vec::new(),
        notes: [format!(
            "made of {} windows that cover {} s; of all processes of the host, {} samples were kept and {lost} lost",
            facts.windows,
            facts.covered_ms / 1000,
            facts.samples_kept
        )]
        .into_iter()
        .chain(damaged)
        .collect(),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeParams {
    /// Nodes that are told apart; the smaller ones are one node a parent, `other`.
    #[param(default = 8192, minimum = 1, maximum = 1_048_576)]
    max_nodes: Option<usize>,
    /// How the answer is laid out.
    #[serde(default)]
    #[param(inline, required = false)]
    shape: Shape,
}

/// A layout of flame graphs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Shape {
    /// A list a property.
    #[default]
    Columns,
    /// An object a node, as Grafana's Infinity data source wants them.
    Rows,
}

impl NodeParams {
    fn max(&self) -> Result<usize, Problem> {
        let max = self.max_nodes.unwrap_or(DEFAULT_NODES);
        match max {
            1..=MAX_NODES => Ok(max),
            _ => Err(Problem::bad(format!("max_nodes has to be between 1 and {MAX_NODES}"))),
        }
    }
}

/// A flame graph as a nested set: nodes in depth-first order. A column a property, a row a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Flamegraph {
    /// The unit of the values: `samples` or `microseconds`.
    unit: &'static str,
    /// Width of everything.
    total: u64,
    /// Names, which `label` refers to.
    names: Vec<String>,
    /// Distance from the root.
    level: Vec<u32>,
    /// Width with what it calls.
    value: Vec<u64>,
    /// Width without.
    #[serde(rename = "self")]
    own: Vec<u64>,
    /// Rows of `names`.
    label: Vec<u32>,
    /// Of a comparison: width of everything in the second range.
    #[serde(rename = "totalRight", skip_serializing_if = "Option::is_none")]
    total_right: Option<u64>,
    /// The same as `value`, in the second range.
    #[serde(rename = "valueRight", skip_serializing_if = "Vec::is_empty")]
    value_right: Vec<u64>,
    /// The same as `self`, in the second range.
    #[serde(rename = "selfRight", skip_serializing_if = "Vec::is_empty")]
    own_right: Vec<u64>,
}

/// A node, in the other shape.
#[derive(Debug, Serialize)]
struct NodeRow<'a> {
    level: u32,
    value: u64,
    #[serde(rename = "self")]
    own: u64,
    label: &'a str,
    #[serde(rename = "valueRight", skip_serializing_if = "Option::is_none")]
    value_right: Option<u64>,
    #[serde(rename = "selfRight", skip_serializing_if = "Option::is_none")]
    own_right: Option<u64>,
}

/// A tree as an answer; `sides` is 2 for a comparison.
fn answer(mut tree: Tree, unit: &'static str, nodes: &NodeParams, sides: usize) -> Result<Response, Problem> {
    let rows: Vec<Row> = tree.rows(nodes.max()?);
    let is_diff = sides == 2;
    if nodes.shape == Shape::Rows {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| NodeRow {
                level: row.level,
                value: row.total[0],
                own: row.own[0],
                label: &tree.names()[row.name as usize],
                value_right: is_diff.then_some(row.total[1]),
                own_right: is_diff.then_some(row.own[1]),
            })
            .collect();
        return Ok(Json(rows).into_response());
    }
    // Only names of nodes that are there.
    let mut names: Vec<String> = Vec::new();
    let mut name_ids: HashMap<u32, u32> = HashMap::new();
    let label = rows.iter().map(|row| {
        *name_ids.entry(row.name).or_insert_with(|| {
            names.push(tree.names()[row.name as usize].clone());
            names.len() as u32 - 1
        })
    });
    let label = label.collect();
    let right = |value: fn(&Row) -> u64| if is_diff { rows.iter().map(value).collect() } else { Vec::new() };
    let answer = Flamegraph {
        unit,
        total: tree.total()[0],
        names,
        level: rows.iter().map(|row| row.level).collect(),
        value: rows.iter().map(|row| row.total[0]).collect(),
        own: rows.iter().map(|row| row.own[0]).collect(),
        label,
        total_right: is_diff.then_some(tree.total()[1]),
        value_right: right(|row| row.total[1]),
        own_right: right(|row| row.own[1]),
    };
    Ok(Json(answer).into_response())
}

/// The samples of a range as a flame graph.
#[utoipa::path(
    get, path = "/api/flamegraph", tag = "profiles",
    params(RangeParams, Filter, NodeParams),
    responses(
        (status = 200, description = "The flame graph; in shape `rows`, a list of objects with level, value, self and label", body = serde_json::Value),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn flamegraph(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
    Params(filter): Params<Filter>,
    Params(nodes): Params<NodeParams>,
) -> Result<Response, Problem> {
    let (range, view) = (range.range()?, filter.view());
    blocking(move || {
        let recording = recording(merge(&state, range, &filter, view)?, range);
        let mut tree = Tree::new();
        let (profile, weights) = view.of(&recording);
        tree.add(&profile, &weights, 0);
        answer(tree, view.unit(), &nodes, 1)
    })
    .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffParams {
    /// What to compare with: a range `FROM..TO`, or the id of a trace.
    #[param(value_type = RangeText, inline, example = "now-2h..now-1h")]
    base: String,
    /// What to compare: a range, or the id of a trace.
    #[param(value_type = RangeText, inline, example = "now-1h..now")]
    against: String,
}

/// Two ranges, or two traces, or one of each, as one flame graph with two values a node.
#[utoipa::path(
    get, path = "/api/diff", tag = "profiles",
    params(DiffParams, Filter, NodeParams),
    responses(
        (status = 200, description = "The flame graph: value and self are of `base`, valueRight and selfRight of `against`", body = serde_json::Value),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such trace", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn diff(
    Shared(state): Shared<Arc<State>>,
    Params(sides): Params<DiffParams>,
    Params(filter): Params<Filter>,
    Params(nodes): Params<NodeParams>,
) -> Result<Response, Problem> {
    let view = filter.view();
    blocking(move || {
        let mut tree = Tree::new();
        for (side, wanted) in [&sides.base, &sides.against].into_iter().enumerate() {
            let recording = match super::traces::find(&state, wanted)? {
                Some(trace) => trace,
                None if wanted.starts_with("trace-") => return Err(super::traces::no_trace(wanted)),
                None => {
                    let range = parse_range(wanted)?;
                    recording(merge(&state, range, &filter, view)?, range)
                }
            };
            let (profile, weights) = view.of(&recording);
            tree.add(&profile, &weights, side);
        }
        answer(tree, view.unit(), &nodes, 2)
    })
    .await
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StepParams {
    /// Seconds a point; without it, a 100th of the range, and at least a window.
    #[serde(default, deserialize_with = "small")]
    #[param(example = 60, minimum = 1, maximum = 2_147_483_647)]
    step: Option<u32>,
}

/// A group's series.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Series {
    /// The group.
    group: String,
    /// Value a second of each point (of times: seconds a second, which is cores or waiting threads); `null` where nothing
    /// was recorded.
    values: Vec<Option<f64>>,
}

/// Series of all groups, on one axis of time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SeriesAnswer {
    /// Seconds a point.
    step: u64,
    /// Where each point begins, in seconds since 1970.
    times: Vec<f64>,
    /// One a group, the largest first.
    series: Vec<Series>,
}

/// How much of a source each group has over time.
#[utoipa::path(
    get, path = "/api/series", tag = "profiles",
    params(RangeParams, Filter, StepParams),
    responses(
        (status = 200, description = "The series", body = SeriesAnswer),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn series(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
    Params(filter): Params<Filter>,
    Params(step): Params<StepParams>,
) -> Result<Json<SeriesAnswer>, Problem> {
    let (range, view) = (range.range()?, filter.view());
    let axis = Axis::new(range, &step, state.window())?;
    blocking(move || {
        let mut covered = vec![false; axis.points];
        for (at, _) in state.store.covered(range, Duration::from_secs(axis.step))? {
            if let Some(point) = axis.point(at) {
                covered[point] = true;
            }
        }
        let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for total in state.store.totals(range, view.aspect.name(), Duration::from_secs(axis.step))? {
            let Some(point) = axis.point(total.start) else { continue };
            if filter.group().is_none_or(|group| group == total.group) {
                let values = groups.entry(total.group).or_insert_with(|| vec![0.0; axis.points]);
                values[point] += total.value as f64 / 1e9 / axis.step as f64;
            }
        }
        let mut series: Vec<(f64, Series)> = groups
            .into_iter()
            .map(|(group, values)| {
                let sum = values.iter().sum();
                let values = values.iter().zip(&covered).map(|(value, covered)| covered.then_some(*value)).collect();
                (sum, Series { group, values })
            })
            .collect();
        series.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.group.cmp(&b.1.group)));
        let series = series.into_iter().map(|(_, series)| series).collect();
        Ok(Json(SeriesAnswer { step: axis.step, times: axis.times(), series }))
    })
    .await
}

/// An axis of time.
struct Axis {
    start: SystemTime,
    step: u64,
    points: usize,
}

impl Axis {
    fn new(range: Range, step: &StepParams, window: Duration) -> Result<Self, Problem> {
        if step.step == Some(0) {
            return Err(Problem::bad("step has to be 1 or more"));
        }
        let length = range.to.duration_since(range.from).unwrap_or_default().as_secs().max(1);
        let step = step.step.map_or_else(|| (length / 100).max(window.as_secs()).max(1), u64::from);
        let points = length.div_ceil(step);
        if points > MAX_POINTS {
            return Err(Problem::unprocessable(format!(
                "{points} points are more than {MAX_POINTS}: give a longer step"
            )));
        }
        Ok(Self { start: range.from, step, points: points as usize })
    }

    fn point(&self, at: SystemTime) -> Option<usize> {
        let since = at.duration_since(self.start).ok()?.as_secs() / self.step;
        usize::try_from(since).ok().filter(|&point| point < self.points)
    }

    fn times(&self) -> Vec<f64> {
        let start = unix_seconds(self.start);
        (0..self.points).map(|point| start + point as f64 * self.step as f64).collect()
    }
}

/// A window, without its samples.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WindowRow {
    /// When it began, in seconds since 1970.
    start: f64,
    /// How long it was, in seconds.
    duration: f64,
    /// Samples a second and CPU, on average: the governor may lower it.
    frequency: f64,
    /// Samples that were to be expected.
    samples_expected: u64,
    /// Samples that are there.
    samples_kept: u64,
    /// CPU time of the eBPF programs, in seconds.
    bpf_seconds: f64,
    /// CPU time of cputrace itself, in seconds.
    own_seconds: f64,
}

/// The windows of a range as they were recorded: how they were sampled, and what that cost.
#[utoipa::path(
    get, path = "/api/timeline", tag = "profiles",
    params(RangeParams),
    responses(
        (status = 200, description = "The windows, in order of time", body = Vec<WindowRow>),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn timeline(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
) -> Result<Json<Vec<WindowRow>>, Problem> {
    let range = range.range()?;
    blocking(move || {
        let rows = state.store.facts(range)?.into_iter().map(|(start, facts)| WindowRow {
            start: unix_seconds(start),
            duration: facts.covered_ms as f64 / 1e3,
            frequency: facts.frequency_hz,
            samples_expected: facts.samples_expected,
            samples_kept: facts.samples_kept,
            bpf_seconds: facts.bpf_ns as f64 / 1e9,
            own_seconds: facts.own_cpu_ns as f64 / 1e9,
        });
        Ok(Json(rows.collect()))
    })
    .await
}

/// An event of the store.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventAnswer {
    /// Its id.
    id: i64,
    /// When it was, in seconds since 1970.
    at: f64,
    /// What it was.
    event: serde_json::Value,
}

/// The anomalies of a range.
#[utoipa::path(
    get, path = "/api/anomalies", tag = "profiles",
    params(RangeParams),
    responses(
        (status = 200, description = "The anomalies that began in it, in order of time", body = Vec<EventAnswer>),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn anomalies(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
) -> Result<Json<Vec<EventAnswer>>, Problem> {
    events(state, EventKind::Anomaly, range.range()?).await
}

/// One anomaly: when it was, how far from usual, and which functions have more of the time than before it.
#[utoipa::path(
    get, path = "/api/anomalies/{id}", tag = "profiles",
    params(("id" = i32, Path, description = "The anomaly's id")),
    responses(
        (status = 200, description = "The anomaly; `event.diff.url` has the whole difference", body = EventAnswer),
        (status = 400, description = "The id is no number", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such anomaly", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn anomaly(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Result<Json<EventAnswer>, Problem> {
    let number = id.parse::<i64>().map_err(|_| Problem::bad(format!("{id:?} is no id: it has to be a number")))?;
    blocking(move || match state.store.event(EventKind::Anomaly, number)? {
        Some(row) => Ok(Json(EventAnswer { id: row.id, at: unix_seconds(row.at), event: row.event })),
        None => {
            Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no anomaly {number}; /api/anomalies lists them")))
        }
    })
    .await
}

/// The steps of the governor in a range: where the overhead made it change the sampling frequency.
#[utoipa::path(
    get, path = "/api/governor", tag = "host",
    params(RangeParams),
    responses(
        (status = 200, description = "The steps, in order of time", body = Vec<EventAnswer>),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The range ends before it begins, or is too long", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn governor(
    Shared(state): Shared<Arc<State>>,
    Params(range): Params<RangeParams>,
) -> Result<Json<Vec<EventAnswer>>, Problem> {
    events(state, EventKind::Governor, range.range()?).await
}

async fn events(state: Arc<State>, kind: EventKind, range: Range) -> Result<Json<Vec<EventAnswer>>, Problem> {
    blocking(move || {
        let events = state.store.events(kind, range)?.into_iter();
        let events = events.map(|row| EventAnswer { id: row.id, at: unix_seconds(row.at), event: row.event });
        Ok(Json(events.collect()))
    })
    .await
}
