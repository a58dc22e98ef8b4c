//! What all HTTP clients here have in common: addresses that may have a user, TLS by the system's certificates, who asks, and that
//! an answer is no error.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// An agent whose timeouts are the caller's to set.
pub(crate) fn agent() -> ConfigBuilder<AgentScope> {
    agent_that_trusts(RootCerts::PlatformVerifier)
}

/// The same, with who may have signed a server's certificate.
pub(crate) fn agent_that_trusts(roots: RootCerts) -> ConfigBuilder<AgentScope> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("cputrace/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
}

/// A server's address as users give it: `https://user:password@host/path`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// Without the user.
    pub(crate) url: String,
    /// The `Authorization` header, if it has a user.
    pub(crate) authorization: Option<String>,
}

impl Address {
    /// `None`: it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let url = format!("{scheme}://{host}{path}");
        let is_address = ["http", "https"].contains(&scheme) && !host.is_empty() && url.parse::<Uri>().is_ok();
        let authorization = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            basic(&decode(user), &decode(password))
        });
        is_address.then_some(Self { url, authorization })
    }
}

/// The `Authorization` header of a user (RFC 7617).
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Undoes `%40` and its kin.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = match rest {
            [b'%', high, low, ..] => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &rest[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses with and without a user and a path; what is none is refused.
    #[test]
    fn addresses() {
        let check = |text: &str, url: &str, user: Option<(&str, &str)>| {
            let authorization = user.map(|(user, password)| basic(user, password));
            assert_eq!(Address::parse(text), Some(Address { url: url.to_owned(), authorization }), "{text}");
        };
        check("http://localhost:9797", "http://localhost:9797", None);
        check("https://host/", "https://host/", None);
        check("https://host/hook?a=b@c", "https://host/hook?a=b@c", None);
        check("https://a:b%40c@host:1/sub/path/", "https://host:1/sub/path/", Some(("a", "b@c")));
        check("http://a:100%@[::1]:1", "http://[::1]:1", Some(("a", "100%")));
        // RFC 7617, section 2.
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        for wrong in ["", "host", "ftp://host", "http://", "http://a@", "http://a b/"] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }
}
