//! Reading the configuration again while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::post;

use super::{ServeError, State};
use crate::config::source::Source;
use crate::config::{Config, Setting, Takes};

/// What is in effect, and where it comes from.
pub(super) struct Lifecycle {
    source: Source,
    current: Mutex<Config>,
    state: Arc<State>,
    /// Whether a request may have it read again, too.
    by_request: bool,
}

impl Lifecycle {
    pub(super) fn new(source: Source, config: Config, state: Arc<State>) -> Self {
        let by_request = config.web.enable_lifecycle;
        Self { source, current: Mutex::new(config), state, by_request }
    }

    /// Reads the configuration again and takes up what can be; says what came of it. What is wrong changes nothing.
    pub(super) fn reload(&self) -> Result<String, ServeError> {
        let result = self.take_up();
        self.state.set_reloaded(result.is_ok());
        self.state.say(&match &result {
            Ok(said) => said.clone(),
            Err(error) => format!("{error}; the settings before stay in effect"),
        });
        result
    }

    fn take_up(&self) -> Result<String, ServeError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.source.load()?;
        let settings = config.settings()?;
        let changes: Vec<_> = config.changes(&current).collect();
        let (now, later): (Vec<_>, Vec<_>) = changes.into_iter().partition(|setting| setting.takes == Takes::Reload);
        self.state.take_up(&settings)?;
        now.iter().for_each(|setting| setting.copy(&config, &mut current));
        let mut said = format!("the configuration has been read again; changed: {}", names(&now));
        if !later.is_empty() {
            said.push_str(&format!("; changed, but only after a restart: {}", names(&later)));
        }
        Ok(said)
    }
}

fn names(settings: &[&Setting]) -> String {
    let names: Vec<_> = settings.iter().map(|setting| format!("{}.{}", setting.section, setting.key)).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// `/-/reload`, as Prometheus has it.
pub(super) fn router(lifecycle: Arc<Lifecycle>) -> Router {
    Router::new().route("/-/reload", post(reload).put(reload)).with_state(lifecycle)
}

async fn reload(Shared(lifecycle): Shared<Arc<Lifecycle>>) -> (StatusCode, String) {
    if !lifecycle.by_request {
        return (StatusCode::FORBIDDEN, "this is not allowed: give --web-enable-lifecycle\n".to_owned());
    }
    let reloaded = tokio::task::spawn_blocking(move || lifecycle.reload().map_err(|error| error.to_string())).await;
    match reloaded {
        Ok(Ok(said)) => (StatusCode::OK, said + "\n"),
        Ok(Err(problem)) => (StatusCode::INTERNAL_SERVER_ERROR, problem + "\n"),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a fault of cputrace's own\n".to_owned()),
    }
}
