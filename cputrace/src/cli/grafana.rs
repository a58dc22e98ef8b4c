//! `cputrace grafana`: the files that Grafana and Prometheus want.

use std::path::PathBuf;
use std::process::ExitCode;

use super::say;
use crate::grafana::{self, Existing, FILES};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write dashboards, provisioning files, Prometheus' rules and alerts, and a compose file into a directory.
    Export {
        /// Where to; it is made if need be
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Overwrite files that are there already and differ
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Export { directory, force } = &args.command;
    grafana::export(directory, if *force { Existing::Overwrite } else { Existing::Keep })?;
    say(&format!("cputrace: wrote {} files into {}", FILES.len(), directory.display()));
    Ok(ExitCode::SUCCESS)
}
