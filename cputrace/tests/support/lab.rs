//! Recordings by the built binary, and the programs they are of: for the tests that need root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::skip_unless;

pub(crate) const CPUTRACE: &str = env!("CARGO_BIN_EXE_cputrace");

/// A folder to record in, and the recording's files.
pub(crate) struct Lab(pub(crate) TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CPUTRACE);
        command.current_dir(self.0.path()).args(arguments);
        command
    }

    /// Records with `arguments` into trace.json and stacks.folded.
    pub(crate) fn record(&self, arguments: &[&str]) -> Output {
        self.command(&["record", "-o", "trace.json", "-o", "stacks.folded"]).args(arguments).output().unwrap()
    }

    pub(crate) fn trace(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("trace.json")).unwrap()).unwrap()
    }

    /// Folded stacks, each with its samples.
    pub(crate) fn stacks(&self) -> Vec<(String, f64)> {
        let text = std::fs::read_to_string(self.path("stacks.folded")).unwrap();
        let lines = text.lines().map(|line| line.rsplit_once(' ').unwrap());
        lines.map(|(stack, count)| (stack.to_owned(), count.parse().unwrap())).collect()
    }

    /// Samples of stacks with a frame of this name in them.
    pub(crate) fn samples_in(&self, frame: &str) -> f64 {
        let stacks = self.stacks();
        stacks.iter().filter(|(stack, _)| stack.split(';').any(|name| name == frame)).map(|(_, count)| count).sum()
    }
}

/// A child that does not outlive its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    skip_unless(id.stdout == b"0\n", "it is not run as root")
}

pub(crate) fn signal(process: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap().success());
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// expected = kept + lost, to the sample.
pub(crate) fn check_ledger(trace: &Value) {
    let ledger = &trace["ledger"];
    assert_eq!(ledger["unaccounted"], 0, "{ledger}");
    let lost: u64 = ledger["samples_lost"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(ledger["samples_expected"].as_u64().unwrap(), ledger["samples_kept"].as_u64().unwrap() + lost);
}
