//! The unwinder's maps: tables in chunks, the ranges of processes, and what the kernel side asks.
//!
//! Chunks and ranges lie in groups, inner maps of several values. To install a group the kernel waits until no program
//! can use an older one, some 20 ms; to write a value takes nothing. So groups stay, and their places are used again.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, RingBuf};
use cputrace_common::config::{CHUNKS_GROUP, RANGES_GROUP};
use cputrace_common::unwind::range::{PATIENCE_MS, Process, Question, Ranges};
use cputrace_common::unwind::table::Chunk;

use super::{EbpfError, take_map};

const PROCESSES: &str = "PROCESSES";

/// A map of groups.
struct Places<V: aya::Pod> {
    outer: ArrayOfMaps<MapData, Array<MapData, V>>,
    groups: Vec<Option<Array<MapData, V>>>,
    group: u32,
    name: &'static str,
}

/// The maps.
pub struct UnwindMaps {
    chunks: Places<Chunk>,
    ranges: Places<[Ranges; 1]>,
    processes: HashMap<MapData, u32, Process>,
    questions: RingBuf<MapData>,
}

impl UnwindMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        Ok(Self {
            chunks: Places::take(ebpf, "CHUNKS", CHUNKS_GROUP)?,
            ranges: Places::take(ebpf, "RANGES", RANGES_GROUP)?,
            processes: take_map(ebpf, PROCESSES)?,
            questions: take_map(ebpf, "QUESTIONS")?,
        })
    }

    /// Writes a chunk of a table, which no process may be using.
    pub fn set_chunk(&mut self, slot: u32, chunk: &Chunk) -> Result<(), EbpfError> {
        self.chunks.set(slot, chunk)
    }

    /// Writes the ranges of a process, which it may not be using yet.
    pub fn set_ranges(&mut self, slot: u32, ranges: &Ranges) -> Result<(), EbpfError> {
        self.ranges.set(slot, std::array::from_ref(ranges))
    }

    /// A process has the ranges in a slot from now on.
    pub fn set_process(&mut self, pid: u32, slot: u32) -> Result<(), EbpfError> {
        let process = Process { slot, patience_ms: *PATIENCE_MS.start(), asked_ns: 0 };
        self.processes.insert(pid, process, 0).map_err(|source| EbpfError::Map { map: PROCESSES, source })
    }

    /// Nothing is known of a process any more.
    pub fn remove_process(&mut self, pid: u32) {
        // Not there is what was wanted.
        let _ = self.processes.remove(&pid);
    }

    /// The next thing that the kernel side wants to know.
    pub fn question(&mut self) -> Option<Question> {
        let record = self.questions.next()?;
        let bytes: &[u8; size_of::<Question>()] = record.first_chunk()?;
        // SAFETY: any bit pattern is a valid question (integers only); `read_unaligned` asks for no alignment.
        Some(unsafe { bytes.as_ptr().cast::<Question>().read_unaligned() })
    }

    /// Readable when there is a question.
    pub fn questions_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring buffer, borrowed as long as the result, owns the descriptor.
        unsafe { BorrowedFd::borrow_raw(self.questions.as_raw_fd()) }
    }
}

impl<V: aya::Pod> Places<V> {
    fn take(ebpf: &mut Ebpf, name: &'static str, group: u32) -> Result<Self, EbpfError> {
        let mut places = Self { outer: take_map(ebpf, name)?, groups: Vec::new(), group, name };
        // Before anything is sampled, so that a recording of a few programs never waits.
        places.group(0)?;
        Ok(places)
    }

    fn set(&mut self, slot: u32, value: &V) -> Result<(), EbpfError> {
        let (name, within) = (self.name, slot % self.group);
        self.group(slot / self.group)?.set(within, value, 0).map_err(|source| EbpfError::Map { map: name, source })
    }

    /// A group, which is made if it is not there.
    fn group(&mut self, number: u32) -> Result<&mut Array<MapData, V>, EbpfError> {
        let failed = |source| EbpfError::Map { map: self.name, source };
        let index = number as usize;
        if self.groups.len() <= index {
            self.groups.resize_with(index + 1, || None);
        }
        let group = &mut self.groups[index];
        match group {
            Some(array) => Ok(array),
            None => {
                let array = Array::create(self.group, 0).map_err(failed)?;
                self.outer.set(number, &array, 0).map_err(failed)?;
                Ok(group.insert(array))
            }
        }
    }
}
