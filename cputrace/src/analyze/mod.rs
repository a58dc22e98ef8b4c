//! What a recording means, beyond what was measured.
//!
//! - [`reasons`]: why a thread waits, by a table of rules.
//! - [`waits`]: waits become samples of the profile, with their reasons and wakers.
//! - [`shares`]: the time of all threads in a few numbers.
//! - [`tree`]: stacks added up to a tree of functions, one profile or two side by side.
//! - [`diff`]: what changed from one profile to another, by function.
//! - [`anomaly`]: groups that do what they do not do otherwise.
//! - [`spikes`]: where a process took far more of the CPU than before.
//! - [`unnamed`]: where names are missing, and how to have them.

pub mod anomaly;
pub mod diff;
pub mod reasons;
pub mod shares;
pub mod spikes;
pub mod tree;
pub mod unnamed;
pub mod waits;
