//! The files to write, each in the format of its ending and with the view of its name: what `record` and `report` share.

use std::path::{Path, PathBuf};

use super::say;
use crate::export::{self, Exporter, Format};
use crate::model::{Aspect, Recording, View};
use crate::sink::file::{self, Written};

#[derive(Debug, clap::Args)]
pub(super) struct Outputs {
    /// Write the recording to this file, in the format of its ending; can be repeated
    #[arg(short, long, value_name = "FILE", help = outputs_help())]
    out: Vec<PathBuf>,
    /// Write this format too, to a file named after the first one; can be repeated
    #[arg(long, value_name = "FORMAT", help = formats_help())]
    format: Vec<String>,
    /// What flame graphs and folded stacks show, unless their name says so (flame.off-cpu.svg) [default: on-cpu]
    #[arg(long, value_name = "VIEW", value_parser = Aspect::ALL.iter().map(|aspect| aspect.name()).collect::<Vec<_>>())]
    view: Option<String>,
    /// Leave waits without anything to do (event loops, idle threads of a pool) out of flame graphs, folded stacks and
    /// the summary
    #[arg(long)]
    pub(super) hide_idle: bool,
}

fn outputs_help() -> String {
    let endings: Vec<_> = export::EXPORTERS.iter().map(|exporter| format!(".{}", exporter.endings()[0])).collect();
    format!(
        "Write the recording to this file, in the format of its ending ({}; .gz or .zst behind it compresses); \
         - is standard output; can be repeated [default: record writes trace.json]",
        endings.join(", ")
    )
}

fn formats_help() -> String {
    let formats = export::EXPORTERS.iter().map(|exporter| format!("{} ({})", exporter.name(), exporter.description()));
    let formats: Vec<_> = formats.collect();
    format!("Write this format too, to a file named after the first one: {}; can be repeated", formats.join(", "))
}

/// A file to write, in a format.
pub(super) type Output<'a> = (PathBuf, Format<'a>);

impl Outputs {
    /// All files; without any wish those of `default`. Formats without a file are named after the first file, or `default`.
    pub(super) fn outputs(&self, default: &Path, is_written: bool) -> anyhow::Result<Vec<Output<'static>>> {
        let default = [default.to_owned()];
        let paths = if self.out.is_empty() && is_written { &default[..] } else { &self.out };
        let mut outputs = Vec::new();
        for path in paths {
            // Standard output and devices have no ending to go by.
            let device = path.metadata().is_ok_and(|metadata| !metadata.is_file());
            let json = path == Path::new("-") || device;
            let exporter = if json { export::by_name("json")? } else { export::by_path(path)? };
            outputs.push((path.clone(), self.format(exporter, path)));
        }
        for name in &self.format {
            let exporter = export::by_name(name)?;
            let stem = paths.first().unwrap_or(&default[0]).to_string_lossy();
            let stem = stem.split_once(".json").map_or(&*stem, |(stem, _)| stem);
            let path = PathBuf::from(format!("{stem}.{}", exporter.endings()[0]));
            let format = self.format(exporter, &path);
            outputs.push((path, format));
        }
        Ok(outputs)
    }

    /// The view that was asked for, for what is not a file with a name that says so.
    pub(super) fn view(&self) -> View {
        let asked =
            self.view.as_deref().and_then(|name| Aspect::ALL.iter().copied().find(|aspect| aspect.name() == name));
        View { aspect: asked.unwrap_or_default(), hide_idle: self.hide_idle }
    }

    fn format(&self, exporter: &'static dyn Exporter, path: &Path) -> Format<'static> {
        let asked = self.view();
        let aspect = export::aspect_of(path).unwrap_or(asked.aspect);
        Format { exporter, view: View { aspect, ..asked } }
    }
}

/// Writes them all; the second says whether one failed, which has been said. What has no room where it should go is put
/// elsewhere.
pub(super) fn write(recording: &Recording, outputs: &[Output<'_>]) -> (Vec<Written>, bool) {
    let mut failed = false;
    let mut written = Vec::new();
    for (path, format) in outputs {
        match file::write(recording, *format, path) {
            Ok(file) => written.push(file),
            Err(error) => {
                failed = true;
                let rescued = file::rescue(recording, *format, path);
                let rescued = rescued.map_or(String::new(), |file| format!("; it is in {} now", file.path.display()));
                say(&format!("cputrace: {error}{rescued}"));
            }
        }
    }
    (written, failed)
}
