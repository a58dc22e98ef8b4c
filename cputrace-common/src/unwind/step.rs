//! One frame further: by a table's rule, or by the frame pointer where there is none.

use super::range::{FRAME_POINTERS, JIT, NO_INFO, Range, TABLE};
use super::table::{BLOCK_SHIFT, CHUNK_WORDS, Chunk, LOW_BITS, LOW_MASK, Rule, kind, rbp_kind, register, search};
use crate::sample::End;

/// What the step needs of the place it runs in.
pub trait Machine {
    /// The eight bytes at an address of the process; `None` if they cannot be read.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// The same of its code, which is not worth a copy of what lies around it.
    fn code(&mut self, address: u64) -> Option<u64>;
    /// Puts the range around an address into `range`; false if there is none.
    fn find_range(&mut self, address: u64, range: &mut Range) -> bool;
    /// A chunk of a table, by its number.
    fn chunk(&self, slot: u32) -> Option<&Chunk>;
}

/// The registers of a frame, and what the next step can use of the last one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// General registers by their DWARF numbers. Of frames that called another one, only rsp and rbp are known.
    pub registers: [u64; 16],
    /// Where the frame is: the interrupted instruction, or the one after the call.
    pub pc: u64,
    /// The range that held for the last frame.
    pub range: Range,
    /// Not 0: `pc` is an interrupted instruction and all registers are known.
    pub interrupted: u64,
    /// Frames that were found without a rule: by frame pointer, or by search.
    pub guessed: u64,
    /// Words that were looked at in search of a return address.
    pub searched: u64,
    /// Not 0: the caller is still searched for.
    pub searching: u64,
}

const RSP: usize = register::RSP as usize;
const RBP: usize = register::RBP as usize;

/// Words of one stack that are looked at in search of return addresses: each takes a turn of the loop that frames take, and x264's
/// assembler keeps over 4 kB on the stack.
const MAX_SEARCHED: u64 = 960;

/// Offset of `uc_mcontext` in the kernel's `struct rt_sigframe`, whose first word the handler's return has taken.
/// <https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/asm/sigframe.h#L50>
const SIGNAL_CONTEXT: u64 = 40;

/// The DWARF numbers of the first 16 registers of `struct sigcontext_64`, four bits each: r8 to r15, rdi, rsi, rbp, rbx,
/// rdx, rax, rcx, rsp. Then comes rip.
/// <https://github.com/torvalds/linux/blob/v6.12/arch/x86/include/uapi/asm/sigcontext.h#L237>
const SIGNAL_REGISTERS: u64 = 0x7201_3645_fedc_ba98;

impl State {
    /// A task's registers when it was interrupted.
    pub fn interrupted(registers: [u64; 16], pc: u64) -> Self {
        Self { registers, pc, interrupted: 1, ..Self::default() }
    }

    /// Goes to the caller's frame, or a word further in search of it. `None`: go on; otherwise the stack ends here, in
    /// this way.
    #[inline(always)]
    pub fn step(&mut self, machine: &mut impl Machine) -> Option<End> {
        if self.searching != 0 {
            return self.by_search(machine);
        }
        // The instruction after a call may belong to another function already.
        let address = if self.interrupted != 0 { self.pc } else { self.pc.wrapping_sub(1) };
        if !self.range.contains(address) && !machine.find_range(address, &mut self.range) {
            return Some(End::TableNotReady);
        }
        match self.range.kind {
            TABLE => {
                let Some(rule) = find_rule(machine, &self.range, address) else { return Some(End::TableNotReady) };
                self.apply(rule, machine)
            }
            JIT => self.by_epilogue_or_frame_pointer(machine),
            FRAME_POINTERS => self.by_frame_pointer(machine, End::NoUnwindInfo),
            NO_INFO => self.by_search(machine),
            _ => Some(End::TableNotReady),
        }
    }

