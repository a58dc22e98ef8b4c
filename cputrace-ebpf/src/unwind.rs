//! The place that the unwind step runs in: the task's memory in windows, its ranges and their tables from maps.
//!
//! One step is a *global* function of the object: the verifier then checks it once, and not for each of 512 frames.
//! Such a function can be given nothing that it could trust, so it takes no argument and finds its state in the record of
//! its CPU. An argument that it did not use would be left undefined by LLVM, which the verifier does not take either.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, bpf_perf_event_data, pt_regs},
    helpers::generated::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user, bpf_ringbuf_output,
        bpf_task_pt_regs,
    },
};
use cputrace_common::{
    config::{CHUNKS_GROUP, RANGES_GROUP},
    sample::{End, MAX_USER_FRAMES},
    unwind::{
        range::{NO_RANGES, PATIENCE_MS, Process, Question, Range},
        step::{Machine, State},
        table::Chunk,
    },
};

use crate::{
    budget, config,
    maps::{CHUNKS, OFF_CPU_RECORD, ON_CPU_RECORD, PROCESSES, QUESTIONS, RANGES},
    sample::{MAX_FRAMES, Record},
    task::Task,
};

/// Words of a window: 2 KiB were the fastest.
const WINDOW_WORDS: usize = 256;

/// Bytes of a page, and of all smaller ones.
const PAGE_BYTES: u64 = 4096;

/// `THREAD_SIZE` of x86-64 kernels, at whose end the user's registers are.
const THREAD_BYTES: u64 = 16384;

/// Selectors of code segments: the two low bits are 3 in user space, which 64-bit code has this one.
const USER_CODE_64: u64 = 0x33;

/// What the loop's function returns while there are more frames: no way to end has this number.
const GO_ON: u32 = u32::MAX;

/// The unwinder's part of a record.
#[repr(C)]
pub(crate) struct Unwind {
    pub(crate) state: State,
    memory: Memory,
    registers: pt_regs,
}

/// A piece of the task's memory.
#[repr(C)]
struct Memory {
    /// Its address, a multiple of 8.
    start: u64,
    /// How many bytes of it are there.
    bytes: u64,
    /// Number of the process's ranges.
    slot: u64,
    window: [u64; WINDOW_WORDS],
}

impl Machine for Memory {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.start);
        if address & 7 != 0 || offset >= self.bytes {
            return self.fetch(address);
        }
        Some(self.window[(offset / 8) as usize & (WINDOW_WORDS - 1)])
    }

    #[inline(always)]
    fn code(&mut self, address: u64) -> Option<u64> {
        read_word(address)
    }

    #[inline(always)]
    fn find_range(&mut self, address: u64, range: &mut Range) -> bool {
        let slot = self.slot as u32;
        let Some([ranges]) = RANGES.get_value(slot / RANGES_GROUP, &(slot % RANGES_GROUP)) else { return false };
        let found = ranges.search(address);
        if !found.contains(address) {
            return false;
        }
        *range = *found;
        true
    }

    #[inline(always)]
    fn chunk(&self, slot: u32) -> Option<&Chunk> {
        CHUNKS.get_value(slot / CHUNKS_GROUP, &(slot % CHUNKS_GROUP))
    }
}

impl Memory {
    /// Moves the window to an address. Never across the end of a page: what is read is there, but what follows it may not
    /// be, and a read that faults takes ten times as long.
    #[inline(always)]
    fn fetch(&mut self, address: u64) -> Option<u64> {
        if address & 7 != 0 {
            return read_word(address);
        }
        let bytes = (PAGE_BYTES - address % PAGE_BYTES).min(size_of_val(&self.window) as u64);
        self.bytes = 0;
        // SAFETY: the helper writes at most the window's size.
        let status = unsafe { bpf_probe_read_user((&raw mut self.window).cast(), bytes as u32, address as *const _) };
        if status != 0 {
            return None;
        }
        self.start = address;
        self.bytes = bytes;
        Some(self.window[0])
    }
}

#[inline(always)]
fn read_word(address: u64) -> Option<u64> {
    let mut word = 0_u64;
    // SAFETY: the helper writes the eight bytes of `word`, and checks the address.
    let status = unsafe { bpf_probe_read_user((&raw mut word).cast(), 8, address as *const _) };
    if status == 0 { Some(word) } else { None }
}

