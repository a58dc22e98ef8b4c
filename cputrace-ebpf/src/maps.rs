//! Every map.

use aya_ebpf::{
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use cputrace_common::{
    config::MAX_TARGETS,
    stat::Stats,
    unwind::table::{Chunk, MAX_CHUNKS, MAX_PROCESSES, MAX_TABLES, Ranges, Table},
};

use crate::{missed::LastTick, sample::Record};

/// `BPF_F_NO_PREALLOC`: memory for what is there, not for what could be.
const NO_PREALLOC: u32 = 1;

/// Samples on their way to userspace. Linux 5.8. Its size is set at load.
#[map]
pub(crate) static SAMPLES: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// What happened to each tick, a set a CPU.
#[map]
pub(crate) static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// The last tick of each CPU that hit a target.
#[map]
pub(crate) static LAST_TICK: PerCpuArray<LastTick> = PerCpuArray::with_max_entries(1, 0);

/// Where the on-CPU program puts its sample together.
#[map]
pub(crate) static ON_CPU_RECORD: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

/// The processes that are targets, by tgid.
#[map]
pub(crate) static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, NO_PREALLOC);

/// The executable mappings of each process that was sampled, by tgid.
#[map]
pub(crate) static PROCESSES: HashMap<u32, Ranges> = HashMap::with_max_entries(MAX_PROCESSES, NO_PREALLOC);

/// Where each file's unwind table is.
#[map]
pub(crate) static TABLES: Array<Table> = Array::with_max_entries(MAX_TABLES, 0);

/// The words of all unwind tables, in chunks that come and go. Linux 5.7.
#[btf_map]
pub(crate) static POOL: btf_maps::ArrayOfMaps<btf_maps::Array<Chunk, 1>, { MAX_CHUNKS as usize }> =
    btf_maps::ArrayOfMaps::new();
