//! `.eh_frame` compiled to the compact tables that the kernel side searches, and brought to it when they are needed.
//!
//! - [`build`]: an ELF file to [`Tables`]. Of these: [`call_frame`] finds functions, [`interpret`] runs their
//!   instructions, [`expression`] knows the few shapes of DWARF expressions that occur, [`go`] the
//!   functions that tell nothing themselves, [`pack`] lays out the words.
//! - [`functions`]: where a file's functions begin and end, for those that have no names.
//! - [`manager`]: brings tables to the kernel when samples need them. Of it: `tables` has the files, `slots` the places, `cache`
//!   what was built before.
//! - [`remote`]: the same in this process, for threads that wait.
//!
//! What the words mean, and the step that reads them, is `cputrace_common::unwind`'s.

#[cfg(test)]
mod agreement;
pub mod build;
mod cache;
mod call_frame;
mod expression;
pub mod functions;
mod go;
mod interpret;
pub mod manager;
#[cfg(test)]
mod oracle;
mod pack;
mod reader;
pub mod remote;
mod slots;
mod tables;

pub use build::{BuildError, BuildStats, Built};
pub use manager::{UnwindStats, Unwinder};
pub use pack::{Table, Tables};
pub use remote::{RemoteStack, RemoteUnwinder};
pub(crate) use tables::FileKey;
