//! Everything that CI runs, with a summary of the steps at the end.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::system::{self, as_root, cargo, install, is_root};
use crate::workload::{self, Frames};
use crate::{build_ebpf, lint};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out lint
    #[arg(long)]
    no_lint: bool,
}

/// What the tests run against, by what has to be there: programs to profile, readers of our formats.
const PACKAGES: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("c++", "g++"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("python3", "python3"),
];

struct Step {
    name: &'static str,
    time: Duration,
    outcome: anyhow::Result<Vec<String>>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut steps = Vec::new();
    let mut step = |name, work: &mut dyn FnMut() -> anyhow::Result<Vec<String>>| {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = work();
        if let Err(error) = &outcome {
            println!("xtask: {name}: {error:#}");
        }
        steps.push(Step { name, time: start.elapsed(), outcome });
    };
    step("install", &mut || {
        install(PACKAGES)?;
        build_ebpf::install_toolchain()?;
        Ok(Vec::new())
    });
    if !args.no_lint {
        step("lint", &mut lint::lint);
    }
    step("eBPF stamp", &mut || build_ebpf::check().map(|()| Vec::new()));
    let mut object = None;
    step("eBPF object afresh", &mut || {
        object = Some(build_ebpf::build()?);
        Ok(Vec::new())
    });
    let tests = |live: bool| {
        // As root only the tests themselves run: cargo may not be root's.
        let mut cargo = if live && !is_root() { as_root("cargo") } else { cargo() };
        cargo.args(["test", "--locked", "--quiet"]);
        // The object that was just built is the one that is tested.
        if let Some(object) = &object {
            cargo.env("CPUTRACE_BPF_OBJECT", object);
        }
        cargo
    };
    step("unit and golden tests", &mut || {
        system::run(tests(false).args(["--workspace", "--exclude", "cputrace-ebpf"])).map(|()| Vec::new())
    });
    step("live tests", &mut || {
        workload::build(Frames::Pointers)?;
        workload::build(Frames::NoPointers)?;
        let mut cargo = tests(true);
        cargo.args(["--package", "cputrace", "--test", "live", "--", "--ignored", "--test-threads=1"]);
        system::run(&mut cargo).map(|()| Vec::new())
    });
    summarize(&steps)
}

fn summarize(steps: &[Step]) -> anyhow::Result<()> {
    println!("\n== summary");
    let ci = std::env::var_os("CI").is_some();
    let (mut passed, mut failed) = (0, 0);
    for Step { name, time, outcome } in steps {
        let skipped = outcome.as_deref().unwrap_or_default();
        let verdict = match outcome {
            Err(_) => "FAILED",
            Ok(skipped) if ci && !skipped.is_empty() => "FAILED (skipped a part)",
            Ok(_) => "passed",
        };
        println!("{name:<24} {:6.1} s  {verdict}", time.as_secs_f64());
        skipped.iter().for_each(|part| println!("{:<24} skipped {part}", ""));
        if verdict == "passed" { passed += 1 } else { failed += 1 }
    }
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 { bail!("{failed} steps failed") } else { Ok(()) }
}
