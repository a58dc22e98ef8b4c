//! Hardware counters: what a CPU can count, which of it works here, and what it means.
//!
//! - [`cpu`]: which generation of AMD Zen it is.
//! - [`device`], [`format`]: the PMUs in sysfs, and where an event's terms lie.
//! - [`event`]: the tables of events (`events/*.txt`), and what a user may write for one.
//! - [`metric`], [`formula`]: what is computed from events (`metrics.txt`).
//! - [`plan`]: which events are counted together, within the counters that there are.
//! - [`reading`]: what counters say, scaled by the share of the time that they ran.
//! - [`source`]: where counts come from; [`perf`] is the kernel.
//! - [`reason`]: why a number was not counted. A number without a count is "no data", never 0.
//! - [`survey`]: what this machine can count, tried; [`report`] tells it; [`selftest`] tries every event.
//!
//! - [`counting`]: counters at work, for as long as a recording lasts.
//!
//! Does not know how targets are found, and nothing of files.

pub mod counting;
pub mod cpu;
pub mod device;
pub mod event;
pub mod format;
pub mod formula;
pub mod ibs;
pub mod metric;
pub mod perf;
pub mod plan;
pub mod reading;
pub mod reason;
pub mod report;
pub mod selftest;
pub mod source;
pub mod survey;
