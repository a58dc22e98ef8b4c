//! One sample: put together in a record of the CPU's, sent, and counted whatever becomes of it. Ticks of the clock have one
//! record a CPU, the scheduler's programs, which may be interrupted by one, another.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::bpf_ringbuf_output,
    },
    maps::PerCpuArray,
    programs::{PerfEventContext, TracePointContext},
};
use cputrace_common::{
    sample::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES, MAX_WORDS, SampleHeader, kind},
    stat::Stats,
};

use crate::{config, counters, filter, maps, op, stack, task, threads, unwind::Unwind};

pub(crate) const MAX_FRAMES: usize = MAX_KERNEL_FRAMES + MAX_USER_FRAMES;

/// A sample in the making: one a CPU and class of programs, in a map, for it is larger than a program's stack.
#[repr(C)]
pub(crate) struct Record {
    /// Not 0 while a program is writing: one that interrupts it has to leave it alone.
    busy: u64,
    pub(crate) unwind: Unwind,
    pub(crate) header: SampleHeader,
    /// Kernel frames, then user frames, then words.
    pub(crate) frames: [u64; MAX_FRAMES + MAX_WORDS],
    /// What was counted, or noted of an op, until the frames are there.
    pub(crate) words: [u64; MAX_WORDS],
}

/// The one way a sample leaves the kernel; every tick ends in one counter.
#[inline(always)]
pub(crate) fn emit(ctx: &PerfEventContext, records: &PerCpuArray<Record>) {
    let Some(stats) = maps::STATS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element, and no program that interrupts this one writes to it.
    let stats = unsafe { &mut *stats };
    stats.ticks += 1;
    let task = current();
    if task.tid == 0 {
        stats.idle += 1;
        return;
    }
    if !filter::is_target(task.tgid) {
        stats.filtered += 1;
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(last) = maps::LAST_TICK.get_ptr_mut(0) {
        // SAFETY: this CPU's element, as above.
        stats.missed += unsafe { &mut *last }.missed_before(task.tid, now_ns);
    }
    let fate = with_record(records, task, now_ns, |record| {
        record.header.kind = kind::ON_CPU;
        counters::take(record);
        stack::take(ctx, record);
    });
    *fate.counter(stats) += 1;
    counters::start_again();
}

/// The same of an event that is not the clock: it comes as often as it happens, so that none can be missed by time.
#[inline(always)]
pub(crate) fn emit_event(ctx: &PerfEventContext, records: &PerCpuArray<Record>) {
    let Some(stats) = maps::EVENT_STATS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element, and no program that interrupts this one writes to it.
    let stats = unsafe { &mut *stats };
    stats.ticks += 1;
    let task = current();
    if task.tid == 0 {
        stats.idle += 1;
        return;
    }
    if !filter::is_target(task.tgid) {
        stats.filtered += 1;
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let fate = with_record(records, task, now_ns, |record| {
        record.header.kind = kind::EVENT;
        if config::ops() != 0 {
            op::take(ctx, record);
            stack::take_at_op(ctx, record);
        } else {
            stack::take(ctx, record);
        }
    });
    *fate.counter(stats) += 1;
}

/// The same of a tracepoint, of whose hits on a CPU one in so many is a sample.
#[inline(always)]
pub(crate) fn emit_hit(ctx: &TracePointContext) {
    let (Some(stats), Some(hits)) = (maps::EVENT_STATS.get_ptr_mut(0), maps::HITS.get_ptr_mut(0)) else { return };
    // SAFETY: this CPU's elements. The kernel lets no other program of a perf event or tracepoint interrupt this one.
    let (stats, hits) = unsafe { (&mut *stats, &mut *hits) };
    *hits += 1;
    if *hits < config::event_period() {
        return;
    }
    *hits = 0;
    stats.ticks += 1;
    let task = current();
    if task.tid == 0 {
        stats.idle += 1;
        return;
    }
    if !filter::is_target(task.tgid) {
        stats.filtered += 1;
        return;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let fate = with_record(&maps::ON_CPU_RECORD, task, now_ns, |record| {
        record.header.kind = kind::EVENT;
        stack::take_at_tracepoint(ctx.as_ptr(), record);
    });
    *fate.counter(stats) += 1;
}

#[derive(Clone, Copy)]
struct Task {
    tgid: u32,
    tid: u32,
}

/// What became of a target's tick.
enum Fate {
    Emitted,
    RingFull,
    ScratchBusy,
}

impl Fate {
    #[inline(always)]
    fn counter(self, stats: &mut Stats) -> &mut u64 {
        match self {
            Self::Emitted => &mut stats.emitted,
            Self::RingFull => &mut stats.ring_full,
            Self::ScratchBusy => &mut stats.scratch_busy,
        }
    }
}

/// A wait of the current task, which has ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    /// 0: there is none.
    pub(crate) tid: u32,
    pub(crate) state: u32,
    pub(crate) end_ns: u64,
    pub(crate) blocked_ns: u64,
    pub(crate) queued_ns: u64,
}

/// Sends a wait with the stack that the current task waited in: it has not run since.
#[inline(always)]
pub(crate) fn emit_wait(ctx: *mut c_void, wait: &Wait) {
    let task = current();
    let fate = if task.tid == wait.tid {
        with_record(&maps::OFF_CPU_RECORD, task, wait.end_ns, |record| {
            let header = &mut record.header;
            (header.kind, header.state, header.woken_tid) = (kind::WAIT, wait.state, 0);
            (header.blocked_ns, header.queued_ns) = (wait.blocked_ns, wait.queued_ns);
            stack::take_in_kernel(ctx, record);
        })
    } else {
        Fate::ScratchBusy
    };
    threads::count(|stats| match fate {
        Fate::Emitted => stats.waits += 1,
        Fate::RingFull => stats.waits_lost += 1,
        Fate::ScratchBusy => stats.waits_busy += 1,
    });
}

/// Sends the stack of the current task, which wakes a thread that has been blocked for a while.
#[inline(always)]
pub(crate) fn emit_wake(ctx: *mut c_void, woken_tid: u32, blocked_ns: u64, now_ns: u64) {
    let fate = with_record(&maps::OFF_CPU_RECORD, current(), now_ns, |record| {
        let header = &mut record.header;
        (header.kind, header.state, header.woken_tid) = (kind::WAKE, 0, woken_tid);
        (header.blocked_ns, header.queued_ns) = (blocked_ns, 0);
        stack::take_of_waker(ctx, record);
    });
    threads::count(|stats| match fate {
        Fate::Emitted => stats.wakes += 1,
        Fate::RingFull | Fate::ScratchBusy => stats.wakes_lost += 1,
    });
}

/// Sends a wait that lasts, of any task.
#[inline(always)]
pub(crate) fn emit_open_wait(waiting: task::Task, wait: &Wait) {
    let task = Task { tgid: waiting.tgid(), tid: wait.tid };
    let fate = with_record(&maps::OFF_CPU_RECORD, task, wait.end_ns, |record| {
        let header = &mut record.header;
        (header.kind, header.state, header.woken_tid) = (kind::OPEN_WAIT, wait.state, 0);
        (header.blocked_ns, header.queued_ns) = (wait.blocked_ns, 0);
        header.comm = [0; 16];
        stack::take_of(waiting, record);
    });
    threads::count(|stats| match fate {
        Fate::Emitted => stats.waits += 1,
        Fate::RingFull => stats.waits_lost += 1,
        Fate::ScratchBusy => stats.waits_busy += 1,
    });
}

#[inline(always)]
fn current() -> Task {
    let pid_tgid = bpf_get_current_pid_tgid();
    Task { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 }
}

/// A record with what every sample has, for `fill` to complete; then it is sent.
#[inline(always)]
fn with_record(records: &PerCpuArray<Record>, task: Task, now_ns: u64, fill: impl FnOnce(&mut Record)) -> Fate {
    let Some(record) = records.get_ptr_mut(0) else { return Fate::ScratchBusy };
    // SAFETY: this CPU's element, and `busy` keeps a program that interrupts this one out of it.
    let record = unsafe { &mut *record };
    if record.busy != 0 {
        return Fate::ScratchBusy;
    }
    record.busy = 1;
    record.header.time_ns = now_ns;
    record.header.tgid = task.tgid;
    record.header.tid = task.tid;
    // SAFETY: a helper without arguments.
    record.header.cpu = unsafe { bpf_get_smp_processor_id() };
    record.header.comm = bpf_get_current_comm().unwrap_or_default();
    record.header.words = 0;
    fill(record);
    let sent = send(record);
    record.busy = 0;
    if sent { Fate::Emitted } else { Fate::RingFull }
}

/// Copies the used part of the record into the ring buffer. Userspace drains it by the clock: nobody is woken.
#[inline(always)]
fn send(record: &mut Record) -> bool {
    let frames = (record.header.kernel_frames as usize + record.header.user_frames as usize).min(MAX_FRAMES);
    let mut bytes = size_of::<SampleHeader>() + frames * 8;
    if config::counters() + config::ops() != 0 {
        for word in 0..MAX_WORDS {
            record.frames[frames + word] = record.words[word];
        }
        bytes += (record.header.words as usize).min(MAX_WORDS) * 8;
    }
    // SAFETY: header and frames lie behind each other, and `bytes` ends within them.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const maps::SAMPLES).cast_mut().cast(),
            (&raw const record.header).cast_mut().cast(),
            bytes as u64,
            BPF_RB_NO_WAKEUP.into(),
        )
    };
    status == 0
}
