//! What `/proc` knows of processes.
//!
//! - [`target`]: which processes a target means.
//! - [`command`]: a command that is held until the recording has attached to it.
//! - [`timeline`]: CPU, memory and threads over time.
//! - [`change`]: what can happen to a process.
//! - [`mappings`]: which file an address lies in, and where in that file.
//! - [`elf`]: what an address needs to know of an ELF file.
//! - [`debug_file`]: where a file's debug information is.
//! - [`debuginfod`]: the same from the network, where that is asked for.
//! - [`file`]: opens what lies at a path that a process chose.
//! - [`vdso`]: the kernel's code in each process, as a file.
//! - [`jit`]: where a JIT compiler keeps the names of its code.
//! - [`host`]: facts about the machine.
//! - [`own`]: what this process itself takes.

pub mod change;
pub mod command;
pub mod debug_file;
pub mod debuginfod;
pub mod elf;
mod file;
pub mod host;
pub mod jit;
pub mod mappings;
pub mod own;
pub mod privileges;
pub mod target;
pub mod timeline;
pub mod vdso;

pub use change::{Change, FileId, Region};
pub use mappings::{Mappings, Object, ObjectId, Place};
