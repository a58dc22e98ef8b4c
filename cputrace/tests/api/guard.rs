//! Who is let in: TLS, users and headers of a web-config file, read again when it changes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cputrace::serve::http::Limits;
use cputrace::serve::web_config::WebConfig;
use tempfile::TempDir;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::support::require;
use super::{Answer, Server, answer};

/// What a web-config file says of the certificate.
const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

/// A server by a web-config file, and what it says of that.
pub(crate) struct Guarded {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
    said: Arc<Mutex<Vec<String>>>,
}

impl Guarded {
    pub(crate) fn start(directory: TempDir, file: &str) -> Self {
        let path = directory.path().join("web.yaml");
        fs::write(&path, file).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let says = said.clone();
        let say = move |line: &str| says.lock().unwrap().push(line.to_owned());
        let web = WebConfig::open(Some(&path), true, Arc::new(say)).unwrap();
        Self { server: Server::guarded(0, Limits::default(), web), directory, said }
    }

    /// The same over TLS, with a certificate of its own: `cert.pem`; `file` is the rest of the web-config file, beginning with what is
    /// about TLS.
    pub(crate) fn over_tls(file: &str) -> Self {
        let directory = TempDir::new().unwrap();
        certificate(directory.path());
        Self::start(directory, &format!("{TLS}{file}"))
    }

    /// Changes the file, and waits until something is said of it.
    fn change(&self, file: &str) -> String {
        let before = self.said.lock().unwrap().len();
        fs::write(self.directory.path().join("web.yaml"), file).unwrap();
        let start = Instant::now();
        loop {
            // It is looked at when somebody asks for something.
            self.server.get("/-/healthy");
            if let Some(said) = self.said.lock().unwrap().get(before) {
                return said.clone();
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn get_as(&self, user: &str, password: &str) -> Answer {
        let url = self.server.url("/api/status").replace("http://", &format!("http://{user}:{password}@"));
        answer(super::agent().get(url).call().unwrap())
    }
}

pub(crate) fn users(users: &[(&str, &str)]) -> String {
    let lines = users.iter().map(|(user, password)| format!("  {user}: {}\n", bcrypt::hash(password, 4).unwrap()));
    format!("basic_auth_users:\n{}", lines.collect::<String>())
}

/// Users get in with their passwords, and nobody else, but for the question whether cputrace is alive; headers are added to
/// every answer; a file that becomes wrong, or lets everybody in, changes nothing.
#[test]
fn users_and_headers() {
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n";
    let file = format!("{}{headers}", users(&[("ann", "secret"), ("bob", "other")]));
    let guarded = Guarded::start(TempDir::new().unwrap(), &file);
    let refused = guarded.server.get("/metrics");
    assert!(refused.problem(401).contains("a user and a password"));
    assert_eq!(guarded.get_as("ann", "secret").status, 200);
    assert_eq!(guarded.get_as("bob", "other").status, 200);
    for (user, password) in [("ann", "other"), ("ann", ""), ("eve", "secret"), ("", "")] {
        assert_eq!(guarded.get_as(user, password).status, 401, "{user}");
        // Of those that are remembered, too.
        assert_eq!(guarded.get_as(user, password).status, 401, "{user}");
    }
    for path in ["/-/healthy", "/metrics"] {
        let response = super::agent().get(guarded.server.url(path)).call().unwrap();
        assert_eq!(response.headers().get("x-frame-options").unwrap(), "deny");
        let challenge = response.headers().get("www-authenticate");
        assert_eq!(challenge.is_some(), path == "/metrics");
    }

    assert!(guarded.change(&users(&[("ann", "new")])).contains("has been read again"));
    assert_eq!(guarded.get_as("ann", "secret").status, 401);
    assert_eq!(guarded.get_as("ann", "new").status, 200);
    for (wrong, expected) in [
        ("basic_auth_user:\n  a: b\n", "basic_auth_user"),
        ("", "everybody who reaches this host"),
        ("basic_auth_users:\n", "everybody who reaches this host"),
        ("basic_auth_users:\n  ann: secret\n", "basic_auth_users.ann: this is no bcrypt hash"),
        ("basic_auth_users: [", "web.yaml: "),
    ] {
        let said = guarded.change(wrong);
        assert!(said.contains(expected) && said.contains("before stays in effect") && !said.contains('\n'), "{said}");
        assert_eq!(guarded.get_as("ann", "new").status, 200);
    }
}

/// Makes a certificate of `127.0.0.1` with its key.
fn certificate(directory: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=cputrace", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Over TLS, with a certificate that is replaced while it runs, and with clients that have to have one, too.
#[test]
fn tls() {
    if !require("openssl") {
        return;
    }
    let version = "  min_version: TLS13\n";
    let guarded = Guarded::over_tls(&format!("{version}{}", users(&[("ann", "x")])));
    let get = || {
        let pem = fs::read(guarded.directory.path().join("cert.pem")).unwrap();
        let roots = RootCerts::Specific(Arc::new(vec![Certificate::from_pem(&pem).unwrap()]));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        let agent = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).build().new_agent();
        agent.get(format!("https://ann:x@{}/api/status", guarded.server.address)).call().map(answer)
    };
    assert_eq!(get().unwrap().status, 200);
    // Who does not speak TLS is not answered.
    assert!(super::agent().get(guarded.server.url("/metrics")).call().is_err());

    // Another certificate, which only the new one's clients trust.
    certificate(guarded.directory.path());
    let start = Instant::now();
    while get().is_err() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(100));
    }
    let path = guarded.directory.path().join("web.yaml");
    fs::write(
        &path,
        format!("{TLS}{version}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n"),
    )
    .unwrap();
    let start = Instant::now();
    while get().is_ok() {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(100));
    }
}

/// What is wrong with a file is said in one sentence, with the key.
#[test]
fn wrong_files() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("web.yaml");
    let check = |file: &str, expected: &str| {
        fs::write(&path, file).unwrap();
        let error = WebConfig::open(Some(&path), false, Arc::new(|_| {})).err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains("web.yaml") && !error.contains('\n'), "{file}: {error}");
    };
    check("tls_server_config:\n  cert_fil: a\n", "cert_fil");
    check("tls_server_config:\n  cert_file: a\n", "cert_file:");
    check("tls_server_config:\n  cert: a\n", "there is no certificate");
    check("http_server_config:\n  headers:\n    Set-Cookie: a\n", "Set-Cookie cannot be set");
    check("basic_auth_users:\n  ann: [1]\n", "line 2");
    check("rate_limits: 1\n", "rate_limits");
    check("a: *x\n", "web.yaml: ");
    let missing = WebConfig::open(Some(Path::new("/nope/web.yaml")), false, Arc::new(|_| {})).err().unwrap();
    assert!(missing.to_string().contains("/nope/web.yaml"));
    // Comments alone ask for nothing.
    fs::write(&path, "# nothing\n").unwrap();
    WebConfig::open(Some(&path), false, Arc::new(|_| {})).unwrap();
}
