//! Built tables on disk, so that the next recording of the same programs has them at once.
//!
//! One file for each ELF file, in a folder that only its owner can write to. An entry holds for the very file (device,
//! inode, size, time) and for the very build of cputrace: of anything else there is none. What is not understood is no
//! entry either. Over [`MAX_BYTES`] those go first that were not used for the longest time. A cache that cannot be had is
//! not missed: tables are built then.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;
use rustc_hash::FxHasher;

use super::build::{BuildStats, Built};
use super::pack::{Table, Tables};
use super::tables::FileKey;

/// What all entries together may take, compressed.
const MAX_BYTES: u64 = 64 << 20;

/// Fewer rows are built sooner than they are read.
const MIN_ROWS: u64 = 2000;

/// The folder, and the program whose entries are read there.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    program: FileKey,
}

/// An entry. What it holds for comes first: names of files could be the same by chance.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<Key>,
    #[prost(uint64, tag = "2")]
    base: u64,
    #[prost(uint32, tag = "3")]
    length: u32,
    #[prost(message, repeated, tag = "4")]
    tables: Vec<Words>,
    #[prost(bool, tag = "5")]
    keeps_frame_pointers: bool,
    #[prost(uint64, tag = "6")]
    merged_rows: u64,
    #[prost(uint64, tag = "7")]
    bad_entries: u64,
    #[prost(uint64, tag = "8")]
    unknown_rows: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Key {
    #[prost(fixed64, tag = "1")]
    device: u64,
    #[prost(fixed64, tag = "2")]
    inode: u64,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(sfixed64, tag = "4")]
    modified_ns: i64,
}

/// A table's words that are used, little-endian.
#[derive(Clone, PartialEq, prost::Message)]
struct Words {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

impl Cache {
    /// The system's, by systemd's `CACHE_DIRECTORY` or in `/var/cache`.
    pub(super) fn of_system() -> Option<Self> {
        let folder =
            std::env::var_os("CACHE_DIRECTORY").map_or_else(|| PathBuf::from("/var/cache/cputrace"), PathBuf::from);
        Self::open(&folder.join("unwind")).ok()
    }

    /// The one in a folder, which is made if it is not there.
    fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        // SAFETY: a call without pointers that cannot fail.
        let own = unsafe { libc::geteuid() };
        // Who could write there could make us show wrong stacks.
        if metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let program = FileKey::of(&File::open("/proc/self/exe")?)?;
        Ok(Self { folder: folder.to_owned(), program })
    }

    /// What was built of a file, if it is there.
    pub(super) fn load(&self, key: FileKey) -> Option<Built> {
        let file = File::open(self.path(key)).ok()?;
        let mut bytes = Vec::new();
        zstd::Decoder::new(&file).ok()?.read_to_end(&mut bytes).ok()?;
        let entry = Entry::decode(&*bytes).ok()?;
        if entry.keys != self.keys(key) {
            return None;
        }
        // It was used: others go first. If that fails, it may go too soon.
        let _ = file.set_modified(SystemTime::now());
        entry.built()
    }

    /// Keeps what was built of a file. Where that fails it is built again the next time.
    pub(super) fn store(&self, key: FileKey, built: &Built) {
        let Some(tables) = &built.tables else { return };
        if built.stats.merged_rows < MIN_ROWS {
            return;
        }
        let entry = Entry {
            keys: self.keys(key),
            base: tables.base,
            length: tables.length,
            tables: tables.tables.iter().map(|table| Words { bytes: table.to_bytes() }).collect(),
            keeps_frame_pointers: built.keeps_frame_pointers,
            merged_rows: built.stats.merged_rows,
            bad_entries: built.stats.bad_entries,
            unknown_rows: built.stats.unknown_rows,
        };
        let _ = self.write(&self.path(key), &entry.encode_to_vec()).and_then(|()| self.trim(MAX_BYTES));
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut encoder = zstd::Encoder::new(file.as_file_mut(), 1)?;
        // What the disk damages is no entry.
        encoder.include_checksum(true)?;
        encoder.write_all(bytes)?;
        encoder.finish()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes the entries that were not used for the longest time until all take at most `max_bytes`.
    fn trim(&self, max_bytes: u64) -> io::Result<()> {
        let entries = fs::read_dir(&self.folder)?.flatten();
        let mut entries: Vec<_> = entries
            .filter_map(|entry| {
                entry.metadata().ok().map(|metadata| (metadata.modified().ok(), metadata.len(), entry.path()))
            })
            .collect();
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, length, path) in entries {
            if bytes <= max_bytes {
                break;
            }
            // Another recording may have done it.
            let _ = fs::remove_file(path);
            bytes -= length;
        }
        Ok(())
    }

    fn keys(&self, key: FileKey) -> Vec<Key> {
        let parts = |FileKey { device, inode, size, modified_ns }| Key { device, inode, size, modified_ns };
        vec![parts(self.program), parts(key)]
    }

    fn path(&self, key: FileKey) -> PathBuf {
        let mut hasher = FxHasher::default();
        (self.program, key).hash(&mut hasher);
        self.folder.join(format!("{:016x}", hasher.finish()))
    }
}

impl Entry {
    fn built(self) -> Option<Built> {
        let tables = self.tables.iter().map(|words| Table::from_bytes(&words.bytes)).collect::<Option<_>>()?;
        let Self { base, length, keeps_frame_pointers, merged_rows, bad_entries, unknown_rows, .. } = self;
        let stats = BuildStats { merged_rows, bad_entries, unknown_rows, ..BuildStats::default() };
        Some(Built { tables: Some(Tables { base, length, tables }), keeps_frame_pointers, stats })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::unwind::build::build;

    fn library() -> (FileKey, Built) {
        let file = File::open("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
        (FileKey::of(&file).unwrap(), build(&file).unwrap())
    }

    /// What was kept comes back as it was; nothing comes back of another file, or from a damaged entry.
    #[test]
    fn keeps_tables() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (key, built) = library();
        assert!(cache.load(key).is_none());
        cache.store(key, &built);
        let loaded = cache.load(key).unwrap();
        assert_eq!(loaded.tables, built.tables);
        assert_eq!(loaded.stats.merged_rows, built.stats.merged_rows);
        let written = FileKey { modified_ns: key.modified_ns + 1, ..key };
        assert!(cache.load(written).is_none());
        // Under the name of another one.
        fs::copy(cache.path(key), cache.path(written)).unwrap();
        assert!(cache.load(written).is_none());
        let mut bytes = fs::read(cache.path(key)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(cache.path(key), bytes).unwrap();
        assert!(cache.load(key).is_none());
    }

    /// Over the limit the entry goes that was not used for the longest time.
    #[test]
    fn is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (first, built) = library();
        let keys: Vec<_> = (0..3).map(|inode| FileKey { inode, ..first }).collect();
        keys.iter().for_each(|key| cache.store(*key, &built));
        let bytes = fs::metadata(cache.path(keys[0])).unwrap().len();
        // The first one is used.
        cache.load(keys[0]).unwrap();
        cache.trim(2 * bytes).unwrap();
        assert_eq!(keys.iter().map(|key| cache.load(*key).is_some()).collect::<Vec<_>>(), [true, false, true]);
    }

    /// A folder that others can write to is not used.
    #[test]
    fn others_cannot_put_tables_there() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(folder.path()).is_err());
    }
}
