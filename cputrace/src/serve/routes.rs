//! What is answered at which path.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::api::{Problem, blocking};
use super::{State, api, pyroscope};
use crate::metrics::encode::{Exposition, encode};

/// All paths of the server.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(|| async { "cputrace is alive\n" }))
        .route("/-/ready", get(ready))
        .with_state(state.clone())
        .merge(api::router(state.clone()))
        .merge(pyroscope::router(state))
}

/// Until there is more to see: where everything is.
async fn landing() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>cputrace</title>\n",
        "<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; ",
        "color-scheme: light dark }</style>\n",
        "<h1>cputrace ",
        env!("CARGO_PKG_VERSION"),
        "</h1>\n<p>Watches where this host's time goes, on the CPU and off it.</p>\n<ul>\n",
        "<li><a href=\"/metrics\">Metrics</a> for Prometheus</li>\n",
        "<li><a href=\"/api/status\">Status</a>: what is watched, and what is off</li>\n",
        "<li><a href=\"/api/groups\">Groups</a> and <a href=\"/api/processes\">processes</a></li>\n",
        "<li><a href=\"/api/profile?format=flamegraph\">Flame graph</a> of the last 15 minutes</li>\n",
        "<li><a href=\"/api/traces\">Recordings</a> that are kept here</li>\n",
        "<li><a href=\"/api/openapi.json\">The API's description</a> (OpenAPI)</li>\n",
        "<li><a href=\"/-/healthy\">Healthy?</a> <a href=\"/-/ready\">Ready?</a></li>\n</ul>\n",
    ))
}

async fn ready(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    match state.is_ready() {
        true => (StatusCode::OK, "cputrace takes samples\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "cputrace takes no samples yet\n"),
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Result<Response, Problem> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::negotiate(accept);
    let cannot_write =
        |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}"));
    let body = blocking(move || encode(state.metrics(), exposition).map_err(cannot_write)).await?;
    Ok(([(header::CONTENT_TYPE, exposition.content_type())], body).into_response())
}
