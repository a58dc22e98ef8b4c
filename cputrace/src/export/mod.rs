//! Formats: each exporter writes a [`Recording`] in one of them. Destinations are `sink`'s.
//!
//! A new format is one file here and its line in [`EXPORTERS`]; the command line's help, the file
//! extensions and the fixture test follow from the registry.

use std::io::{self, Write};

use crate::model::Recording;

/// Writes a recording in one format. Knows no files and no destination.
pub trait Exporter: Sync {
    /// Its name on the command line: `pprof`.
    fn name(&self) -> &'static str;
    /// What it is, in a few words, for `--help`.
    fn description(&self) -> &'static str;
    /// File name endings that mean this format, the preferred one first: `pb.gz`.
    fn extensions(&self) -> &'static [&'static str];
    /// MIME type.
    fn content_type(&self) -> &'static str;
    /// Writes the recording. Only `out` can fail.
    fn export(&self, recording: &Recording, out: &mut dyn Write) -> io::Result<()>;
}

/// All formats.
pub const EXPORTERS: &[&dyn Exporter] = &[];
