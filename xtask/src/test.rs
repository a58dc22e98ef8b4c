//! Everything that CI runs, with a summary of the steps at the end.
//!
//! A step that fails does not keep the others from running. What runs as root is only the test programs themselves,
//! never cargo: the files it builds stay the user's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::system::{cargo, command, install, is_root, output, root_prefix, target};
use crate::workload::{self, Frames};
use crate::{build_ebpf, grafana_check, kernels, lint, python};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out lint
    #[arg(long)]
    no_lint: bool,
    /// Leave out the tests that need root
    #[arg(long)]
    no_live: bool,
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
    ("/usr/share/doc/python3-venv", "python3-venv"),
    ("promtool", "prometheus"),
    ("prometheus-process-exporter", "prometheus-process-exporter"),
    ("taskset", "util-linux"),
    ("stress-ng", "stress-ng"),
    ("perf", "linux-perf"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/bin/redis-benchmark", "redis-tools"),
    ("/usr/lib/postgresql", "postgresql"),
    ("/usr/sbin/nginx", "nginx"),
    ("/usr/bin/node", "nodejs"),
    ("/usr/include/perfmon/pfmlib.h", "libpfm4-dev"),
];

/// The test programs whose ignored tests need root.
const LIVE_TESTS: &[&str] = &["live", "serve", "sched", "unwinding", "pmu", "programs", "names_versions", "grafana"];

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    /// Left out, and why.
    Skipped(&'static str),
}

struct Step {
    name: &'static str,
    time: Duration,
    outcome: Outcome,
    /// The closing line of each test program that ran, and what its tests left out.
    results: Vec<String>,
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn run(&mut self, name: &'static str, work: impl FnOnce(&mut Vec<String>) -> anyhow::Result<()>) {
        println!("\n== {name}");
        let start = Instant::now();
        let mut results = Vec::new();
        let outcome = match work(&mut results) {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                println!("xtask: {name}: {error:#}");
                Outcome::Failed(error)
            }
        };
        self.0.push(Step { name, time: start.elapsed(), outcome, results });
    }

    fn skip(&mut self, name: &'static str, reason: &'static str) {
        self.0.push(Step { name, time: Duration::ZERO, outcome: Outcome::Skipped(reason), results: Vec::new() });
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let &Args { no_lint, no_live } = args;
    let in_ci = std::env::var_os("CI").is_some();
    let mut steps = Steps::default();
    steps.run("install", |_| {
        install(PACKAGES)?;
        python::install()?;
        build_ebpf::install_toolchain()
    });
    if no_lint {
        steps.skip("lint", "--no-lint");
    } else {
        steps.run("lint", |_| lint::run());
    }
    steps.run("eBPF stamp", |_| build_ebpf::check());
    let mut object = None;
    steps.run("eBPF object afresh", |_| {
        object = Some(build_ebpf::build()?);
        Ok(())
    });
    let object = object.as_deref();
    steps.run("unit and golden tests", |results| {
        let selection = &["--workspace", "--exclude", "cputrace-ebpf"];
        CargoTest { selection, harness: &[], prefix: &[], object, in_ci }.run(results)
    });
    if no_live {
        steps.skip("live tests", "--no-live");
    } else {
        steps.run("live tests", |results| {
            workload::build(Frames::Pointers)?;
            workload::build(Frames::NoPointers)?;
            let prefix = &root_prefix();
            if !prefix.is_empty() {
                println!("xtask: root is needed for the live tests; asking sudo");
            }
            let tests = LIVE_TESTS.iter().flat_map(|test| ["--test", test]);
            let selection: Vec<_> = ["--package", "cputrace"].into_iter().chain(tests).collect();
            CargoTest { selection: &selection, harness: &["--ignored", "--test-threads=1"], prefix, object, in_ci }
                .run(results)
        });
    }
    if no_live {
        steps.skip("npm's client", "--no-live");
    } else if !is_root() {
        steps.skip("npm's client", "it needs root: cargo xtask grafana-check");
    } else {
        // The program is the one that the live tests ran.
        let binary = Some(target().join("debug/cputrace"));
        steps.run("npm's client", |_| grafana_check::run(&grafana_check::Args { binary, no_pictures: true }));
    }
    if no_live {
        steps.skip("kernels", "--no-live");
    } else {
        steps.run("kernels", kernels::test);
    }
    Ok(summarize(&steps.0, in_ci))
}

/// One run of `cargo test`.
struct CargoTest<'a> {
    /// Which tests, for cargo.
    selection: &'a [&'a str],
    /// How they run, for the test programs.
    harness: &'a [&'a str],
    /// What runs each test program; empty for nothing.
    prefix: &'a [String],
    /// The eBPF object to embed, where one was just built.
    object: Option<&'a Path>,
    in_ci: bool,
}

impl CargoTest<'_> {
    /// The programs' closing lines, and what they say they skipped, go to `results` as well.
    fn run(&self, results: &mut Vec<String>) -> anyhow::Result<()> {
        let Self { selection, harness, prefix, object, in_ci } = self;
        let mut cargo = cargo();
        cargo.args(["test", "--locked", "--quiet", "--no-fail-fast"]).args(*selection);
        // Also what a test that passed has to say: why it did not do its work.
        for package in python::PACKAGES {
            cargo.env(package.variable, package.path()?);
        }
        cargo.args(["--", "--show-output"]).args(*harness).stdout(Stdio::piped());
        if let Some(object) = object {
            cargo.env("CPUTRACE_BPF_OBJECT", object);
        }
        if *in_ci {
            // A test that cannot run there is a failure, not a skip.
            cargo.env("CPUTRACE_REQUIRE_ALL", "1");
            // Nothing is built twice there, and what incremental builds keep is half of the disk that a build takes.
            cargo.env("CARGO_INCREMENTAL", "0");
        }
        if !prefix.is_empty() {
            let triple = host_triple()?.to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{triple}_RUNNER"), prefix.join(" "));
        }
        let mut child = cargo.spawn().context("cargo cannot be started")?;
        let stdout = child.stdout.take().context("cargo has no output")?;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            println!("{line}");
            if line.starts_with("test result:") || line.starts_with("SKIPPED") {
                results.push(line);
            }
        }
        let status = child.wait()?;
        if status.success() { Ok(()) } else { bail!("cargo test {} failed ({status})", selection.join(" ")) }
    }
}

fn host_triple() -> anyhow::Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say which host it is for")?.to_owned())
}

/// Says how each step went. In CI a step that was left out counts as failed.
fn summarize(steps: &[Step], in_ci: bool) -> ExitCode {
    println!("\n== summary");
    let (mut passed, mut failed) = (0, 0);
    for Step { name, time, outcome, results } in steps {
        let verdict = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(error) => format!("FAILED: {error:#}"),
            Outcome::Skipped(reason) => format!("skipped: {reason}"),
        };
        println!("{name:<22} {:6.1} s  {verdict}", time.as_secs_f64());
        results.iter().for_each(|line| println!("{:<22} {line}", ""));
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => failed += usize::from(in_ci),
        }
    }
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
