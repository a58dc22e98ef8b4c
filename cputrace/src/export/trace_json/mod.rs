//! trace.json: the whole recording, with the ancestor's names and meanings and what came since.
//!
//! - [`document`]: its shape, as serde sees it; `schema/trace.schema.json` describes it to others.
//! - [`write`]: from a recording to the document.
//! - [`read`]: back again; an ancestor's file reads too.

mod document;
mod pmu;
mod read;
mod write;

use std::io::{self, Write};

use super::Exporter;
use crate::model::{Recording, View};

pub use read::{ReadError, read};

/// The version of the document's shape. Readers take a smaller or equal one.
pub const SCHEMA_VERSION: u32 = 1;

/// trace.json.
#[derive(Debug)]
pub struct TraceJson;

impl Exporter for TraceJson {
    fn name(&self) -> &'static str {
        "json"
    }

    fn description(&self) -> &'static str {
        "trace.json: everything that was recorded"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["json"]
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn export(&self, recording: &Recording, _view: View, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &write::document(recording)).map_err(io::Error::from)?;
        out.write_all(b"\n")
    }
}
