//! The profilers that are compared, and a run of one of them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::system::{command, target};

/// What a profiler is to sample.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject {
    Process(u32),
    Host,
}

/// One way to run a profiler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tool {
    /// With all that it does by default: the account of the threads' time, and waits with their stacks.
    Cputrace,
    /// Only what the others do.
    CputraceSamples,
    PerfNoStack,
    PerfFramePointers,
    PerfDwarf,
    Bpftrace,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cputrace => "cputrace record",
            Self::CputraceSamples => "  samples alone",
            Self::PerfNoStack => "perf record, no stacks",
            Self::PerfFramePointers => "perf record -g",
            Self::PerfDwarf => "perf record, dwarf",
            Self::Bpftrace => "bpftrace profile:hz",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Cputrace | Self::CputraceSamples)
    }

    fn command(self, subject: Subject, hz: u32, out: &Path) -> Command {
        let mut command = match self {
            Self::Cputrace | Self::CputraceSamples => command(target().join("release/cputrace")),
            Self::PerfNoStack | Self::PerfFramePointers | Self::PerfDwarf => command("perf"),
            Self::Bpftrace => command("bpftrace"),
        };
        let hz = hz.to_string();
        match self {
            Self::Cputrace | Self::CputraceSamples => {
                command.args(["record", "--quiet", "--frequency", &hz]);
                command.args((self == Self::CputraceSamples).then_some("--no-sched")).arg("--out").arg(out)
            }
            Self::PerfNoStack => command.args(["record", "-q", "-e", "cpu-clock", "-F", &hz, "-o"]).arg(out),
            Self::PerfFramePointers => {
                command.args(["record", "-q", "-e", "cpu-clock", "-g", "-F", &hz, "-o"]).arg(out)
            }
            Self::PerfDwarf => {
                command.args(["record", "-q", "-e", "cpu-clock", "--call-graph", "dwarf", "-F", &hz, "-o"]).arg(out)
            }
            Self::Bpftrace => command.args(["-q", "-o"]).arg(out).arg("-e"),
        };
        match (self, subject) {
            (Self::Cputrace | Self::CputraceSamples, Subject::Process(pid)) => {
                command.args(["--pid", &pid.to_string()])
            }
            (Self::Cputrace | Self::CputraceSamples, Subject::Host) => command.arg("--all"),
            (Self::Bpftrace, Subject::Process(pid)) => {
                command.arg(format!("profile:hz:{hz} /pid == {pid}/ {{ @[kstack, ustack] = count(); }}"))
            }
            (Self::Bpftrace, Subject::Host) => {
                command.arg(format!("profile:hz:{hz} /pid != 0/ {{ @[kstack, ustack, comm] = count(); }}"))
            }
            (_, Subject::Process(pid)) => command.args(["-p", &pid.to_string()]),
            (_, Subject::Host) => command.arg("-a"),
        };
        command
    }

    /// Starts it; its file will be in `folder`.
    pub(super) fn start(self, subject: Subject, hz: u32, folder: &Path) -> anyhow::Result<Running> {
        let out = folder.join(if self.is_ours() { "trace.json" } else { "out" });
        let errors = folder.join("errors");
        let mut command = self.command(subject, hz, &out);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.name()))?;
        Ok(Running { tool: self, child, started, out, errors })
    }
}

/// A profiler at work.
#[derive(Debug)]
pub(super) struct Running {
    tool: Tool,
    child: Child,
    pub(super) started: Instant,
    pub(super) out: PathBuf,
    errors: PathBuf,
}

/// What a profiler took for itself.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Usage {
    /// User and system time.
    pub(super) cpu: Duration,
    /// Resident memory at its highest.
    pub(super) rss_kb: u64,
}

impl Running {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.child.id()).with_context(|| format!("{} is gone", self.tool.name()))
    }

    /// An error, with what it said, if it has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
                bail!("{} ended early ({status}): {}", self.tool.name(), said.trim())
            }
        }
    }

    /// Ends it as Ctrl-C does, and waits until its file is written. What it took in all.
    pub(super) fn stop(mut self) -> anyhow::Result<Usage> {
        self.check()?;
        crate::system::run(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut last = Usage::default();
        // A process that has ended and was not waited for still has its times, but no memory any more.
        while let Some(Usage { cpu, rss_kb }) = usage(self.child.id()) {
            last = Usage { cpu, rss_kb: last.rss_kb.max(rss_kb) };
            if rss_kb == 0 || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if Instant::now() > deadline {
            let _ = self.child.kill();
            self.child.wait()?;
            bail!("{} did not end", self.tool.name());
        }
        self.child.wait()?;
        Ok(last)
    }
}

/// Of a process; `None` if there is none.
fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let rss_kb = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    // A tick of /proc is 10 ms on every architecture we run on.
    Some(Usage { cpu: Duration::from_millis(ticks * 10), rss_kb })
}
