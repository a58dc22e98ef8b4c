//! cputrace: where does a process spend its time, on the CPU and off it, and why.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`session`] | one recording from attach to detach: the only place that joins the parts |
//! | [`model`] | a recording in pprof's terms; knows nothing else |
//! | [`process`] | targets, `/proc` timelines, mappings |
//! | [`symbolize`] | names of locations |
//! | [`export`] | writes a recording in one format |
//! | [`sink`] | where recordings go |
//! | [`cli`] | the command line; the only module that prints |

pub mod cli;
pub mod export;
pub mod model;
pub mod process;
pub mod session;
pub mod sink;
pub mod symbolize;
pub mod unwind;