/// Appends the user's frames to a record; `next_frame` is the global function for this record.
#[inline(always)]
pub(crate) fn unwind(record: &mut Record, next_frame: impl Fn() -> u32) -> End {
    let slot = match PROCESSES.get_ptr(record.header.tgid) {
        // SAFETY: a pointer from the map; userspace may change the value, which is one word.
        Some(process) => unsafe { (*process).slot },
        None => NO_RANGES,
    };
    let unwind = &mut record.unwind;
    unwind.memory.bytes = 0;
    unwind.memory.slot = slot.into();
    unwind.state.range.length = 0;
    (unwind.state.guessed, unwind.state.searched, unwind.state.searching) = (0, 0, 0);
    let mut end = GO_ON;
    for _ in 0..MAX_USER_FRAMES {
        end = next_frame();
        if end != GO_ON {
            break;
        }
    }
    let end = if end == GO_ON { End::Truncated } else { End::from_u32(end).unwrap_or(End::Fault) };
    if end as u32 == End::TableNotReady as u32 {
        ask(record);
    }
    end
}

/// One frame of the on-CPU sample that is being put together on this CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn unwind_on_cpu() -> u32 {
    let Some(record) = ON_CPU_RECORD.get_ptr_mut(0) else { return End::Fault as u32 };
    // SAFETY: this CPU's element; its `busy` keeps programs that interrupt this one out of it.
    frame(unsafe { &mut *record })
}

/// The same of the scheduler's sample.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn unwind_off_cpu() -> u32 {
    let Some(record) = OFF_CPU_RECORD.get_ptr_mut(0) else { return End::Fault as u32 };
    // SAFETY: as above.
    frame(unsafe { &mut *record })
}

/// Notes the frame that the state is at and goes to its caller's.
#[inline(always)]
fn frame(record: &mut Record) -> u32 {
    let at = record.header.kernel_frames as usize + record.header.user_frames as usize;
    if at >= MAX_FRAMES {
        return End::Truncated as u32;
    }
    if record.unwind.state.searching == 0 {
        record.frames[at] = record.unwind.state.pc;
        record.header.user_frames += 1;
    }
    let Unwind { state, memory, .. } = &mut record.unwind;
    match state.step(memory) {
        Some(end) => end as u32,
        None => GO_ON,
    }
}

/// Asks userspace about the process whose stack ended for want of ranges or of a table, with growing patience.
#[inline(always)]
fn ask(record: &Record) {
    let now_ns = record.header.time_ns;
    let tgid = record.header.tgid;
    let first = *PATIENCE_MS.start();
    if let Some(process) = PROCESSES.get_ptr_mut(tgid) {
        // SAFETY: a pointer from the map. Another CPU may write too: the worst is a question twice.
        let process = unsafe { &mut *process };
        if now_ns.wrapping_sub(process.asked_ns) < u64::from(process.patience_ms) * 1_000_000 {
            return;
        }
        process.asked_ns = now_ns;
        process.patience_ms = (process.patience_ms * 2).clamp(first, *PATIENCE_MS.end());
    } else {
        // If there is no room it is asked again each time.
        let _ = PROCESSES.insert(tgid, Process { slot: NO_RANGES, patience_ms: first, asked_ns: now_ns }, 0);
    }
    send(&Question { address: record.unwind.state.pc, tgid, slot: record.unwind.memory.slot as u32 });
}

/// A process ended, or runs another program now.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    // Not there is what was wanted.
    let _ = PROCESSES.remove(tgid);
}

/// A child begins with its parent's memory. Only until userspace gives it ranges of its own, for the parent's may make
/// way for others once it ends: without the question that asks for them it gets none.
#[inline(always)]
pub(crate) fn inherit(parent: u32, child: u32) {
    let slot = match PROCESSES.get_ptr(parent) {
        // SAFETY: a pointer from the map; the value is one word.
        Some(process) => unsafe { (*process).slot },
        None => return,
    };
    if slot != NO_RANGES && announce(child) {
        let asked = Process { slot, patience_ms: *PATIENCE_MS.start(), asked_ns: 0 };
        // Where there is no room, userspace will try.
        let _ = PROCESSES.insert(child, asked, 0);
    }
}

/// A target runs a new program: userspace can get its tables ready before the first sample. Whether it is asked to.
#[inline(always)]
pub(crate) fn announce(tgid: u32) -> bool {
    budget::welcomes() && send(&Question { address: 0, tgid, slot: NO_RANGES })
}

#[inline(always)]
fn send(question: &Question) -> bool {
    // SAFETY: the helper reads the question.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const QUESTIONS).cast_mut().cast(),
            core::ptr::from_ref(question).cast_mut().cast(),
            size_of::<Question>() as u64,
            BPF_RB_FORCE_WAKEUP.into(),
        )
    };
    status == 0
}

