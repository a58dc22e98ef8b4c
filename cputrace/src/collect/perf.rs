//! perf's own ring buffers: what happens to processes (mappings, forks, execs, exits) on each CPU, and samples
//! where there is no eBPF. Opened through perf-event2; the kernel's `perf_event_open(2)` has the formats.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use perf_event::data::parse::Parser;
use perf_event::data::{Comm, Exit, Fork, Lost, LostSamples, Mmap2, RecordMetadata, Sample, Visitor};
use perf_event::events::Software;
use perf_event::{Builder, Clock, Counter, SampleFlag, Sampler};

use super::{Batch, Observation, RawSample};
use crate::model::StackEnd;
use crate::process::{Change, FileId, Region};

/// Bytes of one CPU's buffer for changes: a storm of 1,000 execs a second fills a tenth of it between two drains.
const CHANGES_BYTES: usize = 256 * 1024;

/// Bytes of one CPU's buffer for samples and changes: what a plain user may lock (`perf_event_mlock_kb`).
const SAMPLES_BYTES: usize = 256 * 1024;

/// Callchains carry markers of where the kernel's and the user's part begin (`enum perf_callchain_context`).
const CONTEXT_KERNEL: u64 = -128_i64 as u64;
const CONTEXT_USER: u64 = -512_i64 as u64;
const CONTEXT_MAX: u64 = -4095_i64 as u64;

/// `PERF_RECORD_MISC_COMM_EXEC`: the name changed because of an exec.
const MISC_COMM_EXEC: u16 = 1 << 13;

/// `PROT_EXEC`
const PROT_EXEC: u32 = 4;

/// perf ring buffers, one a CPU.
pub struct PerfRings {
    samplers: Vec<Sampler>,
    /// Events whose records go to the rings above.
    others: Vec<Counter>,
}

/// Reports what happens to processes; samples nothing.
fn changes(event: Software) -> Builder<'static> {
    let mut builder = Builder::new(event);
    builder
        .sample(SampleFlag::TID | SampleFlag::TIME)
        .clockid(Clock::MONOTONIC)
        .sample_id_all(true)
        .mmap(true)
        .mmap2(true)
        .comm(true)
        .comm_exec(true)
        .task(true);
    builder
}

impl PerfRings {
    /// What happens to every process of the host. Needs CAP_PERFMON.
    pub fn of_host(cpus: &[u32]) -> io::Result<Self> {
        let open = |&cpu: &u32| {
            let mut counter = changes(Software::DUMMY).include_kernel().any_pid().one_cpu(cpu as usize).build()?;
            counter.enable()?;
            counter.sampled(CHANGES_BYTES)
        };
        Ok(Self { samplers: cpus.iter().map(open).collect::<io::Result<_>>()?, others: Vec::new() })
    }

    /// Samples of the given threads, and of the threads and processes born of them, with the kernel's
    /// frame-pointer stacks: what a plain user may have of processes of their own.
    pub fn sampling(tids: &[u32], cpus: &[u32], sampling: PerfSampling) -> io::Result<Self> {
        let mut rings = Self { samplers: Vec::new(), others: Vec::new() };
        for &cpu in cpus {
            let mut ring: Option<Sampler> = None;
            for &tid in tids {
                let counter = match sampling.open(tid, cpu) {
                    Ok(counter) => counter,
                    // A thread that ended meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                    Err(error) => return Err(error),
                };
                match &ring {
                    None => ring = Some(counter.sampled(SAMPLES_BYTES)?),
                    Some(ring) => {
                        redirect(&counter, ring.as_counter())?;
                        rings.others.push(counter);
                    }
                }
            }
            rings.samplers.extend(ring);
        }
        if rings.samplers.is_empty() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(rings) }
    }

    /// Starts the events.
    pub fn enable(&mut self) -> io::Result<()> {
        self.counters().try_for_each(Counter::enable)
    }

    /// Stops the events; what they have reported can still be drained.
    pub fn disable(&mut self) -> io::Result<()> {
        self.counters().try_for_each(Counter::disable)
    }

    /// The sampling events' values, added up: nanoseconds of the tasks' CPU time for `cpu-clock`.
    pub fn count(&mut self) -> io::Result<u64> {
        self.counters().map(Counter::read).sum()
    }

    fn counters(&mut self) -> impl Iterator<Item = &mut Counter> {
        self.samplers.iter_mut().map(Sampler::as_counter_mut).chain(&mut self.others)
    }

    /// Takes all that is there. A record that makes no sense is counted and skipped.
    pub fn drain(&mut self, batch: &mut Batch) {
        for sampler in &mut self.samplers {
            let config = sampler.as_counter().config().clone();
            while let Some(record) = sampler.next_record() {
                let header = perf_event_header(record.ty(), record.misc(), record.len());
                let bytes = record.to_contiguous();
                let mut parser = Parser::new(&*bytes, config.clone());
                if parser.parse_record_with_header(Reader(batch), header).is_err() {
                    batch.bad_records += 1;
                }
            }
        }
    }
}

