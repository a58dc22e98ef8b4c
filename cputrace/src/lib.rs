//! cputrace: where does a process spend its time, on the CPU and off it, and why.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`session`] | one session from attach to detach, as one recording or in windows: the only place that joins the parts |
//! | [`serve`] | watches without an end, and answers over HTTP |
//! | [`config`] | its settings: file, environment, command line |
//! | [`group`] | groups of processes, and what they came to |
//! | [`store`] | what `serve` keeps: windows, traces, events |
//! | [`metrics`] | Prometheus metrics |
//! | [`grafana`] | dashboards and rules, as files |
//! | [`model`] | a recording in pprof's terms; knows nothing else |
//! | [`tier`] | the ways to samples: eBPF, perf_event_open, none |
//! | [`ebpf`] | the eBPF object in the kernel |
//! | [`source`] | what the numbers mean: one file a kind of event |
//! | [`collect`] | drains the kernel's buffers |
//! | [`aggregate`] | samples to a profile |
//! | [`analyze`] | what it means: the reasons of waits |
//! | [`process`] | targets, `/proc` timelines, mappings |
//! | [`pmu`] | hardware counters: events, metrics, and why one is missing |
//! | [`code`] | where the code of an object can be read |
//! | `sections` | the sections of an ELF file |
//! | [`symbolize`] | names of locations |
//! | [`export`] | writes a recording in one format |
//! | [`import`] | reads other tools' profiles |
//! | [`sink`] | where recordings go |
//! | [`duration`] | times as users type them |
//! | [`doctor`] | what the system allows |
//! | [`cli`] | the command line; the only module that prints |

pub mod aggregate;
pub mod analyze;
pub mod cli;
mod client;
pub mod code;
pub mod collect;
pub mod config;
pub mod doctor;
pub mod duration;
pub mod ebpf;
pub mod export;
pub mod grafana;
pub mod group;
pub mod import;
pub mod metrics;
pub mod model;
pub mod pmu;
pub mod process;
mod sections;
pub mod serve;
pub mod session;
pub mod sink;
pub mod source;
pub mod store;
pub mod symbolize;
pub mod tier;
pub mod unwind;
