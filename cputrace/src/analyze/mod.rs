//! What a recording means, beyond what was measured.
//!
//! - [`reasons`]: why a thread waits, by a table of rules.
//! - [`waits`]: waits become samples of the profile, with their reasons and wakers.
//! - [`shares`]: the time of all threads in a few numbers.

pub mod reasons;
pub mod shares;
pub mod waits;
