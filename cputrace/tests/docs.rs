//! Documents that are generated: they say what the code says. `cargo xtask docs` writes them.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

/// Compares, or writes where `CPUTRACE_WRITE_DOCS` is set.
fn check(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("CPUTRACE_WRITE_DOCS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} is not up to date: cargo xtask docs", path.display());
}

/// METRICS.md lists the metrics that there are.
#[test]
fn metrics() {
    check("METRICS.md", &cputrace::metrics::markdown());
}

/// openapi.json is the document that the server gives out.
#[test]
fn openapi() {
    check("docs/openapi.json", &cputrace::serve::api::document());
}

/// configuration.md lists the settings that there are.
#[test]
fn configuration() {
    check("docs/configuration.md", &cputrace::config::markdown());
}
