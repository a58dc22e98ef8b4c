//! Writes a recording to a file that appears whole or not at all, compressed as its name says.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::export::Format;
use crate::model::Recording;

/// A recording that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written: {source}{}", .path.display(), hint(.source))]
pub struct SinkError {
    /// Where it should have gone.
    pub path: PathBuf,
    /// Why it did not.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; give a path on another disk with --out",
        io::ErrorKind::NotFound => "; its directory does not exist",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "; give another path with --out",
        _ => "",
    }
}

/// A recording that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
}

/// Whether a file could be written now, before anything is gathered for it.
pub fn check(path: &Path) -> Result<(), SinkError> {
    let failed = |source| SinkError { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(metadata) if !metadata.is_file() => Ok(()),
        _ if path == Path::new("-") => Ok(()),
        _ => beside(path).map(drop).map_err(failed),
    }
}

/// Writes what could not be written to the file `path` to another place, so that it is not lost.
pub fn rescue(recording: &Recording, format: Format<'_>, path: &Path) -> Option<Written> {
    let name = path.file_name().filter(|name| *name != "-")?;
    let write = |directory: PathBuf| {
        let suffix = format!("-{}", name.to_string_lossy());
        let mut file = tempfile::Builder::new().prefix("cputrace-").suffix(&suffix).tempfile_in(directory)?;
        let bytes = to_stream(recording, format, path, file.as_file_mut())?;
        give_to_caller(&file)?;
        let (_, path) = file.keep().map_err(|error| error.error)?;
        Ok::<_, io::Error>(Written { path, bytes })
    };
    // The last one is memory.
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/dev/shm")];
    places.into_iter().find_map(|directory| write(directory).ok())
}

/// Writes `recording` to `path`, or to standard output for `-`.
pub fn write(recording: &Recording, format: Format<'_>, path: &Path) -> Result<Written, SinkError> {
    let written = if path == Path::new("-") {
        to_stream(recording, format, path, io::stdout().lock())
    } else {
        to_file(recording, format, path)
    };
    let bytes = written.map_err(|source| SinkError { path: path.to_owned(), source })?;
    Ok(Written { path: path.to_owned(), bytes })
}

/// To a file of another name beside it, and then renamed: a reader sees the old one or the new one.
fn to_file(recording: &Recording, format: Format<'_>, path: &Path) -> io::Result<u64> {
    // A device or a pipe is written to as it is.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return to_stream(recording, format, path, fs::OpenOptions::new().write(true).open(path)?);
    }
    let mut file = beside(path)?;
    let bytes = to_stream(recording, format, path, file.as_file_mut())?;
    give_to_caller(&file)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(bytes)
}

/// A new file in the directory of `path`.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new().prefix(".cputrace-").tempfile_in(directory)
}

fn give_to_caller(file: &NamedTempFile) -> io::Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(0o666 & !umask()))?;
    // Under sudo the file belongs to whom the terminal belongs to; if that fails it is still written.
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        let _ = chown(file.path(), Some(user), Some(group));
    }
    Ok(())
}

fn id(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The process's file mode mask, from where it can be read without being changed.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// Compressed by the ending of `path`, unless the format is compressed by itself.
fn to_stream(recording: &Recording, format: Format<'_>, path: &Path, out: impl Write) -> io::Result<u64> {
    let Format { exporter, view } = format;
    let mut out = BufWriter::new(Counting { out, bytes: 0 });
    let compressed_format = exporter.endings().iter().any(|ending| ending.ends_with(".gz"));
    match path.extension().and_then(OsStr::to_str) {
        Some("gz") if !compressed_format => {
            let mut gzip = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
            exporter.export(recording, view, &mut gzip)?;
            gzip.finish()?;
        }
        Some("zst") => {
            let mut zstd = zstd::Encoder::new(&mut out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            exporter.export(recording, view, &mut zstd)?;
            zstd.finish()?;
        }
        _ => exporter.export(recording, view, &mut out)?,
    }
    out.flush()?;
    Ok(out.get_ref().bytes)
}

struct Counting<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
