//! `cputrace report`: the summary of a trace.json that was recorded before, by cputrace or by its ancestor, and other formats
//! of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::output::{self, Outputs};
use super::{live, summary};
use crate::export::trace_json;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trace.json, plain or compressed
    file: PathBuf,
    #[command(flatten)]
    output: Outputs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = File::open(&args.file).with_context(|| format!("{} cannot be opened", args.file.display()))?;
    let recording = trace_json::read(file).with_context(|| format!("{} cannot be shown", args.file.display()))?;
    let outputs = args.output.outputs(&args.file, false)?;
    let (written, failed) = output::write(&recording, &outputs);
    let text = summary::text(&recording, args.output.hide_idle, &written, live::width());
    // Standard output may be the recording's.
    let to_stderr = outputs.iter().any(|(path, _)| path == Path::new("-"));
    let _ = if to_stderr { write!(io::stderr(), "{text}") } else { write!(io::stdout(), "{text}") };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