    #[inline(always)]
    fn apply(&mut self, rule: Rule, machine: &mut impl Machine) -> Option<End> {
        let base = self.registers[rule.register()];
        let needs = |register: usize| register == RSP || register == RBP || self.interrupted != 0;
        let cfa = match rule.kind() {
            kind::REGISTER if needs(rule.register()) => base.wrapping_add(rule.offset()),
            kind::PLT => {
                let pushed = self.pc & 15 >= rule.second() as u64;
                self.registers[RSP].wrapping_add(if pushed { 16 } else { 8 })
            }
            kind::SAVED | kind::SAVED_INDEXED if needs(rule.register()) => {
                let mut saved = base.wrapping_add(rule.inner());
                if rule.kind() == kind::SAVED_INDEXED {
                    if !needs(rule.second()) {
                        return Some(End::NoUnwindInfo);
                    }
                    saved = saved.wrapping_add(self.registers[rule.second()].wrapping_mul(8));
                }
                let Some(saved) = machine.word(saved) else { return Some(End::Fault) };
                saved.wrapping_add(rule.outer())
            }
            kind::RETURN_IN_REGISTER if self.interrupted != 0 => {
                let holder = self.registers[rule.second()];
                return self.arrive(base.wrapping_add(rule.offset()), self.registers[RBP], holder);
            }
            kind::SIGNAL_FRAME => return self.leave_signal(machine),
            kind::OTHER_STACK => return self.by_other_stack(machine),
            kind::FRAME_POINTER => return self.by_frame_pointer(machine, End::NoUnwindInfo),
            kind::END_OF_STACK => return Some(End::Complete),
            kind::UNKNOWN => return self.by_search(machine),
            _ => return Some(End::NoUnwindInfo),
        };
        // Stacks grow downwards: a caller's frame that is not above this one is a damaged stack, or a loop.
        if cfa <= self.registers[RSP] {
            return Some(End::Fault);
        }
        let saved_below = match rule.rbp_kind() {
            rbp_kind::UNCHANGED => 0,
            rbp_kind::AT_CFA => cfa,
            rbp_kind::AT_RBP => self.registers[RBP],
            _ => self.registers[RSP],
        };
        // Before the return address: it lies below it, and a window of memory reaches upwards.
        let mut rbp = self.registers[RBP];
        if rule.rbp_kind() != rbp_kind::UNCHANGED {
            let Some(saved) = machine.word(saved_below.wrapping_add(rule.rbp_offset())) else {
                return Some(End::Fault);
            };
            rbp = saved;
        }
        let Some(pc) = machine.word(cfa.wrapping_sub(8)) else { return Some(End::Fault) };
        self.arrive(cfa, rbp, pc)
    }

    /// The caller's frame; a return address of 0 is the end by convention.
    #[inline(always)]
    fn arrive(&mut self, rsp: u64, rbp: u64, pc: u64) -> Option<End> {
        self.registers[RSP] = rsp;
        self.registers[RBP] = rbp;
        self.pc = pc;
        self.interrupted = 0;
        if pc == 0 { Some(End::Complete) } else { None }
    }

    /// To the frame that rbp leads to, wherever that stack lies. The limit of frames ends a loop.
    #[inline(always)]
    fn by_other_stack(&mut self, machine: &mut impl Machine) -> Option<End> {
        let rbp = self.registers[RBP];
        // One after the other, as in `by_frame_pointer`.
        let Some(next) = machine.word(rbp) else { return Some(End::Fault) };
        let Some(pc) = machine.word(rbp.wrapping_add(8)) else { return Some(End::Fault) };
        self.arrive(rbp.wrapping_add(16), next, pc)
    }

    /// Code without rules. A trampoline that does nothing after its call but leave says itself where its caller is, as
    /// CPython's do, which keep no frame pointer.
    #[inline(always)]
    fn by_epilogue_or_frame_pointer(&mut self, machine: &mut impl Machine) -> Option<End> {
        if self.interrupted == 0
            && let Some(code) = machine.code(self.pc)
            && let Some(bytes) = leaves_at_once(code)
        {
            let at = self.registers[RSP].wrapping_add(bytes);
            let Some(pc) = machine.word(at) else { return Some(End::Fault) };
            return self.arrive(at.wrapping_add(8), self.registers[RBP], pc);
        }
        self.by_frame_pointer(machine, End::NoJitInfo)
    }

