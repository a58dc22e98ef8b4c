//! `/pyroscope/render` and `/pyroscope/render-diff`: flame graphs as JSON, as Grafana's Profiles Drilldown asks for them.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::Querier;
use super::connect::Error;
use super::flamegraph::{self, Wanted};
use super::messages::{SelectMergeStacktracesRequest, SelectSeriesRequest, Series};
use super::profile_type::{Part, ProfileType};
use super::selector::Selector;
use super::series;
use crate::serve::api::Moment;
use crate::store::unix_ms;

/// Points of a time line.
const POINTS: i64 = 1_500;

/// Seconds a point, at least.
const MIN_STEP: i64 = 15;

/// A request's parameters, in order.
#[derive(Clone, Debug)]
pub(super) struct Parameters(pub(super) Vec<(String, String)>);

impl Parameters {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| &**value)
    }

    fn time(&self, name: &str) -> Result<i64, Error> {
        match self.get(name) {
            Some(text) => text.parse::<Moment>().map(|moment| unix_ms(moment.0)).map_err(Error::invalid),
            None => Ok(unix_ms(SystemTime::now())),
        }
    }

    /// The flame graph that parameters of these names ask for.
    fn request(&self, query: &str, from: &str, until: &str) -> Result<SelectMergeStacktracesRequest, Error> {
        let text = self.get(query).ok_or_else(|| Error::invalid(format!("there is no {query:?}")))?;
        let profile_type = Selector::parse(text)?.take_profile_type().ok_or_else(|| {
            Error::invalid(format!("{text:?} has no profile type: write it before the braces, as process_cpu:cpu:nanoseconds:cpu:nanoseconds{{}}"))
        })?;
        let nodes = self.get("max-nodes").or_else(|| self.get("maxNodes"));
        let max_nodes = nodes.map(|nodes| {
            nodes.parse().map_err(|_| Error::invalid(format!("max-nodes is {nodes:?}, which is no number")))
        });
        Ok(SelectMergeStacktracesRequest {
            profile_type_id: profile_type,
            // The type is a condition like others: it holds.
            label_selector: text.to_owned(),
            start: self.time(from)?,
            end: self.time(until)?,
            max_nodes: max_nodes.transpose()?,
            ..SelectMergeStacktracesRequest::default()
        })
    }
}

/// A range's flame graph, with its time line.
pub(super) fn render(querier: &Querier, parameters: &Parameters) -> Result<Value, Error> {
    if let Some(format) = parameters.get("format").filter(|format| *format != "json") {
        return Err(Error::unimplemented(format!("format {format:?} is not supported: ask for json")));
    }
    let request = parameters.request("query", "from", "until")?;
    let wanted = Wanted::new(&request)?;
    let graph = flamegraph::of_range(querier, &wanted)?.unwrap_or_default();
    let levels: Vec<_> = graph.levels.into_iter().map(|level| level.values).collect();
    let (start, end) = (request.start, request.end);
    let step = ((end - start) / 1000 / POINTS).max(MIN_STEP);
    let group_by: Vec<String> = parameters.get("groupBy").map(str::to_owned).into_iter().collect();
    let select = |group_by| {
        let answer = series::select(
            querier,
            &SelectSeriesRequest {
                profile_type_id: request.profile_type_id.clone(),
                label_selector: request.label_selector.clone(),
                start,
                end,
                group_by,
                step: step as f64,
                ..SelectSeriesRequest::default()
            },
        );
        answer.map(|answer| answer.series)
    };
    let all = select(Vec::new())?.into_iter().next().unwrap_or_default();
    let groups: Value = match group_by.is_empty() {
        true => Value::Null,
        false => {
            let groups = select(group_by)?.into_iter().map(|series| {
                let name = series.labels.first().map_or("*".to_owned(), |label| label.value.clone());
                (name, timeline(&series, start, end, step))
            });
            Value::Object(groups.collect())
        }
    };
    Ok(json!({
        "version": 1,
        "flamebearer": { "names": graph.names, "levels": levels, "numTicks": graph.total, "maxSelf": graph.max_self },
        "metadata": metadata("single", &wanted.query.profile_type),
        "timeline": timeline(&all, start, end, step),
        "groups": groups,
        "heatmap": null,
    }))
}

/// Two ranges' flame graph.
pub(super) fn render_diff(querier: &Querier, parameters: &Parameters) -> Result<Value, Error> {
    let left = Wanted::new(&parameters.request("leftQuery", "leftFrom", "leftUntil")?)?;
    let right = Wanted::new(&parameters.request("rightQuery", "rightFrom", "rightUntil")?)?;
    let graph = flamegraph::of_two(querier, [&left, &right])?;
    let levels: Vec<_> = graph.levels.into_iter().map(|level| level.values).collect();
    Ok(json!({
        "version": 1,
        "flamebearer": { "names": graph.names, "levels": levels, "numTicks": graph.total, "maxSelf": graph.max_self },
        "metadata": metadata("double", &left.query.profile_type),
        "timeline": null,
        "groups": null,
        "heatmap": null,
        "leftTicks": graph.left_ticks,
        "rightTicks": graph.right_ticks,
    }))
}

/// What readers need to know of the numbers. Nanoseconds on the CPU are "samples" at 1 GHz: so their format has it.
fn metadata(format: &str, profile_type: &ProfileType) -> Value {
    let name = profile_type.part(Part::SampleType);
    let (units, rate) = match name {
        "cpu" => ("samples", 1_000_000_000),
        "samples" => ("objects", 100),
        _ => (profile_type.part(Part::SampleUnit), 100),
    };
    json!({ "format": format, "spyName": "cputrace", "sampleRate": rate, "units": units, "name": name })
}

/// A series with a value at each step, 0 where there is none.
fn timeline(series: &Series, start: i64, end: i64, step: i64) -> Value {
    let step_ms = step * 1000;
    let first = start.div_euclid(step_ms);
    let length = usize::try_from(end.div_euclid(step_ms) - first).unwrap_or(0);
    let mut samples = vec![0_u64; length];
    for point in &series.points {
        let place = usize::try_from(point.timestamp.div_euclid(step_ms) - first).ok();
        if let Some(sample) = place.and_then(|place| samples.get_mut(place)) {
            *sample = point.value.round() as u64;
        }
    }
    json!({ "startTime": first * step, "samples": samples, "durationDelta": step, "watermarks": null })
}
