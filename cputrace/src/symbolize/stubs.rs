//! Names of linkage stubs: `malloc@plt`, the few instructions through which a program calls `malloc` of a library.
//!
//! No table names them. Each jumps through a slot that the dynamic linker fills in, and the slot's relocation says with
//! what: a stub whose jump leads elsewhere has no name. x86-64 only.

use std::collections::HashMap;
use std::fs::File;

use object::elf::EM_X86_64;
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, ObjectSymbolTable as _};
use object::{ReadCache, RelocationTarget};

use super::elf::parse;

/// The sections that stubs are in.
const SECTIONS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];

/// `jmp *offset(%rip)`
const JUMP: [u8; 2] = [0xff, 0x25];

/// The symbols that the stubs at `addresses` lead to.
pub(super) fn look_up(file: &File, addresses: &[u64]) -> Vec<Option<String>> {
    let slots = slots(file, addresses).unwrap_or_else(|| vec![None; addresses.len()]);
    if slots.iter().all(Option::is_none) {
        return vec![None; addresses.len()];
    }
    let names = symbols(file, &slots).unwrap_or_default();
    slots.iter().map(|slot| names.get(slot.as_ref()?).cloned()).collect()
}

/// The slot that each stub jumps through.
fn slots(file: &File, addresses: &[u64]) -> Option<Vec<Option<u64>>> {
    let cache = ReadCache::new(file);
    let elf = parse(&cache)?;
    if elf.elf_header().e_machine(LittleEndian) != EM_X86_64 {
        return None;
    }
    let mut slots = vec![None; addresses.len()];
    for name in SECTIONS {
        let Some(section) = elf.section_by_name(name) else { continue };
        let range = section.address()..section.address().saturating_add(section.size());
        let entry_bytes = match section.elf_section_header().sh_entsize(LittleEndian) {
            8 => 8,
            _ => 16,
        };
        for (address, slot) in addresses.iter().zip(&mut slots).filter(|(address, _)| range.contains(address)) {
            let entry = address - (address - range.start) % entry_bytes;
            *slot = section.data_range(entry, entry_bytes).ok().flatten().and_then(|code| jump(entry, code));
        }
    }
    Some(slots)
}

/// The slot that the code of a stub jumps through.
fn jump(address: u64, code: &[u8]) -> Option<u64> {
    let at = code.windows(JUMP.len()).position(|bytes| bytes == JUMP)? + JUMP.len();
    let offset = i32::from_le_bytes(code.get(at..at + 4)?.try_into().ok()?);
    Some(address.wrapping_add(at as u64 + 4).wrapping_add_signed(offset.into()))
}

/// The symbols that the dynamic linker fills `slots` in with.
fn symbols(file: &File, slots: &[Option<u64>]) -> Option<HashMap<u64, String>> {
    let mut wanted: Vec<u64> = slots.iter().copied().flatten().collect();
    wanted.sort_unstable();
    let cache = ReadCache::new(file);
    let elf = parse(&cache)?;
    let table = elf.dynamic_symbol_table()?;
    let relocations = elf.dynamic_relocations()?.filter(|(slot, _)| wanted.binary_search(slot).is_ok());
    let names = relocations.filter_map(|(slot, relocation)| {
        let RelocationTarget::Symbol(index) = relocation.target() else { return None };
        let symbol = table.symbol_by_index(index).ok()?;
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        Some((slot, name.to_owned()))
    });
    Some(names.collect())
}
