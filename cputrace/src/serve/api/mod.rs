//! The REST API, described by the document at `/api/openapi.json`, which is made of the handlers themselves.
//!
//! - [`query`]: times, ranges and filters as requests have them.
//! - [`profiles`]: what was sampled in a range of time: in any format, as a flame graph, against another one, as series.
//! - [`host`]: what cputrace and the host do now.
//! - [`traces`]: whole recordings: uploaded, made on demand, downloaded.
//! - [`problem`]: what an error looks like.

mod host;
mod problem;
mod profiles;
mod query;
mod traces;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
pub use problem::Problem;
pub(super) use problem::blocking;
pub(super) use profiles::recording;
pub(super) use query::Moment;

/// The largest upload.
const MAX_UPLOAD: usize = 64 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "cputrace",
        description = "Profiles, series and recordings of this host. Times are RFC 3339, seconds or milliseconds since 1970, \
                       or relative: `now`, `now-15m`. Errors are RFC 9457 problem documents."
    ),
    tags(
        (name = "profiles", description = "What was sampled in a range of time"),
        (name = "host", description = "What cputrace and the host do now"),
        (name = "traces", description = "Whole recordings")
    )
)]
struct Document;

/// The description of the API, and what answers it.
fn parts() -> (Router<Arc<State>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(profiles::profile))
        .routes(routes!(profiles::flamegraph))
        .routes(routes!(profiles::diff))
        .routes(routes!(profiles::series))
        .routes(routes!(profiles::timeline))
        .routes(routes!(profiles::anomalies))
        .routes(routes!(profiles::anomaly))
        .routes(routes!(profiles::governor))
        .routes(routes!(host::status))
        .routes(routes!(host::groups))
        .routes(routes!(host::processes))
        .routes(routes!(host::live))
        .routes(routes!(traces::list, traces::upload))
        .routes(routes!(traces::show, traces::delete))
        .routes(routes!(traces::samples))
        .routes(routes!(traces::profile))
        .routes(routes!(traces::record))
        .split_for_parts()
}

/// All paths below `/api`.
pub(super) fn router(state: Arc<State>) -> Router {
    let (router, document) = parts();
    router
        .route("/api/openapi.json", get(|| async { Json(document) }))
        .route(
            "/api/{*path}",
            axum::routing::any(|| async {
                Problem::new(StatusCode::NOT_FOUND, "there is no such path; /api/openapi.json lists all")
            }),
        )
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take that method; /api/openapi.json lists all",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_UPLOAD))
        .with_state(state)
}

/// The OpenAPI document, as the server gives it out.
pub fn document() -> String {
    parts().1.to_pretty_json().unwrap_or_default()
}
