//! The HTTP listener, in a thread of its own: HTTP/1.1, over TLS where the web configuration says so, with a limit on
//! everything that a client can take its time or its fill with.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::web_config::WebConfig;
use super::{ServeError, State, front};

/// What is kept of a request or an answer that is on its way.
const BUFFER_BYTES: usize = 64 << 10;

/// Requests that are worked on at once; others wait.
const WORKERS: usize = 8;

/// Connections that the kernel has wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where there are no files or sockets left, trying again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests that run may take when the server ends.
const END_TIME: Duration = Duration::from_secs(3);

/// What a client can take its time or its fill with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections that there may be at once; others wait to be accepted.
    pub connections: u32,
    /// How long it may take to agree on TLS, to send the head of a request, and to ask for the next one.
    pub head: Duration,
    /// How long a body may send nothing.
    pub body_pause: Duration,
    /// How long nothing may be read of what is sent.
    pub write_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (head, body_pause) = (Duration::from_secs(10), Duration::from_secs(10));
        Self { connections: 512, head, body_pause, write_pause: Duration::from_secs(30) }
    }
}

/// The HTTP thread.
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// How it listens.
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// What clients may take.
    pub limits: Limits,
    /// TLS, users and headers.
    pub web: Arc<WebConfig>,
}

impl Server {
    /// Listens, and answers from then on.
    pub fn start(listen: Listen, router: Router, state: Arc<State>) -> Result<Self, ServeError> {
        let Listen { address, limits, web } = listen;
        let cannot_listen = |error| ServeError::Listen { address, error };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(WORKERS).build();
        let runtime = runtime.map_err(ServeError::Http)?;
        let listener = {
            let _in_runtime = runtime.enter();
            bind(address).map_err(cannot_listen)?
        };
        let address = listener.local_addr().map_err(cannot_listen)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let router = front::guard(router, state, web.clone(), limits.body_pause);
        let serve = move || {
            runtime.block_on(serve(&listener, router, &web, limits, stopped));
            // What still runs then is a recording that is being stored, or not worth waiting for.
            runtime.shutdown_timeout(END_TIME);
        };
        let thread = thread::Builder::new().name("http".to_owned()).spawn(serve).map_err(ServeError::Http)?;
        Ok(Self { address, stop, thread })
    }

    /// Where it listens: the port that was found, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the requests that run come to their end, for a while.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn serve(
    listener: &TcpListener,
    router: Router,
    web: &Arc<WebConfig>,
    limits: Limits,
    mut stopped: oneshot::Receiver<()>,
) {
    let connections = Arc::new(Semaphore::new(limits.connections as usize));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(BUFFER_BYTES);
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = connections.clone().acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            Some(accepted) = accepted => accepted,
            // The sender is dropped where the session failed: that is an end, too.
            _ = &mut stopped => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (http, watcher, web) = (http.clone(), graceful.watcher(), web.clone());
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Some(stream) = secure(stream, &web, limits).await else { return };
            // How a connection ends is the client's affair.
            let _ = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
    let _ = timeout(END_TIME, graceful.shutdown()).await;
}

trait Connection: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Connection for T {}

/// The connection, over TLS where that is on; none where the client does not manage that.
async fn secure(stream: TcpStream, web: &WebConfig, limits: Limits) -> Option<Pin<Box<dyn Connection>>> {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_pause));
    let stream = Box::pin(stream);
    let Some(tls) = web.current().tls.clone() else { return Some(stream) };
    let stream = timeout(limits.head, TlsAcceptor::from(tls).accept(stream)).await;
    Some(Box::pin(stream.ok()?.ok()?))
}
