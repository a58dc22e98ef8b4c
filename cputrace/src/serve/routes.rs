//! What is answered at which path.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

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

async fn landing() -> Html<String> {
    let version = env!("CARGO_PKG_VERSION");
    Html(format!(
        "<!doctype html><title>cputrace</title><h1>cputrace {version}</h1><p><a href=\"/metrics\">Metrics</a>\n"
    ))
}

async fn ready(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    match state.is_ready() {
        true => (StatusCode::OK, "cputrace takes samples\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "cputrace takes no samples yet\n"),
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let exposition = Exposition::negotiate(accept);
    match encode(state.metrics(), exposition) {
        Ok(body) => ([(header::CONTENT_TYPE, exposition.content_type())], body).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}
