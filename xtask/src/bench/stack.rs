//! What an eBPF program takes for a stack, by the kernel's own count of its run time: ours on a program without frame
//! pointers, and one that does nothing but `bpf_get_stack` on the same program with them.
//!
//! Both have their turn on stacks of each depth in each of several rounds; the fastest round counts. Ours does all that a
//! sample takes, up to the ring buffer.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::get_stack::GetStack;
use super::run_time::{Counting, RunTime};
use super::tool::{Subject, Tool};
use crate::system::command;
use crate::workload::{self, Frames};

/// Calls of the pinned program, below which it has some five frames more.
const DEPTHS: [u32; 5] = [1, 27, 59, 123, 507];

/// How long each is measured in one round.
const WINDOW: Duration = Duration::from_millis(700);

/// Until a program and its profiler have started.
const SETTLE: Duration = Duration::from_millis(400);

/// Measures and prints a table.
pub(super) fn measure(hz: u32, rounds: u32) -> anyhow::Result<()> {
    let _counting = Counting::start()?;
    let mut fastest = [[f64::INFINITY; 2]; DEPTHS.len()];
    for _ in 0..rounds {
        for (depth, [ours, kernel]) in DEPTHS.iter().zip(&mut fastest) {
            *ours = ours.min(by_cputrace(*depth, hz)?);
            *kernel = kernel.min(by_kernel(*depth, hz)?);
        }
    }
    println!("\nRun time of the eBPF program for a sample, by the kernel's count, at {hz} Hz; {rounds} rounds");
    println!("{:<12} {:>36} {:>36}", "calls", "cputrace, no frame pointers, us", "bpf_get_stack, frame pointers, us");
    for (depth, [ours, kernel]) in DEPTHS.iter().zip(fastest) {
        println!("{depth:<12} {:>36.2} {:>36.2}", ours / 1e3, kernel / 1e3);
    }
    let further = |profiler: usize| (fastest[3][profiler] - fastest[1][profiler]) / f64::from(DEPTHS[3] - DEPTHS[1]);
    println!("{:<12} {:>33.0} ns {:>33.0} ns", "a frame more", further(0), further(1));
    Ok(())
}

/// Nanoseconds of a run of our program.
fn by_cputrace(depth: u32, hz: u32) -> anyhow::Result<f64> {
    let victim = Victim::start(Frames::NoPointers, depth)?;
    let folder = tempfile::tempdir()?;
    let running = Tool::Cputrace.start(Subject::Process(victim.0.id()), hz, folder.path())?;
    std::thread::sleep(SETTLE);
    let each = each_run(|| RunTime::of_clock(running.pid()));
    running.stop()?;
    each
}

/// The same of the kernel's walk.
fn by_kernel(depth: u32, hz: u32) -> anyhow::Result<f64> {
    let victim = Victim::start(Frames::Pointers, depth)?;
    let peer = GetStack::attach(victim.0.id(), hz)?;
    each_run(|| peer.run_time())
}

fn each_run(run_time: impl Fn() -> anyhow::Result<RunTime>) -> anyhow::Result<f64> {
    std::thread::sleep(SETTLE);
    let before = run_time()?;
    std::thread::sleep(WINDOW);
    run_time()?.each_since(before).context("the program's clock did not tick")
}

/// The program that is sampled.
pub(super) struct Victim(pub(super) Child);

impl Victim {
    pub(super) fn start(frames: Frames, depth: u32) -> anyhow::Result<Self> {
        let cpu = std::thread::available_parallelism()?.get() - 1;
        let mut program = command(workload::build_pinned(frames)?);
        program.args([cpu.to_string(), "0".to_owned(), depth.to_string()]).stdout(Stdio::null());
        Ok(Self(program.spawn().context("the pinned program cannot be started")?))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
