//! The web-config file, in the format of Prometheus' exporter-toolkit: TLS, users, headers. It is read again when it or a
//! certificate changes; what is wrong then is said, and what was right before stays.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use serde::Deserialize;

/// How often it is looked whether files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The headers that a file may add, as exporter-toolkit has it.
const HEADERS: &[&str] = &[
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
];

/// Why a web-config file cannot be used: one sentence with the file and the key.
#[derive(Debug, thiserror::Error)]
#[error("the web configuration {}: {problem}", path.display())]
pub struct WebConfigError {
    path: PathBuf,
    problem: String,
}

/// What a web-config file asks for.
#[derive(Debug, Default)]
pub(super) struct Web {
    /// TLS, where it is on.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Headers of every answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// Users and the bcrypt hashes of their passwords; without any, everybody is let in.
    pub(super) users: BTreeMap<String, String>,
    /// Whether TLS lets in only who has a certificate.
    asks_for_certificates: bool,
}

impl Web {
    /// Whether not everybody is let in.
    pub(super) fn is_guarded(&self) -> bool {
        !self.users.is_empty() || self.asks_for_certificates
    }
}

/// A web-config file, and what it asked for when it was right last.
pub struct WebConfig {
    path: Option<PathBuf>,
    /// Whether a file that lets everybody in is wrong.
    must_guard: bool,
    say: Arc<dyn Fn(&str) + Send + Sync>,
    read: Mutex<Read>,
}

struct Read {
    web: Arc<Web>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// What tells that a file has changed.
#[derive(PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    of: Option<(u64, i64, i64, u64)>,
}

impl Stamp {
    fn take(path: &Path) -> Self {
        let of = fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()));
        Self { path: path.to_owned(), of }
    }
}

impl WebConfig {
    /// Reads a file; without one, nothing is asked for. `must_guard`: a file that lets everybody in is wrong. `say` is told
    /// what happens to the file later.
    pub fn open(
        path: Option<&Path>,
        must_guard: bool,
        say: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self, WebConfigError> {
        let mut stamps = Vec::new();
        let web = path.map_or_else(|| Ok(Web::default()), |path| read(path, must_guard, &mut stamps))?;
        let read = Read { web: Arc::new(web), stamps, looked: Instant::now() };
        Ok(Self { path: path.map(ToOwned::to_owned), must_guard, say, read: Mutex::new(read) })
    }

    /// What it asks for now.
    pub(super) fn current(&self) -> Arc<Web> {
        let mut read_last = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path
            && read_last.looked.elapsed() >= LOOK_EVERY
        {
            read_last.looked = Instant::now();
            if read_last.stamps.iter().any(|stamp| *stamp != Stamp::take(&stamp.path)) {
                let mut stamps = Vec::new();
                match read(path, self.must_guard, &mut stamps) {
                    Ok(web) => {
                        read_last.web = Arc::new(web);
                        (self.say)(&format!("the web configuration {} has been read again", path.display()));
                    }
                    Err(error) => (self.say)(&format!("{error}; what it said before stays in effect")),
                }
                read_last.stamps = stamps;
            }
        }
        read_last.web.clone()
    }

    /// Whether there is TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.current().tls.is_some()
    }
}

/// The file as it is written; a section of which all keys are commented out is null.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileText {
    tls_server_config: Option<TlsText>,
    http_server_config: Option<HttpText>,
    basic_auth_users: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HttpText {
    /// We speak HTTP/1.1 either way, as HTTP/2's clients do where a server speaks nothing else.
    #[serde(rename = "http2")]
    _http2: bool,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TlsText {
    cert: String,
    key: String,
    client_ca: String,
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    client_auth_type: String,
    min_version: Option<Version>,
    max_version: Option<Version>,
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    /// The server's order is preferred in any case.
    #[serde(rename = "prefer_server_cipher_suites")]
    _prefer_server_cipher_suites: bool,
}

/// TLS 1.0 and 1.1 are not spoken by anybody any more, nor by rustls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Version {
    #[serde(rename = "TLS12")]
    Tls12,
    #[serde(rename = "TLS13")]
    Tls13,
}

