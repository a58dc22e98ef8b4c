//! Destinations of recordings. Formats are `export`'s.
//!
//! - [`file`]: a file, or standard output.

pub mod file;
