//! Runs a function's call frame instructions: a [`Rule`] for each of its addresses.
//!
//! Follows the CFA, the return address and rbp alone: of a frame that called another one, the step knows no other
//! register. Instructions: DWARF 5, section 6.4.2.

use cputrace_common::unwind::table::{Cfa, Rbp, Rule, register};

use super::call_frame::{Common, Function, pointer};
use super::expression;
use super::reader::Reader;

/// rbp, as instructions number it.
const RBP: u64 = register::RBP as u64;

/// States that a function may remember at a time; compilers nest them once or twice.
const MAX_REMEMBERED: usize = 64;

/// Where the return address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Return {
    /// Right below the CFA, where the call instruction puts it.
    BelowCfa,
    /// There is none: the outermost frame.
    Undefined,
    /// In a register.
    InRegister(u8),
    /// Elsewhere.
    Unknown,
}

/// What holds at an address.
#[derive(Clone, Copy, Debug)]
struct State {
    cfa: Cfa,
    /// The CFA's last offset from a register; `None` before there was one. Behind an expression an instruction that names
    /// a register alone means this one: libgcc reads it so, and hand-written assembler counts on it (Debian's libgcrypt).
    offset: Option<i64>,
    rbp: Option<Rbp>,
    ret: Return,
}

impl State {
    const INITIAL: Self = Self { cfa: Cfa::Unknown, offset: None, rbp: Some(Rbp::Unchanged), ret: Return::Unknown };

    /// The CFA is so far from a register.
    #[inline]
    fn set_cfa(&mut self, number: u64, offset: Option<i64>) {
        self.offset = offset;
        self.cfa = register_cfa(number, offset);
    }

    /// The CFA is so far from the register that it is counted from, unless an expression gives it.
    #[inline]
    fn set_cfa_offset(&mut self, offset: Option<i64>) -> Option<()> {
        self.offset?;
        self.offset = offset;
        if let Cfa::Register { register, .. } = self.cfa {
            self.cfa = register_cfa(register.into(), offset);
        }
        Some(())
    }

    fn rule(&self) -> Rule {
        let (Some(rbp), cfa) = (self.rbp, self.cfa) else { return Rule::UNKNOWN };
        match (self.ret, cfa) {
            (Return::Undefined, _) => Rule::END_OF_STACK,
            (_, Cfa::Unknown) | (Return::Unknown, _) => Rule::UNKNOWN,
            (Return::BelowCfa, _) => Rule::new(cfa, rbp),
            (Return::InRegister(holder), Cfa::Register { register, offset }) if rbp == Rbp::Unchanged => {
                Rule::new(Cfa::ReturnInRegister { register, offset, holder }, rbp)
            }
            (Return::InRegister(_), _) => Rule::UNKNOWN,
        }
    }
}

/// Runs functions' instructions; remembers what their common parts begin with.
#[derive(Debug, Default)]
pub(super) struct Interpreter {
    /// By index of the common part.
    initial: Vec<Option<State>>,
    remembered: Vec<State>,
}

