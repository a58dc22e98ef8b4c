//! cputrace's development commands, one file each: `cargo xtask help`.

#![expect(clippy::print_stdout, reason = "a command-line program")]

mod bench;
mod build_ebpf;
mod dashboards;
mod demo;
mod docs;
mod grafana_check;
mod kernels;
mod lint;
mod pictures;
mod python;
mod soak;
mod system;
mod test;
mod workload;

use std::process::ExitCode;

use clap::Parser;

/// cputrace's development commands
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Build cputrace, record the sample workload, and compare what was seen with what it did
    Demo(demo::Args),
    /// Run everything that CI runs: lint, build the eBPF object afresh, all tests
    Test(test::Args),
    /// rustfmt, clippy on host and eBPF, cargo-deny
    Lint,
    /// Build the eBPF object that is committed and embedded
    BuildEbpf(build_ebpf::Args),
    /// Write the documents that are generated from the code
    Docs,
    /// Write Grafana's dashboards, from their tables of panels
    Dashboards,
    /// Draw pictures of the dashboards from what a Prometheus answers to their queries
    DashboardPictures(pictures::Args),
    /// Have Grafana's clients ask a real `cputrace serve`: its flame graph, drawn, and the Connect client of npm
    GrafanaCheck(grafana_check::Args),
    /// Boot Debian's kernels in QEMU, and record there
    Kernels(kernels::Args),
    /// Measure what cputrace costs, beside perf and bpftrace
    Bench(bench::Args),
    /// Let cputrace serve watch storms of processes, and look at what it takes
    Soak(soak::Args),
}

fn main() -> ExitCode {
    dispatch(&Command::parse()).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(args)?,
        Command::Test(args) => return test::run(args),
        Command::Lint => lint::run()?,
        Command::BuildEbpf(args) => build_ebpf::run(args)?,
        Command::Docs => docs::run()?,
        Command::Dashboards => dashboards::run()?,
        Command::DashboardPictures(args) => pictures::run(args)?,
        Command::GrafanaCheck(args) => grafana_check::run(args)?,
        Command::Kernels(args) => kernels::run(args)?,
        Command::Bench(args) => bench::run(args)?,
        Command::Soak(args) => soak::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
