//! The record that a sample leaves the kernel in.

/// Kernel frames kept of one sample (`PERF_MAX_STACK_DEPTH` of the kernel).
pub const MAX_KERNEL_FRAMES: usize = 127;

/// User frames kept of one sample.
pub const MAX_USER_FRAMES: usize = 1024;

/// Words of the registers of a thread whose stack userspace is to unwind.
pub const REGISTERS: usize = 17;

/// Words that can follow a sample's addresses: see [`SampleHeader::words`].
pub const MAX_WORDS: usize = 8;

/// Starts each record in the ring buffer; `kernel_frames` and then `user_frames` addresses of
/// 8 bytes follow it, leaf first, and then `words` words.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleHeader {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// On which CPU.
    pub cpu: u32,
    /// How many kernel addresses follow.
    pub kernel_frames: u16,
    /// How many user addresses follow them.
    pub user_frames: u16,
    /// How the user stack ended: an [`End`] as a number.
    pub end: u32,
    /// How many of the user frames were found where nothing says how: by frame pointer, or by search.
    pub guessed: u32,
    /// The thread's name, padded by zeros.
    pub comm: [u8; 16],
    /// What was observed: one of [`kind`].
    pub kind: u32,
    /// Of a wait, what the thread was doing: one of [`state`](crate::thread::state).
    pub state: u32,
    /// Of a wait, how long it was blocked.
    pub blocked_ns: u64,
    /// Of a wait, how long it was in run queues; `time_ns` is when it ended.
    pub queued_ns: u64,
    /// Of a wake-up, the thread that is woken.
    pub woken_tid: u32,
    /// How many words follow the addresses. Of a tick of the clock, each is what a counter counted since the thread's last
    /// sample, or since it came to the CPU; of an event of instruction-based sampling, they are what the CPU noted of the op:
    /// see [`op`].
    pub words: u32,
}

const _: () = assert!(size_of::<SampleHeader>() == 80);

/// The words of an op: AMD's registers of instruction-based sampling (IBS), as Linux hands them on with a sample.
pub mod op {
    /// How many words there are.
    pub const WORDS: usize = 8;
    /// What this CPU's IBS is capable of, in the upper half.
    pub const CAPABILITIES: usize = 0;
    /// `IBS_OP_DATA`: branches.
    pub const DATA: usize = 3;
    /// `IBS_OP_DATA2`: where the data came from.
    pub const DATA2: usize = 4;
    /// `IBS_OP_DATA3`: loads and stores.
    pub const DATA3: usize = 5;
    /// `IBS_DC_LIN_AD`: the address of the data.
    pub const LINEAR_ADDRESS: usize = 6;
    /// `IBS_DC_PHYS_AD`.
    pub const PHYSICAL_ADDRESS: usize = 7;

    /// Bytes of them: the capabilities are the first, a word of 4.
    pub const BYTES: usize = WORDS * 8 - 4;
}

/// Values of [`SampleHeader::kind`].
pub mod kind {
    /// A tick of the clock hit the thread.
    pub const ON_CPU: u32 = 0;
    /// The thread has waited, with the stack that it waited in.
    pub const WAIT: u32 = 1;
    /// The thread wakes another one, which has waited.
    pub const WAKE: u32 = 2;
    /// The thread waits still; its name is not known, and instead of user frames there are [`REGISTERS`](super::REGISTERS)
    /// words: its registers by their DWARF numbers, then its program counter.
    pub const OPEN_WAIT: u32 = 3;
    /// An event that is not the clock's happened in the thread.
    pub const EVENT: u32 = 4;
}

/// How the unwinding of a user stack ended.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is no user stack: a kernel thread.
    NoUserStack = 0,
    /// At the end of the stack, known from its marker.
    Complete = 1,
    /// At the limit of frames.
    Truncated = 2,
    /// In code without unwind information.
    NoUnwindInfo = 3,
    /// In a file whose table is not loaded (yet).
    TableNotReady = 4,
    /// At memory that could not be read.
    Fault = 5,
    /// In executable memory without a file, where frame pointers led nowhere.
    NoJitInfo = 6,
    /// Where the chain of frame pointers ended.
    FramePointersOnly = 7,
}

impl End {
    /// From the number in a record; `None` for one that no program of ours writes.
    pub const fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::NoUserStack,
            1 => Self::Complete,
            2 => Self::Truncated,
            3 => Self::NoUnwindInfo,
            4 => Self::TableNotReady,
            5 => Self::Fault,
            6 => Self::NoJitInfo,
            7 => Self::FramePointersOnly,
            _ => return None,
        })
    }
}
