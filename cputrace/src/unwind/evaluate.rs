//! Call frame instructions to rules: only what the kernel's side tracks, the CFA, rbp and the return address.
//!
//! DWARF 5, section 6.4.2; gimli parses, this interprets, several times faster than a table of all registers.

use cputrace_common::unwind::table::{Rule, cfa, rbp};
use gimli::{CallFrameInstruction, EndianSlice, Expression, LittleEndian, Register, UnwindExpression, UnwindSection};

const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);

/// A section's bytes.
pub(super) type Bytes<'a> = EndianSlice<'a, LittleEndian>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cfa {
    Register { register: Register, offset: i64 },
    Deref { register: Register, before: i64, after: i64 },
    Plt { threshold: i32 },
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Saved {
    Same,
    AtCfa(i64),
    AtRbp(i64),
    Undefined,
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ReturnAddress {
    AtCfa(i64),
    In(Register),
    Undefined,
    Unknown,
}

/// What holds at one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    cfa: Cfa,
    rbp: Saved,
    return_address: ReturnAddress,
}

impl Row {
    /// Before a CIE's first instruction: nothing but the System V ABI.
    pub(super) const INITIAL: Self =
        Self { cfa: Cfa::Unknown, rbp: Saved::Same, return_address: ReturnAddress::AtCfa(-8) };

    /// The kernel side's form; a gap where it has none.
    pub(super) fn rule(&self) -> Rule {
        self.try_rule().unwrap_or(Rule::GAP)
    }

    fn try_rule(&self) -> Option<Rule> {
        let Self { cfa, rbp, return_address } = *self;
        let (rbp_kind, rbp_offset) = match rbp {
            Saved::Same => (rbp::SAME, 0),
            Saved::AtCfa(offset) => (rbp::AT_CFA, offset),
            Saved::AtRbp(offset) => (rbp::AT_RBP, offset),
            Saved::Undefined => (rbp::UNDEFINED, 0),
            Saved::Unknown => return None,
        };
        let (cfa_kind, cfa_offset) = match cfa {
            Cfa::Register { register, offset } => (cfa::REGISTER + number(register)?, i32::try_from(offset).ok()?),
            Cfa::Deref { register, before, after } => {
                let (before, after) = (i16::try_from(before).ok()?, i16::try_from(after).ok()?);
                (cfa::DEREF + number(register)?, i32::from(after) << 16 | i32::from(before.cast_unsigned()))
            }
            Cfa::Plt { threshold } => (cfa::PLT, threshold),
            Cfa::Unknown => return None,
        };
        let cfa_kind = match (return_address, cfa) {
            (ReturnAddress::Undefined, _) => return Some(Rule::END),
            (ReturnAddress::AtCfa(-8), _) => cfa_kind,
            (ReturnAddress::In(register), Cfa::Register { register: RSP, .. }) => {
                cfa::RETURN_REGISTER + number(register)?
            }
            _ => return None,
        };
        Some(Rule { cfa_kind, rbp_kind, rbp_offset: i16::try_from(rbp_offset).ok()?, cfa_offset })
    }
}

/// One of the 16 general registers.
fn number(register: Register) -> Option<u8> {
    u8::try_from(register.0).ok().filter(|number| *number < 16)
}

/// Interprets one CIE's and one FDE's instructions.
pub(super) struct Evaluation<'s, 'a, S> {
    pub(super) section: &'s S,
    pub(super) data_alignment: i64,
    pub(super) code_alignment: u64,
    pub(super) row: Row,
    /// What a `restore` goes back to.
    pub(super) initial: Row,
    pub(super) remembered: &'s mut Vec<Row>,
    pub(super) bytes: std::marker::PhantomData<&'a ()>,
}

/// What an instruction does to the address.
pub(super) enum Advance {
    /// Nothing.
    Stay,
    /// The row so far ends this many bytes on.
    By(u64),
    /// The row so far ends here.
    To(u64),
}

impl<'a, S: UnwindSection<Bytes<'a>>> Evaluation<'_, 'a, S> {
    /// Takes one instruction; `None` if it makes no sense.
    pub(super) fn take(&mut self, instruction: CallFrameInstruction<usize>) -> Option<Advance> {
        use CallFrameInstruction as I;
        let factored = |offset: i64, alignment: i64| offset.checked_mul(alignment);
        match instruction {
            I::AdvanceLoc { delta } => return Some(Advance::By(u64::from(delta).checked_mul(self.code_alignment)?)),
            I::SetLoc { address } => return Some(Advance::To(address)),
            I::DefCfa { register, offset } => {
                self.row.cfa = Cfa::Register { register, offset: offset.try_into().ok()? }
            }
            I::DefCfaSf { register, factored_offset } => {
                self.row.cfa = Cfa::Register { register, offset: factored(factored_offset, self.data_alignment)? };
            }
            I::DefCfaRegister { register: new } => match &mut self.row.cfa {
                Cfa::Register { register, .. } => *register = new,
                _ => return None,
            },
            I::DefCfaOffset { offset: new } => self.set_cfa_offset(new.try_into().ok()?)?,
            I::DefCfaOffsetSf { factored_offset } => {
                self.set_cfa_offset(factored(factored_offset, self.data_alignment)?)?;
            }
            I::DefCfaExpression { expression } => self.row.cfa = self.cfa_expression(expression),
            I::Undefined { register } => self.set(register, Saved::Undefined, ReturnAddress::Undefined),
            I::SameValue { register } => self.set(register, Saved::Same, ReturnAddress::Unknown),
            I::Offset { register, factored_offset } => {
                let offset = factored(factored_offset.try_into().ok()?, self.data_alignment)?;
                self.set(register, Saved::AtCfa(offset), ReturnAddress::AtCfa(offset));
            }
            I::OffsetExtendedSf { register, factored_offset } => {
                let offset = factored(factored_offset, self.data_alignment)?;
                self.set(register, Saved::AtCfa(offset), ReturnAddress::AtCfa(offset));
            }
            I::Register { dest_register, src_register } => {
                self.set(dest_register, Saved::Unknown, ReturnAddress::In(src_register));
            }
            I::Expression { register: RBP, expression } => self.row.rbp = self.saved_expression(expression),
            I::Expression { register: RETURN_ADDRESS, .. } | I::ValExpression { register: RETURN_ADDRESS, .. } => {
                self.row.return_address = ReturnAddress::Unknown;
            }
            I::ValOffset { register, .. } | I::ValOffsetSf { register, .. } | I::ValExpression { register, .. } => {
                self.set(register, Saved::Unknown, ReturnAddress::Unknown);
            }
            I::Restore { register } => self.set(register, self.initial.rbp, self.initial.return_address),
            I::RememberState => self.remembered.push(self.row),
            I::RestoreState => self.row = self.remembered.pop()?,
            // Other registers, and what does not matter for finding the caller.
            _ => {}
        }
        Some(Advance::Stay)
    }

    fn set(&mut self, register: Register, rbp: Saved, return_address: ReturnAddress) {
        match register {
            RBP => self.row.rbp = rbp,
            RETURN_ADDRESS => self.row.return_address = return_address,
            _ => {}
        }
    }

    fn set_cfa_offset(&mut self, new: i64) -> Option<()> {
        let Cfa::Register { offset, .. } = &mut self.row.cfa else { return None };
        *offset = new;
        Some(())
    }

    fn bytes(&self, expression: UnwindExpression<usize>) -> &'a [u8] {
        let bytes: Option<Expression<Bytes<'a>>> = expression.get(self.section).ok();
        bytes.map(|expression| expression.0.slice()).unwrap_or_default()
    }

    /// The few shapes that compilers and hand-written assembler have.
    fn cfa_expression(&self, expression: UnwindExpression<usize>) -> Cfa {
        match self.bytes(expression) {
            // rsp + 8 + ((rip & 15) >= threshold) << 3: what linkers write for the procedure linkage table.
            [0x77, 8, 0x80, 0, 0x3f, 0x1a, threshold @ (0x3a | 0x3b), 0x2a, 0x33, 0x24, 0x22] => {
                Cfa::Plt { threshold: i32::from(threshold - 0x30) }
            }
            // breg N offset; deref [; plus_uconst offset]
            [register @ 0x70..=0x7f, rest @ ..] => {
                let register = Register((register - 0x70).into());
                match sleb128(rest) {
                    Some((before, [0x06])) => Cfa::Deref { register, before, after: 0 },
                    Some((before, [0x06, 0x23, rest @ ..])) => match uleb128(rest) {
                        Some((after, [])) => Cfa::Deref { register, before, after },
                        _ => Cfa::Unknown,
                    },
                    Some((offset, [])) => Cfa::Register { register, offset },
                    _ => Cfa::Unknown,
                }
            }
            _ => Cfa::Unknown,
        }
    }

    /// rbp, saved relative to itself: what compilers write where they align the stack.
    fn saved_expression(&self, expression: UnwindExpression<usize>) -> Saved {
        match self.bytes(expression) {
            [0x76, rest @ ..] => match sleb128(rest) {
                Some((offset, [])) => Saved::AtRbp(offset),
                _ => Saved::Unknown,
            },
            _ => Saved::Unknown,
        }
    }
}

/// A signed number of up to four bytes, and what follows it.
fn sleb128(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (value, length) = leb128(bytes)?;
    let unused = 64 - 7 * length as u32;
    Some(((value << unused) >> unused, &bytes[length..]))
}

fn uleb128(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (value, length) = leb128(bytes)?;
    Some((value, &bytes[length..]))
}

fn leb128(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        value |= i64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}