fn read(path: &Path, must_guard: bool, stamps: &mut Vec<Stamp>) -> Result<Web, WebConfigError> {
    stamps.push(Stamp::take(path));
    let wrong = |problem| WebConfigError { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    // Nothing but comments is a file that asks for nothing.
    let file: Option<FileText> =
        serde_saphyr::from_str(&text).map_err(|error| wrong(one_line(&error.without_snippet().to_string())))?;
    let FileText { tls_server_config, http_server_config, basic_auth_users } = file.unwrap_or_default();
    let users = basic_auth_users.unwrap_or_default();
    for (user, hash) in &users {
        hash.parse::<bcrypt::HashParts>().map_err(|_| {
            wrong(format!("basic_auth_users.{user}: this is no bcrypt hash: make one with `htpasswd -nBC 10 {user}`"))
        })?;
    }
    let headers = headers(http_server_config.and_then(|http| http.headers).unwrap_or_default()).map_err(wrong)?;
    let mut web = Web { headers, users, ..Web::default() };
    if let Some(tls) = tls_server_config {
        web.asks_for_certificates = tls.client_auth_type == "RequireAndVerifyClientCert";
        let folder = path.parent().unwrap_or(Path::new("."));
        web.tls = Some(Arc::new(
            tls_config(&tls, folder, stamps).map_err(|problem| wrong(format!("tls_server_config: {problem}")))?,
        ));
    }
    if must_guard && !web.is_guarded() {
        return Err(wrong(
            "it has no basic_auth_users, and everybody who reaches this host could read its profiles; name users, or \
             give --allow-anonymous"
                .to_owned(),
        ));
    }
    Ok(web)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn headers(headers: BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): (String, String)| {
        let known = HEADERS.iter().any(|known| known.eq_ignore_ascii_case(&name));
        let unknown = || format!("http_server_config.headers: {name} cannot be set; {} can", HEADERS.join(", "));
        let key = HeaderName::try_from(&name).ok().filter(|_| known).ok_or_else(unknown)?;
        let value = HeaderValue::try_from(value).map_err(|_| format!("http_server_config.headers.{name}: no value"))?;
        Ok((key, value))
    };
    headers.into_iter().map(header).collect()
}

fn tls_config(tls: &TlsText, folder: &Path, stamps: &mut Vec<Stamp>) -> Result<ServerConfig, String> {
    let mut pem = |key: &str, inline: &str, file: &Path| {
        if file.as_os_str().is_empty() {
            return Ok(inline.as_bytes().to_owned());
        }
        let file = folder.join(file);
        stamps.push(Stamp::take(&file));
        fs::read(&file).map_err(|error: io::Error| format!("{key}_file: {} cannot be read: {error}", file.display()))
    };
    let certificates = certificates("cert", &pem("cert", &tls.cert, &tls.cert_file)?)?;
    let key = PrivateKeyDer::from_pem_slice(&pem("key", &tls.key, &tls.key_file)?);
    let key = key.map_err(|error| format!("key or key_file: {error}"))?;
    let provider = Arc::new(provider(tls)?);
    let is_allowed =
        |version| tls.min_version.is_none_or(|min| min <= version) && tls.max_version.is_none_or(|max| version <= max);
    let versions = [(Version::Tls12, &TLS12), (Version::Tls13, &TLS13)];
    let versions: Vec<&SupportedProtocolVersion> =
        versions.into_iter().filter(|(version, _)| is_allowed(*version)).map(|(_, version)| version).collect();
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions);
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &*tls.client_auth_type {
        "" | "NoClientCert" => builder.with_no_client_auth(),
        kind @ ("VerifyClientCertIfGiven" | "RequireAndVerifyClientCert") => {
            let mut roots = RootCertStore::empty();
            for root in self::certificates("client_ca", &pem("client_ca", &tls.client_ca, &tls.client_ca_file)?)? {
                roots.add(root).map_err(|error| format!("client_ca or client_ca_file: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if kind == "VerifyClientCertIfGiven" { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
        other => {
            return Err(format!(
                "client_auth_type: {other:?} is none of NoClientCert, VerifyClientCertIfGiven and \
                 RequireAndVerifyClientCert; a certificate that is not verified proves nothing"
            ));
        }
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("{key}: {error}"))?;
    if certificates.is_empty() {
        Err(format!("{key} or {key}_file: there is no certificate"))
    } else {
        Ok(certificates)
    }
}

/// Suites and curves by Go's names; suites are those of TLS 1.2, as in Go.
fn provider(tls: &TlsText) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let name = |suite: &SupportedCipherSuite| suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_");
        let known: Vec<_> = provider.cipher_suites.iter().map(name).collect();
        if let Some(unknown) = tls.cipher_suites.iter().find(|suite| !known.contains(suite)) {
            return Err(format!("cipher_suites: there is no {unknown}; known are {}", known.join(", ")));
        }
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || tls.cipher_suites.contains(&name(suite)));
    }
    if !tls.curve_preferences.is_empty() {
        let curves = [
            ("X25519", NamedGroup::X25519),
            ("CurveP256", NamedGroup::secp256r1),
            ("CurveP384", NamedGroup::secp384r1),
        ];
        let group = |wanted: &String| -> Result<&'static dyn SupportedKxGroup, String> {
            let named = curves.iter().find(|(name, _)| name == wanted).map(|(_, group)| *group);
            let found = provider.kx_groups.iter().copied().find(|group| Some(group.name()) == named);
            found.ok_or_else(|| {
                format!("curve_preferences: there is no {wanted}; known are X25519, CurveP256, CurveP384")
            })
        };
        provider.kx_groups = tls.curve_preferences.iter().map(group).collect::<Result<_, _>>()?;
    }
    Ok(provider)
}
