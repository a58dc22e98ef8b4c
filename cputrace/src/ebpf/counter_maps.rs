//! The maps of counters that the programs read at samples and switches.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray};
use cputrace_common::counter::{CounterStats, MAX_COUNTERS};

use super::{EbpfError, take_map};

/// The counters, each a map by CPU.
const COUNTERS: [&str; MAX_COUNTERS] = ["COUNTER_0", "COUNTER_1", "COUNTER_2", "COUNTER_3"];

/// The maps.
pub struct CounterMaps {
    counters: Vec<MapData>,
    stats: PerCpuArray<MapData, CounterStats>,
}

impl CounterMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        let counter = |name| match ebpf.take_map(name) {
            Some(Map::PerfEventArray(map)) => Ok(map),
            _ => Err(EbpfError::Missing(name)),
        };
        let counters = COUNTERS.into_iter().map(counter).collect::<Result<_, _>>()?;
        Ok(Self { counters, stats: take_map(ebpf, "COUNTER_STATS")? })
    }

    /// Has the programs read this perf event as a CPU's counter of this number.
    pub fn set(&self, number: usize, cpu: u32, event: BorrowedFd<'_>) -> io::Result<()> {
        /// `union bpf_attr` of an update, which aya makes of perf events only where it has opened them itself.
        #[repr(C)]
        struct Update {
            map: u64,
            key: u64,
            value: u64,
            flags: u64,
        }
        const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
        let map = self.counters.get(number).ok_or(io::ErrorKind::InvalidInput)?;
        let event = event.as_raw_fd();
        let update = Update {
            map: map.fd().as_fd().as_raw_fd().cast_unsigned().into(),
            key: (&raw const cpu).addr() as u64,
            value: (&raw const event).addr() as u64,
            flags: 0,
        };
        // SAFETY: key and value are of the map's sizes, 4 bytes each, and outlive the call, as `update` does.
        let status =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const update, size_of::<Update>()) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// What became of the readings, a set a CPU.
    pub fn stats(&self) -> Result<Vec<CounterStats>, EbpfError> {
        let values = self.stats.get(&0, 0).map_err(|source| EbpfError::Map { map: "COUNTER_STATS", source })?;
        Ok(values.to_vec())
    }
}