/// Sets the state to where user code was interrupted: `ctx` if there it was (`is_user`), otherwise where it called the
/// kernel. Ends that are known already: there is no user stack, or it is one of 32-bit code.
#[inline(always)]
pub(crate) fn start(ctx: *const bpf_perf_event_data, code_segment: u64, record: &mut Record) -> Option<End> {
    if !is_user(code_segment) {
        return start_in_kernel(record);
    }
    // SAFETY: the context of a perf event program has registers; the verifier checks each load.
    unsafe { set(&mut record.unwind.state, &raw const (*ctx).regs) };
    end_of(code_segment)
}

/// Sets the state to where user code called the kernel.
#[inline(always)]
pub(crate) fn start_in_kernel(record: &mut Record) -> Option<End> {
    // SAFETY: a helper without arguments. Linux 5.11.
    let kept = || unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
    // SAFETY: as above.
    start_at(record, kept, || unsafe { bpf_get_current_task() } as *const u8)
}

/// The same of a task that is on no CPU.
#[inline(always)]
pub(crate) fn start_of(task: Task, record: &mut Record) -> Option<End> {
    // SAFETY: the verifier knows the task.
    let kept = || unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const pt_regs;
    start_at(record, kept, || task.0)
}

#[inline(always)]
fn start_at(
    record: &mut Record,
    kept: impl FnOnce() -> *const pt_regs,
    task: impl FnOnce() -> *const u8,
) -> Option<End> {
    let Unwind { state, registers, .. } = &mut record.unwind;
    let at = user_registers(kept, task);
    // SAFETY: the helper checks the address, and writes no more than `registers` has.
    let status = unsafe { bpf_probe_read_kernel((&raw mut *registers).cast(), size_of::<pt_regs>() as u32, at.cast()) };
    if status != 0 {
        return Some(End::NoUserStack);
    }
    // SAFETY: `registers` is ours, and filled.
    unsafe { set(state, &raw const *registers) };
    end_of(registers.cs)
}

#[inline(always)]
fn end_of(code_segment: u64) -> Option<End> {
    match code_segment {
        USER_CODE_64 => None,
        code if is_user(code) => Some(End::NoUnwindInfo),
        // A kernel thread has none: its registers are zeros.
        _ => Some(End::NoUserStack),
    }
}

/// The selector of the code that the sample hit. Read once: the verifier takes loads from the context only at constant
/// offsets, and LLVM would keep the address for a second one.
#[inline(always)]
pub(crate) fn code_segment(ctx: *const bpf_perf_event_data) -> u64 {
    // SAFETY: the context of a perf event program has registers; the verifier checks the load.
    unsafe { (*ctx).regs.cs }
}

/// The same with its address.
#[inline(always)]
pub(crate) fn place(ctx: *const bpf_perf_event_data) -> (u64, u64) {
    // SAFETY: as above.
    unsafe { ((*ctx).regs.cs, (*ctx).regs.rip) }
}

/// Whether it is user code.
#[inline(always)]
pub(crate) fn is_user(code_segment: u64) -> bool {
    code_segment & 3 == 3
}

/// Where a task's user registers are kept while it is in the kernel: the kernel's helper says so from Linux 5.15 on, before
/// that they are at the end of the task's stack.
#[inline(always)]
fn user_registers(kept: impl FnOnce() -> *const pt_regs, task: impl FnOnce() -> *const u8) -> *const pt_regs {
    match config::has_task_pt_regs() {
        1.. => kept(),
        0 => {
            let mut stack = 0_u64;
            // SAFETY: the helper checks the address; after a failure the stack is at 0, which nobody can read.
            unsafe {
                let from = task().add(config::task_stack() as usize);
                bpf_probe_read_kernel((&raw mut stack).cast(), 8, from.cast());
            }
            stack.wrapping_add(THREAD_BYTES - size_of::<pt_regs>() as u64) as *const pt_regs
        }
    }
}

/// # Safety
/// `from` can be read.
#[inline(always)]
unsafe fn set(state: &mut State, from: *const pt_regs) {
    // By DWARF number. SAFETY: the caller's promise.
    unsafe {
        let registers = &mut state.registers;
        registers[0] = (*from).rax;
        registers[1] = (*from).rdx;
        registers[2] = (*from).rcx;
        registers[3] = (*from).rbx;
        registers[4] = (*from).rsi;
        registers[5] = (*from).rdi;
        registers[6] = (*from).rbp;
        registers[7] = (*from).rsp;
        registers[8] = (*from).r8;
        registers[9] = (*from).r9;
        registers[10] = (*from).r10;
        registers[11] = (*from).r11;
        registers[12] = (*from).r12;
        registers[13] = (*from).r13;
        registers[14] = (*from).r14;
        registers[15] = (*from).r15;
        state.pc = (*from).rip;
        state.interrupted = 1;
    }
}
