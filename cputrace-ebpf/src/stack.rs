//! Stacks of the current task, into its record: the kernel's by the kernel's own unwinder, the user's by ours.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_stack, programs::PerfEventContext};
use cputrace_common::sample::MAX_KERNEL_FRAMES;

use crate::{sample::Record, unwind};

/// Appends the kernel's frames and then the user's, leaf first.
#[inline(always)]
pub(crate) fn take(ctx: &PerfEventContext, record: &mut Record) {
    let frames = (&raw mut record.frames).cast::<c_void>();
    // SAFETY: the helper writes at most the given size, which `frames` has.
    let bytes = unsafe { bpf_get_stack(ctx.as_ptr(), frames, (MAX_KERNEL_FRAMES * 8) as u32, 0) };
    let kernel_frames = if bytes > 0 { (bytes / 8) as usize } else { 0 };
    record.header.kernel_frames = kernel_frames.min(MAX_KERNEL_FRAMES) as u16;
    unwind::user_stack(ctx, record);
}
