//! Measures what cputrace costs, beside perf and bpftrace in the same run: a figure of one hour does not hold in another.
//!
//! - [`sample`]: what one sample costs the program that is sampled, and how long until the first one.
//! - [`whole`]: the same with the profiler's own part, until there are names and totals, and its file.
//! - [`stack`]: what eBPF programs take for a stack, ours and one that has the kernel walk frame pointers.
//! - [`tables`]: what the unwinder's tables of large and small files take, beside gimli's.
//! - [`switch`]: what the account of the threads' time costs a switch.
//! - [`host`]: what the profiler itself takes while it watches the whole host at the usual rate.
//! - [`serve`]: what requests to `cputrace serve` take with a full store, beside rows of JSON.
//!
//! It measures and prints; what is too much is for the reader, and for the tests, to judge.

mod get_stack;
mod host;
mod run_time;
mod sample;
mod serve;
mod stack;
mod switch;
mod tables;
mod tool;
mod whole;

use std::time::Duration;

use crate::system::{self, as_root, cargo, install, is_root};
use crate::workload::{self, Frames};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these parts
    #[arg(value_parser = ["sample", "stack", "tables", "switch", "host", "serve"])]
    parts: Vec<String>,
    /// Rate at which the cost of one sample is measured
    #[arg(long, value_name = "HZ", default_value_t = 5000)]
    frequency: u32,
    /// Rounds in which each profiler has its turn; the fastest of all counts
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// How long each profiler watches the whole host
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Everything is built already
    #[arg(long, hide = true)]
    built: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let &Args { ref parts, frequency, rounds, seconds, built } = args;
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if !built {
        install(&[
            ("cc", "gcc"),
            ("/usr/include/stdio.h", "libc6-dev"),
            ("perf", "linux-perf"),
            ("bpftrace", "bpftrace"),
            ("runqlat", "libbpf-tools"),
        ])?;
        system::run(cargo().args(["build", "--locked", "--release", "--package", "cputrace"]))?;
        for frames in [Frames::Pointers, Frames::NoPointers] {
            workload::build(frames)?;
            workload::build_pinned(frames)?;
        }
    }
    if !built && wanted("tables") {
        tables::measure()?;
    }
    if !built && wanted("serve") {
        serve::measure()?;
    }
    if !is_root() {
        let mut again = as_root(std::env::current_exe()?);
        return system::run(again.args(std::env::args_os().skip(1)).arg("--built"));
    }
    if wanted("sample") {
        for frames in [Frames::Pointers, Frames::NoPointers] {
            let slow_downs = sample::measure(frames, frequency, rounds)?;
            if frames == Frames::NoPointers {
                whole::measure(frequency, &slow_downs)?;
            }
        }
    }
    if wanted("stack") {
        stack::measure(frequency, rounds)?;
    }
    if wanted("switch") {
        switch::measure(rounds)?;
    }
    if wanted("host") {
        host::measure(Duration::from_secs(seconds))?;
    }
    Ok(())
}
