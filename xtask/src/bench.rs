//! What cputrace costs, side by side with perf and bpftrace in one run: these machines are noisy, only ratios hold.
//!
//! The cost of one sample is the slow-down of a pinned CPU-bound program at a high rate: rounds of all tools in turn,
//! each tool's fastest round counts, divided by the samples that fell on the program's CPU.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::system::{self, cargo, command, has, install, is_root, root, target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds of each tool
    #[arg(long, default_value_t = 8)]
    rounds: u32,
    /// Samples a second for the cost of one sample
    #[arg(long, default_value_t = 4999)]
    frequency: u32,
}

/// The program's CPU.
const CPU: usize = 1;

/// How long a round's work takes by itself, about.
const ROUND: Duration = Duration::from_millis(700);

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !is_root() {
        bail!("the bench needs root: sudo -E cargo xtask bench");
    }
    install(&[
        ("cc", "gcc"),
        ("perf", "linux-perf"),
        ("bpftrace", "bpftrace"),
        ("taskset", "util-linux"),
        ("/usr/bin/time", "time"),
    ])?;
    system::run(cargo().args(["build", "--locked", "--release", "--package", "cputrace"]))?;
    let lab = Lab::new()?;
    lab.cost_of_a_sample(args)?;
    lab.whole_host()?;
    lab.first_sample()?;
    Ok(())
}

struct Lab {
    folder: tempfile::TempDir,
    cputrace: PathBuf,
    /// 25 calls deep, with frame pointers: runs the given number of loops and exits.
    deep: PathBuf,
}

/// A tool that samples the CPU on which the program runs.
struct Tool {
    name: &'static str,
    /// The command line; `FILE` and `HZ` are filled in.
    words: Vec<String>,
}

impl Lab {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = root().join("workload/deep.c");
        let deep = folder.path().join("deep");
        let flags = ["-O2", "-g", "-fno-omit-frame-pointer", "-o"];
        system::run(command("cc").args(flags).arg(&deep).arg(source))?;
        Ok(Self { folder, cputrace: target().join("release/cputrace"), deep })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tools(&self, hz: u32) -> Vec<Tool> {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let file = |name: &str| self.file(name).display().to_string();
        let perf = |how: &str| {
            words(&format!("perf record -q -a -C {CPU} -e cpu-clock -F {hz}{how} -o {}", file("perf.data")))
        };
        vec![
            Tool { name: "nothing", words: Vec::new() },
            Tool { name: "perf, no stacks (the timer)", words: perf("") },
            Tool { name: "perf, frame pointers", words: perf(" --call-graph fp") },
            Tool { name: "perf, DWARF", words: perf(" --call-graph dwarf") },
            Tool {
                name: "bpftrace profile:hz",
                words: [
                    "bpftrace",
                    "-q",
                    "-e",
                    &format!("profile:hz:{hz} /cpu == {CPU}/ {{ @[ustack, kstack] = count(); }}"),
                ]
                .map(str::to_owned)
                .to_vec(),
            },
            Tool {
                name: "cputrace",
                words: words(&format!(
                    "{} record --quiet --all -F {hz} -o {}",
                    self.cputrace.display(),
                    file("trace.json")
                )),
            },
        ]
    }

