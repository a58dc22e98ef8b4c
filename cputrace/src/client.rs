//! What all HTTP clients here have in common: TLS by the system's certificates, who asks, and that an answer is no error.

use std::sync::Arc;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// An agent whose timeouts are the caller's to set.
pub(crate) fn agent() -> ConfigBuilder<AgentScope> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("cputrace/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
}
