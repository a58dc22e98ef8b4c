//! Stacks of code without frame pointers: `.eh_frame` compiled to the tables that the eBPF program searches.
//!
//! - [`build`](mod@build): a file's call frame information to a table.
//! - [`evaluate`]: its instructions to rules.
//! - [`loader`]: builds off the collection path, loads into the kernel, follows the processes' mappings.

pub mod build;
pub mod evaluate;
pub mod loader;

pub use build::{BuiltTable, build};
pub use loader::{Loader, LoaderStats};
