//! One sample: put together in a record of the CPU's, sent, and counted whatever becomes of it.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::bpf_ringbuf_output,
    },
    maps::PerCpuArray,
    programs::PerfEventContext,
};
use cputrace_common::{
    sample::{MAX_KERNEL_FRAMES, MAX_USER_FRAMES, SampleHeader},
    stat::Stats,
};

use crate::{filter, maps, stack, unwind::Unwind};

pub(crate) const MAX_FRAMES: usize = MAX_KERNEL_FRAMES + MAX_USER_FRAMES;

/// A sample in the making: one a CPU and class of programs, in a map, for it is larger than a program's stack.
#[repr(C)]
pub(crate) struct Record {
    /// Not 0 while a program is writing: one that interrupts it has to leave it alone.
    busy: u64,
    pub(crate) unwind: Unwind,
    pub(crate) header: SampleHeader,
    /// Kernel frames, then user frames.
    pub(crate) frames: [u64; MAX_FRAMES],
}

/// The one way a sample leaves the kernel; every tick ends in one counter.
#[inline(always)]
pub(crate) fn emit(ctx: &PerfEventContext, records: &PerCpuArray<Record>) {
    let Some(stats) = maps::STATS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element, and no program that interrupts this one writes to it.
    let stats = unsafe { &mut *stats };
    stats.ticks += 1;
    let pid_tgid = bpf_get_current_pid_tgid();
    let task = Task { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32 };
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
    *take(ctx, records, task, now_ns).counter(stats) += 1;
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

/// Puts the sample together and sends it.
#[inline(always)]
fn take(ctx: &PerfEventContext, records: &PerCpuArray<Record>, task: Task, now_ns: u64) -> Fate {
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
    stack::take(ctx, record);
    let sent = send(record);
    record.busy = 0;
    if sent { Fate::Emitted } else { Fate::RingFull }
}

/// Copies the used part of the record into the ring buffer. Userspace drains it by the clock: nobody is woken.
#[inline(always)]
fn send(record: &Record) -> bool {
    let frames = (record.header.kernel_frames as usize + record.header.user_frames as usize).min(MAX_FRAMES);
    let bytes = size_of::<SampleHeader>() + frames * 8;
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
