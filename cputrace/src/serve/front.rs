//! What every request goes through before it is answered: who asks, how long its body takes, what it came to.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use super::api::Problem;
use super::web_config::{Web, WebConfig};
use super::{State, origin};

/// How long the rest of a body is read, to nowhere, that nobody wants: a client reads the answer only then.
const REST_TIME: Duration = Duration::from_secs(10);

/// Passwords whose verdict is remembered.
const REMEMBERED: usize = 100;

/// Paths that tell nothing but that cputrace is alive: for those who look after it, without a password.
const OPEN_PATHS: &[&str] = &["/-/healthy", "/-/ready"];

/// Answers by path and status code.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<(String, u16), u64>>);

impl Requests {
    fn count(&self, path: &str, code: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((path.to_owned(), code.as_u16())).or_default() += 1;
    }

    /// All so far.
    pub(super) fn all(&self) -> BTreeMap<(String, u16), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts a router behind all of it.
pub(super) fn guard(router: Router, state: Arc<State>, web: Arc<WebConfig>, body_pause: Duration) -> Router {
    router
        .layer(CatchPanicLayer::custom(fault))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(state.clone(), origin::check))
        .layer(from_fn_with_state(Arc::new(Guard::new(web)), let_in))
        .layer(from_fn_with_state(body_pause, body_in_time))
        .layer(from_fn_with_state(state, count))
}

/// An answer to a request that ended in a panic.
fn fault(_: Box<dyn Any + Send>) -> Response {
    let problem = "this request cannot be answered: a fault of cputrace's own";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, problem).into_response()
}

async fn count(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    // Not what was asked for, which could be anything: the path that answers it.
    let path =
        request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    state.requests.count(&path, response.status());
    response
}

/// A body that two read: the one who wants it, and the one who throws the rest away.
struct SharedBody {
    body: Arc<Mutex<BodyDataStream>>,
    was_asked_for: Arc<AtomicBool>,
}

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.was_asked_for.store(true, Ordering::Relaxed);
        Pin::new(&mut *self.body.lock().unwrap_or_else(PoisonError::into_inner)).poll_next(context)
    }
}

/// Bodies that come too slowly are no longer waited for. What nobody read of one is read to nowhere, for a while: a client
/// that still sends would not see the answer.
async fn body_in_time(Shared(pause): Shared<Duration>, request: Request, next: Next) -> Response {
    let is_late = Arc::new(AtomicBool::new(false));
    let was_asked_for = Arc::new(AtomicBool::new(false));
    let waits_for_leave = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let shared = || SharedBody { body: body.clone(), was_asked_for: was_asked_for.clone() };
    let late = is_late.clone();
    let in_time = shared().timeout(pause).map(move |chunk| {
        chunk.unwrap_or_else(|elapsed| {
            late.store(true, Ordering::Relaxed);
            Err(axum::Error::new(elapsed))
        })
    });
    let response = next.run(Request::from_parts(parts, Body::from_stream(in_time))).await;
    if is_late.load(Ordering::Relaxed) {
        let problem = format!("nothing of the request came for {} s", pause.as_secs_f64());
        return Problem::new(StatusCode::REQUEST_TIMEOUT, problem).into_response();
    }
    if was_asked_for.load(Ordering::Relaxed) || !waits_for_leave {
        let mut rest = shared();
        let rest = async { while let Some(Ok(_)) = rest.next().await {} };
        // Whether it was all is the same.
        let _ = tokio::time::timeout(REST_TIME, rest).await;
    }
    response
}

/// Who is let in.
struct Guard {
    web: Arc<WebConfig>,
    /// Verdicts on names and passwords, by their digest.
    verdicts: Mutex<HashMap<[u8; 32], bool>>,
    /// bcrypt is slow on purpose: one password at a time, whoever tries how many.
    one_at_a_time: Semaphore,
}

impl Guard {
    fn new(web: Arc<WebConfig>) -> Self {
        Self { web, verdicts: Mutex::default(), one_at_a_time: Semaphore::new(1) }
    }

    async fn lets_in(&self, web: &Web, headers: &HeaderMap) -> bool {
        let Some((user, password)) = credentials(headers) else { return false };
        let known = web.users.get(&user);
        // A name that there is not takes as long as one that there is.
        let Some(hash) = known.or_else(|| web.users.values().next()).cloned() else { return true };
        let digest = Sha256::new().chain_update(&user).chain_update([0_u8]).chain_update(&hash).chain_update([0_u8]);
        let digest: [u8; 32] = digest.chain_update(&password).finalize().into();
        let remembered = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&verdict) = remembered().get(&digest) {
            return verdict;
        }
        let Ok(_permit) = self.one_at_a_time.acquire().await else { return false };
        // Those who waited may have been asking the same.
        if let Some(&verdict) = remembered().get(&digest) {
            return verdict;
        }
        let is_right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        let verdict = is_right.unwrap_or(false) && known.is_some();
        let mut verdicts = remembered();
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(digest, verdict);
        verdict
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

async fn let_in(Shared(guard): Shared<Arc<Guard>>, request: Request, next: Next) -> Response {
    let web = guard.web.current();
    let is_open = web.users.is_empty() || OPEN_PATHS.contains(&request.uri().path());
    let mut response = if is_open || guard.lets_in(&web, request.headers()).await {
        next.run(request).await
    } else {
        let problem =
            Problem::new(StatusCode::UNAUTHORIZED, "a user and a password are needed: those of the web configuration");
        ([(header::WWW_AUTHENTICATE, "Basic realm=\"cputrace\"")], problem).into_response()
    };
    for (name, value) in &web.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}
