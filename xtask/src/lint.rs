//! rustfmt, clippy on host and eBPF with warnings denied, cargo-deny.

use crate::build_ebpf;
use crate::system::{self, cargo, command, has};

pub(crate) fn lint() -> anyhow::Result<Vec<String>> {
    let mut skipped = Vec::new();
    system::run(cargo().args(["fmt", "--all", "--check"]))?;
    system::run(cargo().args(["clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    match build_ebpf::clippy()? {
        Some(mut clippy) => system::run(clippy.arg("--no-deps"))?,
        None => skipped.push("clippy on the eBPF crate: its compiler has no clippy".to_owned()),
    }
    if !has("cargo-deny") {
        println!("xtask: building cargo-deny, which takes some minutes");
        system::run(cargo().args(["install", "cargo-deny", "--locked", "--quiet"]))?;
    }
    system::run(command("cargo-deny").args(["--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    Ok(skipped)
}

pub(crate) fn run() -> anyhow::Result<()> {
    lint()?.iter().for_each(|skipped| println!("xtask: skipped {skipped}"));
    Ok(())
}