    /// By the chain of frame pointers, as a guess: `broken` is the end where they do not make one. A function that was interrupted
    /// before it had its own frame, or behind that, is not in it.
    #[inline(always)]
    fn by_frame_pointer(&mut self, machine: &mut impl Machine, broken: End) -> Option<End> {
        if self.interrupted != 0
            && let Some(code) = machine.code(self.pc)
            && let Some(bytes) = outside_frame(code)
        {
            let rsp = self.registers[RSP];
            let mut rbp = self.registers[RBP];
            if bytes != 0 {
                let Some(saved) = machine.word(rsp) else { return Some(broken) };
                rbp = saved;
            }
            let Some(pc) = machine.word(rsp.wrapping_add(bytes)) else { return Some(broken) };
            self.guessed += 1;
            return self.arrive(rsp.wrapping_add(bytes).wrapping_add(8), rbp, pc).map(|_| End::FramePointersOnly);
        }
        let rbp = self.registers[RBP];
        if rbp == 0 {
            return Some(End::FramePointersOnly);
        }
        if rbp < self.registers[RSP] || rbp & 7 != 0 {
            return Some(broken);
        }
        // One after the other: of two at once, the verifier would see the second used where the first is not there.
        let Some(next) = machine.word(rbp) else { return Some(broken) };
        let Some(pc) = machine.word(rbp.wrapping_add(8)) else { return Some(broken) };
        self.guessed += 1;
        self.arrive(rbp.wrapping_add(16), next, pc).map(|_| End::FramePointersOnly)
    }

    /// By the first word on the stack that a call can have put there: it lies in code, behind a call. A guess, for
    /// hand-written assembler without rules; a word a step.
    #[inline(always)]
    fn by_search(&mut self, machine: &mut impl Machine) -> Option<End> {
        self.searched += 1;
        if self.searched > MAX_SEARCHED {
            return Some(End::NoUnwindInfo);
        }
        let rsp = self.registers[RSP];
        let Some(word) = machine.word(rsp) else { return Some(End::Fault) };
        self.registers[RSP] = rsp.wrapping_add(8);
        self.searching = 1;
        let mut range = Range::default();
        if !machine.find_range(word.wrapping_sub(1), &mut range) {
            return None;
        }
        match machine.code(word.wrapping_sub(8)) {
            Some(code) if ends_with_call(code) => {
                self.searching = 0;
                self.guessed += 1;
                self.arrive(rsp.wrapping_add(8), self.registers[RBP], word)
            }
            _ => None,
        }
    }

    /// To the frame that a signal interrupted.
    #[inline(always)]
    fn leave_signal(&mut self, machine: &mut impl Machine) -> Option<End> {
        let context = self.registers[RSP].wrapping_add(SIGNAL_CONTEXT);
        let mut at = 0_u64;
        while at < 16 {
            let Some(value) = machine.word(context.wrapping_add(at * 8)) else { return Some(End::Fault) };
            self.registers[(SIGNAL_REGISTERS >> (at * 4) & 15) as usize] = value;
            at += 1;
        }
        let Some(pc) = machine.word(context.wrapping_add(16 * 8)) else { return Some(End::Fault) };
        self.pc = pc;
        self.interrupted = 1;
        None
    }
}

/// Bytes that `add $bytes,%rsp; ret` takes from the stack, if code begins so.
#[inline(always)]
fn leaves_at_once(code: u64) -> Option<u64> {
    // 48 83 c4 nn c3, nn a multiple of 8 below 128.
    (code & 0xff_87_ff_ff_ff == 0xc3_00_c4_83_48).then_some(code >> 24 & 0x78)
}

