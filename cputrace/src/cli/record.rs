//! `cputrace record`: from the command line to a recording in files.

use std::io::{self, IsTerminal, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context;

use super::counters::CounterArgs;
use super::output::{self, Output, Outputs};
use super::{live, say, stop, summary};
use crate::duration;
use crate::ebpf::Waits;
use crate::model::{Aspect, Target, Tier};
use crate::process::command::{CommandError, HeldCommand};
use crate::process::own::{Priority, Work};
use crate::session::{self, EndReason, Options, Outcome, SessionError};
use crate::sink::file;
use crate::symbolize::Detail;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Record this process, with its threads and the children it starts from now on; can be repeated
    #[arg(short, long, value_name = "PID")]
    pid: Vec<u32>,
    /// Record the processes whose name or command line matches, those that come later too; can be repeated
    #[arg(long, value_name = "REGEX")]
    name: Vec<String>,
    /// Record a control group and those below it, by its path
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Record the whole host
    #[arg(short, long)]
    all: bool,
    /// Start this command and record it from its first instruction; its exit status is passed on
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Samples a second and CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    frequency: u32,
    /// Stop after this time: seconds, or with a unit (10s, 100ms, 2m)
    #[arg(short, long, value_name = "TIME", value_parser = duration::seconds)]
    duration: Option<Duration>,
    /// Time between two points of the CPU and memory timeline: milliseconds, or with a unit [default: 100, of the
    /// whole host or a control group 1000, but at least ten in a recording]
    #[arg(long, value_name = "TIME", value_parser = duration::milliseconds)]
    interval: Option<Duration>,
    #[command(flatten)]
    output: Outputs,
    /// Show nothing while recording, and no summary
    #[arg(short, long)]
    quiet: bool,
    /// Sample in this way only, instead of the best that is allowed
    #[arg(long, value_name = "TIER", value_parser = ["ebpf", "perf_event", "proc"])]
    tier: Option<String>,
    /// Kernel memory that unwind tables may take, in megabytes
    #[arg(long, value_name = "MB", default_value_t = 64)]
    unwind_memory: u64,
    /// Account where each thread's time went (on the CPU, waiting for one, blocked): the default
    #[arg(long, overrides_with = "no_sched")]
    sched: bool,
    /// Do not
    #[arg(long, overrides_with = "sched")]
    no_sched: bool,
    /// Keep waits with their stacks: the default
    #[arg(long, overrides_with = "no_off_cpu")]
    off_cpu: bool,
    /// Keep waits of at least this time with their stacks: milliseconds, or with a unit [default: 1, of the whole host or a
    /// control group 10]
    #[arg(long, value_name = "TIME", value_parser = duration::milliseconds, conflicts_with_all = ["no_off_cpu", "no_sched"])]
    off_cpu_min: Option<Duration>,
    /// Of waits shorter than this, keep a sample: one for each time that a thread's come to it together, which counts for so
    /// much: milliseconds, or with a unit
    #[arg(long, value_name = "TIME", value_parser = duration::milliseconds, conflicts_with_all = ["off_cpu_min", "no_off_cpu", "no_sched"])]
    off_cpu_sample: Option<Duration>,
    /// Do not keep waits with their stacks, only each thread's time by state
    #[arg(long, overrides_with = "off_cpu")]
    no_off_cpu: bool,
    /// Keep with each wait who ended it [default: yes, but not of the whole host or a control group]
    #[arg(long, conflicts_with_all = ["no_wakers", "no_off_cpu", "no_sched"])]
    wakers: bool,
    /// Do not keep who ended waits
    #[arg(long)]
    no_wakers: bool,
    /// Keep the time of each sample and wait in trace.json, for a timeline: the default
    #[arg(long, overrides_with = "no_timeline")]
    timeline: bool,
    /// Keep their sums only
    #[arg(long, overrides_with = "timeline")]
    no_timeline: bool,
    /// Rules for the reasons of waits, that come before the built-in ones
    #[arg(long, value_name = "FILE")]
    wait_rules: Option<PathBuf>,
    #[command(flatten)]
    counters: CounterArgs,
    /// Sample where this event happens, beside the clock: page-faults, sched:sched_switch, l2-misses, cpu/event=0xc3/, r00c3 …
    /// (see `cputrace pmu list --events`); flame.event.svg shows it
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// Events that each sample by --event stands for [default: 1 of the kernel's, else what suits the event]
    #[arg(long, value_name = "COUNT", requires = "event", value_parser = clap::value_parser!(u64).range(1..))]
    event_period: Option<u64>,
    /// Do not record the children that the targets start
    #[arg(long)]
    no_children: bool,
}

