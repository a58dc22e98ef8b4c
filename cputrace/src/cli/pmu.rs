//! `cputrace pmu`: what this machine can count, what a name means, and whether the counters work.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;

use crate::pmu::cpu::Generation;
use crate::pmu::device::Root;
use crate::pmu::perf::Perf;
use crate::pmu::survey::Survey;
use crate::pmu::{report, selftest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show this CPU, its PMUs, and which metrics can be counted, each tried
    List {
        /// Show every event with its encoding instead
        #[arg(long)]
        events: bool,
        /// With --events: those of another generation of Zen
        #[arg(long, value_name = "1-6", requires = "events", value_parser = clap::value_parser!(u32).range(1..=6))]
        zen: Option<u32>,
    },
    /// Count every event alone under load, and check what bounds what: for the first hour on a machine
    Selftest,
    /// Say what an event or a metric means, and how it is encoded on each generation
    Explain {
        /// A name, cpu/event=0xc0,umask=0x1/, r00c0, or sched:sched_switch
        #[arg(value_name = "EVENT")]
        name: String,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = Root::new("/");
    let text = match &args.command {
        Command::List { events: true, zen } => {
            let asked = zen.and_then(|zen| Generation::ALL.iter().copied().find(|known| known.number() == zen));
            report::events(asked.or_else(|| Survey::here().generation()))
        }
        Command::List { events: false, .. } => report::list(&Survey::here()),
        Command::Selftest => {
            let outcome = selftest::run(&Survey::here(), &Perf);
            let _ = io::stdout().write_all(outcome.text.as_bytes());
            return Ok(if outcome.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Explain { name } => match report::explain(name, &Survey::here(), &root) {
            Some(text) => text,
            None => bail!(
                "nothing is known of {name:?}: `cputrace pmu list` shows the metrics, `cputrace pmu list --events` the events"
            ),
        },
    };
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}
