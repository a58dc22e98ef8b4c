//! What the numbers mean: one file a kind of event that yields samples.
//!
//! - [`on_cpu`]: the sampling clock.
//! - [`event`]: any other perf event, beside it.
//! - [`counters`]: counters that are read at its ticks.

pub mod counters;
pub mod event;
pub mod on_cpu;
