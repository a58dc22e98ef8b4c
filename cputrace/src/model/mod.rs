//! What a recording is, in pprof's terms, and nothing else: no I/O, no clock, no serialization.
//!
//! Producers (the eBPF and perf pipelines, importers) fill a [`Recording`]; exporters read it.
//! - [`profile`]: the tables (strings, mappings, functions, locations, stacks) and the samples.
//! - [`timeline`]: the `/proc` time series beside it.
//! - [`thread_time`]: where each thread's time went.
//! - [`wait`]: waits on their way to samples.
//! - [`view`]: one way to look at a recording: time on the CPU, off it, or all of it.
//! - [`counters`]: what counters counted beside the samples.
//! - [`event_sampling`]: samples by an event beside the clock.
//! - [`ops`]: what the CPU notes of ops that it tags.
//! - [`stack_counters`]: counters read at samples, by stack.
//! - [`spike`]: where a process took far more of the CPU than before.
//! - [`ledger`]: what was expected, kept and lost.
//! - [`recording`]: all of it, with the facts about host, targets and sampling.

pub mod counters;
pub mod event_sampling;
pub mod ledger;
pub mod ops;
pub mod profile;
pub mod recording;
pub mod spike;
pub mod stack_counters;
pub mod thread_time;
pub mod timeline;
pub mod view;
pub mod wait;

pub use counters::{Count, CounterScope, CounterSeries, CounterSubject, Counters, MetricValue, MissingMetrics};
pub use event_sampling::EventSampling;
pub use ledger::{Ledger, LossReason, StackEnd};
pub use ops::{Access, Branch, DataSource, Loads, MemoryOp, Op, OpRegisters, Ops, Tlb};
pub use profile::{
    BuildId, ElfAddr, Event, Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, MappingKind,
    Process, ProcessId, Profile, Sample, Source, SourceId, StackId, StringId, Thread, ThreadId, Unit, UnknownReason,
};
pub use recording::{Clock, Host, Overhead, ProgramCost, Recording, Sampling, Target, Tier, Unwinding};
pub use spike::{Spike, SpikeFunction};
pub use stack_counters::{StackCounter, StackCounters};
pub use thread_time::{OffCpuState, SchedulerLedger, ThreadTime, WaitHistogram};
pub use timeline::{Point, Timeline};
pub use view::{Aspect, View, Weight};
pub use wait::{Wait, WaitEvent, WaitKey, WaitState, WaitSum, Waits, Wake, WakeId};
