//! `cputrace serve`: watches without an end, and answers over HTTP.
//!
//! The session runs in the caller's thread, windows are completed in another one (`session`), and HTTP has its own: no
//! request can hold up the collection.
//! - [`http`]: the listener; [`front`]: what each request goes through; [`web_config`]: TLS, users and headers; [`origin`]:
//!   what web pages from elsewhere must not get at.
//! - [`routes`]: what is answered at which path; [`api`] all below `/api`, [`pyroscope`] what Grafana asks a Pyroscope for.
//! - [`lifecycle`]: the configuration, read again.
//! - [`overhead`]: what it costs.
//! - [`anomalies`]: what is not as usual, and [`webhook`]: who is told.
//! - [`push`]: hands windows on to other servers.
//! - [`state`]: what the others share.

mod anomalies;
pub mod api;
mod front;
pub mod http;
mod lifecycle;
mod origin;
mod overhead;
mod push;
mod pyroscope;
mod routes;
mod state;
pub mod web_config;
mod webhook;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use crate::config::Config;
use crate::config::source::{ConfigError, Source};
use crate::group::rule::RuleError;
use crate::group::{GroupOptions, Groups};
use crate::model::Recording;
use crate::process::own;
use crate::session::{EndReason, Options, SessionError, Stop, Watch};
use crate::store::{Retention, Store, StoreError};
use http::{Limits, Listen, Server};
use lifecycle::Lifecycle;
pub use push::{PushOptions, PushTo};
pub use routes::router;
pub use state::State;
use web_config::{WebConfig, WebConfigError};

/// What to serve, decided by the caller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How it is to be reached.
    pub web: WebSettings,
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
    /// Where alarms are told to.
    pub webhook: Option<String>,
    /// How a process is recorded on demand; target, frequency and duration are the request's.
    pub on_demand: Options,
}

/// How it is to be reached.
#[derive(Clone, Debug)]
pub struct WebSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// A file with TLS, users and headers.
    pub config_file: Option<PathBuf>,
    /// Whether everybody may be let in who reaches this host.
    pub allow_anonymous: bool,
    /// Connections that there may be at once.
    pub connections: u32,
}

/// The configuration is to be read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reload;

/// The caller's side of a server.
pub struct Caller<'a> {
    /// Is told the address once everything works.
    pub on_start: &'a mut dyn FnMut(&str),
    /// Shows a line to whoever runs it.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
    /// Ends it.
    pub stop: Receiver<Stop>,
    /// Has the configuration read again.
    pub reload: Receiver<Reload>,
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
    /// Everybody could read what is served.
    #[error(
        "everybody who reaches {0} could read this host's profiles: give --web-config with basic_auth_users, or \
         --allow-anonymous if that is meant"
    )]
    Exposed(SocketAddr),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The web configuration is wrong.
    #[error(transparent)]
    WebConfig(#[from] WebConfigError),
    /// The HTTP thread cannot be started.
    #[error("the HTTP server cannot be started: {0}")]
    Http(io::Error),
    /// The thread that tells of alarms cannot be started.
    #[error("the webhook's thread cannot be started: {0}")]
    Webhook(io::Error),
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

/// Watches and serves until the caller sends [`Stop`], as a configuration says that can be read again.
pub fn serve(source: Source, caller: Caller<'_>) -> Result<EndReason, ServeError> {
    let config = source.load()?;
    let settings = config.settings()?;
    run(&settings, Some((source, config)), caller)
}

/// The same by settings, and where they come from.
pub fn run(
    settings: &Settings,
    configuration: Option<(Source, Config)>,
    caller: Caller<'_>,
) -> Result<EndReason, ServeError> {
    let Caller { on_start, say, stop, reload } = caller;
    // First what costs nothing if it fails.
    let groups = Groups::new(&settings.groups)?;
    let web = Arc::new(web(&settings.web, say.clone())?);
    let scheme = if web.has_tls() { "https" } else { "http" };
    let store = Store::open(&settings.data_dir)?;
    let state = Arc::new(State::new(settings, store, groups, Box::new(move |line: &str| say(line))));
    state.take_up(settings)?;
    let router = routes::router(state.clone());
    let lifecycle = configuration.map(|(source, config)| Arc::new(Lifecycle::new(source, config, state.clone())));
    let router = lifecycle.iter().fold(router, |router, lifecycle| router.merge(lifecycle::router(lifecycle.clone())));
    let WebSettings { listen, connections, .. } = settings.web;
    let listen = Listen { address: listen, limits: Limits { connections, ..Limits::default() }, web };
    let server = Server::start(listen, router, state.clone())?;
    let watch = Watch::start(&settings.session)?;
    state.set_ready();
    on_start(&format!("{scheme}://{}", server.address()));
    if let Some(lifecycle) = lifecycle {
        // It ends with the program: the other end stays open until then.
        let reloads = move || reload.iter().for_each(|Reload| drop(lifecycle.reload()));
        thread::Builder::new().name("reload".to_owned()).spawn(reloads).map_err(ServeError::Http)?;
    }
    let end = watch.run(settings.window, &mut |window| add(&state, window), &|look| state.add_look(look), &stop);
    state.stop_recordings();
    server.stop();
    state.stop();
    Ok(end)
}

/// The web configuration; it has to guard what is not only this host's.
fn web(settings: &WebSettings, say: Arc<dyn Fn(&str) + Send + Sync>) -> Result<WebConfig, ServeError> {
    let must_guard = !settings.listen.ip().is_loopback() && !settings.allow_anonymous;
    match &settings.config_file {
        None if must_guard => Err(ServeError::Exposed(settings.listen)),
        path => Ok(WebConfig::open(path.as_deref(), must_guard, say)?),
    }
}

fn add(state: &State, window: Recording) {
    state.add(&window);
    drop(window);
    own::give_memory_back();
}
