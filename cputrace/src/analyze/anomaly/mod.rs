//! Groups of processes that do what they do not do otherwise: window by window, signal by signal.
//!
//! - [`signal`]: what is looked at, and what of it counts.
//! - [`baseline`]: what is usual, from the last half hour.
//! - [`engine`]: when an alarm begins and when it is over.
//!
//! Pure: values come in, alarms go out. Where they come from and what becomes of them is `serve`'s business.

pub mod baseline;
pub mod engine;
pub mod signal;

pub use engine::{Alarm, Change, Engine, Observation, Reading};
pub use signal::Signal;
