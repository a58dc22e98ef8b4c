//! `cputrace serve`: watches without an end, and answers over HTTP.
//!
//! The session runs in the caller's thread, windows are completed in another one (`session`), and HTTP has its own: no
//! request can hold up the collection.
//! - [`http`]: the listener and its routes.
//! - [`state`]: what the others share.

mod http;
mod state;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::session::{EndReason, Options, SessionError, Stop, Watch};
use http::Server;
pub use state::State;

/// What to serve, decided by the caller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How long a window lasts.
    pub window: Duration,
    /// What to watch, and how.
    pub session: Options,
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
    /// Nothing can be watched.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Watches and serves until the caller sends [`Stop`]. `on_start` is told the address once both work.
pub fn serve(
    settings: &Settings,
    on_start: &mut dyn FnMut(SocketAddr),
    stop: &Receiver<Stop>,
) -> Result<EndReason, ServeError> {
    let state = Arc::new(State::new());
    // First, for it costs nothing if it fails.
    let server = Server::start(settings.listen, state.clone())?;
    let watch = Watch::start(&settings.session)?;
    state.set_ready();
    on_start(server.address());
    let end = watch.run(settings.window, &mut |window| state.add(&window), stop);
    server.stop();
    Ok(end)
}
