//! `cputrace report`: the summary of a trace.json that was recorded before, by cputrace or by its ancestor.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::{live, summary};
use crate::export::trace_json;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trace.json, plain or compressed
    file: PathBuf,
    /// Leave out waits without anything to do (event loops, idle threads of a pool)
    #[arg(long)]
    hide_idle: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = File::open(&args.file).with_context(|| format!("{} cannot be opened", args.file.display()))?;
    let recording = trace_json::read(file).with_context(|| format!("{} cannot be shown", args.file.display()))?;
    let _ = write!(io::stdout(), "{}", summary::text(&recording, args.hide_idle, &[], live::width()));
    Ok(ExitCode::SUCCESS)
}
