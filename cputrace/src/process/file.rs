//! Opens what lies at a path that a process chose: only regular files, and without waiting for anything.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The regular file at a path. A FIFO without a writer would be waited for, a device may do anything.
pub(super) fn open_regular(path: &Path) -> Option<File> {
    open_with(path, 0)
}

/// As [`open_regular`], but no link to one.
pub(super) fn open_unlinked(path: &Path) -> Option<File> {
    open_with(path, libc::O_NOFOLLOW)
}

fn open_with(path: &Path, flags: i32) -> Option<File> {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::process::Command;

    use super::*;

    /// A FIFO that nobody writes to is no file, and is not waited for; nor are folders and devices files.
    #[test]
    fn opens_only_regular_files() {
        let lab = tempfile::tempdir().unwrap();
        let fifo = lab.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(open_regular(&fifo).is_none());
        assert!(open_regular(lab.path()).is_none());
        assert!(open_regular(Path::new("/dev/zero")).is_none());
        assert!(open_regular(Path::new("/proc/self/exe")).is_some());
    }
}
