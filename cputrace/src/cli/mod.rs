//! The command line; the only module that prints.
//!
//! One file a command: [`record`], [`report`], [`serve`], [`upload`], [`doctor`], [`pmu`],
//! [`grafana`]. [`live`] is what is shown while recording, [`summary`] what
//! is shown at the end, [`counters`] its part about them, [`diff`] what changed between two recordings, [`output`] which
//! files are written, [`stop`] how Ctrl-C
//! ends it.

mod counters;
mod diff;
mod doctor;
mod grafana;
mod live;
mod ops;
mod output;
mod pmu;
mod record;
mod report;
mod serve;
mod stack_counters;
mod stop;
mod summary;
mod upload;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::own;

/// Where a process spends its time, on the CPU and off it, and why.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    args_conflicts_with_subcommands = true,
    after_help = "Without a command, `record` is meant: cputrace --pid 1234 --duration 10 --out trace.json"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    record: record::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record processes, a control group, the whole host, or a command.
    Record(Box<record::Args>),
    /// Show the summary of a trace.json, and write it in other formats.
    Report(Box<report::Args>),
    /// Watch the whole host all day, and answer over HTTP.
    Serve(serve::Args),
    /// Send a recording to a server that keeps it.
    Upload(upload::Args),
    /// Say what this system allows, what that means, and how to change it.
    Doctor(doctor::Args),
    /// Show what the CPU's counters can count, and what an event means.
    Pmu(pmu::Args),
    /// Write what Grafana and Prometheus need: dashboards, data sources, rules.
    Grafana(grafana::Args),
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout is no reason to panic.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    own::keep_memory_low();
    let done = match cli.command {
        Some(Command::Record(args)) => record::run(&args),
        None => record::run(&cli.record),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Upload(args)) => upload::run(&args),
        Some(Command::Doctor(args)) => Ok(doctor::run(&args)),
        Some(Command::Pmu(args)) => pmu::run(&args),
        Some(Command::Grafana(args)) => grafana::run(&args),
    };
    done.unwrap_or_else(|error| {
        say(&format!("cputrace: {}", sentence(&error)));
        record::exit_code_of(&error)
    })
}

/// An error and its causes, but for those that it has told already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match &*text {
            "" => text = cause,
            told if told.contains(&cause) => {}
            told => text = format!("{told}: {cause}"),
        }
    }
    text
}

/// A line on standard error; if nobody reads it, it is not missed.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, sentence};
    use crate::process::command::CommandError;

    /// clap's own rules: names that are used once, conflicts with arguments that there are.
    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Each cause is told once, whether the error names it itself or not.
    #[test]
    fn an_error_is_one_sentence() {
        let cause = || std::io::Error::other("no room");
        let named = anyhow::Error::from(CommandError::NotExecutable("make".to_owned(), cause()));
        assert_eq!(sentence(&named), "make: cannot be executed: no room");
        let unnamed = anyhow::Error::from(cause()).context("x.json cannot be opened");
        assert_eq!(sentence(&unnamed), "x.json cannot be opened: no room");
    }
}
