//! What programs without a symbol table show, judged by binutils: no wrong names, whole functions, linkage stubs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;

use cputrace::model::*;
use support::lab::Lab;
use support::symbols::*;
use support::{require, skip_unless};

/// First address and size of a section.
fn section(file: &Path, name: &str) -> (u64, u64) {
    let text = run(Command::new("readelf").args(["-SW"]).arg(file));
    let line = text.lines().find(|line| line.contains(&format!(" {name} "))).unwrap();
    let words: Vec<_> = line.split_once(']').unwrap().1.split_whitespace().collect();
    (u64::from_str_radix(words[2], 16).unwrap(), u64::from_str_radix(words[4], 16).unwrap())
}

/// Addresses all over a section.
fn spread(file: &Path, section_name: &str, count: u64) -> Vec<u64> {
    let (start, size) = section(file, section_name);
    // A step that hits all remainders, so that addresses lie anywhere in functions and between them.
    (0..count).map(|index| start + index * 2_654_435_761 % size).collect()
}

/// Distribution programs that are there.
fn programs() -> Vec<&'static Path> {
    const CANDIDATES: [&str; 4] =
        ["/usr/bin/redis-server", "/usr/bin/python3.11", "/usr/lib/postgresql/15/bin/postgres", "/usr/bin/bash"];
    CANDIDATES.iter().map(Path::new).filter(|program| program.exists()).collect()
}

/// A stripped program's names are those of its exported functions, and only within them: the rest has none.
#[test]
fn stripped_programs_get_no_wrong_names() {
    if !(require("nm") && require("readelf")) {
        return;
    }
    let programs = programs();
    if !skip_unless(!programs.is_empty(), "there is no stripped program that is known") {
        return;
    }
    for program in programs {
        assert!(nm(program, &[]).is_empty(), "{} is stripped", program.display());
        let mut symbols = nm(program, &["-D"]);
        symbols.sort_by_key(|symbol| symbol.address);
        let addresses = spread(program, ".text", 20_000);
        let named = names(|| elf(program), &addresses);
        let mut with_name = 0;
        for (address, found) in addresses.iter().zip(outermost(&named)) {
            let covers = |symbol: &&Symbol| (symbol.address..symbol.address + symbol.size.max(1)).contains(address);
            let expected: Vec<&str> = symbols.iter().filter(covers).map(|symbol| &*symbol.name).collect();
            match found {
                Ok(name) => assert!(expected.contains(&name), "{address:#x}: {name}, not {expected:?}"),
                Err(reason) => {
                    assert_eq!(reason, UnknownReason::NoSymbols);
                    assert!(expected.is_empty(), "{address:#x} of {}: {expected:?}", program.display());
                }
            }
            with_name += u32::from(found.is_ok());
        }
        eprintln!("{}: {with_name} of {} addresses have a name", program.display(), addresses.len());
        assert!(with_name > 0);
    }
}

