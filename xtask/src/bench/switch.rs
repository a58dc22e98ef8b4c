//! What the account of the threads' time costs a switch: two processes on one CPU that send a byte to and fro, each tool in
//! turn in each of many short rounds, and the fastest of its rounds compared with the fastest without a tool. Of a round the
//! median counts, not the fastest piece: a tool that drops events costs nothing in that moment.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::system::{command, target};
use crate::workload;

/// How long a tool is measured in one round.
const WINDOW: Duration = Duration::from_millis(700);

/// Until a tool has started.
const SETTLE: Duration = Duration::from_millis(1500);

/// A row of the table, and the words of its command.
type Case = (&'static str, &'static [&'static str]);

const CPUTRACE: &[&str] = &["record", "--quiet", "--frequency", "1", "--out"];

const CASES: [Case; 9] = [
    ("nothing", &[]),
    ("cputrace of another one", &["cputrace", "--pid", "1", "--no-off-cpu"]),
    ("cputrace, the account", &["cputrace", "--all", "--no-off-cpu"]),
    ("  and stacks over 1 ms", &["cputrace", "--all", "--off-cpu-min", "1", "--no-wakers"]),
    ("  and their wakers", &["cputrace", "--all", "--off-cpu-min", "1", "--wakers"]),
    ("runqlat", &["runqlat", "1000"]),
    ("wakeuptime", &["wakeuptime", "1000"]),
    ("offcputime", &["offcputime", "1000"]),
    ("perf sched record", &["perf", "sched", "record", "-q", "-a", "-o"]),
];

/// Measures and prints a table.
pub(super) fn measure(rounds: u32) -> anyhow::Result<()> {
    let cpu = std::thread::available_parallelism()?.get() - 1;
    let mut program = command(workload::build_pingpong()?);
    let child = program.arg(cpu.to_string()).stdout(Stdio::piped()).spawn().context("pingpong cannot be started")?;
    let game = Game::watch(child)?;
    let mut fastest = [f64::INFINITY; CASES.len()];
    for _ in 0..rounds {
        for ((name, words), fastest) in CASES.iter().zip(&mut fastest) {
            *fastest = fastest.min(game.round(words).with_context(|| name.to_owned())?);
        }
    }
    // Of a process that has no part in it: the hook alone, and a look that finds nothing.
    let [base, hook, ..] = fastest;
    println!("\nThe cost of a switch: two processes on one CPU, a byte to and fro by pipes; {rounds} rounds");
    println!("{:<24} {:>12} {:>14} {:>22}", "", "ns a switch", "more, ns", "above the hook alone");
    for ((name, _), fastest) in CASES.iter().zip(fastest) {
        println!("{name:<24} {fastest:>12.0} {:>14.0} {:>22.0}", fastest - base, fastest - hook);
    }
    Ok(())
}

/// The two processes at work.
struct Game {
    child: Child,
    /// When each 10,000 switches ended, and how long one of them took.
    pieces: Receiver<(Instant, f64)>,
}

impl Game {
    fn watch(mut child: Child) -> anyhow::Result<Self> {
        let stdout = child.stdout.take().context("pingpong has no output")?;
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(nanoseconds) = line.parse() else { break };
                if sender.send((Instant::now(), nanoseconds)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, pieces })
    }

    /// The median piece while a tool is at work.
    fn round(&self, words: &[&str]) -> anyhow::Result<f64> {
        let folder = tempfile::tempdir()?;
        let mut tool = match words {
            [] => None,
            ["cputrace", options @ ..] => {
                let mut tool = command(target().join("release/cputrace"));
                tool.args(CPUTRACE).arg(folder.path().join("trace.json")).args(options);
                Some(tool)
            }
            [program, arguments @ ..] => {
                let mut tool = Command::new(program);
                tool.args(arguments);
                if *program == "perf" {
                    tool.arg(folder.path().join("perf.data"));
                }
                Some(tool)
            }
        };
        let quiet = |tool: &mut Command| tool.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut tool = tool.as_mut().map(quiet).transpose().context("it cannot be started")?;
        std::thread::sleep(SETTLE);
        let start = Instant::now();
        std::thread::sleep(WINDOW);
        if let Some(tool) = &mut tool {
            if let Some(status) = tool.try_wait()? {
                bail!("it ended early ({status})");
            }
            // What it gathered is of no interest.
            tool.kill()?;
            tool.wait()?;
        }
        // The piece in progress at the start may have begun before it.
        let inside = self.pieces.try_iter().filter(|(end, _)| *end > start).skip(1);
        let mut pieces: Vec<f64> = inside.map(|(_, ns)| ns).collect();
        pieces.sort_by(f64::total_cmp);
        pieces.get(pieces.len() / 2).copied().context("the two processes did nothing")
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        // The other one goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
