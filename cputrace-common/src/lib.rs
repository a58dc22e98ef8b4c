//! The wire between cputrace's eBPF program and its userspace: what crosses, and nothing else.
//!
//! - [`sample`]: the record that a sample leaves the kernel in.
//! - [`stat`]: the counters of what happened to each tick of the clock.
//! - [`counter`]: the counters that are read at samples and switches.
//! - [`thread`]: what the scheduler's program keeps of each thread.
//! - [`config`]: the names and meanings of the program's frozen globals.
//! - [`pace`]: how much is sampled, which can change while it runs.
//! - [`run_time`]: what the programs take.
//! - [`kernel_name`]: names of kernel addresses.
//! - [`unwind`]: the step from one frame to its caller, the same source in the kernel and in host tests.
//!
//! Types are `#[repr(C)]` without implicit padding; sizes are asserted, so that a change is a decision.
#![no_std]

pub mod config;
pub mod counter;
pub mod kernel_name;
pub mod pace;
pub mod run_time;
pub mod sample;
pub mod stat;
pub mod thread;
pub mod unwind;
