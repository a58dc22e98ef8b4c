//! What `cputrace serve` keeps: windows, uploaded traces, and events, in one SQLite file.
//!
//! - [`digest`]: what a window is stored as.
//! - [`schema`]: the tables.
//! - [`windows`]: writes windows, makes coarser ones of them, finds those of a range of time.
//! - [`traces`]: whole recordings, by id.
//! - [`events`]: what happened at a time: anomalies, steps of the governor.
//! - [`retention`]: what goes when there is too much.
//!
//! There is one connection that writes, and each reader has its own (write-ahead log: neither waits for the other). A kill
//! or a power cut loses at most the transaction that ran. A damaged file is set aside, and a new one begun.

pub mod digest;
pub mod events;
pub mod retention;
mod schema;
pub mod traces;
pub mod windows;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

pub use digest::{Digest, DigestError};
pub use retention::Retention;

/// The file in the data directory.
const FILE: &str = "cputrace.db";

/// How long a reader or writer waits for a lock.
const BUSY: Duration = Duration::from_secs(5);

/// Milliseconds since 1970, as the store keeps times.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The other way round.
pub fn from_unix_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// Why something cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file.
    #[error("the data directory {path} cannot be used: {error}; another one can be given with --data-dir")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Made by a newer cputrace.
    #[error(
        "the store is of a newer cputrace (its version {version}, known up to {known}): use that one, or another --data-dir"
    )]
    Newer {
        /// The store's.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// Another process has it.
    #[error("the store {path} is in use by another cputrace; give this one its own --data-dir")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// SQLite.
    #[error("the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A window cannot be read.
    #[error("a stored window is damaged: {0}")]
    Digest(#[from] DigestError),
    /// A window cannot be made.
    #[error("a window cannot be stored: {0}")]
    Encode(io::Error),
    /// Facts that are none.
    #[error("stored facts are damaged: {0}")]
    Facts(#[from] serde_json::Error),
}

impl StoreError {
    /// Whether the file is no database, or damaged.
    fn is_damage(&self) -> bool {
        let Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    }

    /// Whether only one window is damaged.
    fn is_of_one_window(&self) -> bool {
        matches!(self, Self::Digest(_) | Self::Facts(_))
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        let Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(error.code, ErrorCode::DiskFull | ErrorCode::SystemIoFailure)
    }
}

/// The store.
pub struct Store {
    path: PathBuf,
    writer: Mutex<Connection>,
    /// Kept while the store is open, so that there is one writer: closed with it.
    _lock: fs::File,
    notes: Mutex<Vec<String>>,
    /// Windows, traces and events that could not be written.
    failed_writes: AtomicU64,
}

impl Store {
    /// Opens or makes the one in this directory.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Directory { path: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(failed)?;
        let lock = fs::OpenOptions::new().create(true).append(true).open(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: directory.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let path = directory.join(FILE);
        let mut notes = Vec::new();
        let writer = match open_whole(&path) {
            Err(error) if error.is_damage() => {
                notes.push(was_damaged(&error, &set_aside(&path).map_err(failed)?));
                open_whole(&path)?
            }
            opened => opened?,
        };
        let failed_writes = AtomicU64::new(0);
        Ok(Self { path, writer: Mutex::new(writer), _lock: lock, notes: Mutex::new(notes), failed_writes })
    }

    /// What is to be said of it: that a damaged file was set aside.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes that failed.
    pub fn failed_writes(&self) -> u64 {
        self.failed_writes.load(Ordering::Relaxed)
    }

    /// Its size, with its log.
    pub fn bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        size(&self.path) + size(&self.path.with_extension("db-wal"))
    }

    /// A connection of one's own, to read.
    fn reader(&self) -> Result<Connection, StoreError> {
        let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY)?;
        connection.execute_batch("PRAGMA cache_size = -2000;")?;
        Ok(connection)
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        // SQLite rolls back what a panic left half done.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in one transaction; a failure is counted. A file that has become damaged is set aside.
    fn write<T>(&self, work: impl Fn(&rusqlite::Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut writer = self.writer();
        let result = transaction(&mut writer, &work);
        let result = match result {
            Err(error) if error.is_damage() => {
                // The old connection must not touch the new file.
                *writer = Connection::open_in_memory()?;
                let failed = |error| StoreError::Directory { path: self.path.clone(), error };
                let note = was_damaged(&error, &set_aside(&self.path).map_err(failed)?);
                self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
                *writer = open_whole(&self.path)?;
                transaction(&mut writer, &work)
            }
            result => result,
        };
        if result.is_err() {
            self.failed_writes.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

fn transaction<T>(
    writer: &mut Connection,
    work: &impl Fn(&rusqlite::Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // At once for writing: one that has read first is refused if there was another writer since.
    let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// To write: some of the settings are kept in the file.
fn open(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    // NORMAL with a write-ahead log: a power cut may lose the last windows, never the file. Room is given back where
    // windows were deleted; that has to be said before there is a table.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA foreign_keys = ON; PRAGMA cache_size = -2000; PRAGMA journal_size_limit = 8388608;",
    )?;
    Ok(connection)
}

/// Opens it, looks whether it is whole, and brings it up to date.
fn open_whole(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = open(path)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)).into());
    }
    schema::migrate(&mut connection)?;
    Ok(connection)
}

fn was_damaged(error: &StoreError, aside: &Path) -> String {
    format!("the store was damaged ({error}): it is kept as {}, a new one has begun", aside.display())
}

/// Renames a damaged file, for whoever wants to look at it; an earlier such file is replaced.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("db.damaged");
    fs::rename(path, &aside)?;
    for log in ["db-wal", "db-shm"] {
        match fs::remove_file(path.with_extension(log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}