    /// Runs the program once; how long it took.
    fn work(&self, loops: u64) -> anyhow::Result<f64> {
        let start = Instant::now();
        system::run(command("taskset").args(["-c", &CPU.to_string()]).arg(&self.deep).arg(loops.to_string()))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn cost_of_a_sample(&self, args: &Args) -> anyhow::Result<()> {
        let calibration = self.work(1000)?;
        let loops = (1000.0 * ROUND.as_secs_f64() / calibration) as u64;
        let tools = self.tools(args.frequency);
        let mut fastest = vec![f64::MAX; tools.len()];
        for _ in 0..args.rounds {
            for (tool, fastest) in tools.iter().zip(&mut fastest) {
                let running = tool.start()?;
                *fastest = fastest.min(self.work(loops)?);
                if let Some(running) = running {
                    stop(running)?;
                }
            }
        }
        let alone = fastest[0];
        println!("\ncost of one sample, 25 frames with frame pointers, {} Hz, {} rounds", args.frequency, args.rounds);
        for (tool, seconds) in tools.iter().zip(&fastest).skip(1) {
            let samples = f64::from(args.frequency) * seconds;
            println!(
                "  {:<30} {:7.2} us   {:6.2} % slower",
                tool.name,
                (seconds - alone) / samples * 1e6,
                100.0 * (seconds / alone - 1.0)
            );
        }
        let trace = self.trace()?;
        let overhead = &trace["overhead"];
        let runs = overhead["bpf_runs"].as_f64().unwrap_or(0.0).max(1.0);
        let run_time = overhead["bpf_run_time_seconds"].as_f64().unwrap_or(0.0);
        println!(
            "  cputrace's eBPF program by the kernel's statistics: {:.2} us a tick, idle ones included",
            run_time / runs * 1e6
        );
        Ok(())
    }

    fn trace(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.file("trace.json"))?)?)
    }

    /// 10 s of the whole host at 99 Hz, with two busy programs: own CPU, memory, files.
    fn whole_host(&self) -> anyhow::Result<()> {
        const SECONDS: f64 = 10.0;
        let busy: Vec<_> = (0..2)
            .map(|cpu| Command::new("taskset").args(["-c", &cpu.to_string()]).arg(&self.deep).arg("0").spawn())
            .collect();
        println!("\n{SECONDS:.0} s of the whole host at 99 Hz, two CPUs busy");
        println!("  {:<22} {:>9} {:>9} {:>9}", "", "own CPU %", "RSS MB", "file kB");
        let data = self.file("perf.data");
        let seconds = SECONDS.to_string();
        let mut cputrace = Command::new(&self.cputrace);
        let trace = self.file("trace.json");
        cputrace.args(["record", "--quiet", "--all", "-d", &seconds, "-o"]).arg(&trace);
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-a", "-e", "cpu-clock", "-F", "99", "--call-graph", "fp", "-o"]).arg(&data);
        perf.args(["sleep", &seconds]);
        for (name, command, file) in
            [("cputrace, with names", &mut cputrace, &trace), ("perf record, without", &mut perf, &data)]
        {
            let usage = usage_of(command, &self.file("usage"))?;
            let bytes = std::fs::metadata(file)?.len();
            println!(
                "  {name:<22} {:9.2} {:9.1} {:9.0}",
                100.0 * usage.cpu / SECONDS,
                usage.rss_mb,
                bytes as f64 / 1e3
            );
        }
        let trace = self.trace()?;
        let while_recording = trace["overhead"]["own_cpu_seconds"].as_f64().unwrap_or(0.0);
        let in_kernel = trace["overhead"]["bpf_run_time_seconds"].as_f64().unwrap_or(0.0);
        println!(
            "  cputrace between attach and names: {:.2} % of one CPU, and {:.2} % in eBPF",
            100.0 * while_recording / SECONDS,
            100.0 * in_kernel / SECONDS
        );
        for child in busy {
            let mut child = child?;
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// From the start of cputrace to the first instruction of its command, which runs once the clock does.
    fn first_sample(&self) -> anyhow::Result<()> {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
            let mut record = Command::new(&self.cputrace);
            record.args(["record", "--quiet", "-o"]).arg(self.file("trace.json")).args(["--", "date", "+%s.%N"]);
            let running: f64 = system::output(&mut record)?.trim().parse().context("date printed no time")?;
            best = best.min(running - start);
        }
        println!("\nsampling runs {:.0} ms after the start of cputrace", best * 1e3);
        Ok(())
    }
}

impl Tool {
    /// Starts it and waits until it samples.
    fn start(&self) -> anyhow::Result<Option<Child>> {
        let Some((program, arguments)) = self.words.split_first() else { return Ok(None) };
        if !Path::new(program).is_absolute() && !has(program) {
            bail!("there is no {program}");
        }
        let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(if program == "bpftrace" { 2500 } else { 700 }));
        Ok(Some(child))
    }
}

/// Ends a tool as a user does.
fn stop(mut tool: Child) -> anyhow::Result<()> {
    system::run(Command::new("kill").args(["-INT", &tool.id().to_string()]))?;
    tool.wait()?;
    Ok(())
}

struct Usage {
    cpu: f64,
    rss_mb: f64,
}

/// CPU seconds and largest resident memory of a command as a whole.
fn usage_of(command: &mut Command, report: &Path) -> anyhow::Result<Usage> {
    let mut time = Command::new("/usr/bin/time");
    time.args(["-f", "%U %S %M", "-o"]).arg(report).arg(command.get_program()).args(command.get_args());
    system::run(&mut time)?;
    let text = std::fs::read_to_string(report)?;
    let numbers: Vec<f64> = text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [user, system, rss_kb] = numbers[..] else { bail!("/usr/bin/time printed {text:?}") };
    Ok(Usage { cpu: user + system, rss_mb: rss_kb / 1e3 })
}
