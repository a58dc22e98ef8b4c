//! Where a JIT compiler keeps the names of its code: `/tmp/perf-PID.map`, in the process's own root, by the number
//! that the process has in its own pid namespace.
//!
//! A map grows as long as its process lives, and some are written only at its end. So the folder is opened while the
//! process lives, and the map when the names are wanted.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use procfs::process::Process;

use super::file::open_unlinked;

/// How exactly the start of a process is known.
const START_SLACK: Duration = Duration::from_secs(2);

/// Why the map of a process is not used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PerfMapError {
    /// There is none.
    #[error("there is no perf map")]
    Missing,
    /// Anybody can put a file into `/tmp`.
    #[error("{name} belongs to user {owner}, who is neither root nor the process's user {user}: it is ignored")]
    Foreign {
        /// The file's name.
        name: String,
        /// Its owner.
        owner: u32,
        /// Whose process it is.
        user: u32,
    },
    /// It is an earlier process's with the same number.
    #[error("{name} is older than its process: it is ignored")]
    Stale {
        /// The file's name.
        name: String,
    },
}

/// Where the map of a process is, if it keeps one.
#[derive(Debug)]
pub struct PerfMap {
    /// `/tmp` in the root of the process.
    folder: File,
    name: String,
    /// The process's effective user.
    user: u32,
    started: SystemTime,
}

impl PerfMap {
    /// Looks at a process while it lives; `None` if it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let (stat, status) = (process.stat().ok()?, process.status().ok()?);
        let folder = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{pid}/root/tmp"))
            .ok()?;
        let own_pid = status.nspid.as_ref().and_then(|numbers| numbers.last().copied()).unwrap_or(status.pid);
        Some(Self {
            folder,
            name: format!("perf-{own_pid}.map"),
            user: status.euid,
            started: started(stat.starttime).ok()?,
        })
    }

    /// The map, as it is now. Its process may have ended.
    pub fn open(&self) -> Result<File, PerfMapError> {
        let path = format!("/proc/self/fd/{}/{}", self.folder.as_raw_fd(), self.name);
        let file = open_unlinked(Path::new(&path)).ok_or(PerfMapError::Missing)?;
        let meta = file.metadata().map_err(|_| PerfMapError::Missing)?;
        // perf trusts root and itself. The process's own user could change its code as well as its names.
        let owner = meta.uid();
        if owner != 0 && owner != self.user {
            return Err(PerfMapError::Foreign { name: self.name.clone(), owner, user: self.user });
        }
        if meta.modified().is_ok_and(|modified| modified + START_SLACK < self.started) {
            return Err(PerfMapError::Stale { name: self.name.clone() });
        }
        Ok(file)
    }
}

/// When a process started, of which the kernel counts the ticks since boot.
fn started(ticks: u64) -> io::Result<SystemTime> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(0.0);
    let age = (uptime - ticks as f64 / procfs::ticks_per_second() as f64).max(0.0);
    let age = Duration::try_from_secs_f64(age).unwrap_or_default();
    Ok(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// The map of a process of `user` that started `age` ago, in a folder with a map of `owner`.
    fn map(folder: &Path, user: u32, age: Duration) -> PerfMap {
        let started = SystemTime::now() - age;
        PerfMap { folder: File::open(folder).unwrap(), name: "perf-1.map".to_owned(), user, started }
    }

    /// A map that appears after the process was looked at is found; one of another user, an earlier process's and a link
    /// are not.
    #[test]
    fn finds_only_its_own() {
        let lab = tempfile::tempdir().unwrap();
        let path = lab.path().join("perf-1.map");
        let me = fs::metadata(lab.path()).unwrap().uid();
        let mine = map(lab.path(), me, Duration::from_secs(60));
        assert_eq!(mine.open().unwrap_err(), PerfMapError::Missing);
        fs::write(&path, "10 8 f\n").unwrap();
        assert!(mine.open().is_ok());
        let old = SystemTime::now() - Duration::from_secs(600);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert!(matches!(mine.open().unwrap_err(), PerfMapError::Stale { .. }));
        let older = map(lab.path(), me, Duration::from_secs(700));
        assert!(older.open().is_ok());
        if me == 0 {
            chown(&path, Some(1234), None).unwrap();
            assert!(matches!(older.open().unwrap_err(), PerfMapError::Foreign { owner: 1234, user: 0, .. }));
            assert!(map(lab.path(), 1234, Duration::from_secs(700)).open().is_ok(), "root looks at a user's process");
        }
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert_eq!(older.open().unwrap_err(), PerfMapError::Missing);
    }

    /// This process: the start is when it was, and the name has its number.
    #[test]
    fn looks_at_a_process() {
        let map = PerfMap::of(std::process::id()).unwrap();
        assert_eq!(map.name, format!("perf-{}.map", std::process::id()));
        assert!(map.started <= SystemTime::now() && map.started + Duration::from_secs(86_400) > SystemTime::now());
    }
}
