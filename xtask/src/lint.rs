//! rustfmt, clippy on host and eBPF with warnings denied, cargo-deny, and typos where it is installed.

use anyhow::bail;

use crate::system::{self, cargo, command, has, target};

/// Runs all of them, also after one has failed.
pub(crate) fn run() -> anyhow::Result<()> {
    let checks = [rustfmt, clippy, clippy_ebpf, deny, typos];
    let failed: Vec<_> = checks.iter().filter_map(|check| check().err()).map(|error| format!("{error:#}")).collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

fn rustfmt() -> anyhow::Result<()> {
    system::run(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    system::run(cargo().args(["clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

/// The host's clippy on the eBPF crate, as if it were a program of the host: it says the same as that of the compiler
/// which builds the object, and is always there.
fn clippy_ebpf() -> anyhow::Result<()> {
    let mut clippy = cargo();
    clippy
        .args(["clippy", "--locked", "--quiet", "--package", "cputrace-ebpf", "--target-dir"])
        .arg(target().join("ebpf-clippy"))
        .args(["--", "-D", "warnings"])
        // Without std a panic can only abort.
        .env("CARGO_PROFILE_DEV_PANIC", "abort");
    system::run(&mut clippy)
}

fn deny() -> anyhow::Result<()> {
    if !has("cargo-deny") {
        println!("xtask: building cargo-deny, which takes some minutes");
        system::run(cargo().args(["install", "cargo-deny", "--locked", "--quiet"]))?;
    }
    system::run(command("cargo-deny").args(["--log-level", "error", "check", "bans", "licenses", "sources"]))
}

fn typos() -> anyhow::Result<()> {
    if has("typos") { system::run(&mut command("typos")) } else { Ok(()) }
}
