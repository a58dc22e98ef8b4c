//! What is read of the kernel's `struct task_struct`, at offsets that userspace knows from BTF.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use cputrace_common::thread::{KernelAccount, blocked, state};

use crate::config;

/// A task that the verifier knows as one (an argument of a BTF tracepoint): its members are loaded like any memory.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

/// Bits of `__state` at a switch: the task ended.
const TASK_DEAD: u32 = 0x80;
/// Somebody is waking it at this moment.
const TASK_WAKING: u32 = 0x200;

impl Task {
    /// Loads have to be of the member's width.
    #[inline(always)]
    fn load<T>(self, offset: u64) -> T {
        // SAFETY: the verifier checks that the member is there; a load that faults yields 0.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.load(config::task_pid())
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.load(config::task_tgid())
    }

    #[inline(always)]
    pub(crate) fn is_on_cpu(self) -> bool {
        self.load::<u8>(config::task_on_cpu()) != 0
    }

    /// Its state's bits; `None` where somebody is waking it.
    #[inline(always)]
    pub(crate) fn state_bits(self) -> Option<u32> {
        // Before Linux 5.14 `state` is a long; its upper half is not used.
        let bits = self.load::<u32>(config::task_state());
        if bits == TASK_WAKING { None } else { Some(bits) }
    }

    #[inline(always)]
    pub(crate) fn run_delay(self) -> u64 {
        self.load(config::task_run_delay())
    }

    /// When it was put in its run queue, by the queue's clock; 0 while it is in none.
    #[inline(always)]
    pub(crate) fn last_queued(self) -> u64 {
        self.load(config::task_last_queued())
    }

    /// When it came to its CPU, by the clock of the run queue.
    #[inline(always)]
    pub(crate) fn last_arrival(self) -> u64 {
        self.load(config::task_last_arrival())
    }

    /// The run queue that it is in. To be asked for once: each time that the verifier comes by a load of a pointer, it searches all
    /// of the kernel's types by name, which takes it half a millisecond.
    #[inline(always)]
    pub(crate) fn queue(self) -> Queue {
        Queue(Self(self.load(config::task_cfs_rq())))
    }

    #[inline(always)]
    pub(crate) fn account(self) -> KernelAccount {
        KernelAccount {
            runtime_ns: self.load(config::task_sum_exec_runtime()),
            run_delay_ns: self.run_delay(),
            voluntary: self.load(config::task_nvcsw()),
            involuntary: self.load(config::task_nivcsw()),
            migrations: self.load(config::task_nr_migrations()),
        }
    }
}

/// The run queue of a task, in its control group.
#[derive(Clone, Copy)]
pub(crate) struct Queue(Task);

impl Queue {
    /// The clock of its CPU's queue; 0 where it is not known.
    #[inline(always)]
    pub(crate) fn clock(self) -> u64 {
        Task(self.0.load(config::cfs_rq_rq())).load(config::rq_clock())
    }

    /// Whether its control group, or one above, has used up its CPU quota.
    #[inline(always)]
    pub(crate) fn is_throttled(self) -> bool {
        config::cfs_rq_throttle_count() != 0 && self.0.load::<u32>(config::cfs_rq_throttle_count()) != 0
    }
}

/// The thread id of a task that the verifier does not know as one.
#[inline(always)]
pub(crate) fn tid_of(task: *const u8) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(task.add(config::task_pid() as usize).cast::<u32>()) }.ok()
}

/// Its process.
#[inline(always)]
pub(crate) fn tgid_of(task: *const u8) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(task.add(config::task_tgid() as usize).cast::<u32>()) }.ok()
}

/// Whether a task that is switched from with these bits never comes back.
#[inline(always)]
pub(crate) fn is_dead(bits: u32) -> bool {
    bits & TASK_DEAD != 0
}

/// What a task with these bits does while it is on no CPU.
#[inline(always)]
pub(crate) fn state_of(bits: u32) -> u32 {
    // Bits of `include/linux/sched.h`, the same from 5.10 on: interruptible 1, uninterruptible 2, stopped 4, traced 8,
    // parked 0x40, noload 0x400, new 0x800, waiting for an RT lock 0x1000.
    const NEW: u32 = 0x800;
    let kind = match bits {
        0 | NEW => return state::RUNNABLE,
        _ if bits & 0xc != 0 => blocked::STOPPED,
        _ if bits & 0x440 != 0 => blocked::IDLE,
        _ if bits & 0x1002 != 0 => blocked::UNINTERRUPTIBLE,
        _ if bits & 1 != 0 => blocked::SLEEPING,
        _ => blocked::IDLE,
    };
    state::BLOCKED + kind
}
