//! Formats: each exporter writes a [`Recording`] in one of them. Destinations are `sink`'s.
//!
//! A new format is one file here and its line in [`EXPORTERS`]; the command line's help, the file
//! endings and the fixture test follow from the registry.

pub mod firefox;
pub mod flamegraph;
pub mod folded;
mod observation;
pub mod perfetto;
pub mod pprof;
pub mod trace_json;

use std::io::{self, Write};
use std::path::Path;

use crate::model::{Aspect, Recording, View};

/// Writes a recording in one format. Knows no files and no destination.
pub trait Exporter: Sync {
    /// Its name on the command line: `pprof`.
    fn name(&self) -> &'static str;
    /// What it is, in a few words, for `--help`.
    fn description(&self) -> &'static str;
    /// File name endings that mean this format, the preferred one first: `pb.gz`.
    fn endings(&self) -> &'static [&'static str];
    /// MIME type.
    fn content_type(&self) -> &'static str;
    /// Writes the recording; where the format has room for one look at it only, `view`. Only `out` can fail.
    fn export(&self, recording: &Recording, view: View, out: &mut dyn Write) -> io::Result<()>;
}

/// A format, and what it is to show.
#[derive(Clone, Copy)]
pub struct Format<'a> {
    /// The format.
    pub exporter: &'a dyn Exporter,
    /// What to show, where it can show one thing only.
    pub view: View,
}

/// All formats.
pub const EXPORTERS: &[&dyn Exporter] = &[
    &trace_json::TraceJson,
    &flamegraph::Flamegraph,
    &folded::Folded,
    &pprof::Pprof,
    &firefox::Firefox,
    &perfetto::Perfetto,
];

/// A format that there is not.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// By its name.
    #[error("there is no format {0:?}: {names}", names = list(|exporter| exporter.name()))]
    Name(String),
    /// By a file's ending.
    #[error("{0:?} has no ending of a known format: {endings}", endings = list(|exporter| exporter.endings()[0]))]
    Ending(String),
}

fn list(what: fn(&dyn Exporter) -> &'static str) -> String {
    let all: Vec<_> = EXPORTERS.iter().map(|exporter| what(*exporter)).collect();
    format!("known are {}", all.join(", "))
}

/// The format with a name.
pub fn by_name(name: &str) -> Result<&'static dyn Exporter, FormatError> {
    let found = EXPORTERS.iter().find(|exporter| exporter.name() == name);
    found.copied().ok_or_else(|| FormatError::Name(name.to_owned()))
}

/// What a file is to show: `NAME.off-cpu.svg` shows the time off the CPU, and a name without such a part that on it.
pub fn aspect_of(path: &Path) -> Option<Aspect> {
    let name = path.file_name()?.to_str()?;
    name.split('.').find_map(|part| Aspect::ALL.iter().copied().find(|aspect| aspect.name() == part))
}

/// The format that a file's ending means; `.gz` and `.zst` behind it are the sink's.
pub fn by_path(path: &Path) -> Result<&'static dyn Exporter, FormatError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    // `t.firefox.json` is the one with the longest ending that fits.
    let fits = |exporter: &dyn Exporter| {
        let endings = exporter.endings().iter().copied();
        let fitting = endings.filter(|ending| [&*name, plain].iter().any(|name| name.ends_with(&format!(".{ending}"))));
        fitting.map(str::len).max()
    };
    let found = EXPORTERS.iter().copied().filter_map(|exporter| Some((fits(exporter)?, exporter)));
    let longest = found.max_by_key(|(length, _)| *length).map(|(_, exporter)| exporter);
    longest.ok_or_else(|| FormatError::Ending(name.into_owned()))
}
