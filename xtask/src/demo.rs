//! Builds cputrace, records the sample workload, and compares what was seen with what the workload says it did.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::system::{self, as_root, cargo, command, has, install, root, target};
use crate::workload::{self, Frames};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long to record
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// How far a share may be off over half a minute, in points. Over less, chance has more room.
const TOLERANCE: f64 = 2.0;

fn tolerance(seconds: u32) -> f64 {
    TOLERANCE * (30.0 / f64::from(seconds.max(1))).sqrt().max(1.0)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !has("cc") {
        install(&[("cc", "gcc"), ("/usr/include/stdio.h", "libc6-dev")])?;
    }
    system::run(cargo().args(["build", "--locked", "--release", "--package", "cputrace"]))?;
    let app = workload::build(Frames::Pointers)?;
    let folded = target().join("workload/demo.folded");
    let child = command(&app).stdout(Stdio::piped()).spawn().context("the sample workload does not start")?;
    let mut record = as_root(target().join("release/cputrace"));
    record.args(["record", "--pid", &child.id().to_string(), "--duration", &args.seconds.to_string()]);
    for file in [Path::new("trace.json"), Path::new("flamegraph.svg"), &folded] {
        record.arg("--out").arg(file);
    }
    let recorded = system::run(&mut record);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let output = String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned();
    recorded?;
    compare(&output, &std::fs::read_to_string(&folded)?, tolerance(args.seconds))?;
    println!("\nSee trace.json and flamegraph.svg in {}.", root().display());
    Ok(())
}

/// Prints true and sampled share of each of the workload's functions; an error if one is off by more than `tolerance`
/// points.
fn compare(truth: &str, folded: &str, tolerance: f64) -> anyhow::Result<()> {
    let truth: BTreeMap<String, f64> =
        serde_json::from_str(truth).context("the sample workload did not say what it did")?;
    let mut sampled: BTreeMap<&str, f64> = truth.keys().map(|name| (name.as_str(), 0.0)).collect();
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap_or((line, "0"));
        let function = stack.split(';').rev().find_map(|frame| truth.get_key_value(frame.trim_end_matches("_[k]")));
        if let Some((name, _)) = function {
            *sampled.entry(name).or_default() += count.parse::<f64>()?;
        }
    }
    let (all_truth, all_sampled) = (truth.values().sum::<f64>(), sampled.values().sum::<f64>());
    println!("\n{:<14} {:>8} {:>8}", "function", "true %", "seen %");
    let mut wrong = Vec::new();
    for (name, seconds) in &truth {
        let (is, seen) = (100.0 * seconds / all_truth, 100.0 * sampled[name.as_str()] / all_sampled.max(1.0));
        println!("{name:<14} {is:8.1} {seen:8.1}");
        if (is - seen).abs() > tolerance {
            wrong.push(name.as_str());
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("off by more than {tolerance:.1} points: {}", wrong.join(", ")) }
}