fn perf_event_header(type_: u32, misc: u16, length: usize) -> perf_event_open_sys::bindings::perf_event_header {
    let size = (length + 8) as u16;
    perf_event_open_sys::bindings::perf_event_header { type_, misc, size }
}

/// How threads are sampled without eBPF.
#[derive(Clone, Copy, Debug)]
pub struct PerfSampling {
    /// Samples a second of CPU time.
    pub frequency: u32,
    /// Whether kernel frames may be seen (`perf_event_paranoid` below 2, or CAP_PERFMON).
    pub kernel: bool,
    /// Whether threads and processes born of the sampled ones are sampled too.
    pub inherit: bool,
}

impl PerfSampling {
    fn open(self, tid: u32, cpu: u32) -> io::Result<Counter> {
        let mut builder = changes(Software::CPU_CLOCK);
        builder
            .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::CALLCHAIN)
            .sample_frequency(self.frequency.into())
            .observe_pid(tid.cast_signed())
            .one_cpu(cpu as usize)
            .inherit(self.inherit)
            .exclude_kernel(!self.kernel)
            .exclude_hv(true);
        builder.build()
    }
}

/// Sends a counter's records to another's ring (`PERF_EVENT_IOC_SET_OUTPUT`).
fn redirect(from: &Counter, to: &Counter) -> io::Result<()> {
    const SET_OUTPUT: libc::c_ulong = 0x2405;
    // SAFETY: an ioctl on two open file descriptors; it keeps no pointer.
    let status = unsafe { libc::ioctl(from.as_raw_fd(), SET_OUTPUT, to.as_raw_fd()) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts each record into the batch.
struct Reader<'b>(&'b mut Batch);

impl<'a> Visitor<'a> for Reader<'_> {
    type Output = ();

    fn visit_unimplemented(self, _: RecordMetadata) {}

    fn visit_mmap2(self, record: Mmap2<'a>, metadata: RecordMetadata) {
        if record.prot & PROT_EXEC == 0 {
            return;
        }
        let file = FileId {
            path: PathBuf::from(record.filename_os()),
            device: (record.maj().unwrap_or(0), record.min().unwrap_or(0)),
            inode: record.ino().unwrap_or(0),
        };
        let end = record.addr.saturating_add(record.len);
        let region = Region { start: record.addr, end, file_offset: record.pgoff, file };
        self.0.push_change(time(&metadata), Change::Map { pid: record.pid, region });
    }

    fn visit_comm(self, record: Comm<'a>, metadata: RecordMetadata) {
        if metadata.misc() & MISC_COMM_EXEC != 0 {
            self.0.push_change(time(&metadata), Change::Exec { pid: record.pid });
        }
    }

    fn visit_fork(self, record: Fork, _: RecordMetadata) {
        // A new thread is no new process.
        if record.pid != record.ppid {
            self.0.push_change(record.time, Change::Fork { pid: record.pid, parent: record.ppid });
        }
    }

    fn visit_exit(self, record: Exit, _: RecordMetadata) {
        self.0.push_change(record.time, Change::Exit { pid: record.pid, tid: record.tid });
    }

    fn visit_lost(self, record: Lost, _: RecordMetadata) {
        // Which of the two it was the kernel does not say.
        self.0.lost_changes += record.lost;
    }

    fn visit_lost_samples(self, record: LostSamples, _: RecordMetadata) {
        self.0.lost_samples += record.lost;
    }

    fn visit_sample(self, record: Sample<'a>, _: RecordMetadata) {
        let (Some(pid), Some(tid), Some(time), Some(chain)) =
            (record.pid(), record.tid(), record.time(), record.callchain())
        else {
            self.0.bad_records += 1;
            return;
        };
        let (kernel, user) = split(chain);
        let sample = RawSample {
            pid,
            tid,
            comm: thread_name(pid, tid),
            end: StackEnd::FramePointersOnly,
            guessed: false,
            what: Observation::OnCpu,
            first_frame: 0,
            kernel_frames: kernel.len(),
            user_frames: user.len(),
            words: 0,
        };
        self.0.push_sample(time, sample, kernel.into_iter().chain(user));
    }
}

fn time(metadata: &RecordMetadata) -> u64 {
    metadata.sample_id().time().unwrap_or(0)
}

/// The kernel's and the user's addresses of a callchain.
fn split(chain: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let (mut kernel, mut user) = (Vec::new(), Vec::new());
    let mut context = CONTEXT_USER;
    for &address in chain {
        match address {
            CONTEXT_MAX.. => context = address,
            _ if context == CONTEXT_KERNEL => kernel.push(address),
            _ if context == CONTEXT_USER => user.push(address),
            _ => {}
        }
    }
    (kernel, user)
}

/// perf's samples carry no name.
fn thread_name(pid: u32, tid: u32) -> [u8; 16] {
    let mut name = [0; 16];
    let text = std::fs::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    for (to, from) in name.iter_mut().zip(text) {
        *to = *from;
    }
    name
}
