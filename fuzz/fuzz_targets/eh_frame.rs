//! Any bytes as the `.eh_frame` of a file: each function that gimli understands has in the tables the rows that gimli
//! gives it, unless another one lies over it.
#![no_main]

use cputrace::unwind::build::build_image;
use cputrace_common::unwind::table::{Cfa, Rbp, Rule};
use gimli::{BaseAddresses, CieOrFde, CfaRule, EhFrame, LittleEndian, RegisterRule, UnwindContext, UnwindSection, X86_64};
use libfuzzer_sys::fuzz_target;

/// The code's addresses, and the section's.
const CODE: u64 = 0x1000;
const CODE_BYTES: u64 = 0x8000;
const SECTION: u64 = 0x20_000;

/// A function: start, end, and from addresses on a rule; `None` where ours is not meant to be the same.
type Function = (u64, u64, Vec<(u64, Option<Rule>)>);

fuzz_target!(|eh_frame: &[u8]| {
    let built = build_image(&image(eh_frame)).expect("its headers are good");
    let functions = by_gimli(eh_frame);
    let Some(tables) = built.tables else { return };
    for offset in 0..tables.length {
        assert!(tables.rule(tables.base + u64::from(offset)).is_some());
    }
    // What one of the two skips may lie over another.
    let Some(functions) = functions else { return };
    if built.stats.bad_entries > 0 || built.stats.overlaps > 0 {
        return;
    }
    for (start, end, rules) in functions {
        if start < CODE || end > CODE + CODE_BYTES {
            continue;
        }
        for (index, &(from, rule)) in rules.iter().enumerate() {
            let to = rules.get(index + 1).map_or(end, |next| next.0).min(end);
            let Some(rule) = rule.filter(|_| from < to) else { continue };
            for address in [from, to - 1] {
                assert_eq!(tables.rule(address), Some(rule), "at {address:#x} of {start:#x}..{end:#x}");
            }
        }
    }
});

/// gimli's reading; `None` if it refuses any of it.
fn by_gimli(bytes: &[u8]) -> Option<Vec<Function>> {
    let eh_frame = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(SECTION);
    let mut context = UnwindContext::new();
    let mut functions = Vec::new();
    let mut entries = eh_frame.entries(&bases);
    while let Some(entry) = entries.next().ok()? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).ok()?;
        let end = fde.initial_address().checked_add(fde.len())?;
        let mut rules = Vec::new();
        let mut table = fde.rows(&eh_frame, &bases, &mut context).ok()?;
        while let Some(row) = table.next_row().ok()? {
            let rule = if fde.is_signal_trampoline() { Some(Rule::SIGNAL_FRAME) } else { expected(row) };
            rules.push((row.start_address(), rule));
        }
        functions.push((fde.initial_address(), end, rules));
    }
    Some(functions)
}

/// A row in our terms, where it has what compilers write.
fn expected(row: &gimli::UnwindTableRow<usize>) -> Option<Rule> {
    let rbp = match row.register(X86_64::RBP) {
        None => Rbp::Unchanged,
        Some(RegisterRule::Offset(offset)) => Rbp::AtCfa(offset.try_into().ok()?),
        _ => return None,
    };
    let &CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
    let register = u8::try_from(register.0).ok().filter(|&register| register < 16)?;
    let cfa = Cfa::Register { register, offset: offset.try_into().ok()? };
    match row.register(X86_64::RA) {
        Some(RegisterRule::Offset(-8)) => Some(Rule::new(cfa, rbp)),
        _ => None,
    }
}

/// An ELF file of one segment of code, without sections: its `.eh_frame` is found by PT_GNU_EH_FRAME.
fn image(eh_frame: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 3 * 56;
    let code_at = 0x200_u64;
    let header_at = code_at + CODE_BYTES;
    let section_at = header_at + 16;
    let mut image = vec![0_u8; section_at as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]); // e_type, e_machine, e_version
    put(32, &64_u64.to_le_bytes()); // e_phoff
    put(52, &[64, 0, 56, 0, 3, 0, 64]); // e_ehsize, e_phentsize, e_phnum, e_shentsize
    let mut segment = |index: usize, kind: u32, flags: u32, at: u64, address: u64, bytes: u64| {
        let base = 64 + index * 56;
        put(base, &kind.to_le_bytes());
        put(base + 4, &flags.to_le_bytes());
        for (word, value) in [at, address, address, bytes, bytes, 1].into_iter().enumerate() {
            put(base + 8 + word * 8, &value.to_le_bytes());
        }
    };
    let section_bytes = eh_frame.len() as u64;
    segment(0, 1, 5, code_at, CODE, CODE_BYTES);
    segment(1, 1, 4, header_at, SECTION - 16, 16 + section_bytes);
    segment(2, 0x6474_e550, 4, header_at, SECTION - 16, 16);
    // Version 1; a pointer of four bytes, relative to itself; nothing else.
    put(header_at as usize, &[1, 0x1b, 0xff, 0xff]);
    put(header_at as usize + 4, &12_u32.to_le_bytes());
    const { assert!(HEADERS <= 0x200) };
    image.extend_from_slice(eh_frame);
    image
}
