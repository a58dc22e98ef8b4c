//! Names of addresses in programs, and what binutils say of these.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cputrace::model::*;
use cputrace::symbolize::{Code, Detail, Tables, symbolize};

use super::lab::Lab;

/// A function at an address: its name as in the symbol table, the readable one, the source file's name, the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) system_name: String,
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: u32,
}

pub(crate) type Named = Result<Vec<Frame>, UnknownReason>;

/// What `symbolize` makes of addresses.
pub(crate) fn names(code: impl Fn() -> Code, addresses: &[u64]) -> Vec<Named> {
    let (profile, ids) = symbolized(code, addresses);
    let named = |id: &LocationId| {
        let location = &profile.locations()[id.index()];
        location.unknown.map_or_else(
            || {
                let lines = location.lines.iter().map(|line| {
                    let function = &profile.functions()[line.function.index()];
                    let file = Path::new(profile.text(function.file)).file_name().unwrap_or_default();
                    Frame {
                        system_name: profile.text(function.system_name).to_owned(),
                        name: profile.text(function.name).to_owned(),
                        file: file.to_str().unwrap().to_owned(),
                        line: line.line,
                    }
                });
                Ok(lines.collect())
            },
            Err,
        )
    };
    ids.iter().map(named).collect()
}

/// Addresses of `/some/file`, symbolized.
fn symbolized(code: impl Fn() -> Code, addresses: &[u64]) -> (Profile, Vec<LocationId>) {
    let mut profile = Profile::new();
    let path = profile.string("/some/file");
    let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
    let ids: Vec<_> = addresses.iter().map(|&address| profile.location(mapping, ElfAddr(address))).collect();
    symbolize(&mut profile, &|_| code(), Detail::Lines, &mut Tables::default(), &|| false);
    (profile, ids)
}

/// What a reader is shown for addresses, and why that is no name where it is none.
pub(crate) fn shown(code: impl Fn() -> Code, addresses: &[u64]) -> Vec<(String, Option<UnknownReason>)> {
    let (profile, ids) = symbolized(code, addresses);
    let shown = |id: LocationId| (profile.names(id).join(";"), profile.locations()[id.index()].unknown);
    ids.into_iter().map(shown).collect()
}

pub(crate) fn elf(path: &Path) -> Code {
    Code::Elf { file: Arc::new(File::open(path).unwrap()), debug: None, package: None }
}

/// The name of each address's outermost function, or why it has none.
pub(crate) fn outermost(named: &[Named]) -> Vec<Result<&str, UnknownReason>> {
    named
        .iter()
        .map(|named| named.as_ref().map(|frames| &*frames.last().unwrap().system_name).map_err(|e| *e))
        .collect()
}

impl Lab {
    /// The sample of a language, compiled.
    pub(crate) fn compile(&self, compiler: &str, arguments: &[&str], sample: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names").join(sample);
        let program = self.path(&sample.replace('.', "_"));
        run(Command::new(compiler).args(arguments).arg("-o").arg(&program).arg(source));
        program
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A symbol as `nm` has it.
#[derive(Clone, Debug)]
pub(crate) struct Symbol {
    pub(crate) address: u64,
    pub(crate) size: u64,
    pub(crate) name: String,
}

/// All symbols of code that are defined in a file.
pub(crate) fn nm(file: &Path, arguments: &[&str]) -> Vec<Symbol> {
    let text =
        run(Command::new("nm").args(["--defined-only", "--without-symbol-versions", "-S"]).args(arguments).arg(file));
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap();
    let symbols = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let (size, kind, name) = match words[..] {
            [_, size, kind, name] => (hex(size), kind, name),
            [_, kind, name] => (0, kind, name),
            _ => return None,
        };
        "tTwWi".contains(kind).then(|| Symbol { address: hex(words[0]), size, name: name.to_owned() })
    });
    symbols.collect()
}

pub(crate) fn frame_names(named: &Named) -> Vec<&str> {
    named.as_ref().map(|frames| frames.iter().map(|frame| &*frame.name).collect()).unwrap_or_default()
}

/// The address of a function of `program`.
pub(crate) fn address_of(program: &Path, part: &str) -> u64 {
    let symbols = nm(program, &[]);
    symbols.iter().find(|symbol| symbol.name.contains(part)).unwrap_or_else(|| panic!("{part} is there")).address
}
