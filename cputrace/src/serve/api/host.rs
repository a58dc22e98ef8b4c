//! What cputrace and the host do now.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use serde::Serialize;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};
use utoipa::ToSchema;

use super::problem::{Problem, blocking};
use crate::group::Groups;
use crate::metrics::collect::{seconds, unix_seconds};
use crate::model::OffCpuState;
use crate::process::host;
use crate::serve::State;

/// How often a live stream without news says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What cputrace does.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// Its version.
    version: &'static str,
    /// Whether it takes samples.
    ready: bool,
    /// The host's name.
    hostname: String,
    /// The kernel.
    kernel: String,
    /// CPUs online.
    cpus: u32,
    /// Length of a window, in seconds.
    window: f64,
    /// Samples a second and CPU, now.
    frequency: f64,
    /// What cputrace takes, as a share of the CPU time of all CPUs, in the last second.
    overhead: Option<f64>,
    /// What it may take; over it, the frequency is lowered.
    max_overhead: Option<f64>,
    /// Windows so far.
    windows: u64,
    /// Samples that were to be expected so far.
    samples_expected: u64,
    /// Samples that are there.
    samples_kept: u64,
    /// Samples that are not.
    samples_lost: u64,
    /// Size of the store, in bytes.
    store_bytes: u64,
    /// When the first window of the store began, in seconds since 1970.
    stored_from: Option<f64>,
    /// When its last window ended.
    stored_to: Option<f64>,
    /// What is off or went wrong, each with its fix.
    notes: Vec<String>,
}

/// What cputrace does, and what it has.
#[utoipa::path(
    get, path = "/api/status", tag = "host",
    responses(
        (status = 200, description = "The state", body = Status),
        (status = 500, description = "The store cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn status(Shared(state): Shared<Arc<State>>) -> Result<Json<Status>, Problem> {
    blocking(move || {
        let host = host::host();
        let span = state.store.span()?;
        let own = state.own();
        let overhead = state.overhead();
        let look = overhead.last();
        Ok(Json(Status {
            version: env!("CARGO_PKG_VERSION"),
            ready: state.is_ready(),
            hostname: host.hostname,
            kernel: host.kernel,
            cpus: host.cpus,
            window: state.window().as_secs_f64(),
            frequency: look.map_or(own.frequency_hz, |look| look.frequency_hz),
            overhead: look.map(|look| look.share),
            max_overhead: look.and_then(|look| look.limit),
            windows: own.windows,
            samples_expected: own.samples_expected,
            samples_kept: own.samples_kept,
            samples_lost: own.samples_lost.values().sum(),
            store_bytes: state.store.bytes(),
            stored_from: span.map(|span| unix_seconds(span.from)),
            stored_to: span.map(|span| unix_seconds(span.to)),
            notes: state.notes(),
        }))
    })
    .await
}

/// A group of processes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupRow {
    /// Its name.
    group: String,
    /// Living processes.
    processes: u64,
    /// Their threads.
    threads: u64,
    /// Their resident memory, in bytes.
    resident_bytes: u64,
    /// Time on the CPU since the group appeared, in seconds, as all times that follow.
    cpu_seconds: f64,
    /// The part of that in the kernel.
    system_seconds: f64,
    /// Waiting for a CPU.
    run_queue_seconds: f64,
    /// Waiting for something else.
    off_cpu_seconds: f64,
}

/// All groups, by name, with their sums since they appeared.
#[utoipa::path(
    get, path = "/api/groups", tag = "host",
    responses((status = 200, description = "The groups", body = Vec<GroupRow>))
)]
pub(super) async fn groups(Shared(state): Shared<Arc<State>>) -> Result<Json<Vec<GroupRow>>, Problem> {
    let rows = |groups: &Groups| {
        let rows = groups.all().map(|(name, sums)| GroupRow {
            group: name.to_owned(),
            processes: sums.processes,
            threads: sums.threads,
            resident_bytes: sums.resident_bytes,
            cpu_seconds: seconds(sums.on_cpu_ns),
            system_seconds: seconds(sums.system_ns),
            run_queue_seconds: seconds(sums.run_queue_ns),
            off_cpu_seconds: seconds(sums.off_cpu_ns.iter().sum()),
        });
        rows.collect()
    };
    blocking(move || Ok(Json(state.with_groups(rows)))).await
}

/// A living process, and what it did in the last window.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProcessRow {
    /// Process id.
    pid: u32,
    /// Its name.
    name: String,
    /// Its group.
    group: String,
    /// Its container's id, if it is in one.
    #[serde(skip_serializing_if = "String::is_empty")]
    container: String,
    /// Threads.
    threads: u64,
    /// Resident memory, in bytes.
    resident_bytes: u64,
    /// Time on the CPU in the window, in seconds, as all times that follow.
    cpu_seconds: f64,
    /// Waiting for a CPU.
    run_queue_seconds: f64,
    /// Waiting for an event, by state.
    off_cpu_seconds: std::collections::BTreeMap<&'static str, f64>,
}

/// The living processes, the busiest of the last window first.
#[utoipa::path(
    get, path = "/api/processes", tag = "host",
    responses((status = 200, description = "The processes", body = Vec<ProcessRow>))
)]
pub(super) async fn processes(Shared(state): Shared<Arc<State>>) -> Result<Json<Vec<ProcessRow>>, Problem> {
    let rows = |groups: &Groups| {
        let rows = groups.processes().map(|process| ProcessRow {
            pid: process.pid,
            name: process.name.to_owned(),
            group: process.labels.group.clone(),
            container: process.labels.container.clone(),
            threads: process.threads,
            resident_bytes: process.resident_bytes,
            cpu_seconds: seconds(process.on_cpu_ns),
            run_queue_seconds: seconds(process.run_queue_ns),
            off_cpu_seconds: OffCpuState::ALL
                .iter()
                .zip(process.off_cpu_ns)
                .map(|(state, ns)| (state.name(), seconds(ns)))
                .collect(),
        });
        let mut rows: Vec<ProcessRow> = rows.collect();
        rows.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds).then(a.pid.cmp(&b.pid)));
        rows
    };
    blocking(move || Ok(Json(state.with_groups(rows)))).await
}

/// A stream of events (SSE): `window` after each window, with what groups did in it.
#[utoipa::path(
    get, path = "/api/live", tag = "host",
    responses((status = 200, description = "The stream; it has no end", body = String, content_type = "text/event-stream"))
)]
pub(super) async fn live(Shared(state): Shared<Arc<State>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Whoever is too slow misses some, which is all the same: each says the state of its moment.
    let news = BroadcastStream::new(state.subscribe()).filter_map(Result::ok);
    let events = news.map(|news| Ok(Event::default().event(news.kind).data(&*news.data)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
