//! The step from a frame to its caller.

use super::table::{BLOCK_SHIFT, CHUNK_WORDS, MAX_RANGES, Range, Ranges, Rule, Table, cfa, rbp, table_flags};
use crate::sample::End;

/// What a step needs of the world. All of it is on the hot path.
pub trait Machine {
    /// A word of the process's memory.
    fn read(&mut self, address: u64) -> Option<u64>;
    /// The mapping that the address lies in, and its table.
    fn range(&mut self, address: u64) -> Found;
    /// A chunk of the pool: [`CHUNK_WORDS`] words.
    fn chunk(&mut self, index: u32) -> Option<*const u32>;
    /// A word of the process's code, which is not worth a copy of all that lies around it.
    fn read_code(&mut self, address: u64) -> Option<u64>;
}

/// Where an address lies.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// In a file.
    File(Range, Table),
    /// In none.
    NoFile,
    /// The process's mappings are not known.
    Unknown,
}

/// A frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Its instruction: the interrupted one, or the address that its callee returns to.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Its rbp.
    pub bp: u64,
    /// All registers by DWARF's numbers, of the innermost frame only.
    pub registers: [u64; 16],
    /// Not 0: `registers` hold.
    pub innermost: u32,
    /// Not 0: `pc` is exact, and not the address after a call.
    pub exact: u32,
    /// How many frames were found by frame pointer where nothing says that the code keeps them.
    pub guessed: u32,
    /// Words that were looked at in search of a return address.
    pub searched: u32,
    /// The last mapping, which most often is the next one too.
    pub range: Range,
    /// Its table.
    pub table: Table,
}

const RBP: u8 = 6;
const RSP: u8 = 7;

/// Offsets in the frame that a signal handler returns to: `struct ucontext` lies at its stack pointer, `uc_mcontext`
/// 40 bytes into it, in the order of the kernel's `struct sigcontext_64`.
const SIGNAL_RBP: u64 = 40 + 80;
const SIGNAL_RSP: u64 = 40 + 120;
const SIGNAL_RIP: u64 = 40 + 128;

/// Words above the stack pointer that are searched for a return address, where nothing else is known.
const MAX_SEARCHED: u32 = 160;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The state is its caller now.
    Caller,
    /// Nothing yet: take another step.
    Again,
    /// The stack ended.
    End(End),
}

/// Makes `state` its caller.
#[inline(always)]
pub fn step<M: Machine>(state: &mut State, machine: &mut M) -> Step {
    // A call at a function's very end returns to the next function.
    let pc = if state.exact != 0 { state.pc } else { state.pc.wrapping_sub(1) };
    if pc.wrapping_sub(state.range.start) >= state.range.end.wrapping_sub(state.range.start) {
        match machine.range(pc) {
            Found::File(range, table) => (state.range, state.table) = (range, table),
            // Memory without a file: a JIT compiler's, which most often keeps frame pointers.
            Found::NoFile => return by_frame_pointer(state, machine, End::NoJitInfo),
            Found::Unknown => return Step::End(End::TableNotReady),
        }
    }
    if state.table.flags & table_flags::READY == 0 {
        return Step::End(End::TableNotReady);
    }
    let offset = pc.wrapping_sub(state.range.bias).wrapping_sub(state.table.text_start);
    let rule = match rule_at(&state.table, offset, machine) {
        Some(rule) => rule,
        None => Rule::GAP,
    };
    match rule.cfa_kind {
        cfa::GAP if state.table.flags & table_flags::FRAME_POINTERS != 0 => {
            by_frame_pointer(state, machine, End::NoUnwindInfo)
        }
        // Hand-written assembler, most often.
        cfa::GAP => by_search(state, machine),
        cfa::END => Step::End(End::Complete),
        cfa::SIGNAL => by_signal_frame(state, machine),
        _ => by_rule(state, machine, rule),
    }
}

