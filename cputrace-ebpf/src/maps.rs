//! Every map.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array as PlainArray, HashMap, PerCpuArray, PerfEventArray, RingBuf},
};
use cputrace_common::{
    config::{CHUNKS_GROUP, MAX_CHUNKS, MAX_PROCESSES, MAX_TARGETS, RANGES_GROUP},
    counter::CounterStats,
    kernel_name::Answers,
    pace::Pace,
    run_time::{Program, RunTime},
    stat::Stats,
    thread::{SchedStats, Thread},
    unwind::{
        range::{Process, Ranges},
        table::Chunk,
    },
};

use crate::{
    budget::{Budget, Newcomers},
    counters::Reading,
    missed::LastTick,
    sample::{Record, Wait},
    sched::QueueClock,
};

/// Samples on their way to userspace. Linux 5.8. Its size is set at load.
#[map]
pub(crate) static SAMPLES: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// What happened to each tick, a set a CPU.
#[map]
pub(crate) static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// What happened to each overflow of the event that is sampled beside the clock, a set a CPU.
#[map]
pub(crate) static EVENT_STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// How often each CPU came to the tracepoint that is sampled.
#[map]
pub(crate) static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What each program takes, by [`Program`].
#[map]
pub(crate) static RUN_TIMES: PerCpuArray<RunTime> = PerCpuArray::with_max_entries(Program::ALL.len() as u32, 0);

/// What addresses are called that userspace asked for last.
#[map]
pub(crate) static KERNEL_NAMES: PlainArray<Answers> = PlainArray::with_max_entries(1, 0);

/// How much is sampled. Userspace may change it at any time.
#[map]
pub(crate) static PACE: PlainArray<Pace> = PlainArray::with_max_entries(1, 0);

/// The last tick of each CPU that hit a target. Userspace empties it where it changes the clock.
#[map]
pub(crate) static LAST_TICK: PerCpuArray<LastTick> = PerCpuArray::with_max_entries(1, 0);

/// Where the on-CPU program puts its sample together.
#[map]
pub(crate) static ON_CPU_RECORD: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

/// Where the scheduler's programs put their samples together.
#[map]
pub(crate) static OFF_CPU_RECORD: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

/// What each CPU may spend on the stacks of waits, and on those of wakers.
#[map]
pub(crate) static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(2, 0);

/// New programs of each CPU in this second.
#[map]
pub(crate) static NEWCOMERS: PerCpuArray<Newcomers> = PerCpuArray::with_max_entries(1, 0);

/// The wait that just ended on each CPU, until its thread's stack is taken.
#[map]
pub(crate) static ENDED_WAIT: PerCpuArray<Wait> = PerCpuArray::with_max_entries(1, 0);

/// The processes that are targets, by tgid. Preallocated: before Linux 6.1 programs of perf events can use no other.
#[map]
pub(crate) static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// What is known of processes whose stacks were unwound, by tgid. Preallocated as `TARGETS`
/// is.
#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// The executable memory of processes. In groups: a new inner map takes a grace period of RCU to install, its values
/// nothing. The verifier turns both look-ups into loads. An array of one: up to Linux 6.1 an inner map that is a
/// structure by its type is not taken for the same as one that userspace made without types.
#[btf_map]
pub(crate) static RANGES: ArrayOfMaps<
    Array<[Ranges; 1], { RANGES_GROUP as usize }>,
    { (MAX_PROCESSES / RANGES_GROUP) as usize },
> = ArrayOfMaps::new();

/// Tables of unwind rules, in groups of chunks that are made as they are needed. Linux 5.7.
#[btf_map]
pub(crate) static CHUNKS: ArrayOfMaps<
    Array<Chunk, { CHUNKS_GROUP as usize }>,
    { (MAX_CHUNKS / CHUNKS_GROUP) as usize },
> = ArrayOfMaps::new();

/// What the kernel side wants to know of userspace.
#[map]
pub(crate) static QUESTIONS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// The threads that are accounted, by thread id modulo its size. Userspace reads it in place. Its size is set at load.
#[map]
pub(crate) static THREADS: PlainArray<Thread> = PlainArray::with_max_entries(1, BPF_F_MMAPABLE);

/// Threads whose place in `THREADS` was taken. Preallocated: the scheduler's locks are held where it is used.
#[map]
pub(crate) static MORE_THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(1, 0);

/// Accounts of threads that ended.
#[map]
pub(crate) static THREAD_ENDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What could not be kept, a set a CPU.
#[map]
pub(crate) static SCHED_STATS: PerCpuArray<SchedStats> = PerCpuArray::with_max_entries(1, 0);

/// How each CPU's run-queue clock relates to ours.
#[map]
pub(crate) static QUEUE_CLOCK: PerCpuArray<QueueClock> = PerCpuArray::with_max_entries(1, 0);

/// The first of the counters that are read at samples and switches, by CPU.
#[map]
pub(crate) static COUNTER_0: PerfEventArray<()> = PerfEventArray::new(0);

/// The second.
#[map]
pub(crate) static COUNTER_1: PerfEventArray<()> = PerfEventArray::new(0);

/// The third.
#[map]
pub(crate) static COUNTER_2: PerfEventArray<()> = PerfEventArray::new(0);

/// The fourth.
#[map]
pub(crate) static COUNTER_3: PerfEventArray<()> = PerfEventArray::new(0);

/// What each CPU's counters said last.
#[map]
pub(crate) static COUNTER_READING: PerCpuArray<Reading> = PerCpuArray::with_max_entries(1, 0);

/// What became of their readings, a set a CPU.
#[map]
pub(crate) static COUNTER_STATS: PerCpuArray<CounterStats> = PerCpuArray::with_max_entries(1, 0);
