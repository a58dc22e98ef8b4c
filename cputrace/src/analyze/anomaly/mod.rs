//! Groups of processes that do what they do not do otherwise: window by window, signal by signal.
//!
//! - [`signal`]: what is looked at, and what of it counts.
//! - [`baseline`]: what is usual, from the last half hour.
//! - `track`: whether one signal of one group is not as usual, and for how long.
//! - `newcomers`: groups of which too little is known for that.
//! - [`engine`]: when an alarm begins and when it is over.
//!
//! Pure: values come in, alarms go out. Where they come from and what becomes of them is `serve`'s business.

pub mod baseline;
pub mod engine;
mod newcomers;
pub mod signal;
mod track;

pub use engine::{Alarm, Change, Engine, Observation, Reading};
pub use signal::Signal;
