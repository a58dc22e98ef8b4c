//! What can happen to a process, as the kernel reports it.

use std::path::PathBuf;

use super::elf::ElfFacts;
use crate::model::ElfAddr;

/// One thing that happened to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It was born.
    Fork {
        /// The child.
        pid: u32,
        /// Its parent.
        parent: u32,
    },
    /// It runs another program now: its mappings are gone.
    Exec {
        /// The process.
        pid: u32,
    },
    /// It mapped executable memory.
    Map {
        /// The process.
        pid: u32,
        /// What it mapped.
        region: Region,
    },
    /// One of its threads ended.
    Exit {
        /// The process.
        pid: u32,
        /// The thread.
        tid: u32,
    },
}

/// A piece of executable memory of a process, as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// The file.
    pub file: FileId,
}

impl Region {
    /// The address of its first byte, as its file was linked; `None` if it is of no segment of code.
    pub fn elf_start(&self, facts: &ElfFacts) -> Option<ElfAddr> {
        facts.start_of_mapping(self.file_offset, self.end.checked_sub(self.start)?)
    }
}

/// Which file: the kernel's own identity of it, and its path as the process sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FileId {
    /// Path, or a bracketed name (`[vdso]`); empty or `//anon` for memory without a file.
    pub path: PathBuf,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// Inode; 0 for memory without a file.
    pub inode: u64,
}

impl Change {
    /// The process it happened to.
    pub fn pid(&self) -> u32 {
        match *self {
            Self::Fork { pid, .. } | Self::Exec { pid } | Self::Map { pid, .. } | Self::Exit { pid, .. } => pid,
        }
    }
}
