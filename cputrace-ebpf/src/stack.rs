//! Stacks of the current task, into its record.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_stack};
use cputrace_common::sample::{End, MAX_KERNEL_FRAMES, MAX_USER_FRAMES};

use crate::sample::Record;

/// `BPF_F_USER_STACK`
const USER_STACK: u64 = 1 << 8;

/// `PF_KTHREAD` tasks have no user stack; the helper then fails.
const FRAME: i64 = 8;

/// Appends the kernel's frames and then the user's, leaf first.
#[inline(always)]
pub(crate) fn take(ctx: &impl EbpfContext, record: &mut Record) {
    let frames = (&raw mut record.frames).cast::<c_void>();
    // SAFETY: the helper writes at most the given size, which `frames` has.
    let kernel = unsafe { bpf_get_stack(ctx.as_ptr(), frames, (MAX_KERNEL_FRAMES * 8) as u32, 0) };
    let kernel = (if kernel > 0 { kernel / FRAME } else { 0 } as usize).min(MAX_KERNEL_FRAMES);
    // SAFETY: `frames` has room for MAX_USER_FRAMES behind MAX_KERNEL_FRAMES.
    let user = unsafe { bpf_get_stack(ctx.as_ptr(), frames.add(kernel * 8), (MAX_USER_FRAMES * 8) as u32, USER_STACK) };
    record.header.kernel_frames = kernel as u16;
    let (user, end) = match user {
        ..=0 => (0, End::NoUserStack),
        bytes => ((bytes / FRAME) as u16, End::FramePointersOnly),
    };
    record.header.user_frames = user;
    record.header.end = end as u32;
}
