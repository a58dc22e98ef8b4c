//! What Grafana asks a Pyroscope for, so that cputrace is a data source of the kind "Grafana Pyroscope".
//!
//! - [`connect`]: calls over HTTP; [`json`]: messages as JSON; [`messages`]: the messages.
//! - [`selector`], [`profile_type`], [`labels`]: whose samples, which ones, by what they are told apart.
//! - [`query`]: these, of a request; [`flamegraph`], [`series`]: what answers it.
//! - [`render`]: the same as JSON, for Grafana's Profiles Drilldown.
//!
//! All of it is there twice: at `/` and below `/pyroscope`. Nothing can be written, and there are no tenants.

mod connect;
mod flamegraph;
mod json;
mod labels;
mod messages;
pub(super) mod profile_type;
mod query;
mod render;
mod selector;
mod series;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use super::State;
use crate::process::host;
use crate::store::unix_ms;
use connect::{Call, Error, MAX_REQUEST};
use messages::{AnalyzeQueryRequest, AnalyzeQueryResponse, Empty, ProfileStatsResponse, QueryImpact, QueryScope};
use render::Parameters;

/// Questions that are answered at once: each may take some megabytes and a CPU.
const QUERIES: usize = 2;

/// Other services that Grafana may call.
const OTHER_SERVICES: &[&str] =
    &["adhocprofiles.v1.AdHocProfileService", "settings.v1.RecordingRulesService", "vcs.v1.VCSService"];

/// Answers from the store.
struct Querier {
    state: Arc<State>,
    hostname: String,
    /// One permit a question.
    queries: Semaphore,
}

type Method = fn(&Querier, &Call) -> Result<Vec<u8>, Error>;

/// The methods of `querier.v1.QuerierService`.
const METHODS: &[(&str, Method)] = &[
    ("ProfileTypes", |querier, call| call.answer(|request| profile_type::list(querier, &request))),
    ("LabelNames", |querier, call| call.answer(|request| labels::names(querier, &request))),
    ("LabelValues", |querier, call| call.answer(|request| labels::values(querier, &request))),
    ("Series", |querier, call| call.answer(|request| labels::series(querier, &request))),
    ("SelectSeries", |querier, call| call.answer(|request| series::select(querier, &request))),
    ("SelectMergeStacktraces", |querier, call| call.answer(|request| flamegraph::select(querier, &request))),
    ("SelectMergeProfile", |querier, call| call.answer(|request| flamegraph::pprof(querier, &request))),
    ("Diff", |querier, call| call.answer(|request| flamegraph::diff(querier, &request))),
    ("GetProfileStats", |querier, call| call.answer(|Empty {}| stats(querier))),
    ("AnalyzeQuery", |querier, call| call.answer(|request| analyze(querier, &request))),
];

/// All paths.
pub(super) fn router(state: Arc<State>) -> Router {
    let hostname = host::host().hostname;
    let querier = Arc::new(Querier { state, hostname, queries: Semaphore::new(QUERIES) });
    let services = Router::new()
        .route("/querier.v1.QuerierService/{method}", post(query))
        .route("/settings.v1.SettingsService/Get", post(settings));
    let services = OTHER_SERVICES
        .iter()
        .fold(services, |services, service| services.route(&format!("/{service}/{{method}}"), post(unimplemented)));
    let services = services
        .route("/pyroscope/render", get(render))
        .route("/pyroscope/render-diff", get(render_diff))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(querier);
    Router::new().nest("/pyroscope", services.clone()).merge(services)
}

/// Does what blocks, where it holds up no other request, and not too much of it at once.
async fn blocking<T: Send + 'static>(
    querier: Arc<Querier>,
    work: impl FnOnce(&Querier) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let fault = || Error::internal("this request cannot be answered: a fault of cputrace's own");
    let _permit = querier.queries.acquire().await.map_err(|_| fault())?;
    let querier = querier.clone();
    tokio::task::spawn_blocking(move || work(&querier)).await.unwrap_or_else(|_| Err(fault()))
}

// Bodies are read even where nothing is done with them: what is left unread would end the client's connection.

async fn query(
    Shared(querier): Shared<Arc<Querier>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let call = match Call::new(&headers, body) {
        Ok(call) => call,
        Err(error) => return error.into_response(),
    };
    let Some((_, answer)) = METHODS.iter().find(|(name, _)| *name == method) else {
        let names: Vec<_> = METHODS.iter().map(|(name, _)| *name).collect();
        let error = format!("{method:?} is not supported; of querier.v1.QuerierService there are {}", names.join(", "));
        return Error::unimplemented(error).into_response();
    };
    let response = blocking(querier, move |querier| {
        let answer = answer(querier, &call)?;
        Ok(call.respond(answer))
    });
    response.await.unwrap_or_else(Error::into_response)
}

/// No settings are kept here, and there are none.
async fn settings(headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let answer = |call: Call| Ok(call.respond(call.answer(|Empty {}| Ok(Empty {}))?));
    Call::new(&headers, body).and_then(answer).unwrap_or_else(Error::into_response)
}

async fn unimplemented(Path(method): Path<String>, _body: Result<Bytes, BytesRejection>) -> Error {
    Error::unimplemented(format!("cputrace has no {method:?}: it answers querier.v1.QuerierService"))
}

/// Query parameters, in order.
type Given = Result<Query<Vec<(String, String)>>, QueryRejection>;

async fn render(Shared(querier): Shared<Arc<Querier>>, headers: HeaderMap, query: Given) -> Response {
    json_page(querier, &headers, query, render::render).await
}

async fn render_diff(Shared(querier): Shared<Arc<Querier>>, headers: HeaderMap, query: Given) -> Response {
    json_page(querier, &headers, query, render::render_diff).await
}

async fn json_page(
    querier: Arc<Querier>,
    headers: &HeaderMap,
    query: Given,
    work: fn(&Querier, &Parameters) -> Result<serde_json::Value, Error>,
) -> Response {
    let may_pack = connect::accepts_gzip(headers);
    let response = blocking(querier, move |querier| {
        let Query(parameters) = query.map_err(|error| Error::invalid(error.body_text()))?;
        let body = work(querier, &Parameters(parameters))?.to_string();
        Ok(connect::respond("application/json", body.into_bytes(), may_pack))
    });
    response.await.unwrap_or_else(Error::into_response)
}

/// From when until when there is something.
fn stats(querier: &Querier) -> Result<ProfileStatsResponse, Error> {
    let span = querier.state.store.span()?;
    Ok(span.map_or_else(ProfileStatsResponse::default, |span| ProfileStatsResponse {
        data_ingested: true,
        oldest_profile_time: unix_ms(span.from),
        newest_profile_time: unix_ms(span.to),
    }))
}

/// What a question takes.
fn analyze(querier: &Querier, request: &AnalyzeQueryRequest) -> Result<AnalyzeQueryResponse, Error> {
    selector::Selector::parse(&request.query)?;
    let Some(range) = query::range_or_all(querier, request.start, request.end)? else {
        return Ok(AnalyzeQueryResponse::default());
    };
    let store = &querier.state.store;
    let (windows, bytes) = store.cost(range)?;
    let series = store.sources(range)?.values().map(|groups| groups.len() as u64).sum();
    let scope = QueryScope {
        component_type: "store".to_owned(),
        component_count: 1,
        block_count: windows,
        series_count: series,
        profile_bytes: bytes,
    };
    let impact = QueryImpact { total_bytes_in_time_range: bytes, total_queried_series: series };
    Ok(AnalyzeQueryResponse { query_scopes: vec![scope], query_impact: Some(impact) })
}