impl Interpreter {
    /// Gives `row` each change of rule within the function, in order of address. `None` if its instructions cannot be
    /// understood: what was given up to there holds.
    pub(super) fn run(
        &mut self,
        commons: &[Common<'_>],
        function: &Function<'_>,
        row: &mut impl FnMut(u64, Rule),
    ) -> Option<()> {
        let common = &commons[function.common as usize];
        if common.is_signal_frame {
            row(function.start, Rule::SIGNAL_FRAME);
            return Some(());
        }
        while let Some(common) = commons.get(self.initial.len()) {
            let mut state = State::INITIAL;
            let ran =
                self.execute(common, common.instructions, State::INITIAL, &mut state, 0, u64::MAX, &mut |_, _| {});
            self.initial.push(ran.map(|_| state));
        }
        let initial = self.initial[function.common as usize]?;
        let mut state = initial;
        let at = self.execute(common, function.instructions, initial, &mut state, function.start, function.end, row)?;
        if at < function.end {
            row(at, state.rule());
        }
        Some(())
    }

    /// Runs instructions from the address `at` on and returns the address of the last row, which is not given yet.
    #[expect(clippy::too_many_arguments, reason = "one caller for functions and one for their common parts")]
    fn execute(
        &mut self,
        common: &Common<'_>,
        instructions: &[u8],
        initial: State,
        state: &mut State,
        mut at: u64,
        end: u64,
        row: &mut impl FnMut(u64, Rule),
    ) -> Option<u64> {
        self.remembered.clear();
        let mut reader = Reader::new(instructions, 0);
        while !reader.is_empty() {
            let opcode = reader.u8()?;
            let low = opcode & 0x3f;
            let delta = match opcode >> 6 {
                1 => u64::from(low),
                2 => {
                    let offset = reader.unsigned()?.cast_signed().wrapping_mul(common.data_align);
                    saved(common, state, low.into(), offset);
                    continue;
                }
                3 => {
                    restore(common, state, low.into(), &initial);
                    continue;
                }
                _ => match low {
                    0x01 => {
                        let target = pointer(&mut reader, 0, 0)?;
                        if target < at {
                            return None;
                        }
                        if target >= end {
                            break;
                        }
                        row(at, state.rule());
                        at = target;
                        continue;
                    }
                    0x02 => reader.u8()?.into(),
                    0x03 => reader.u16()?.into(),
                    0x04 => reader.u32()?.into(),
                    0x1d => reader.u64()?,
                    _ => {
                        self.rare(common, state, low, &mut reader, &initial)?;
                        continue;
                    }
                },
            };
            let next = at.checked_add(delta.checked_mul(common.code_align)?)?;
            // Rows beyond the function's end are another's business.
            if next >= end {
                break;
            }
            if next > at {
                row(at, state.rule());
                at = next;
            }
        }
        Some(at)
    }

    /// All that does not change the address.
    #[inline]
    fn rare(
        &mut self,
        common: &Common<'_>,
        state: &mut State,
        opcode: u8,
        reader: &mut Reader<'_>,
        initial: &State,
    ) -> Option<()> {
        match opcode {
            // nop
            0x00 => {}
            // offset_extended
            0x05 => {
                let number = reader.unsigned()?;
                let offset = reader.unsigned()?.cast_signed().wrapping_mul(common.data_align);
                saved(common, state, number, offset);
            }
            // restore_extended
            0x06 => restore(common, state, reader.unsigned()?, initial),
            // undefined
            0x07 => {
                let number = reader.unsigned()?;
                if number == common.return_register {
                    state.ret = Return::Undefined;
                } else if number == RBP {
                    state.rbp = Some(Rbp::Unchanged);
                }
            }
            // same_value
            0x08 => {
                let number = reader.unsigned()?;
                if number == RBP {
                    state.rbp = Some(Rbp::Unchanged);
                } else if number == common.return_register {
                    state.ret = Return::Unknown;
                }
            }
            // register
            0x09 => {
                let (number, holder) = (reader.unsigned()?, reader.unsigned()?);
                if number == common.return_register {
                    state.ret = u8::try_from(holder)
                        .ok()
                        .filter(|&holder| holder < 16)
                        .map_or(Return::Unknown, Return::InRegister);
                } else if number == RBP {
                    state.rbp = None;
                }
            }
            // remember_state
            0x0a => {
                if self.remembered.len() >= MAX_REMEMBERED {
                    return None;
                }
                self.remembered.push(*state);
            }
            // restore_state
            0x0b => *state = self.remembered.pop()?,
            // def_cfa
            0x0c => {
                let (number, offset) = (reader.unsigned()?, reader.unsigned()?);
                state.set_cfa(number, offset.try_into().ok());
            }
            // def_cfa_register
            0x0d => state.set_cfa(reader.unsigned()?, Some(state.offset?)),
            // def_cfa_offset
            0x0e => state.set_cfa_offset(reader.unsigned()?.try_into().ok())?,
            // def_cfa_expression
            0x0f => state.cfa = expression::cfa(block(reader)?).unwrap_or(Cfa::Unknown),
            // expression
            0x10 => {
                let number = reader.unsigned()?;
                let place = expression::saved_at(block(reader)?);
                if number == RBP {
                    state.rbp = place.and_then(|(base, offset)| {
                        let offset = offset.try_into().ok()?;
                        match base {
                            register::RBP => Some(Rbp::AtRbp(offset)),
                            register::RSP => Some(Rbp::AtRsp(offset)),
                            _ => None,
                        }
                    });
                } else if number == common.return_register {
                    state.ret = Return::Unknown;
                }
            }
            // offset_extended_sf
            0x11 => {
                let (number, factored) = (reader.unsigned()?, reader.signed()?);
                saved(common, state, number, factored.wrapping_mul(common.data_align));
            }
            // def_cfa_sf
            0x12 => {
                let (number, factored) = (reader.unsigned()?, reader.signed()?);
                state.set_cfa(number, Some(factored.wrapping_mul(common.data_align)));
            }
            // def_cfa_offset_sf
            0x13 => state.set_cfa_offset(Some(reader.signed()?.wrapping_mul(common.data_align)))?,
            // val_offset, val_offset_sf: the register has a value, none is saved
            0x14 | 0x15 => {
                let number = reader.unsigned()?;
                reader.unsigned()?;
                unknown(common, state, number);
            }
            // val_expression
            0x16 => {
                let number = reader.unsigned()?;
                block(reader)?;
                unknown(common, state, number);
            }
            // GNU_args_size
            0x2e => {
                reader.unsigned()?;
            }
            // GNU_negative_offset_extended
            0x2f => {
                let (number, factored) = (reader.unsigned()?, reader.unsigned()?);
                saved(common, state, number, factored.cast_signed().wrapping_mul(common.data_align).wrapping_neg());
            }
            _ => return None,
        }
        Some(())
    }
}

/// A register is saved at an offset from the CFA.
#[inline]
fn saved(common: &Common<'_>, state: &mut State, number: u64, offset: i64) {
    if number == RBP {
        state.rbp = offset.try_into().ok().map(Rbp::AtCfa);
    } else if number == common.return_register {
        state.ret = if offset == -8 { Return::BelowCfa } else { Return::Unknown };
    }
}

#[inline]
fn restore(common: &Common<'_>, state: &mut State, number: u64, initial: &State) {
    if number == RBP {
        state.rbp = initial.rbp;
    } else if number == common.return_register {
        state.ret = initial.ret;
    }
}

fn unknown(common: &Common<'_>, state: &mut State, number: u64) {
    if number == RBP {
        state.rbp = None;
    } else if number == common.return_register {
        state.ret = Return::Unknown;
    }
}

#[inline]
fn register_cfa(number: u64, offset: Option<i64>) -> Cfa {
    match (u8::try_from(number), offset.and_then(|offset| i32::try_from(offset).ok())) {
        (Ok(register @ 0..16), Some(offset)) => Cfa::Register { register, offset },
        _ => Cfa::Unknown,
    }
}

fn block<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.unsigned()?;
    reader.take(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::call_frame::{Format, Functions, Section};
    use super::*;

    /// An entry of `.eh_frame` behind `before` bytes: a common part, or what refers to the one at the start.
    fn entry(before: usize, is_common: bool, contents: &[u8]) -> Vec<u8> {
        let id = if is_common { 0 } else { before as u32 + 4 };
        let parts = [&(contents.len() as u32 + 4).to_le_bytes()[..], &id.to_le_bytes(), contents];
        parts.concat()
    }

    /// Assembler that names a register again behind an expression means the offset from before it, as libgcc reads it.
    #[test]
    fn a_register_behind_an_expression() {
        // Version 1, no augmentation, factors 1 and -8, return address in 16; rsp + 8, saved at -8.
        let mut section = entry(0, true, &[1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1]);
        let mut function = [0x1000_u64.to_le_bytes(), 0x10_u64.to_le_bytes()].concat();
        // rsp + 16; then *(rsp + 24) + 8, four bytes on; then rsp, and then rsp + 8.
        function.extend([0x0e, 16, 0x44, 0x0f, 5, 0x77, 24, 0x06, 0x23, 8, 0x44, 0x0d, 7, 0x44, 0x0e, 8]);
        section.extend(entry(section.len(), false, &function));
        let all = Functions::read(Section { bytes: &section, address: 0, format: Format::EhFrame });
        let mut rows = Vec::new();
        Interpreter::default().run(&all.commons, &all.functions[0], &mut |at, rule| rows.push((at, rule))).unwrap();
        let rsp = |offset| Rule::new(Cfa::Register { register: register::RSP, offset }, Rbp::Unchanged);
        let saved = Rule::new(Cfa::Saved { register: register::RSP, inner: 24, outer: 8 }, Rbp::Unchanged);
        assert_eq!(rows, [(0x1000, rsp(16)), (0x1004, saved), (0x1008, rsp(16)), (0x100c, rsp(8))]);
    }
}
