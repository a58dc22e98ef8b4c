//! `cputrace serve`: watches without an end, and answers over HTTP.
//!
//! The session runs in the caller's thread, windows are completed in another one (`session`), and HTTP has its own: no
//! request can hold up the collection.
//! - [`http`]: the listener.
//! - [`routes`]: what is answered at which path; [`api`] all below `/api`, [`pyroscope`] what Grafana asks a Pyroscope for.
//! - [`push`]: hands windows on to other servers.
//! - [`state`]: what the others share.

pub mod api;
mod http;
mod push;
mod pyroscope;
mod routes;
mod state;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::group::rule::RuleError;
use crate::group::{GroupOptions, Groups};
use crate::session::{EndReason, Options, SessionError, Stop, Watch};
use crate::store::{Retention, Store, StoreError};
use http::Server;
pub use push::PushOptions;
pub use routes::router;
pub use state::State;

/// What to serve, decided by the caller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the store is.
    pub data_dir: PathBuf,
    /// What it keeps.
    pub retention: Retention,
    /// How processes are grouped.
    pub groups: GroupOptions,
    /// How long a window lasts.
    pub window: Duration,
    /// Where windows are handed on to.
    pub push: PushOptions,
    /// What to watch, and how.
    pub session: Options,
    /// How a process is recorded on demand; target, frequency and duration are the request's.
    pub on_demand: Options,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on: {error}; another one can be given with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The HTTP thread cannot be started.
    #[error("the HTTP server cannot be started: {0}")]
    Http(io::Error),
    /// The threads that hand windows on cannot be started.
    #[error("windows cannot be handed on: {0}")]
    Push(io::Error),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A rule for groups is wrong.
    #[error(transparent)]
    Groups(#[from] RuleError),
    /// Nothing can be watched.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Watches and serves until the caller sends [`Stop`]. `on_start` is told the address once both work; `say` shows a line
/// to whoever runs it.
pub fn serve(
    settings: &Settings,
    on_start: &mut dyn FnMut(SocketAddr),
    say: Box<dyn Fn(&str) + Send + Sync>,
    stop: &Receiver<Stop>,
) -> Result<EndReason, ServeError> {
    // First what costs nothing if it fails.
    let groups = Groups::new(&settings.groups)?;
    let store = Store::open(&settings.data_dir)?;
    let state = Arc::new(State::new(settings, store, groups, say));
    state.push(&settings.push).map_err(ServeError::Push)?;
    let server = Server::start(settings.listen, routes::router(state.clone()))?;
    let watch = Watch::start(&settings.session)?;
    state.set_ready();
    on_start(server.address());
    let end = watch.run(settings.window, &mut |window| state.add(&window), stop);
    server.stop();
    state.stop();
    Ok(end)
}
