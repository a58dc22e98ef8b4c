//! Stacks of the current task, into its record.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_stack, bpf_get_task_stack},
    programs::PerfEventContext,
};
use cputrace_common::sample::{End, MAX_KERNEL_FRAMES, REGISTERS};

use crate::{
    config,
    sample::Record,
    task::Task,
    unwind::{self, unwind_off_cpu, unwind_on_cpu},
};

/// Frames of an interrupt, from where it wakes a thread to its entry.
const MAX_INTERRUPT_FRAMES: usize = 48;

/// Bytes of a frame as the kernel's helper counts them.
const FRAME: i64 = 8;

/// Of a tick of the clock, which can have hit user code: appends the kernel's frames and then the user's, leaf first.
#[inline(always)]
pub(crate) fn take(ctx: &PerfEventContext, record: &mut Record) {
    (record.header.kernel_frames, record.header.user_frames) = (0, 0);
    let registers = ctx.as_ptr().cast_const().cast();
    let code_segment = unwind::code_segment(registers);
    if !unwind::is_user(code_segment) {
        take_kernel(ctx.as_ptr(), record);
    }
    let known = unwind::start(registers, code_segment, record);
    take_user(record, known, || unwind_on_cpu());
}

/// Of an op that the CPU tagged: its address is exact, and the other registers are those of the interrupt that came a moment
/// later. So the callers are those of the interrupt, and the op's address takes the place of its leaf.
#[inline(always)]
pub(crate) fn take_at_op(ctx: &PerfEventContext, record: &mut Record) {
    (record.header.kernel_frames, record.header.user_frames) = (0, 0);
    let registers = ctx.as_ptr().cast_const().cast();
    let (code_segment, address) = unwind::place(registers);
    let is_user = unwind::is_user(code_segment);
    if !is_user {
        take_kernel(ctx.as_ptr(), record);
    }
    let known = unwind::start_in_kernel(record);
    take_user(record, known, || unwind_on_cpu());
    if is_user && record.header.user_frames > 0 {
        record.frames[0] = address;
    }
}

/// Of a program that the kernel runs for itself, in the current task.
#[inline(always)]
pub(crate) fn take_in_kernel(ctx: *mut c_void, record: &mut Record) {
    (record.header.kernel_frames, record.header.user_frames) = (0, 0);
    take_kernel(ctx, record);
    let known = unwind::start_in_kernel(record);
    take_user(record, known, || unwind_off_cpu());
}

/// Of a tracepoint's program, in the current task, which shares the record of the clock's.
#[inline(always)]
pub(crate) fn take_at_tracepoint(ctx: *mut c_void, record: &mut Record) {
    (record.header.kernel_frames, record.header.user_frames) = (0, 0);
    take_kernel(ctx, record);
    let known = unwind::start_in_kernel(record);
    take_user(record, known, || unwind_on_cpu());
}

/// Of a program that wakes a thread: where it runs in an interrupt, the frames of that alone, for the task that was interrupted
/// has nothing to do with it.
#[inline(always)]
pub(crate) fn take_of_waker(ctx: *mut c_void, record: &mut Record) {
    (record.header.kernel_frames, record.header.user_frames) = (0, 0);
    take_kernel(ctx, record);
    let (start, length) =
        (config::interrupts_start(), config::interrupts_end().wrapping_sub(config::interrupts_start()));
    for frame in 0..MAX_INTERRUPT_FRAMES {
        if frame >= usize::from(record.header.kernel_frames) {
            break;
        }
        if record.frames[frame].wrapping_sub(start) < length {
            record.header.kernel_frames = frame as u16 + 1;
            (record.header.end, record.header.guessed) = (End::NoUserStack as u32, 0);
            return;
        }
    }
    let known = unwind::start_in_kernel(record);
    take_user(record, known, || unwind_off_cpu());
}

/// Of a task that is on no CPU: the kernel's frames and the user registers, for its memory is not at hand.
#[inline(always)]
pub(crate) fn take_of(task: Task, record: &mut Record) {
    let frames = (&raw mut record.frames).cast::<c_void>();
    // SAFETY: the helper writes at most the given size, which `frames` has.
    let bytes = unsafe { bpf_get_task_stack(task.0.cast_mut().cast(), frames, (MAX_KERNEL_FRAMES * 8) as u32, 0) };
    let frames = if bytes > 0 { bytes / FRAME } else { 0 };
    record.header.kernel_frames = (frames as usize).min(MAX_KERNEL_FRAMES) as u16;
    let end = unwind::start_of(task, record);
    (record.header.user_frames, record.header.guessed) = (0, 0);
    record.header.end = end.unwrap_or(End::TableNotReady) as u32;
    if end.is_none() {
        record.header.user_frames = REGISTERS as u16;
        let first = usize::from(record.header.kernel_frames) & MAX_KERNEL_FRAMES;
        let state = &record.unwind.state;
        record.frames[first + REGISTERS - 1] = state.pc;
        for register in 0..REGISTERS - 1 {
            record.frames[first + register] = state.registers[register];
        }
    }
}

#[inline(always)]
fn take_kernel(ctx: *mut c_void, record: &mut Record) {
    let frames = (&raw mut record.frames).cast::<c_void>();
    // SAFETY: the helper writes at most the given size, which `frames` has.
    let bytes = unsafe { bpf_get_stack(ctx, frames, (MAX_KERNEL_FRAMES * 8) as u32, 0) };
    let frames = if bytes > 0 { bytes / FRAME } else { 0 };
    record.header.kernel_frames = (frames as usize).min(MAX_KERNEL_FRAMES) as u16;
}

#[inline(always)]
fn take_user(record: &mut Record, known: Option<End>, next_frame: impl Fn() -> u32) {
    let (end, guessed) = match known {
        Some(end) => (end, 0),
        None => (unwind::unwind(record, next_frame), record.unwind.state.guessed as u32),
    };
    (record.header.end, record.header.guessed) = (end as u32, guessed);
}