/// Symbols without a size (crt's `_init`, `_start`) name no code of other sections, such as the PLT.
#[test]
fn a_symbol_ends_with_its_section() {
    if !(require("cc") && require("readelf")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2"], "sample.c");
    let named = names(|| elf(&program), &spread(&program, ".plt", 16));
    for name in outermost(&named) {
        assert!(matches!(name, Err(UnknownReason::NotInSymbolTable) | Ok("strtol@plt")), "{name:?}");
    }
    let init = nm(&program, &[]).into_iter().find(|symbol| symbol.name == "_init").unwrap();
    assert_eq!(outermost(&names(|| elf(&program), &[init.address + 4])), [Ok("_init")]);
}

/// All of a stripped program's function is one function to the reader, named by its first address; that it has no name,
/// and why, is kept.
#[test]
fn functions_without_names_are_whole() {
    if !(require("cc") && require("c++") && require("nm") && require("objcopy")) {
        return;
    }
    let lab = Lab::new();
    let stripped = lab.path("stripped");
    for (compiler, sample) in [("cc", "sample.c"), ("c++", "sample.cpp")] {
        let program = lab.compile(compiler, &["-O2"], sample);
        run(Command::new("objcopy").arg("-S").args([&program, &stripped]));
        let mut symbols = nm(&program, &[]);
        symbols.retain(|symbol| symbol.size > 0);
        assert!(symbols.len() > 2, "{symbols:?}");
        for Symbol { address, size, name } in symbols {
            let addresses: Vec<u64> = (address..address + size).collect();
            let expected = (format!("file+{address:#x}"), Some(UnknownReason::NoSymbols));
            for (at, shown) in addresses.iter().zip(shown(|| elf(&stripped), &addresses)) {
                assert_eq!(shown, expected, "{at:#x} of {name}");
            }
        }
    }
}

/// Code that nothing describes, as hand-written assembler, is one thing to the reader: its file.
#[test]
fn code_that_nothing_describes_goes_by_its_file() {
    if !(require("cc") && require("nm") && require("objcopy")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"], "sample.c");
    let stripped = lab.path("stripped");
    run(Command::new("objcopy").arg("-S").args([&program, &stripped]));
    let addresses = [address_of(&program, "hidden_sum"), address_of(&program, "file_local")];
    let expected = ("file (no symbols in file)".to_owned(), Some(UnknownReason::NoSymbols));
    assert_eq!(shown(|| elf(&stripped), &addresses), [expected.clone(), expected]);
}

/// Where nothing describes the code, a function begins where it sets up its frame pointer.
#[test]
#[cfg(target_arch = "x86_64")]
fn functions_that_keep_frame_pointers_are_whole() {
    if !(require("cc") && require("nm") && require("objcopy")) {
        return;
    }
    let lab = Lab::new();
    let no_tables = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let frame_pointers = ["-O0", "-fno-omit-frame-pointer", "-falign-functions=16", "-fcf-protection=none"];
    let program = lab.compile("cc", &[&no_tables[..], &frame_pointers].concat(), "sample.c");
    let stripped = lab.path("stripped");
    run(Command::new("objcopy").arg("-S").args([&program, &stripped]));
    for function in ["hidden_sum", "file_local", "main"] {
        let symbol = nm(&program, &[]).into_iter().find(|symbol| symbol.name == function).unwrap();
        let addresses: Vec<u64> = (symbol.address..symbol.address + symbol.size).collect();
        let expected = (format!("file+{:#x}", symbol.address), Some(UnknownReason::NoSymbols));
        for (at, shown) in addresses.iter().zip(shown(|| elf(&stripped), &addresses)) {
            assert_eq!(shown, expected, "{at:#x} of {function}");
        }
    }
}

/// Linkage stubs have the names that objdump has for them, and no other code has.
#[test]
fn linkage_stubs_are_objdumps() {
    if !(require("cc") && require("objdump") && require("readelf")) {
        return;
    }
    let lab = Lab::new();
    let bound_now = lab.compile("cc", &["-O2", "-Wl,-z,now"], "sample.c");
    let mut programs = programs();
    programs.push(&bound_now);
    for program in programs {
        let mut stubs = 0;
        let sections = run(Command::new("readelf").arg("-SW").arg(program));
        for section in [".plt", ".plt.sec", ".plt.got"] {
            if !sections.contains(&format!(" {section} ")) {
                continue;
            }
            let text = run(Command::new("objdump").args(["-d", "-j", section]).arg(program));
            // Lines of functions: `0000000000001030 <strtol@plt>:`; those of instructions: `    1036:\tpush ...`.
            let mut label = None;
            let mut expected: Vec<(u64, Option<String>)> = Vec::new();
            for line in text.lines() {
                if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
                    label = name.1.ends_with("@plt").then(|| name.1.to_owned());
                } else if let Some((address, _)) = line.split_once(":\t") {
                    expected.push((u64::from_str_radix(address.trim(), 16).unwrap(), label.clone()));
                }
            }
            let addresses: Vec<u64> = expected.iter().map(|(address, _)| *address).collect();
            for ((address, label), found) in expected.iter().zip(names(|| elf(program), &addresses)) {
                let found = found.ok().map(|frames| frames[0].system_name.clone());
                assert_eq!(&found, label, "{address:#x} of {}", program.display());
                stubs += u32::from(found.is_some());
            }
        }
        eprintln!("{}: {stubs} addresses of stubs", program.display());
        assert!(stubs > 0, "{}", program.display());
    }
}
