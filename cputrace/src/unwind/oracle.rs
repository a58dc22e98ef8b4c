//! Tests of the tables against gimli's: the rule that the kernel side finds at an address is the one that gimli's
//! unwind table has there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use cputrace_common::unwind::table::{Cfa, Rbp, Rule};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, LittleEndian, Operation, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection, UnwindTableRow, X86_64,
};
use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;

use super::build::{Built, build, build_image};

type Slice<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// What gimli says about a function.
struct Described {
    start: u64,
    length: u64,
    /// From addresses on.
    rules: Vec<(u64, Rule)>,
}

/// What gimli says about a file's functions.
struct Oracle {
    functions: Vec<Described>,
    refused: usize,
}

fn oracle(bytes: &[u8]) -> Oracle {
    let file = object::File::parse(bytes).unwrap();
    let section = file.section_by_name(".eh_frame").unwrap();
    let data = section.data().unwrap();
    let eh_frame = EhFrame::new(data, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let mut all = Oracle { functions: Vec::new(), refused: 0 };
    let mut context = UnwindContext::new();
    let mut entries = eh_frame.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let Ok(fde) = partial.parse(EhFrame::cie_from_offset) else {
            all.refused += 1;
            continue;
        };
        let mut rules = Vec::new();
        let Ok(mut table) = fde.rows(&eh_frame, &bases, &mut context) else {
            all.refused += 1;
            continue;
        };
        let signal = fde.is_signal_trampoline();
        while let Ok(Some(row)) = table.next_row() {
            let rule = if signal { Rule::SIGNAL_FRAME } else { expected(row, &eh_frame) };
            rules.push((row.start_address(), rule));
        }
        all.functions.push(Described { start: fde.initial_address(), length: fde.len(), rules });
    }
    all
}

/// A row in our terms, by gimli's reading of it.
fn expected(row: &UnwindTableRow<usize>, section: &EhFrame<Slice<'_>>) -> Rule {
    let rbp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(Rbp::Unchanged),
        Some(RegisterRule::Offset(offset)) => offset.try_into().ok().map(Rbp::AtCfa),
        Some(RegisterRule::Expression(expression)) => match operations(&expression, section)[..] {
            [Operation::RegisterOffset { register: X86_64::RBP, offset, .. }] => Some(Rbp::AtRbp(offset as i16)),
            [Operation::RegisterOffset { register: X86_64::RSP, offset, .. }] => Some(Rbp::AtRsp(offset as i16)),
            _ => None,
        },
        _ => None,
    };
    let cfa = match row.cfa() {
        &CfaRule::RegisterAndOffset { register, offset } => i32::try_from(offset)
            .ok()
            .filter(|_| register.0 < 16)
            .map(|offset| Cfa::Register { register: register.0 as u8, offset }),
        CfaRule::Expression(expression) => expected_cfa(&operations(expression, section)),
    };
    match (row.register(X86_64::RA), cfa, rbp) {
        (Some(RegisterRule::Undefined), ..) => Rule::END_OF_STACK,
        (Some(RegisterRule::Offset(-8)), Some(cfa), Some(rbp)) => Rule::new(cfa, rbp),
        (Some(RegisterRule::Register(holder)), Some(Cfa::Register { register, offset }), Some(Rbp::Unchanged)) => {
            Rule::new(Cfa::ReturnInRegister { register, offset, holder: holder.0 as u8 }, Rbp::Unchanged)
        }
        _ => Rule::UNKNOWN,
    }
}

fn expected_cfa(operations: &[Operation<Slice<'_>>]) -> Option<Cfa> {
    use Operation as O;
    match *operations {
        [O::RegisterOffset { register, offset, .. }, O::Deref { .. }] => {
            Some(Cfa::Saved { register: register.0 as u8, inner: offset as i16, outer: 0 })
        }
        [O::RegisterOffset { register, offset, .. }, O::Deref { .. }, O::PlusConstant { value }] => {
            Some(Cfa::Saved { register: register.0 as u8, inner: offset as i16, outer: value as i16 })
        }
        [
            O::RegisterOffset { register, offset, .. },
            O::RegisterOffset { register: index, .. },
            O::UnsignedConstant { value: 8 },
            O::Mul,
            O::Plus,
            O::Deref { .. },
            O::PlusConstant { value },
        ] => Some(Cfa::SavedIndexed {
            register: register.0 as u8,
            index: index.0 as u8,
            inner: offset as i16,
            outer: value as i16,
        }),
        [
            O::RegisterOffset { register: X86_64::RSP, offset: 8, .. },
            O::RegisterOffset { .. },
            O::UnsignedConstant { value: 15 },
            O::And,
            O::UnsignedConstant { value },
            O::Ge,
            ..,
        ] => Some(Cfa::Plt { pushed_at: value as u8 }),
        _ => None,
    }
}

fn operations<'a>(expression: &UnwindExpression<usize>, section: &EhFrame<Slice<'a>>) -> Vec<Operation<Slice<'a>>> {
    let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
    let mut operations = expression.get(section).unwrap().operations(encoding);
    std::iter::from_fn(|| operations.next().ok().flatten()).collect()
}

