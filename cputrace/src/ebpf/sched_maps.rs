//! The scheduler's maps: the table of threads, which is read in place, and the accounts of those that ended.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{Ordering, fence};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use cputrace_common::thread::{SchedStats, Thread};
use memmap2::{MmapOptions, MmapRaw};

use super::{EbpfError, take_map};

/// How often a row is read again that the kernel's side is writing.
const TRIES: usize = 1000;

/// The maps.
pub struct SchedMaps {
    rows: MmapRaw,
    places: usize,
    more: HashMap<MapData, u32, Thread>,
    ends: RingBuf<MapData>,
    stats: PerCpuArray<MapData, SchedStats>,
}

impl SchedMaps {
    pub(super) fn take(ebpf: &mut Ebpf, places: u32) -> Result<Self, EbpfError> {
        let Some(Map::Array(table)) = ebpf.take_map("THREADS") else { return Err(EbpfError::Missing("THREADS")) };
        let bytes = places as usize * size_of::<Thread>();
        let rows =
            MmapOptions::new().len(bytes).map_raw(table.fd().as_fd().as_raw_fd()).map_err(EbpfError::ThreadTable)?;
        Ok(Self {
            rows,
            places: places as usize,
            more: take_map(ebpf, "MORE_THREADS")?,
            ends: take_map(ebpf, "THREAD_ENDS")?,
            stats: take_map(ebpf, "SCHED_STATS")?,
        })
    }

    /// Threads that there is a place of their own for.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Every thread as it is now.
    pub fn threads(&self) -> Vec<Thread> {
        let mut threads: Vec<_> = (0..self.places).filter_map(|place| self.row(place)).collect();
        threads.extend(self.more.iter().filter_map(Result::ok).map(|(_, thread)| thread));
        threads
    }

    /// Forgets the longest waits so far.
    pub fn reset_longest_waits(&self) {
        for place in 0..self.places {
            // SAFETY: within the table, as in `row`; the kernel's side may write too: then it has a newer one.
            unsafe { (&raw mut (*self.place(place)).run_queue_max_ns).write_volatile(0) };
        }
    }

    /// The next account of a thread that ended.
    pub fn next_end(&mut self) -> Option<Thread> {
        let record = self.ends.next()?;
        // SAFETY: the kernel's side sends nothing but threads; any bit pattern is one, and no alignment is asked for.
        (record.len() >= size_of::<Thread>()).then(|| unsafe { record.as_ptr().cast::<Thread>().read_unaligned() })
    }

    /// What could not be kept, of all CPUs.
    pub fn stats(&self) -> Result<SchedStats, EbpfError> {
        let values = self.stats.get(&0, 0).map_err(|source| EbpfError::Map { map: "SCHED_STATS", source })?;
        let mut sum = SchedStats::default();
        for stats in values.iter() {
            let SchedStats {
                threads_full,
                ends_lost,
                clock_errors,
                recovered,
                waits,
                waits_lost,
                waits_busy,
                wakes,
                wakes_lost,
                waits_limited,
                wakes_limited,
            } = *stats;
            sum.threads_full += threads_full;
            sum.ends_lost += ends_lost;
            sum.clock_errors += clock_errors;
            sum.recovered += recovered;
            sum.waits += waits;
            sum.waits_lost += waits_lost;
            sum.waits_busy += waits_busy;
            sum.wakes += wakes;
            sum.wakes_lost += wakes_lost;
            sum.waits_limited += waits_limited;
            sum.wakes_limited += wakes_limited;
        }
        Ok(sum)
    }

    fn place(&self, place: usize) -> *mut Thread {
        self.rows.as_mut_ptr().cast::<Thread>().wrapping_add(place)
    }

    /// A row as it was at one moment; `None` if the place is free.
    fn row(&self, place: usize) -> Option<Thread> {
        let place = self.place(place);
        for _ in 0..TRIES {
            // SAFETY: within the table, which is mapped as long as `self` lives; any bit pattern is a thread.
            let before = unsafe { (&raw const (*place).writes).read_volatile() };
            fence(Ordering::Acquire);
            // SAFETY: as above.
            let thread = unsafe { place.read_volatile() };
            fence(Ordering::Acquire);
            // SAFETY: as above.
            let after = unsafe { (&raw const (*place).writes).read_volatile() };
            if thread.tid == 0 {
                return None;
            }
            if before == after && before % 2 == 0 {
                return Some(thread);
            }
            std::hint::spin_loop();
        }
        None
    }
}
