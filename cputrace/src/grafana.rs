//! The files of the repository's `grafana/`, for hosts that have only the binary: `cputrace grafana export`.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Where, below the directory of choice.
    pub path: &'static str,
    /// What is in it.
    pub text: &'static str,
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        /// All of them.
        pub const FILES: &[File] =
            &[$(File { path: $path, text: include_str!(concat!("../../grafana/", $path)) }),*];
    };
}

files![
    "compose.yaml",
    "dashboards/overview.json",
    "dashboards/group.json",
    "dashboards/scheduler.json",
    "dashboards/pmu.json",
    "dashboards/flame-graphs.json",
    "dashboards/agent.json",
    "provisioning/dashboards/cputrace.yaml",
    "provisioning/datasources/cputrace.yaml",
    "prometheus/scrape.yaml",
    "prometheus/rules.yaml",
    "prometheus/alerts.yaml",
    "prometheus/tests/rules.yaml",
    "prometheus/tests/alerts.yaml",
    "prometheus/tests/alerts_of_days.yaml",
];

/// Why the files are not all there.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nothing was written, for somebody has changed a file, or it is another version's.
    #[error("{} is there already and differs, so nothing was written; --force overwrites it", path.display())]
    Differs {
        /// The first such file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What to do with files that are there already and differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// They stay, and nothing is written.
    Keep,
    /// They are replaced.
    Overwrite,
}

/// Writes all files into `directory`, which is made if need be.
pub fn export(directory: &Path, existing: Existing) -> Result<(), ExportError> {
    // First a look, so that it is all or nothing.
    for File { path, text } in FILES {
        let path = directory.join(path);
        match fs::read(&path) {
            Ok(there) if existing == Existing::Keep && there != text.as_bytes() => {
                return Err(ExportError::Differs { path });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ExportError::Io { path, error }),
        }
    }
    for File { path, text } in FILES {
        let path = directory.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|error| ExportError::Io { path, error })?;
    }
    Ok(())
}
