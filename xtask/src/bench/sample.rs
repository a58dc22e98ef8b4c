//! What one sample costs the program that is sampled: the slow-down of a pinned program at a high rate.
//!
//! The program does the same piece of work of some 4 ms again and again. Each profiler has its turn in each of many
//! short rounds, and the fastest stretch of pieces of all its rounds is compared with the fastest without a profiler:
//! whatever else the machine does only makes them slower. A stretch has some two hundred samples, so that none is the
//! fastest because its interrupts happened to be. How many samples there really were is read from the CPU's own count of
//! interrupts, the same way for every profiler; so is the time until the first one.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::tool::{Running, Subject, Tool};
use crate::system::command;
use crate::workload::{self, Frames};

/// How long a profiler is measured in one round.
const WINDOW: Duration = Duration::from_millis(600);

/// Pieces of work that are looked at as one.
const STRETCH: usize = 10;

/// From the first sample until its start-up no longer shows.
const SETTLE: Duration = Duration::from_millis(300);

/// What is done to the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Nothing,
    /// Its own sampling clock, which nobody reads.
    TimerAlone,
    By(Tool),
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::TimerAlone => "timer alone",
            Self::By(tool) => tool.name(),
        }
    }
}

const CASES: [Case; 8] = [
    Case::Nothing,
    Case::TimerAlone,
    Case::By(Tool::PerfNoStack),
    Case::By(Tool::PerfFramePointers),
    Case::By(Tool::PerfDwarf),
    Case::By(Tool::Bpftrace),
    Case::By(Tool::Cputrace),
    Case::By(Tool::CputraceSamples),
];

/// What one round of one case gave.
struct Round {
    /// A piece of work in the fastest stretch, in seconds.
    fastest: f64,
    /// Interrupts a second.
    rate: f64,
    /// From the profiler's start to its first sample.
    first_sample: Option<Duration>,
}

/// What a sample by a profiler costs the sampled program, in microseconds above the timer.
pub(super) type SlowDown = (Tool, f64);

/// Measures and prints a table.
pub(super) fn measure(frames: Frames, hz: u32, rounds: u32) -> anyhow::Result<Vec<SlowDown>> {
    let cpu = std::thread::available_parallelism()?.get() - 1;
    let program = workload::build_pinned(frames)?;
    let mut gathered: Vec<Vec<Round>> = CASES.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (case, rounds) in CASES.iter().zip(&mut gathered) {
            rounds.push(round(&program, cpu, *case, hz).with_context(|| case.name())?);
        }
    }
    let [without, timer, ..] = &gathered[..] else { bail!("there are no cases") };
    let (base, base_rate) = (fastest(without), median(without.iter().map(|round| round.rate)));
    let cost = |rounds: &[Round]| {
        let rate = median(rounds.iter().map(|round| round.rate)) - base_rate;
        (rate, (fastest(rounds) - base) / (rate * fastest(rounds)))
    };
    let (_, timer_cost) = cost(timer);
    let frames = match frames {
        Frames::Pointers => "with frame pointers",
        Frames::NoPointers => "without frame pointers",
    };
    println!(
        "\nThe cost of a sample: a program {frames}, 25 calls deep, pinned to a CPU, sampled at {hz} Hz; {rounds} rounds"
    );
    println!(
        "{:<24} {:>10} {:>11} {:>12} {:>17} {:>18}",
        "", "samples/s", "slow-down %", "us a sample", "without the timer", "first sample, ms"
    );
    let mut slow_downs = Vec::new();
    for (case, rounds) in CASES.iter().zip(&gathered).skip(1) {
        let (rate, cost) = cost(rounds);
        if let Case::By(tool) = case {
            slow_downs.push((*tool, 1e6 * (cost - timer_cost)));
        }
        let slower = 100.0 * (fastest(rounds) / base - 1.0);
        let above =
            if *case == Case::TimerAlone { "-".to_owned() } else { format!("{:.2}", 1e6 * (cost - timer_cost)) };
        let firsts: Vec<_> = rounds.iter().filter_map(|round| round.first_sample).collect();
        let first = median(firsts.iter().map(Duration::as_secs_f64));
        let first = if firsts.is_empty() { "-".to_owned() } else { format!("{:.0}", 1e3 * first) };
        println!("{:<24} {rate:>10.0} {slower:>11.2} {:>12.2} {above:>17} {first:>18}", case.name(), 1e6 * cost);
    }
    Ok(slow_downs)
}

