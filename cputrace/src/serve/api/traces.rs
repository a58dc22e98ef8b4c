//! Whole recordings: uploaded, made on demand, downloaded.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Multipart, Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::MAX_UPLOAD;
use super::problem::{Problem, blocking};
use super::profiles::{FormatParams, written};
use super::query::{Filter, Id, Params, small};
use crate::export::{self, Format, trace_json};
use crate::import;
use crate::metrics::collect::unix_seconds;
use crate::model::{Recording, Target};
use crate::serve::State;
use crate::session::{self, Options};
use crate::store::traces::{TraceFilter, TraceRow};

/// The largest upload, unpacked.
const MAX_UNPACKED: u64 = 128 << 20;

/// zstd's level of stored recordings.
const COMPRESSION: i32 = 3;

/// A stored recording, without its contents.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TraceAnswer {
    /// Its id.
    id: String,
    /// What was recorded.
    name: String,
    /// When it was stored, in seconds since 1970.
    added: f64,
    /// Its size in the store, in bytes.
    bytes: u64,
    /// What is known of it.
    facts: serde_json::Value,
}

impl From<TraceRow> for TraceAnswer {
    fn from(row: TraceRow) -> Self {
        let TraceRow { id, added, name, facts, bytes } = row;
        Self { id, name, added: unix_seconds(added), bytes, facts }
    }
}

/// Some of the stored recordings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TracePage {
    /// How many there are in all.
    total: u64,
    /// Those of this page, the newest first.
    traces: Vec<TraceAnswer>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// How many at most.
    #[serde(default, deserialize_with = "small")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// How many of the newest to leave out.
    #[serde(default, deserialize_with = "small")]
    #[param(default = 0, minimum = 0, maximum = 2_147_483_647)]
    offset: Option<u32>,
    /// Only those with this in their name or id.
    contains: Option<String>,
}

/// The stored recordings, the newest first.
#[utoipa::path(
    get, path = "/api/traces", tag = "traces",
    params(PageParams),
    responses(
        (status = 200, description = "A page of them", body = TracePage),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Params(page): Params<PageParams>,
) -> Result<Json<TracePage>, Problem> {
    let limit = page.limit.unwrap_or(50);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::bad("limit has to be between 1 and 1000"));
    }
    let filter = TraceFilter { contains: page.contains.unwrap_or_default(), limit, offset: page.offset.unwrap_or(0) };
    blocking(move || {
        let (rows, total) = state.store.traces(&filter)?;
        Ok(Json(TracePage { total, traces: rows.into_iter().map(TraceAnswer::from).collect() }))
    })
    .await
}

/// Stores a recording: a trace.json (plain or compressed), a pprof profile, folded stacks, or the output of `perf script`;
/// as the body, or as the field `file` of a form.
#[utoipa::path(
    post, path = "/api/traces", tag = "traces",
    request_body(content(
        (serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"), (String = "text/plain"), (UploadForm = "multipart/form-data"),
    )),
    responses(
        (status = 201, description = "It is stored", body = TraceAnswer, headers(("location" = String, description = "Where it is"))),
        (status = 400, description = "The form is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "It is too large", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It is no profile that is known", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be written", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many uploads at once", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn upload(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > MAX_UPLOAD) {
        return Err(too_large());
    }
    // Taken before the body is read: what waits for a permit takes no memory.
    let Ok(permit) = state.uploads.clone().try_acquire_owned() else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many uploads at once: try again in a moment"));
    };
    let body = tokio::time::timeout(UPLOAD_TIME, body(request));
    let (name, bytes) = body.await.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, format!("the upload took longer than {} s", UPLOAD_TIME.as_secs()))
    })??;
    let stored = blocking(move || {
        let _permit = permit;
        let recording = import::read(&bytes, MAX_UNPACKED)?;
        drop(bytes);
        store(&state, &recording, name.as_deref(), "upload")
    })
    .await?;
    let location = format!("/api/traces/{}", stored.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(TraceAnswer::from(stored))).into_response())
}

/// How long an upload may take.
const UPLOAD_TIME: Duration = Duration::from_mins(1);

/// The form that the ancestor had.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form to readers of the API's document")]
pub(super) struct UploadForm {
    /// The file.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
}

