//! The functions of Go's runtime that switch stacks, which its own unwind information does not tell of.
//!
//! A goroutine calls into the scheduler, into C and into signal handlers on other stacks. Those that come back
//! (`systemstack`, `asmcgocall`) keep a frame pointer on the goroutine's stack: the caller is found through it. Those that
//! do not (`mcall`, `morestack`, `mstart`) set it to 0 first: nothing is below them. Source: Go's `runtime/asm_amd64.s` and
//! `sys_linux_amd64.s`. Without a symbol table they are not found; such a file has no unwind information either, and its
//! stacks go by frame pointers.

use std::collections::HashMap;

use cputrace_common::unwind::table::{Cfa, Rbp, Rule, register};
use object::elf::{FileHeader64, SHT_SYMTAB};
use object::read::elf::{SectionTable, Sym as _};
use object::{LittleEndian, ReadRef};
use rustc_hash::FxBuildHasher;

/// The section that a Go program has, and no other.
pub(super) const SECTION: &[u8] = b".gopclntab";

/// Rules of a function, from bytes after its start on.
pub(super) type Rows = &'static [(i32, Rule)];

/// Rules by the address of their function.
pub(super) type Functions = HashMap<u64, Rows, FxBuildHasher>;

/// `push %rbp; mov %rsp,%rbp`, then the switch.
const SWITCH: Rows = &[
    (0, Rule::new(Cfa::Register { register: register::RSP, offset: 8 }, Rbp::Unchanged)),
    (1, Rule::new(Cfa::Register { register: register::RSP, offset: 16 }, Rbp::AtCfa(-16))),
    (4, Rule::OTHER_STACK),
];
const END: Rows = &[(0, Rule::END_OF_STACK)];
/// The kernel returns to its first instruction, and a return address is looked up by the byte before.
const SIGNAL: Rows = &[(-1, Rule::SIGNAL_FRAME)];

const NAMES: [(&[u8], Rows); 6] = [
    (b"runtime.systemstack.abi0", SWITCH),
    (b"runtime.asmcgocall.abi0", SWITCH),
    (b"runtime.mcall", END),
    (b"runtime.morestack.abi0", END),
    (b"runtime.mstart.abi0", END),
    (b"runtime.sigreturn__sigaction.abi0", SIGNAL),
];

/// Finds them in the symbol table.
pub(super) fn functions<'data, R: ReadRef<'data>>(
    sections: &SectionTable<'data, FileHeader64<LittleEndian>, R>,
    data: R,
) -> Functions {
    const E: LittleEndian = LittleEndian;
    let Ok(symbols) = sections.symbols(E, data, SHT_SYMTAB) else { return Functions::default() };
    let rows = symbols.iter().filter_map(|symbol| {
        let name = symbol.name(E, symbols.strings()).ok()?;
        let (_, rows) = NAMES.iter().find(|(known, _)| *known == name)?;
        Some((symbol.st_value(E), *rows))
    });
    rows.collect()
}