/// The rule in force at an offset in the text.
#[inline(always)]
fn rule_at<M: Machine>(table: &Table, offset: u64, machine: &mut M) -> Option<Rule> {
    let block = offset >> BLOCK_SHIFT;
    if block >= u64::from(table.blocks) {
        return None;
    }
    let position = table.first_block.wrapping_add(block as u32 * 2);
    let (rows, count) = {
        let chunk = machine.chunk(position / CHUNK_WORDS as u32)?;
        let at = position as usize & (CHUNK_WORDS - 2);
        // SAFETY: `at + 1` is within the chunk, for `at` is even and masked.
        unsafe { (*chunk.add(at), *chunk.add(at + 1)) }
    };
    let number =
        if count == 0 { rows } else { search(rows, count, offset as u32 & ((1 << BLOCK_SHIFT) - 1), machine)? };
    let position = table.first_rule.wrapping_add((number & 0xffff) * 2);
    let chunk = machine.chunk(position / CHUNK_WORDS as u32)?;
    let at = position as usize & (CHUNK_WORDS - 2);
    // SAFETY: as above.
    unsafe { Some(Rule::from_words(*chunk.add(at), *chunk.add(at + 1))) }
}

/// The rule of the last of `count` rows that begins at `offset` or before it.
#[inline(always)]
fn search<M: Machine>(rows: u32, count: u32, offset: u32, machine: &mut M) -> Option<u32> {
    let chunk = machine.chunk(rows / CHUNK_WORDS as u32)?;
    let base = rows as usize & (CHUNK_WORDS - 1);
    let mut low = 0_i64;
    let mut step = 1_i64 << BLOCK_SHIFT;
    // Without branches, for the verifier follows both sides of each: a mask says whether to take the step.
    while step > 1 {
        step >>= 1;
        let probe = low + step;
        // SAFETY: the index is masked. Beyond `count` it may be another table's row, which the mask leaves out.
        let row = unsafe { *chunk.add((base + probe as usize) & (CHUNK_WORDS - 1)) };
        let begins = i64::from(row & 0xffff);
        // Negative where the probe is beyond the rows or begins after the offset.
        let refused = (i64::from(count) - 1 - probe) | (i64::from(offset) - begins);
        low += step & !(refused >> 63);
    }
    // SAFETY: as above.
    let row = unsafe { *chunk.add((base + low as usize) & (CHUNK_WORDS - 1)) };
    Some(row >> 16)
}

/// By a row.
#[inline(always)]
fn by_rule<M: Machine>(state: &mut State, machine: &mut M, rule: Rule) -> Step {
    let Rule { cfa_kind, rbp_kind, rbp_offset, cfa_offset } = rule;
    let register = match cfa_kind & 15 {
        _ if cfa_kind == cfa::PLT || cfa_kind >= cfa::RETURN_REGISTER => state.sp,
        RSP => state.sp,
        RBP => state.bp,
        _ if state.innermost == 0 => return Step::End(End::NoUnwindInfo),
        number => state.registers[number as usize & 15],
    };
    let cfa = if cfa_kind == cfa::PLT {
        register.wrapping_add(8).wrapping_add(if (state.pc & 15) as i64 >= i64::from(cfa_offset) { 8 } else { 0 })
    } else if cfa_kind & !15 == cfa::DEREF {
        let (before, after) = (cfa_offset as i16, cfa_offset >> 16);
        let Some(loaded) = machine.read(register.wrapping_add_signed(before.into())) else {
            return Step::End(End::Fault);
        };
        loaded.wrapping_add_signed(after.into())
    } else {
        register.wrapping_add_signed(cfa_offset.into())
    };
    let pc = if cfa_kind >= cfa::RETURN_REGISTER {
        if state.innermost == 0 {
            return Step::End(End::NoUnwindInfo);
        }
        state.registers[cfa_kind as usize & 15]
    } else {
        // A caller's frame lies above its callee's.
        if cfa <= state.sp {
            return Step::End(End::Fault);
        }
        let Some(pc) = machine.read(cfa.wrapping_sub(8)) else { return Step::End(End::Fault) };
        pc
    };
    let saved_at = match rbp_kind {
        rbp::AT_CFA => cfa.wrapping_add_signed(rbp_offset.into()),
        rbp::AT_RBP => state.bp.wrapping_add_signed(rbp_offset.into()),
        _ => 0,
    };
    if saved_at != 0 {
        let Some(saved) = machine.read(saved_at) else { return Step::End(End::Fault) };
        state.bp = saved;
    } else if rbp_kind == rbp::UNDEFINED {
        state.bp = 0;
    }
    arrive(state, pc, cfa)
}