/// The uploaded bytes, with the file's name where a form tells it.
async fn body(request: Request) -> Result<(Option<String>, Bytes), Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data") {
        let bytes: Result<Bytes, BytesRejection> = Bytes::from_request(request, &()).await;
        let refused = |error: BytesRejection| refused(error.status(), error.body_text());
        return Ok((None, bytes.map_err(refused)?));
    }
    let refused = |error: axum::extract::multipart::MultipartError| refused(error.status(), error.body_text());
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| Problem::bad(error.body_text()))?;
    while let Some(field) = form.next_field().await.map_err(refused)? {
        if field.name() == Some("file") {
            let name = field.file_name().map(ToOwned::to_owned);
            return Ok((name, field.bytes().await.map_err(refused)?));
        }
    }
    Err(Problem::unprocessable("the form has no field \"file\""))
}

fn too_large() -> Problem {
    let max = MAX_UPLOAD >> 20;
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("it is larger than {max} MB: compress it, or record for less long"),
    )
}

fn refused(status: StatusCode, problem: String) -> Problem {
    if status == StatusCode::PAYLOAD_TOO_LARGE { too_large() } else { Problem::new(status, problem) }
}

/// Stores a recording under its id, or under the next one that is free.
fn store(state: &State, recording: &Recording, name: Option<&str>, from: &str) -> Result<TraceRow, Problem> {
    let mut json = Vec::new();
    let wrong = |error: std::io::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    export::Exporter::export(&trace_json::TraceJson, recording, crate::model::View::default(), &mut json)
        .map_err(wrong)?;
    let bytes = zstd::bulk::compress(&json, COMPRESSION).map_err(wrong)?;
    drop(json);
    // Whatever a file calls itself, an id is a word.
    let base: String = recording
        .session_id
        .chars()
        .filter(|char| char.is_ascii_alphanumeric() || "-_".contains(*char))
        .take(64)
        .collect();
    let base = if base.starts_with("trace-") { base } else { session::session_id(SystemTime::now()) };
    let mut id = base.clone();
    for number in 2.. {
        if state.store.trace(&id)?.is_none() {
            break;
        }
        id = format!("{base}-{number}");
    }
    let name = name.map_or_else(|| targets(recording), ToOwned::to_owned);
    let facts = serde_json::json!({
        "from": from,
        "session_id": recording.session_id,
        "start": unix_seconds(recording.start),
        "duration": recording.duration.as_secs_f64(),
        "samples": recording.ledger.samples_kept,
        "hostname": recording.host.hostname,
        "notes": recording.notes,
    });
    let row = TraceRow { id, added: SystemTime::now(), name, facts, bytes: bytes.len() as u64 };
    state.store.add_trace(&row, &bytes)?;
    Ok(row)
}

fn targets(recording: &Recording) -> String {
    let words = recording.targets.iter().map(|target| match target {
        Target::Pid(pid) => {
            let timeline = recording.timelines.iter().find(|timeline| timeline.pid == *pid);
            timeline.map_or_else(|| format!("process {pid}"), |timeline| timeline.name.clone())
        }
        Target::Name(pattern) => format!("/{pattern}/"),
        Target::Cgroup(path) => path.clone(),
        Target::All => "the whole host".to_owned(),
        Target::Command(words) => words.join(" "),
    });
    let words: Vec<_> = words.collect();
    if words.is_empty() { "imported".to_owned() } else { words.join(", ") }
}

/// A stored recording by its id.
pub(super) fn find(state: &State, id: &str) -> Result<Option<Recording>, Problem> {
    let Some((_, bytes)) = state.store.trace(id)? else { return Ok(None) };
    let damaged =
        |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the stored recording is damaged: {error}"));
    Ok(Some(trace_json::read(&*bytes).map_err(damaged)?))
}

/// There is none.
pub(super) fn no_trace(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no trace {id:?}; /api/traces lists them"))
}

/// A stored recording: what is known of it.
#[utoipa::path(
    get, path = "/api/traces/{id}", tag = "traces",
    params(("id" = String, Path, description = "The trace's id")),
    responses(
        (status = 200, description = "What is known of it", body = TraceAnswer),
        (status = 400, description = "The id is no text", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such trace", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Result<Json<TraceAnswer>, Problem> {
    blocking(move || match state.store.trace(&id)? {
        Some((row, _)) => Ok(Json(row.into())),
        None => Err(no_trace(&id)),
    })
    .await
}

/// Deletes a stored recording.
#[utoipa::path(
    delete, path = "/api/traces/{id}", tag = "traces",
    params(("id" = String, Path, description = "The trace's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "The id is no text", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such trace", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be written", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Result<StatusCode, Problem> {
    blocking(move || match state.store.delete_trace(&id)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_trace(&id)),
    })
    .await
}

