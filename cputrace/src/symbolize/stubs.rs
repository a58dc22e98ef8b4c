//! Names of linkage stubs: `malloc@plt`, the few instructions through which a program calls `malloc` of a library.
//!
//! No table names them. Each jumps through a slot that the dynamic linker fills in, and the slot's relocation says with
//! what: a stub whose jump leads elsewhere has no name. x86-64 only.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf::EM_X86_64;
use object::read::elf::{FileHeader as _, Rela as _, SectionHeader as _};
use object::{LittleEndian, ReadCache};

use crate::sections::Sections;

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
    let sections = Sections::read(&cache)?;
    if sections.header().e_machine(LittleEndian) != EM_X86_64 {
        return None;
    }
    let mut slots = vec![None; addresses.len()];
    for section in SECTIONS.iter().filter_map(|name| sections.by_name(name)) {
        let Some((offset, bytes)) = section.file_range(LittleEndian) else { continue };
        let start = section.sh_addr(LittleEndian);
        let range = start..start.saturating_add(bytes);
        let entry_bytes = match section.sh_entsize(LittleEndian) {
            8 => 8,
            _ => 16,
        };
        for (address, slot) in addresses.iter().zip(&mut slots).filter(|(address, _)| range.contains(address)) {
            let entry = address - (address - start) % entry_bytes;
            let mut code = [0; 16];
            let code = &mut code[..entry_bytes as usize];
            let is_read = file.read_exact_at(code, offset.saturating_add(entry - start)).is_ok();
            *slot = is_read.then(|| jump(entry, code)).flatten();
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
    let sections = Sections::read(&cache)?;
    let symbols = sections.dynamic_symbols()?;
    let mut names = HashMap::new();
    for (_, section) in sections.iter() {
        let Ok(Some((relocations, of))) = section.rela(LittleEndian, &cache) else { continue };
        if of != symbols.section() {
            continue;
        }
        for relocation in relocations {
            let slot = relocation.r_offset(LittleEndian);
            if wanted.binary_search(&slot).is_ok()
                && let Some(index) = relocation.symbol(LittleEndian, false)
                && let Ok(name) = symbols.symbol(index).and_then(|symbol| symbols.symbol_name(LittleEndian, symbol))
                && let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
            {
                names.insert(slot, name.to_owned());
            }
        }
    }
    Some(names)
}