/// By the chain of frame pointers: `failed` says how the stack ends where there is none.
#[inline(always)]
fn by_frame_pointer<M: Machine>(state: &mut State, machine: &mut M, failed: End) -> Step {
    let bp = state.bp;
    // A thread's outermost frame has none.
    if bp == 0 {
        return Step::End(if state.innermost != 0 { failed } else { End::Complete });
    }
    if bp < state.sp || bp & 7 != 0 {
        return Step::End(failed);
    }
    let (Some(pc), Some(saved)) = (machine.read(bp.wrapping_add(8)), machine.read(bp)) else {
        return Step::End(failed);
    };
    state.guessed = state.guessed.wrapping_add(1);
    state.bp = saved;
    arrive(state, pc, bp.wrapping_add(16))
}

/// By the first word on the stack that a call can have put there: it lies in code, behind a call.
#[inline(always)]
fn by_search<M: Machine>(state: &mut State, machine: &mut M) -> Step {
    state.searched = state.searched.wrapping_add(1);
    if state.searched > MAX_SEARCHED {
        return Step::End(End::NoUnwindInfo);
    }
    let sp = state.sp;
    let Some(word) = machine.read(sp) else { return Step::End(End::Fault) };
    state.sp = sp.wrapping_add(8);
    let Found::File(..) = machine.range(word.wrapping_sub(1)) else { return Step::Again };
    let Some(code) = machine.read_code(word.wrapping_sub(8)) else { return Step::Again };
    if !ends_with_call(code) {
        return Step::Again;
    }
    state.guessed = state.guessed.wrapping_add(1);
    arrive(state, word, sp.wrapping_add(8))
}

/// Whether the eight bytes before a return address end with a call: direct, or through a register or memory.
#[inline(always)]
fn ends_with_call(code: u64) -> bool {
    let byte = |from_end: u32| (code >> (64 - 8 * from_end)) & 0xff;
    let indirect = |length: u32| byte(length) == 0xff && (byte(length - 1) >> 3) & 7 == 2;
    byte(5) == 0xe8 || indirect(2) || indirect(3) || indirect(4) || indirect(6) || indirect(7)
}

/// Out of a signal handler, into the interrupted code.
#[inline(always)]
fn by_signal_frame<M: Machine>(state: &mut State, machine: &mut M) -> Step {
    let sp = state.sp;
    let (Some(pc), Some(bp), Some(interrupted_sp)) = (
        machine.read(sp.wrapping_add(SIGNAL_RIP)),
        machine.read(sp.wrapping_add(SIGNAL_RBP)),
        machine.read(sp.wrapping_add(SIGNAL_RSP)),
    ) else {
        return Step::End(End::Fault);
    };
    state.bp = bp;
    let step = arrive(state, pc, interrupted_sp);
    state.exact = 1;
    step
}

#[inline(always)]
fn arrive(state: &mut State, pc: u64, sp: u64) -> Step {
    (state.innermost, state.exact) = (0, 0);
    (state.pc, state.sp) = (pc, sp);
    if pc == 0 { Step::End(End::Complete) } else { Step::Caller }
}

/// The index of the range that the address lies in.
///
/// # Safety
///
/// `ranges` points to a whole [`Ranges`].
#[inline(always)]
pub unsafe fn find_range(ranges: *const Ranges, address: u64) -> Option<usize> {
    let mut low = 0_i64;
    let mut step = MAX_RANGES as i64;
    while step > 1 {
        step >>= 1;
        let probe = low + step;
        // SAFETY: the caller's promise, and the index is masked.
        let start = unsafe { (*ranges).ranges[probe as usize & (MAX_RANGES - 1)].start };
        // User addresses have 63 bits at most, and unused ranges begin at -1: the sign tells.
        let refused = (address as i64).wrapping_sub((start & (u64::MAX >> 1)) as i64);
        low += step & !(refused >> 63);
    }
    let index = low as usize & (MAX_RANGES - 1);
    // SAFETY: as above.
    let range = unsafe { &(*ranges).ranges[index] };
    if address.wrapping_sub(range.start) < range.end.wrapping_sub(range.start) { Some(index) } else { None }
}