/// A recording's own points of time: CPU, memory and threads of its processes, as trace.json has them.
#[utoipa::path(
    get, path = "/api/traces/{id}/samples", tag = "traces",
    params(("id" = String, Path, description = "The trace's id")),
    responses(
        (status = 200, description = "One series a process", body = serde_json::Value),
        (status = 400, description = "The id is no text", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such trace", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn samples(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Result<Json<serde_json::Value>, Problem> {
    blocking(move || {
        let recording = find(&state, &id)?.ok_or_else(|| no_trace(&id))?;
        let mut json = Vec::new();
        let wrong = |error: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
        export::Exporter::export(&trace_json::TraceJson, &recording, crate::model::View::default(), &mut json)
            .map_err(|error| wrong(error.to_string()))?;
        let document: serde_json::Value = serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
        let parts = ["samples", "processes"].map(|key| (key.to_owned(), document[key].clone()));
        Ok(Json(serde_json::Value::Object(parts.into_iter().collect())))
    })
    .await
}

/// A recording in one of the formats.
#[utoipa::path(
    get, path = "/api/traces/{id}/profile", tag = "traces",
    params(("id" = String, Path, description = "The trace's id"), FormatParams, Filter),
    responses(
        (status = 200, description = "The recording", content(
            (Vec<u8> = "application/octet-stream"), (String = "text/plain"), (String = "image/svg+xml"), (serde_json::Value = "application/json"),
        )),
        (status = 400, description = "A parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such trace", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn profile(
    Shared(state): Shared<Arc<State>>,
    Id(id): Id,
    Params(format): Params<FormatParams>,
    Params(filter): Params<Filter>,
) -> Result<Response, Problem> {
    let exporter = export::by_name(format.format())?;
    let view = filter.view();
    let body = blocking(move || {
        let recording = find(&state, &id)?.ok_or_else(|| no_trace(&id))?;
        written(&recording, Format { exporter, view })
    });
    Ok(([(header::CONTENT_TYPE, exporter.content_type())], body.await?).into_response())
}

/// What to record.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordRequest {
    /// The process, and its children.
    #[schema(example = 1234, minimum = 1)]
    pid: u32,
    /// For how many seconds.
    #[serde(default = "default_duration")]
    #[schema(example = 10, minimum = 0.1, maximum = 600)]
    duration: f64,
    /// Samples a second and CPU.
    #[serde(default = "default_frequency")]
    #[schema(example = 199, minimum = 1, maximum = 10_000)]
    frequency: u32,
}

fn default_duration() -> f64 {
    10.0
}

fn default_frequency() -> u32 {
    199
}

/// Records a process at a high rate, beside what goes on anyway, and stores that as a trace.
#[utoipa::path(
    post, path = "/api/record", tag = "traces",
    request_body = RecordRequest,
    responses(
        (status = 201, description = "It is recorded and stored", body = TraceAnswer, headers(("location" = String, description = "Where it is"))),
        (status = 400, description = "The request is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The request did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The request is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The request is no JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "That cannot be recorded", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Another recording runs", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The store cannot be written", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn record(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let request: Result<Json<RecordRequest>, _> = Json::from_request(request, &()).await;
    let Json(RecordRequest { pid, duration, frequency }) = request
        .map_err(|error: axum::extract::rejection::JsonRejection| Problem::new(error.status(), error.body_text()))?;
    if !(0.1..=600.0).contains(&duration) {
        return Err(Problem::bad("duration has to be between 0.1 and 600 seconds"));
    }
    if !(1..=10_000).contains(&frequency) {
        return Err(Problem::bad("frequency has to be between 1 and 10000"));
    }
    let Ok(permit) = state.recordings.clone().try_acquire_owned() else {
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "another recording runs: try again when it is over"));
    };
    let (_ends_with_request, stop) = state.begin_recording();
    let stored = blocking(move || {
        let _permit = permit;
        let options = Options {
            targets: vec![Target::Pid(pid)],
            frequency,
            duration: Some(Duration::from_secs_f64(duration)),
            ..state.on_demand.clone()
        };
        let outcome = session::record(&options, None, &mut |_| {}, &stop)
            .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
        store(&state, &outcome.recording, None, "record")
    })
    .await?;
    let location = format!("/api/traces/{}", stored.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(TraceAnswer::from(stored))).into_response())
}