impl Args {
    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<_> = self.pid.iter().map(|&pid| Target::Pid(pid)).collect();
        targets.extend(self.name.iter().cloned().map(Target::Name));
        targets.extend(self.cgroup.iter().cloned().map(Target::Cgroup));
        targets.extend(self.all.then_some(Target::All));
        if !self.command.is_empty() {
            targets.push(Target::Command(self.command.clone()));
        }
        targets
    }

    fn options(&self) -> anyhow::Result<Options> {
        let many = self.all || self.cgroup.is_some();
        let min = self.off_cpu_sample.or(self.off_cpu_min).unwrap_or(Duration::from_millis(if many { 10 } else { 1 }));
        let samples_shorter = self.off_cpu_sample.is_some();
        let waits = Waits { min, samples_shorter, wakers: self.wakers || !(self.no_wakers || many) };
        let wait_rules = self.wait_rules.as_ref().map_or(Ok(String::new()), |path| {
            std::fs::read_to_string(path).with_context(|| format!("the wait rules {} cannot be read", path.display()))
        })?;
        let tiers = [Tier::Ebpf, Tier::PerfEvent, Tier::Proc];
        Ok(Options {
            targets: self.targets(),
            frequency: self.frequency,
            duration: self.duration,
            interval: self.interval.unwrap_or_else(|| interval(many, self.duration)),
            tier: self.tier.as_deref().and_then(|name| tiers.into_iter().find(|tier| tier.name() == name)),
            follow_children: !self.no_children,
            unwind_kb: self.unwind_memory * 1024,
            accounting: !self.no_sched,
            waits: (!self.no_sched && !self.no_off_cpu).then_some(waits),
            wait_rules,
            timeline: !self.no_timeline,
            detail: Detail::Lines,
            pmu: self.counters.sets(),
            event: self.event.clone(),
            event_period: self.event_period,
            stack_counters: self.counters.pmu_stacks.clone(),
            max_overhead: None,
        })
    }

    fn outputs(&self) -> anyhow::Result<Vec<Output<'static>>> {
        let outputs = self.output.outputs(Path::new("trace.json"), true)?;
        for (path, format) in &outputs {
            let aspect = format.view.aspect;
            let of_time = !matches!(aspect, Aspect::OnCpu | Aspect::Event);
            anyhow::ensure!(
                !of_time || !self.no_sched,
                "{} cannot show {}: leave out --no-sched",
                path.display(),
                aspect.title()
            );
            anyhow::ensure!(
                aspect != Aspect::Event || self.event.is_some(),
                "{} cannot show events: name one with --event",
                path.display()
            );
        }
        Ok(outputs)
    }
}

/// Each process of many costs something each time; but a process needs two readings for its CPU time to be known.
fn interval(many: bool, duration: Option<Duration>) -> Duration {
    let (least, most) = (Duration::from_millis(100), Duration::from_millis(if many { 1000 } else { 100 }));
    duration.map_or(most, |duration| (duration / 10).clamp(least, most))
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // What is wrong with the outputs is said before the time is spent.
    let outputs = args.outputs()?;
    outputs.iter().try_for_each(|(path, _)| file::check(path))?;
    let options = args.options()?;
    let stop = stop::signals()?;
    let mut command = match &*args.command {
        [] => None,
        words => Some(HeldCommand::start(words)?),
    };
    // After the command: that is one among others.
    let _priority = Priority::raise(Work::Finishing);
    let mut live = live::Live::new(args.quiet, args.duration);
    let recorded = session::record(&options, command.as_mut(), &mut |progress| live.show(progress), &stop);
    live.finish();
    let Outcome { recording, end, .. } = recorded?;

    // Files first: nothing that is shown may cost what was gathered.
    let (written, failed) = output::write(&recording, &outputs);
    if !args.quiet {
        let text = summary::text(&recording, args.output.hide_idle, &written, live::width());
        // Standard output is the command's own, or the recording's.
        let to_stderr = command.is_some() || outputs.iter().any(|(path, _)| path == Path::new("-"));
        let _ = if to_stderr { write!(io::stderr(), "{text}") } else { write!(io::stdout(), "{text}") };
    }
    let status = command.as_mut().and_then(|command| wait(command, end));
    Ok(match status {
        _ if failed => ExitCode::FAILURE,
        Some(status) => ExitCode::from(code(status)),
        None => ExitCode::SUCCESS,
    })
}

/// The command's exit status: it goes on undisturbed when the recording's time is over, and is ended with it when
/// the user stops it.
fn wait(command: &mut HeldCommand, end: EndReason) -> Option<ExitStatus> {
    if let Some(status) = command.try_wait() {
        return Some(status);
    }
    match end {
        EndReason::Stopped => command.terminate(),
        EndReason::Duration if io::stderr().is_terminal() => say("cputrace: the command goes on; waiting for its end"),
        EndReason::Duration | EndReason::TargetsGone => {}
    }
    command.wait()
}

/// As a shell gives it.
fn code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The exit code of an error: that of a shell where a command could not be started.
pub(super) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    let command = match error.downcast_ref::<SessionError>() {
        Some(SessionError::Command(error)) => Some(error),
        _ => error.downcast_ref::<CommandError>(),
    };
    command.map_or(ExitCode::FAILURE, |error| ExitCode::from(error.exit_code()))
}