/// Bytes between the stack pointer and the return address where code that keeps a frame pointer has none of its own here.
#[inline(always)]
fn outside_frame(code: u64) -> Option<u64> {
    // push %rbp, also behind endbr64; ret; mov %rsp,%rbp in both of its encodings: rbp has been pushed.
    match code {
        _ if code & 0xff == 0x55 || code & 0xff_ffff_ffff == 0x55_fa1e_0ff3 || code & 0xff == 0xc3 => Some(0),
        _ if code & 0xff_ffff == 0xe5_8948 || code & 0xff_ffff == 0xec_8b48 => Some(8),
        _ => None,
    }
}

/// Whether the eight bytes before a return address end with a call: direct, or through a register or memory.
#[inline(always)]
fn ends_with_call(code: u64) -> bool {
    let byte = |from_end: u32| (code >> (64 - 8 * from_end)) & 0xff;
    let indirect = |length: u32| byte(length) == 0xff && (byte(length - 1) >> 3) & 7 == 2;
    byte(5) == 0xe8 || indirect(2) || indirect(3) || indirect(4) || indirect(6) || indirect(7)
}

/// The rule that holds at an address of a range with a table; `None` if the table is going away.
#[inline(always)]
fn find_rule(machine: &impl Machine, range: &Range, address: u64) -> Option<Rule> {
    const MASK: u32 = CHUNK_WORDS as u32 - 1;
    let offset = address.wrapping_sub(range.start).wrapping_add(u64::from(range.offset)) as u32;
    let index = machine.chunk(range.slot)?;
    let block = index[(offset >> BLOCK_SHIFT & MASK) as usize];
    let first = block >> LOW_BITS;
    let rows = machine.chunk(range.slot.wrapping_add(first / CHUNK_WORDS as u32))?;
    let row = search(rows, first & MASK, block & LOW_MASK, offset & LOW_MASK);
    let pair = row >> LOW_BITS;
    let rules = machine.chunk(range.slot.wrapping_add(pair / (CHUNK_WORDS as u32 / 2)))?;
    let at = ((pair * 2) & MASK) as usize;
    Some(Rule::from_words(rules[at], rules[at | 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As functions begin and end.
    #[test]
    fn knows_what_is_outside_a_frame() {
        let check = |bytes: &[u8], expected| {
            let mut code = [0x90; 8];
            code[..bytes.len()].copy_from_slice(bytes);
            assert_eq!(outside_frame(u64::from_le_bytes(code)), expected, "{bytes:x?}");
        };
        check(&[0x55, 0x48, 0x89, 0xe5], Some(0));
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55], Some(0));
        check(&[0x48, 0x89, 0xe5, 0x53], Some(8));
        check(&[0x48, 0x8b, 0xec], Some(8));
        check(&[0xc3], Some(0));
        // A landing pad; rbp is popped: it still leads to the frame; something else.
        check(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48], None);
        check(&[0x5d, 0xc3], None);
        check(&[0x48, 0x89, 0xe0], None);
    }

    /// As CPython's trampoline returns.
    #[test]
    fn knows_what_leaves_at_once() {
        let code = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        assert_eq!(leaves_at_once(code([0x48, 0x83, 0xc4, 0x08, 0xc3, 1, 2, 3])), Some(8));
        assert_eq!(leaves_at_once(code([0x48, 0x83, 0xc4, 0x78, 0xc3, 0, 0, 0])), Some(120));
        // Downwards, uneven, and something else before the return.
        assert_eq!(leaves_at_once(code([0x48, 0x83, 0xc4, 0xf8, 0xc3, 0, 0, 0])), None);
        assert_eq!(leaves_at_once(code([0x48, 0x83, 0xc4, 0x09, 0xc3, 0, 0, 0])), None);
        assert_eq!(leaves_at_once(code([0x48, 0x83, 0xc4, 0x08, 0x5d, 0xc3, 0, 0])), None);
    }
}
