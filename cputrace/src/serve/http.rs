//! The HTTP listener, in a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use axum::Router;
use tokio::sync::oneshot;

use super::ServeError;

/// The HTTP thread.
pub(super) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens, and answers from then on.
    pub(super) fn start(listen: SocketAddr, router: Router) -> Result<Self, ServeError> {
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
                axum::serve(listener, router).with_graceful_shutdown(stopped).await
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
