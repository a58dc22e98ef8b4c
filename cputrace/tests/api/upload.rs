//! `cputrace upload` to a server: what it prints is where the recording is, and what is refused is said.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::guard::{Guarded, users};
use super::support::lab::{CPUTRACE, stderr};
use super::support::require;
use super::{Server, answer};

fn upload(file: &Path, to: &str, options: &[&str]) -> Output {
    let mut command = Command::new(CPUTRACE);
    command.arg("upload").arg(file).args(["--to", to]).args(options).stdin(Stdio::null());
    command.output().unwrap()
}

/// Where the command says that the recording is.
fn place(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success());
    let said = stderr(output);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// A recording is at the address that is printed, by the file's name or one of its own; what is no profile is refused in the
/// server's words, and a server that is none in ours.
#[test]
fn to_a_server() {
    let server = Server::start(1);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("morning.json");
    fs::write(&file, server.get("/api/profile?format=json").body).unwrap();
    for (options, name) in [(&[][..], "morning.json"), (&["--name", "Tuesday"], "Tuesday")] {
        let place = place(&upload(&file, &server.url("/"), options));
        let stored = answer(super::agent().get(&place).call().unwrap()).json();
        assert_eq!(stored["name"], name, "{stored}");
        let folded = answer(super::agent().get(format!("{place}/profile?format=folded")).call().unwrap()).body;
        assert!(String::from_utf8(folded).unwrap().contains("a;main;work_a 2"));
    }
    fs::write(&file, "hello").unwrap();
    assert!(refusal(&upload(&file, &server.url(""), &[])).contains("\"hello\" is no stack"));
    assert!(refusal(&upload(&directory.path().join("none"), &server.url(""), &[])).contains("No such file"));
    assert!(refusal(&upload(&file, &server.url("/metrics"), &[])).contains("is this its address?"));
    assert!(refusal(&upload(&file, "http://127.0.0.1:1", &[])).contains("refused"));
    assert!(refusal(&upload(&file, "127.0.0.1", &[])).contains("is no address of a server"));
}

/// Over TLS, with a user and a password: from the address or from a file.
#[test]
fn to_a_guarded_server() {
    if !require("openssl") {
        return;
    }
    let guarded = Guarded::over_tls(&users(&[("ann", "se:cret@")]));
    let at = |name: &str| guarded.directory.path().join(name);
    let (file, password, ca) = (at("stacks.folded"), at("password"), at("cert.pem"));
    fs::write(&file, "app;main;work 5\n").unwrap();
    fs::write(&password, "se:cret@\n").unwrap();
    let (password, ca) = (password.to_str().unwrap(), ca.to_str().unwrap());
    let url = guarded.server.url("").replace("http://", "https://");
    let with_user = url.replace("https://", "https://ann:se%3Acret%40@");
    for (url, options) in
        [(&with_user, &["--ca", ca][..]), (&url, &["--ca", ca, "--user", "ann", "--password-file", password])]
    {
        assert!(
            place(&upload(&file, url, options))
                .starts_with(&format!("{url}/api/traces/").replace("ann:se%3Acret%40@", ""))
        );
    }
    assert!(refusal(&upload(&file, &url, &["--ca", ca])).contains("--user and --password-file"));
    assert!(refusal(&upload(&file, &with_user, &[])).contains("certificate"));
}
