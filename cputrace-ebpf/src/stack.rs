//! Stacks of the current task, into its record.

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_stack, programs::PerfEventContext};
use cputrace_common::sample::MAX_KERNEL_FRAMES;

use crate::{sample::Record, unwind};

/// Bytes of a frame as the kernel's helper counts them.
const FRAME: i64 = 8;

/// Appends the kernel's frames and then the user's, leaf first.
#[inline(always)]
pub(crate) fn take(ctx: &PerfEventContext, record: &mut Record) {
    record.header.kernel_frames = 0;
    record.header.user_frames = 0;
    let registers = ctx.as_ptr().cast_const().cast();
    let code_segment = unwind::code_segment(registers);
    if !unwind::is_user(code_segment) {
        let frames = (&raw mut record.frames).cast::<c_void>();
        // SAFETY: the helper writes at most the given size, which `frames` has.
        let kernel = unsafe { bpf_get_stack(ctx.as_ptr(), frames, (MAX_KERNEL_FRAMES * 8) as u32, 0) };
        record.header.kernel_frames =
            (if kernel > 0 { kernel / FRAME } else { 0 } as usize).min(MAX_KERNEL_FRAMES) as u16;
    }
    let (end, guessed) = match unwind::start(registers, code_segment, record) {
        Some(end) => (end, 0),
        None => (unwind::on_cpu(record), record.unwind.state.guessed as u32),
    };
    (record.header.end, record.header.guessed) = (end as u32, guessed);
}
