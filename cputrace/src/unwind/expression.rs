//! The few shapes of DWARF expressions that compilers, linkers and hand-written assembler use in unwind tables.
//!
//! Anything else is unknown, and counted: a general evaluator in the kernel would cost every frame for the sake of
//! code that nobody has.

use cputrace_common::unwind::table::{Cfa, register};

use super::reader::Reader;

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// Push register + offset.
    Register(u8, i64),
    /// Push a number.
    Literal(i64),
    Deref,
    Add(u64),
    Plus,
    Multiply,
    And,
    ShiftLeft,
    GreaterOrEqual,
}

/// No shape has more.
const MAX_OPS: usize = 9;

/// The CFA that an expression computes.
pub(super) fn cfa(bytes: &[u8]) -> Option<Cfa> {
    let mut ops = [Op::Deref; MAX_OPS];
    let shape = parse(bytes, &mut ops)?;
    let saved = |register, inner: i64, outer: u64| {
        Some(Cfa::Saved { register, inner: inner.try_into().ok()?, outer: outer.try_into().ok()? })
    };
    match *shape {
        [Op::Register(register, inner), Op::Deref] => saved(register, inner, 0),
        [Op::Register(register, inner), Op::Deref, Op::Add(outer)] => saved(register, inner, outer),
        [
            Op::Register(register, inner),
            Op::Register(index, 0),
            Op::Literal(8),
            Op::Multiply,
            Op::Plus,
            Op::Deref,
            Op::Add(outer),
        ] => Some(Cfa::SavedIndexed { register, index, inner: inner.try_into().ok()?, outer: outer.try_into().ok()? }),
        // A linker's PLT: rsp + 8 + ((rip & 15) >= n) << 3
        [
            Op::Register(register::RSP, 8),
            Op::Register(register::RETURN_ADDRESS, 0),
            Op::Literal(15),
            Op::And,
            Op::Literal(pushed_at @ 0..16),
            Op::GreaterOrEqual,
            Op::Literal(3),
            Op::ShiftLeft,
            Op::Plus,
        ] => Some(Cfa::Plt { pushed_at: pushed_at as u8 }),
        [Op::Register(register, offset)] if register < 16 => {
            Some(Cfa::Register { register, offset: offset.try_into().ok()? })
        }
        _ => None,
    }
    .filter(|cfa| match *cfa {
        Cfa::Saved { register, .. } => register < 16,
        Cfa::SavedIndexed { register, index, .. } => register < 16 && index < 16,
        _ => true,
    })
}

/// The register and the offset that say where another one is saved.
pub(super) fn saved_at(bytes: &[u8]) -> Option<(u8, i64)> {
    let mut ops = [Op::Deref; MAX_OPS];
    match *parse(bytes, &mut ops)? {
        [Op::Register(register, offset)] => Some((register, offset)),
        _ => None,
    }
}

fn parse<'a>(bytes: &[u8], ops: &'a mut [Op; MAX_OPS]) -> Option<&'a [Op]> {
    let mut reader = Reader::new(bytes, 0);
    let mut count = 0;
    while !reader.is_empty() {
        let op = match reader.u8()? {
            0x06 => Op::Deref,
            0x08 => Op::Literal(reader.u8()?.into()),
            0x09 => Op::Literal(i64::from(reader.u8()?.cast_signed())),
            0x10 => Op::Literal(reader.unsigned()?.try_into().ok()?),
            0x11 => Op::Literal(reader.signed()?),
            0x1a => Op::And,
            0x1e => Op::Multiply,
            0x22 => Op::Plus,
            0x23 => Op::Add(reader.unsigned()?),
            0x24 => Op::ShiftLeft,
            0x2a => Op::GreaterOrEqual,
            literal @ 0x30..=0x4f => Op::Literal((literal - 0x30).into()),
            breg @ 0x70..=0x8f => Op::Register(breg - 0x70, reader.signed()?),
            _ => return None,
        };
        *ops.get_mut(count)? = op;
        count += 1;
    }
    Some(&ops[..count])
}
