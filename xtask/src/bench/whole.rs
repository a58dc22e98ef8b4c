//! What a sample costs all told: the slow-down of the sampled program, the profiler's own CPU time until names and totals
//! are written (for perf that takes `perf report`), and the bytes it leaves.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::sample::SlowDown;
use super::stack::Victim;
use super::tool::{Subject, Tool};
use crate::system::command;
use crate::workload::Frames;

const TOOLS: [Tool; 3] = [Tool::PerfDwarf, Tool::Cputrace, Tool::CputraceSamples];

/// Calls of the pinned program: with the frames around them 32.
const CALLS: u32 = 27;

const TIME: Duration = Duration::from_secs(8);

/// Measures and prints a table; the slow-downs are those of the same run.
pub(super) fn measure(hz: u32, slow_downs: &[SlowDown]) -> anyhow::Result<()> {
    let seconds = TIME.as_secs();
    println!(
        "\nA sample of {CALLS} calls without frame pointers all told, in us of CPU time, start-up included; {seconds} s at {hz} Hz"
    );
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>16}",
        "", "slow-down", "recording", "report", "all told", "bytes", "without start-up"
    );
    let mut totals = Vec::new();
    for tool in TOOLS {
        let slow_down = slow_downs.iter().find(|(other, _)| *other == tool).map_or(f64::NAN, |(_, cost)| *cost);
        let (short, long) = (own(tool, hz, TIME / 8)?, own(tool, hz, TIME)?);
        let each = |time: Duration| 1e6 * time.as_secs_f64() / long.samples;
        let (total, bytes) = (slow_down + each(long.recording) + each(long.report), long.bytes as f64 / long.samples);
        // What a longer recording takes more.
        let further = (long.in_all() - short.in_all()) / (long.samples - short.samples);
        println!(
            "{:<24} {slow_down:>10.2} {:>10.2} {:>10.2} {total:>10.2} {bytes:>10.1} {:>16.2}",
            tool.name(),
            each(long.recording),
            each(long.report),
            slow_down + 1e6 * further
        );
        totals.push((total, bytes));
    }
    if let [(perf, perf_bytes), ours @ ..] = &totals[..] {
        for ((time, bytes), tool) in ours.iter().zip(&TOOLS[1..]) {
            println!(
                "{}: 1/{:.1} of perf's time and 1/{:.0} of its bytes",
                tool.name().trim(),
                perf / time,
                perf_bytes / bytes
            );
        }
    }
    Ok(())
}

struct Own {
    samples: f64,
    /// CPU time until the file was there.
    recording: Duration,
    /// CPU time from there to names and totals.
    report: Duration,
    bytes: u64,
}

impl Own {
    /// CPU time in seconds.
    fn in_all(&self) -> f64 {
        (self.recording + self.report).as_secs_f64()
    }
}

fn own(tool: Tool, hz: u32, time: Duration) -> anyhow::Result<Own> {
    let folder = tempfile::tempdir()?;
    let victim = Victim::start(Frames::NoPointers, CALLS)?;
    let running = tool.start(Subject::Process(victim.0.id()), hz, folder.path())?;
    let (out, started) = (running.out.clone(), Instant::now());
    std::thread::sleep(time);
    // It runs all the time, on a CPU of its own.
    let samples = started.elapsed().as_secs_f64() * f64::from(hz);
    let before = children();
    running.stop()?;
    let recording = children().saturating_sub(before);
    let bytes = std::fs::metadata(&out).with_context(|| format!("{} wrote no file", tool.name()))?.len();
    let report = if tool.is_ours() { Duration::ZERO } else { perf_report(&out)? };
    Ok(Own { samples, recording, report, bytes })
}

/// CPU time of `perf report` on a file.
fn perf_report(file: &Path) -> anyhow::Result<Duration> {
    let before = children();
    let mut report = command("perf");
    report.args(["report", "--stdio", "-i"]).arg(file).stdin(Stdio::null());
    let status = report.stdout(Stdio::null()).stderr(File::create("/dev/null")?).status()?;
    ensure!(status.success(), "perf report failed");
    Ok(children().saturating_sub(before))
}

/// CPU time of all children that have ended and were waited for.
fn children() -> Duration {
    // SAFETY: all zeros is a valid rusage.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: fills in the struct given; RUSAGE_CHILDREN is always there.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_micros(time.tv_usec.cast_unsigned())
    };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}
