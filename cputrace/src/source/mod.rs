//! What the numbers mean: one file a kind of event that yields samples.
//!
//! - [`on_cpu`]: the sampling clock.

pub mod event;
pub mod on_cpu;
