//! Two versions of one file in one recording, and files that are gone: each address keeps the names of the very file that
//! it was found in, or has none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cputrace::code::CodeFinder;
use cputrace::model::UnknownReason;
use cputrace::process::{Change, FileId, Mappings, ObjectId, Region};
use support::lab::{Lab, root};
use support::require;
use support::symbols::*;

/// Where the mappings of the test lie; this process has nothing there.
const BASE: u64 = 0x10_0000_0000;

/// A program that spends its time in a function of the given name, at the same address whatever the name.
fn version(lab: &Lab, function: &str) -> PathBuf {
    let (source, program) = (lab.path(&format!("{function}.c")), lab.path(function));
    let code = format!(
        "#include <time.h>\nvolatile long sink;\n__attribute__((noinline)) void {function}(void) {{ for (int i = 0; i < \
         1000000; i++) sink += i; }}\nint main(void) {{ struct timespec t; do {{ {function}(); \
         clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); }} while (t.tv_sec < 1); return 0; }}\n"
    );
    fs::write(&source, code).unwrap();
    run(std::process::Command::new("cc").args(["-O1", "-Wl,--build-id=none", "-o"]).arg(&program).arg(&source));
    program
}

fn file_id(path: &Path) -> FileId {
    FileId { path: path.to_owned(), device: (0, 0), inode: fs::metadata(path).unwrap().ino() }
}

/// Nothing is mapped yet.
fn mappings() -> Mappings {
    let mut mappings = Mappings::default();
    mappings.apply(&Change::Exec { pid: std::process::id() });
    mappings
}

/// This process maps a file; where the address `address` of the file lies.
fn map(mappings: &mut Mappings, index: u64, file: FileId, address: u64) -> ObjectId {
    let (pid, start) = (std::process::id(), BASE + (index << 30));
    let region = Region { start, end: start + (1 << 20), file_offset: 0, file };
    mappings.apply(&Change::Map { pid, region });
    mappings.normalize(pid, start + address).object
}

fn name(mappings: &Mappings, object: ObjectId, address: u64) -> Result<String, UnknownReason> {
    let finder = CodeFinder::new(&|| false);
    let code = std::cell::Cell::new(Some(finder.find(mappings.object(object))));
    let named = names(|| code.take().unwrap(), &[address]).remove(0)?;
    Ok(named.last().unwrap().system_name.clone())
}

/// A program that was built anew in place, by the same name and inode, is another one. What was found in the old one gets
/// none of its names.
#[test]
fn overwritten_files_are_other_files() {
    if !(require("cc") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let (old, new, path) = (version(&lab, "old_function"), version(&lab, "new_function"), lab.path("program"));
    let address = address_of(&old, "old_function");
    fs::copy(&old, &path).unwrap();
    let mut mappings = self::mappings();
    let first = map(&mut mappings, 0, file_id(&path), address);
    assert_eq!(map(&mut mappings, 1, file_id(&path), address), first, "nobody wrote to it");
    assert_eq!(name(&mappings, first, address), Ok("old_function".to_owned()));
    let inode = file_id(&path).inode;
    fs::copy(&new, &path).unwrap();
    assert_eq!(file_id(&path).inode, inode);
    let second = map(&mut mappings, 2, file_id(&path), address);
    assert_ne!(first, second);
    assert_eq!(name(&mappings, second, address), Ok("new_function".to_owned()));
    assert_eq!(name(&mappings, first, address), Err(UnknownReason::FileGone));
}

/// A file that was replaced before anybody could open it has no names, not those of the file that is there now. One that
/// was opened in time keeps its own.
#[test]
fn replaced_files_keep_their_names() {
    if !(require("cc") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let (old, new, path) = (version(&lab, "old_function"), version(&lab, "new_function"), lab.path("program"));
    let address = address_of(&old, "old_function");
    fs::copy(&old, &path).unwrap();
    let was = file_id(&path);
    let mut mappings = self::mappings();
    let opened = map(&mut mappings, 0, was.clone(), address);
    fs::rename(&new, &path).unwrap();
    let replacement = map(&mut mappings, 1, file_id(&path), address);
    assert_eq!(name(&mappings, opened, address), Ok("old_function".to_owned()));
    assert_eq!(name(&mappings, replacement, address), Ok("new_function".to_owned()));
    let mut late = self::mappings();
    let unopened = map(&mut late, 0, was, address);
    assert_eq!(name(&late, unopened, address), Err(UnknownReason::FileGone));
    fs::remove_file(&path).unwrap();
    assert_eq!(name(&mappings, replacement, address), Ok("new_function".to_owned()));
}

/// In one real recording: a program, the next version of it in its place, and neither is there at the end. Without build
/// ids, as Go's programs have none, nothing but the files themselves tells the two apart.
#[test]
#[ignore = "needs root"]
fn one_recording_of_two_versions() {
    if !(root() && require("cc")) {
        return;
    }
    let lab = Lab::new();
    version(&lab, "old_function");
    version(&lab, "new_function");
    let script = "cp old_function program && ./program && mv new_function program && ./program && rm program";
    lab.record(&["--", "sh", "-c", script]);
    let stacks = fs::read_to_string(lab.path("stacks.folded")).unwrap();
    let mut seen = [0, 0];
    for line in stacks.lines().filter(|line| line.contains("program;")) {
        for (seen, function) in seen.iter_mut().zip(["old_function", "new_function"]) {
            *seen += u32::from(line.contains(function));
        }
    }
    assert!(seen.iter().all(|&seen| seen > 0), "{stacks}");
    assert!(File::open(lab.path("program")).is_err());
}

/// A process in another pid namespace and root writes its map only at its end: it is found, by the number that the process
/// had there.
#[test]
#[ignore = "needs root"]
fn a_map_that_is_written_at_the_end() {
    if !(root() && require("cc") && require("unshare")) {
        return;
    }
    let lab = Lab::new();
    let (source, program) = (lab.path("jit.c"), lab.path("jit"));
    // x86-64: `inc %rax; dec %rdi; jnz back to the start; ret`.
    let code = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    unsigned char code[] = {0x48, 0xff, 0xc0, 0x48, 0xff, 0xcf, 0x75, 0xf8, 0xc3};
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, code, sizeof code);
    struct timespec t;
    do {
        ((void (*)(long))at)(10000000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    } while (t.tv_sec < 1);
    char path[64];
    sprintf(path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    fprintf(map, "%lx 9 LazyCompile:*hot app.js:1\n", (long)at);
    return fclose(map);
}
"#;
    fs::write(&source, code).unwrap();
    run(std::process::Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(&source));
    fs::create_dir_all(lab.path("container/tmp")).unwrap();
    fs::rename(&program, lab.path("container/jit")).unwrap();
    let container = lab.path("container");
    let container = container.to_str().unwrap();
    lab.record(&["--", "unshare", "--fork", "--pid", "--root", container, "/jit"]);
    let stacks = fs::read_to_string(lab.path("stacks.folded")).unwrap();
    assert!(stacks.contains("LazyCompile:*hot app.js:1"), "{stacks}");
}
