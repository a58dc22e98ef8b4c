//! What a web page from elsewhere, open in a browser on this host, must not get at: profiles tell what runs here, and a
//! request can start a recording.
//!
//! - Its own requests to us say where they are from, and change nothing.
//! - A page whose name suddenly resolves to this host (DNS rebinding) is for the browser the same site as we are. Where only
//!   this host can reach us, requests for the name of another one are refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::State;
use super::api::Problem;

/// Refuses what comes from another web site.
pub(super) async fn check(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    match refusal(request.method(), request.uri(), request.headers(), state.local_name()) {
        Some(detail) => Problem::new(StatusCode::FORBIDDEN, detail).into_response(),
        None => next.run(request).await,
    }
}

/// Why to refuse a request, if so; `local_name` is this host's name where only this host can ask.
fn refusal(method: &Method, uri: &Uri, headers: &HeaderMap, local_name: Option<&str>) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authority = text(header::HOST.as_str()).or_else(|| uri.authority().map(|authority| authority.as_str()));
    if let (Some(hostname), Some(authority)) = (local_name, authority)
        && !is_ours(authority, hostname)
    {
        return Some(format!(
            "{authority:?} is not this host, and only this host can ask here: ask for localhost (a proxy has to send \
             \"Host: localhost\"), or listen on another address with --listen"
        ));
    }
    if method.is_safe() {
        return None;
    }
    // Only browsers send them, and pages cannot change them.
    let is_foreign = match (text("sec-fetch-site"), text(header::ORIGIN.as_str())) {
        (Some(site), _) => !["same-origin", "none"].contains(&site),
        (None, Some(origin)) => origin.split_once("://").map(|(_, origin)| origin) != authority,
        (None, None) => false,
    };
    is_foreign.then(|| "web pages from elsewhere cannot change anything here".to_owned())
}

/// Whether an authority (`name:port`) can only mean this host: names with a dot can be anybody's.
fn is_ours(authority: &str, hostname: &str) -> bool {
    let without_port = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = without_port.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let hostname = hostname.to_ascii_lowercase();
    !name.contains('.')
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok()
        || name == hostname
        || name.strip_prefix(&hostname).is_some_and(|rest| rest.starts_with('.') && !hostname.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// Scrapers, proxies, curl and our own page get through, by whatever name; another page changes nothing.
    #[test]
    fn other_pages_change_nothing() {
        let check = |method: Method, pairs: &[(&'static str, &str)], passes: bool| {
            let refused = refusal(&method, &Uri::from_static("/"), &headers(pairs), None);
            assert_eq!(refused.is_none(), passes, "{method} {pairs:?}: {refused:?}");
        };
        check(Method::GET, &[("host", "profiles.example.com")], true);
        check(Method::POST, &[("host", "profiles.example.com")], true);
        check(Method::GET, &[("host", "a"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")], true);
        check(Method::POST, &[("host", "a:1"), ("origin", "http://a:1"), ("sec-fetch-site", "same-origin")], true);
        check(Method::POST, &[("host", "a:1"), ("origin", "https://a:1")], true);
        check(Method::POST, &[("host", "a:1"), ("origin", "http://a:2")], false);
        check(Method::POST, &[("host", "a:1"), ("origin", "null")], false);
        check(Method::DELETE, &[("host", "a:1"), ("sec-fetch-site", "same-site")], false);
    }

    /// Where only this host can ask, it asks for this host.
    #[test]
    fn names_of_others_are_refused() {
        for (authority, ours) in [
            ("localhost:9797", true),
            ("127.0.0.1:9797", true),
            ("[::1]:9797", true),
            ("[::1]", true),
            ("cputrace", true),
            ("app.localhost:80", true),
            ("Box.Example.com:9797", true),
            ("box.", true),
            ("evil.example:9797", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("boxer.example", false),
        ] {
            assert_eq!(is_ours(authority, "box"), ours, "{authority}");
            let refused = refusal(&Method::GET, &Uri::from_static("/"), &headers(&[("host", authority)]), Some("box"));
            assert_eq!(refused.is_none(), ours, "{authority}");
        }
        assert!(!is_ours("evil.example", ""));
    }
}
