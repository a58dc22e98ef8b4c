//! What a profiler takes for itself while it watches the whole host at the usual rate, with the sample workload at work.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::tool::{Subject, Tool};
use crate::system::command;
use crate::workload::{self, Frames};

const TOOLS: [Tool; 4] = [Tool::PerfFramePointers, Tool::Bpftrace, Tool::Cputrace, Tool::CputraceSamples];

/// The usual rate: no multiple of anything that happens a hundred times a second.
const HZ: u32 = 99;

/// Start-up is over after this time.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures each profiler for `time`, and prints a table.
pub(super) fn measure(time: Duration) -> anyhow::Result<()> {
    let mut load = command(workload::build(Frames::Pointers)?).stdout(Stdio::null()).spawn()?;
    let measured = TOOLS.iter().map(|&tool| one(tool, time)).collect::<anyhow::Result<Vec<_>>>();
    let _ = Command::new("kill").arg(load.id().to_string()).status();
    load.wait()?;
    println!("\nThe whole host at {HZ} Hz for {} s, with the sample workload at work", time.as_secs());
    println!("{:<24} {:>15} {:>15} {:>10} {:>10}", "", "CPU % recording", "CPU s, start-end", "RSS MB", "file kB");
    let measured = measured?;
    for (tool, Own { recording, in_all, rss_kb, file_bytes, .. }) in TOOLS.iter().zip(&measured) {
        let (rss, file) = (*rss_kb as f64 / 1024.0, *file_bytes as f64 / 1e3);
        println!("{:<24} {recording:>15.2} {:>15.2} {rss:>10.1} {file:>10.1}", tool.name(), in_all.as_secs_f64());
    }
    for (tool, own) in TOOLS.iter().zip(&measured) {
        if let Some(trace) = &own.trace {
            print_trace(tool.name().trim(), trace);
        }
    }
    Ok(())
}

/// What a profiler took.
struct Own {
    /// CPU time while it recorded, in percent of one CPU.
    recording: f64,
    /// CPU time from its start until its file was written.
    in_all: Duration,
    rss_kb: u64,
    file_bytes: u64,
    /// cputrace's own account.
    trace: Option<Value>,
}

fn one(tool: Tool, time: Duration) -> anyhow::Result<Own> {
    let folder = tempfile::tempdir()?;
    let mut running = tool.start(Subject::Host, HZ, folder.path())?;
    std::thread::sleep(SETTLE);
    running.check()?;
    let (start, before) = (Instant::now(), running.usage()?);
    std::thread::sleep(time);
    let during = running.usage()?.cpu.saturating_sub(before.cpu);
    let recording = 100.0 * during.as_secs_f64() / start.elapsed().as_secs_f64();
    let out = running.out.clone();
    let in_all = running.stop()?;
    let file_bytes = std::fs::metadata(&out).with_context(|| format!("{} wrote no file", tool.name()))?.len();
    let trace = if tool.is_ours() { Some(serde_json::from_slice(&std::fs::read(&out)?)?) } else { None };
    Ok(Own { recording, in_all: in_all.cpu, rss_kb: in_all.rss_kb, file_bytes, trace })
}

/// What only cputrace says: the kernel's side, and what was lost.
fn print_trace(name: &str, trace: &Value) {
    let (overhead, ledger) = (&trace["overhead"], &trace["ledger"]);
    let seconds = trace["duration_seconds"].as_f64().unwrap_or(f64::NAN);
    if let (Some(bpf), Some(runs)) = (overhead["bpf_run_time_seconds"].as_f64(), overhead["bpf_runs"].as_f64()) {
        let (percent, each) = (100.0 * bpf / seconds, 1e6 * bpf / runs);
        println!("{name}: eBPF programs {percent:.3} % of one CPU, {each:.2} us a run; maps {} kB", overhead["map_kb"]);
    }
    println!(
        "{name}: {} samples expected, {} kept, lost {}",
        ledger["samples_expected"], ledger["samples_kept"], ledger["samples_lost"]
    );
}
