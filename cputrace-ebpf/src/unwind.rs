//! User stacks: [`cputrace_common::unwind::step`] with the kernel's memory and tables.
//!
//! The loop calls a global function, which the verifier checks once, however often it runs. Such a function takes no
//! pointers: the state is in the CPU's record. Stack memory is copied in windows, for one helper call for each word
//! would cost more than all the rest; a window never crosses a page's end, behind which there may be nothing.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_current_task, bpf_probe_read_kernel, bpf_probe_read_user as bpf_probe_read_user_word,
        generated::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs},
    },
    programs::PerfEventContext,
};
use cputrace_common::{
    sample::{End, MAX_USER_FRAMES},
    unwind::{
        step::{Found, Machine, State, Step, find_range, step},
        table::{MAX_TABLES, Range},
    },
};

use crate::{config, maps, sample::Record};

/// Bytes of stack that are copied at a time.
pub(crate) const WINDOW: usize = 2048;
const PAGE: u64 = 4096;

/// A copied piece of the stack, and room for a word at its very end.
#[repr(C)]
pub(crate) struct Window {
    start: u64,
    length: u64,
    bytes: [u8; WINDOW + 8],
}

/// Takes a frame from registers; `$read` is how each is loaded.
macro_rules! fill {
    ($state:expr, $registers:expr, $read:path) => {{
        let registers: *const pt_regs = $registers;
        macro_rules! register {
            ($name:ident) => {{
                // SAFETY: the callers' pointers are to whole registers.
                unsafe { $read(&raw const (*registers).$name) }
            }};
        }
        // DWARF's order.
        $state.registers = [
            register!(rax),
            register!(rdx),
            register!(rcx),
            register!(rbx),
            register!(rsi),
            register!(rdi),
            register!(rbp),
            register!(rsp),
            register!(r8),
            register!(r9),
            register!(r10),
            register!(r11),
            register!(r12),
            register!(r13),
            register!(r14),
            register!(r15),
        ];
        ($state.pc, $state.sp, $state.bp) = (register!(rip), $state.registers[7], $state.registers[6]);
        ($state.innermost, $state.exact) = (1, 1);
        ($state.guessed, $state.searched) = (0, 0);
        $state.range = Range { start: 0, end: 0, bias: 0, table: 0, reserved: 0 };
    }};
}

/// Appends the user stack of the current task behind `record.header.kernel_frames`.
#[inline(always)]
pub(crate) fn user_stack(ctx: &PerfEventContext, record: &mut Record) {
    record.header.user_frames = 0;
    record.header.end = End::NoUserStack as u32;
    if !start(ctx, &mut record.state) {
        return;
    }
    record.window.start = 0;
    record.window.length = 0;
    record.push_user(record.state.pc);
    let mut end = End::Truncated as u32;
    for _ in 0..MAX_USER_FRAMES {
        let outcome = unwind_step();
        if outcome != 0 {
            end = outcome;
            break;
        }
    }
    record.header.end = end;
}

/// One step of the on-CPU program's record: 0, or how the stack ended.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unwind_step() -> u32 {
    let Some(record) = maps::ON_CPU_RECORD.get_ptr_mut(0) else { return End::Fault as u32 };
    // SAFETY: this CPU's element, which `busy` keeps for the program that called.
    let record = unsafe { &mut *record };
    let mut kernel = Kernel { window: &mut record.window, tgid: record.header.tgid };
    match step(&mut record.state, &mut kernel) {
        Step::Caller => {}
        Step::Again => return 0,
        Step::End(end) => return end as u32,
    }
    if record.header.user_frames as usize >= MAX_USER_FRAMES {
        return End::Truncated as u32;
    }
    record.push_user(record.state.pc);
    0
}

/// The registers with which the task left, or was interrupted in, user space; false for a kernel thread.
#[inline(always)]
fn start(ctx: &PerfEventContext, state: &mut State) -> bool {
    // SAFETY: the context of a perf event program begins with the interrupted registers.
    let interrupted = unsafe { &raw const (*ctx.ctx).regs };
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const (*interrupted).cs) } & 3 == 3 {
        // Volatile, so that the compiler does not share these loads with those below: the verifier wants each load
        // to be of one kind of pointer.
        fill!(state, interrupted, core::ptr::read_volatile);
        return true;
    }
    if config::has_task_pt_regs() != 0 {
        // SAFETY: helpers of Linux 5.15; the registers of the current task stay where they are.
        let saved = unsafe { &*(bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs) };
        // A kernel thread's are zeros.
        if saved.cs & 3 != 3 {
            return false;
        }
        fill!(state, saved, core::ptr::read);
        return true;
    }
    // Before, they lie at the end of the task's kernel stack.
    const THREAD_SIZE: u64 = 16 * 1024;
    // SAFETY: the helper checks the addresses.
    let saved = unsafe {
        let task = bpf_get_current_task() as *const u8;
        let Ok(stack) = bpf_probe_read_kernel(task.add(config::task_stack() as usize).cast::<u64>()) else {
            return false;
        };
        bpf_probe_read_kernel((stack + THREAD_SIZE - size_of::<pt_regs>() as u64) as *const pt_regs)
    };
    match saved {
        Ok(saved) if saved.cs & 3 == 3 => {
            fill!(state, &raw const saved, core::ptr::read);
            true
        }
        _ => false,
    }
}

struct Kernel<'a> {
    window: &'a mut Window,
    tgid: u32,
}

impl Machine for Kernel<'_> {
    #[inline(always)]
    fn read(&mut self, address: u64) -> Option<u64> {
        let mut offset = address.wrapping_sub(self.window.start);
        if offset.wrapping_add(8) > self.window.length || offset > WINDOW as u64 {
            let to_page_end = PAGE - (address & (PAGE - 1));
            let length = if to_page_end < WINDOW as u64 { to_page_end } else { WINDOW as u64 };
            // A word that crosses the page's end by itself.
            let length = if length < 8 { 8 } else { length };
            let to = (&raw mut self.window.bytes).cast::<c_void>();
            // SAFETY: at most WINDOW bytes, which the buffer has; the helper checks the address.
            if unsafe { bpf_probe_read_user(to, length as u32, address as *const c_void) } != 0 {
                self.window.length = 0;
                return None;
            }
            (self.window.start, self.window.length) = (address, length);
            offset = 0;
        }
        let at = (offset & (WINDOW as u64 - 1)) as usize;
        // SAFETY: masked, and the buffer has 8 bytes more.
        Some(unsafe { (&raw const self.window.bytes).cast::<u8>().add(at).cast::<u64>().read_unaligned() })
    }

    #[inline(always)]
    fn range(&mut self, address: u64) -> Found {
        let Some(ranges) = maps::PROCESSES.get_ptr(self.tgid) else { return Found::Unknown };
        // SAFETY: a whole value of the map.
        let Some(index) = (unsafe { find_range(ranges, address) }) else { return Found::NoFile };
        // SAFETY: as above, and the index is within it.
        let range = unsafe { (*ranges).ranges[index] };
        let Some(table) = maps::TABLES.get_ptr(range.table & (MAX_TABLES - 1)) else { return Found::Unknown };
        // SAFETY: a whole value of the map.
        Found::File(range, unsafe { *table })
    }

    #[inline(always)]
    fn chunk(&mut self, index: u32) -> Option<*const u32> {
        maps::POOL.get_value_ptr_mut(index, &0).map(|chunk| chunk.cast::<u32>().cast_const())
    }

    #[inline(always)]
    fn read_code(&mut self, address: u64) -> Option<u64> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user_word(address as *const u64) }.ok()
    }
}
