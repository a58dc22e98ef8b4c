//! Drains the kernel's buffers into [`Batch`]es: samples, and what happened to processes, in order of time.
//!
//! - [`ring`]: samples from the eBPF program's ring buffer.
//! - [`perf`]: perf's own ring buffers: mappings, forks, execs and exits; samples too where there is no eBPF.
//! - [`threads`]: the scheduler's account of each thread's time.
//!
//! Does not know what an address means: that is `process`'s, and `session` brings the two together.

pub mod perf;
pub mod ring;
pub mod threads;

use cputrace_common::sample::op;

use crate::model::{OpRegisters, StackEnd, WaitState};
use crate::process::Change;

/// One sample as it left the kernel. Its addresses are in its [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct RawSample {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// The thread's name, padded by zeros.
    pub comm: [u8; 16],
    /// How the user stack ended.
    pub end: StackEnd,
    /// Whether any of its frames was found where nothing says how: by frame pointer, or by search.
    pub guessed: bool,
    /// What was observed.
    pub what: Observation,
    first_frame: usize,
    kernel_frames: usize,
    user_frames: usize,
    words: usize,
}

/// What a sample says of its thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observation {
    /// A tick of the clock hit it.
    OnCpu,
    /// It has waited, up to the sample's time, with this stack.
    Wait {
        /// For what.
        state: WaitState,
        /// How long for the event.
        blocked_ns: u64,
        /// How long then for a CPU.
        queued_ns: u64,
    },
    /// The event happened in it that is sampled beside the clock.
    Event,
    /// With this stack it wakes another thread, which waits.
    Wake {
        /// That thread.
        woken_tid: u32,
        /// How long that one has waited.
        blocked_ns: u64,
    },
}

/// Something the kernel reported.
#[derive(Clone, Debug)]
pub enum Event {
    /// A sample.
    Sample(RawSample),
    /// Something happened to a process.
    Change(Change),
}

/// What one drain brought, in order of time.
#[derive(Debug, Default)]
pub struct Batch {
    events: Vec<(u64, Event)>,
    frames: Vec<u64>,
    samples: u64,
    /// Records that could not be read.
    pub bad_records: u64,
    /// Changes of processes that the kernel could not report for want of space.
    pub lost_changes: u64,
    /// Samples that perf could not report for want of space.
    pub lost_samples: u64,
}

/// The addresses of a sample, leaf first.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// In the kernel.
    pub kernel: &'a [u64],
    /// In the process.
    pub user: &'a [u64],
    /// Of a tick of the clock, what counters counted in the stretch that ended with it; of an op, what the CPU noted of it.
    /// Empty where that is not known.
    pub words: &'a [u64],
}

impl Batch {
    /// Empties it for the next drain, keeping its memory, the counters, and what came after `until_ns`: the buffers
    /// are drained one after the other, and of that time not all may be here yet.
    pub fn clear_until(&mut self, until_ns: u64) {
        let frames = std::mem::take(&mut self.frames);
        self.samples = 0;
        for (time_ns, event) in std::mem::take(&mut self.events) {
            match event {
                _ if time_ns <= until_ns => {}
                Event::Change(change) => self.push_change(time_ns, change),
                Event::Sample(sample) => {
                    let Frames { kernel, user, words } = sample.frames(&frames);
                    self.push_sample(time_ns, sample, kernel.iter().chain(user).chain(words).copied());
                }
            }
        }
    }

    /// The events up to `until_ns` in order of time (CLOCK_MONOTONIC, ns), and the addresses of their samples.
    pub fn in_order(&mut self, until_ns: u64) -> (&[(u64, Event)], &[u64]) {
        self.events.sort_by_key(|(time_ns, _)| *time_ns);
        let due = self.events.partition_point(|(time_ns, _)| *time_ns <= until_ns);
        (&self.events[..due], &self.frames)
    }

    /// How many samples are in it.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    fn push_change(&mut self, time_ns: u64, change: Change) {
        self.events.push((time_ns, Event::Change(change)));
    }

    fn push_sample(&mut self, time_ns: u64, sample: RawSample, frames: impl Iterator<Item = u64>) {
        self.samples += 1;
        let first_frame = self.frames.len();
        self.frames.extend(frames);
        self.events.push((time_ns, Event::Sample(RawSample { first_frame, ..sample })));
    }
}

impl Frames<'_> {
    /// What the CPU noted of the op.
    pub fn op_registers(&self) -> Option<OpRegisters> {
        let words: &[u64; op::WORDS] = self.words.try_into().ok()?;
        Some(OpRegisters {
            capabilities: (words[op::CAPABILITIES] >> 32) as u32,
            data: words[op::DATA],
            data2: words[op::DATA2],
            data3: words[op::DATA3],
            linear: words[op::LINEAR_ADDRESS],
            physical: words[op::PHYSICAL_ADDRESS],
        })
    }
}

impl RawSample {
    /// Its addresses, of its batch's `frames`.
    pub fn frames<'a>(&self, frames: &'a [u64]) -> Frames<'a> {
        let (kernel, rest) = frames[self.first_frame..].split_at(self.kernel_frames);
        let (user, rest) = rest.split_at(self.user_frames);
        Frames { kernel, user, words: &rest[..self.words] }
    }

    /// Whether the kernel's side did not know the thread's name.
    pub fn has_no_name(&self) -> bool {
        self.comm[0] == 0
    }

    /// The thread's name.
    pub fn name(&self) -> String {
        let length = self.comm.iter().position(|&byte| byte == 0).unwrap_or(self.comm.len());
        String::from_utf8_lossy(&self.comm[..length]).into_owned()
    }
}
