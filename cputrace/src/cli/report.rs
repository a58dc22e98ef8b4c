//! `cputrace report`: the summary of a trace.json that was recorded before, by cputrace or by its ancestor, and other formats
//! of it; and what changed from one to another.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::output::{self, Output, Outputs};
use super::{diff, live, summary};
use crate::export::flamegraph::{Differential, Flamegraph};
use crate::export::{Exporter, Format, trace_json};
use crate::model::Recording;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The trace.json, plain or compressed
    file: PathBuf,
    /// Show what changed from FILE to this later trace.json, a second of their times; with -o NAME.svg as a flame graph: red
    /// has more, blue less
    #[arg(long, value_name = "LATER")]
    diff: Option<PathBuf>,
    #[command(flatten)]
    output: Outputs,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let recording = read(&args.file)?;
    let outputs = args.output.outputs(&args.file, false)?;
    let (text, failed) = match &args.diff {
        Some(later) => diffed(&recording, &read(later)?, args, &outputs)?,
        None => {
            let (written, failed) = output::write(&recording, &outputs);
            (summary::text(&recording, args.output.hide_idle, &written, live::width()), failed)
        }
    };
    // Standard output may be the recording's.
    let to_stderr = outputs.iter().any(|(path, _)| path == Path::new("-"));
    let _ = if to_stderr { write!(io::stderr(), "{text}") } else { write!(io::stdout(), "{text}") };
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Recording> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    trace_json::read(file).with_context(|| format!("{} cannot be shown", path.display()))
}

/// What changed, in the files' views or that of `--view`; the second says whether a file could not be written.
fn diffed(
    base: &Recording,
    against: &Recording,
    args: &Args,
    outputs: &[Output<'_>],
) -> anyhow::Result<(String, bool)> {
    for (path, format) in outputs {
        let is_svg = format.exporter.name() == Flamegraph.name();
        anyhow::ensure!(is_svg, "{} cannot show a difference: name a file .svg", path.display());
    }
    let exporter = Differential { base };
    let outputs: Vec<_> =
        outputs.iter().map(|(path, format)| (path.clone(), Format { exporter: &exporter, ..*format })).collect();
    let (written, failed) = output::write(against, &outputs);
    let mut text = diff::text(base, against, args.output.view(), live::width());
    summary::write_files(&mut text, &written);
    Ok((text, failed))
}