/// Compares at each row's first and last byte; gives how many rows there were.
fn check(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let built = build(&File::open(path).unwrap()).unwrap();
    compare(&oracle(&bytes), &built, path)
}

fn compare(oracle: &Oracle, built: &Built, path: &Path) -> usize {
    let tables = built.tables.as_ref().unwrap();
    let mut starts: Vec<u64> = oracle.functions.iter().map(|function| function.start).collect();
    starts.sort_unstable();
    let mut rows = 0;
    for Described { start, length, rules } in &oracle.functions {
        let next = starts.partition_point(|other| other <= start);
        let end = starts.get(next).copied().unwrap_or(u64::MAX).min(start + length);
        for (index, &(from, rule)) in rules.iter().enumerate() {
            let to = rules.get(index + 1).map_or(end, |next| next.0).min(end);
            if from >= to {
                continue;
            }
            rows += 1;
            for address in [from, to - 1] {
                let found = tables.rule(address);
                assert_eq!(found, Some(rule), "{} at {address:#x}", path.display());
            }
        }
    }
    rows
}

/// Distributions' and our own binaries: C, C++, hand-written assembler, Rust.
#[test]
fn agrees_with_gimli_on_real_files() {
    let mut rows = 0;
    for file in [
        "/proc/self/exe",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/bin/python3",
        "/usr/bin/node",
        "/usr/bin/redis-server",
    ] {
        if Path::new(file).exists() {
            rows += check(Path::new(file));
        }
    }
    assert!(rows > 10_000, "a test program alone has more rows than {rows}");
}

/// The vDSO is an ELF file in memory.
#[test]
fn builds_of_an_image() {
    let bytes = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
    let from_file = build(&File::open("/lib/x86_64-linux-gnu/libc.so.6").unwrap()).unwrap();
    assert_eq!(build_image(&bytes).unwrap().tables, from_file.tables);
}

/// The dynamic linker tells nothing of the code that the kernel enters it by: a stack is whole there.
#[test]
fn the_entry_is_the_end_of_the_stack() {
    let path = "/lib64/ld-linux-x86-64.so.2";
    let bytes = std::fs::read(path).unwrap();
    let entry = object::File::parse(&bytes[..]).unwrap().entry();
    let built = build(&File::open(path).unwrap()).unwrap();
    assert_eq!(built.tables.unwrap().rule(entry), Some(Rule::END_OF_STACK));
}

/// Where there is no section table, the program headers lead to the same rows.
#[test]
fn needs_no_section_table() {
    let mut bytes = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
    let oracle = oracle(&bytes);
    // e_shoff, e_shnum, e_shstrndx
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    let built = build_image(&bytes).unwrap();
    assert!(compare(&oracle, &built, Path::new("libc without sections")) > 1000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Damage anywhere in `.eh_frame` is counted or harmless: never a panic, and functions that are not damaged
    /// keep their rules.
    #[test]
    fn survives_damaged_eh_frame(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut bytes = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
        let range = {
            let file = object::File::parse(&bytes[..]).unwrap();
            let (at, size) = file.section_by_name(".eh_frame").unwrap().file_range().unwrap();
            at as usize..(at + size) as usize
        };
        for (index, byte) in damage {
            let at = range.start + index.index(range.len());
            bytes[at] = byte;
        }
        let built = build_image(&bytes).unwrap();
        if let Some(tables) = built.tables {
            for offset in (0..tables.length).step_by(97) {
                prop_assert!(tables.rule(tables.base + u64::from(offset)).is_some());
            }
        }
    }

    /// Damage to the headers is an error or other tables, never a panic.
    #[test]
    fn survives_damaged_headers(at in 0_usize..1024, byte: u8, length in 0_usize..300_000) {
        let mut bytes = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
        bytes[at] = byte;
        bytes.truncate(length);
        if let Ok(built) = build_image(&bytes) && let Some(tables) = built.tables {
            let _ = tables.rule(tables.base);
        }
    }
}
