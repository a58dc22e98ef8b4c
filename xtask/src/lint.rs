//! rustfmt, clippy on host and eBPF with warnings denied, cargo-deny.

use crate::build_ebpf;
use crate::system::{cargo, command, has, run};

pub(crate) fn run_all() -> anyhow::Result<Vec<String>> {
    let mut skipped = Vec::new();
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    match build_ebpf::clippy()? {
        Some(mut clippy) => run(clippy.arg("--no-deps"))?,
        None => skipped.push("clippy on the eBPF crate: its compiler has no clippy".to_owned()),
    }
    if !has("cargo-deny") {
        println!("xtask: building cargo-deny, which takes some minutes");
        run(cargo().args(["install", "cargo-deny", "--locked", "--quiet"]))?;
    }
    run(command("cargo-deny").args(["--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    Ok(skipped)
}

pub(crate) fn run_lint() -> anyhow::Result<()> {
    run_all()?.iter().for_each(|skipped| println!("xtask: skipped {skipped}"));
    Ok(())
}
