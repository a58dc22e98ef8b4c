//! The HTTP listener and its routes, in a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use tokio::sync::oneshot;

use super::{ServeError, State};

/// The HTTP thread.
pub(super) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens, and answers from then on.
    pub(super) fn start(listen: SocketAddr, state: Arc<State>) -> Result<Self, ServeError> {
        let cannot_listen = |error| ServeError::Listen { address: listen, error };
        let listener = std::net::TcpListener::bind(listen).map_err(cannot_listen)?;
        listener.set_nonblocking(true).map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Http)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let stopped = async {
                    // The sender is dropped where the session failed: that is an end, too.
                    let _ = stopped.await;
                };
                axum::serve(listener, router(state)).with_graceful_shutdown(stopped).await
            })
        };
        let serve = move || {
            let _: io::Result<()> = serve();
        };
        let thread = thread::Builder::new().name("http".to_owned()).spawn(serve).map_err(ServeError::Http)?;
        Ok(Self { address, stop, thread })
    }

    /// Where it listens: the port that was found, where 0 was asked for.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the requests that run come to their end.
    pub(super) fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/-/healthy", get(|| async { "cputrace is alive\n" }))
        .route("/-/ready", get(ready))
        .with_state(state)
}

async fn landing() -> Html<String> {
    let version = env!("CARGO_PKG_VERSION");
    Html(format!("<!doctype html><title>cputrace</title><h1>cputrace {version}</h1>\n"))
}

async fn ready(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    match state.is_ready() {
        true => (StatusCode::OK, "cputrace takes samples\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "cputrace takes no samples yet\n"),
    }
}