/// One turn of one case, again where the machine was too busy for it.
fn round(program: &Path, cpu: usize, case: Case, hz: u32) -> anyhow::Result<Round> {
    let mut rate = 0.0;
    for _ in 0..5 {
        let victim = Victim::start(program, cpu, (case == Case::TimerAlone).then_some(hz))?;
        let Some((round, quiet_rate)) = victim.round(case, hz)? else { continue };
        rate = round.rate - quiet_rate;
        // A window in part without samples would have the fastest stretch of all.
        if case == Case::Nothing || case == Case::TimerAlone || rate > 0.9 * f64::from(hz) {
            return Ok(round);
        }
    }
    bail!("only {rate:.0} samples a second came, of {hz}: the machine is too busy, or the rate is too high for it")
}

fn fastest(rounds: &[Round]) -> f64 {
    rounds.iter().map(|round| round.fastest).fold(f64::INFINITY, f64::min)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The program that is sampled.
struct Victim {
    child: Child,
    cpu: usize,
    /// When each piece of work ended, and how long it took.
    pieces: Receiver<(Instant, Duration)>,
}

impl Victim {
    fn start(program: &Path, cpu: usize, own_clock: Option<u32>) -> anyhow::Result<Self> {
        let mut command = command(program);
        command.arg(cpu.to_string()).args(own_clock.map(|hz| hz.to_string()));
        let mut child = command.stdout(Stdio::piped()).spawn().context("the pinned program cannot be started")?;
        let stdout = child.stdout.take().context("the pinned program has no output")?;
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(nanoseconds) = line.parse() else { break };
                if sender.send((Instant::now(), Duration::from_nanos(nanoseconds))).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, cpu, pieces })
    }

    /// One turn, and the interrupts a second before it; `None` if the profiler's clock did not come to run.
    fn round(&self, case: Case, hz: u32) -> anyhow::Result<Option<(Round, f64)>> {
        std::thread::sleep(SETTLE);
        let quiet_rate = self.rate(Duration::from_millis(200))?;
        let Case::By(tool) = case else { return Ok(Some((self.window(None)?, quiet_rate))) };
        let folder = tempfile::tempdir()?;
        let mut running = tool.start(Subject::Process(self.child.id()), hz, folder.path())?;
        let Some(first_sample) = self.wait_for_clock(&mut running, quiet_rate, f64::from(hz))? else {
            running.stop()?;
            return Ok(None);
        };
        std::thread::sleep(SETTLE);
        let round = self.window(Some(first_sample))?;
        running.stop()?;
        Ok(Some((round, quiet_rate)))
    }

    fn window(&self, first_sample: Option<Duration>) -> anyhow::Result<Round> {
        let start = Instant::now();
        let rate = self.rate(WINDOW)?;
        let inside = |(end, took): &(Instant, Duration)| *end >= start + *took;
        let pieces: Vec<_> = self.pieces.try_iter().filter(inside).map(|(_, took)| took.as_secs_f64()).collect();
        let stretches = pieces.windows(STRETCH).map(|stretch| stretch.iter().sum::<f64>() / STRETCH as f64);
        let fastest = stretches.reduce(f64::min);
        Ok(Round { fastest: fastest.context("the pinned program did nothing")?, rate, first_sample })
    }

    /// Interrupts a second of the program's CPU, over a time.
    fn rate(&self, time: Duration) -> anyhow::Result<f64> {
        let (start, before) = (Instant::now(), interrupts(self.cpu)?);
        std::thread::sleep(time);
        Ok((interrupts(self.cpu)? - before) as f64 / start.elapsed().as_secs_f64())
    }

    /// Until the CPU has as many more interrupts than when it is quiet: how long that took since the profiler's start.
    fn wait_for_clock(&self, running: &mut Running, quiet_rate: f64, hz: f64) -> anyhow::Result<Option<Duration>> {
        while running.started.elapsed() < Duration::from_secs(10) {
            let before = running.started.elapsed();
            // A burst that ends is what start-up does to other CPUs.
            if self.rate(Duration::from_millis(4))? > quiet_rate + 0.5 * hz
                && self.rate(Duration::from_millis(40))? > quiet_rate + 0.8 * hz
            {
                return Ok(Some(before));
            }
            running.check()?;
        }
        Ok(None)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All interrupts that a CPU has had.
fn interrupts(cpu: usize) -> anyhow::Result<u64> {
    let table = std::fs::read_to_string("/proc/interrupts").context("/proc/interrupts cannot be read")?;
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let name = format!("CPU{cpu}");
    let column = header.split_whitespace().position(|word| word == name);
    let column = column.with_context(|| format!("{name} is not online"))? + 1;
    Ok(lines.filter_map(|line| line.split_whitespace().nth(column)?.parse::<u64>().ok()).sum())
}
