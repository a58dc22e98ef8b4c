//! Tests of the step against framehop, an independent unwinder: both unwind the same stopped processes.
//!
//! The step is the very source that runs in the kernel; tables and ranges are those that the kernel side would get.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cputrace_common::sample::End;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder as _};
use object::{Object as _, ObjectSection as _};

use super::RemoteUnwinder;
use crate::model::MappingKind;
use crate::process::elf::ElfFacts;
use crate::process::mappings;

/// Frames that a stack has at most here, as in the kernel.
const MAX_FRAMES: usize = 1024;

/// A program that is stopped again and again.
struct Traced {
    child: Child,
    memory: File,
}

/// What framehop knows of a process's files.
struct Host {
    framehop: UnwinderX86_64<Vec<u8>>,
}

impl Traced {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        // Until it has loaded its libraries and got to work.
        std::thread::sleep(Duration::from_millis(400));
        let pid = child.id().cast_signed();
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no pointers that the kernel follows.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing) }, 0, "{program}");
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        Self { child, memory }
    }

    /// Stops it, looks at its registers by `look`, and lets it go on.
    fn stop(&self, look: impl FnOnce(&libc::user_regs_struct)) {
        let pid = self.child.id().cast_signed();
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: integers only; `registers` outlives the call that fills it.
        let registers = unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, nothing, nothing), 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::__WALL), pid);
            assert!(libc::WIFSTOPPED(status), "it ended: {status:#x}");
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, nothing, &raw mut registers), 0);
            registers
        };
        look(&registers);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_CONT, pid, nothing, nothing) }, 0);
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Host {
    fn load(pid: u32) -> Self {
        let mut framehop = UnwinderX86_64::new();
        for region in mappings::read_maps(pid).unwrap() {
            if mappings::kind(&region.file) != MappingKind::File {
                continue;
            }
            let file =
                mappings::open_mapped(&region.file.path, region.file.inode, pid, region.start..region.end).unwrap();
            let Ok(facts) = ElfFacts::read(&file) else { continue };
            let bias = region.start.wrapping_sub(region.elf_start(&facts).unwrap().0);
            framehop.add_module(module(&file, &region.file.path, region.start..region.end, bias));
        }
        Self { framehop }
    }
}

fn module(file: &File, path: &Path, range: std::ops::Range<u64>, bias: u64) -> Module<Vec<u8>> {
    let cache = object::ReadCache::new(file);
    let elf = object::File::parse(&cache).unwrap();
    let section = |name: &str| {
        let section = elf.section_by_name(name)?;
        Some((section.address()..section.address() + section.size(), section.data().ok()?.to_vec()))
    };
    let (text_svma, text) = section(".text").unzip();
    let (eh_frame_svma, eh_frame) = section(".eh_frame").unzip();
    let (eh_frame_hdr_svma, eh_frame_hdr) = section(".eh_frame_hdr").unzip();
    let info = ExplicitModuleSectionInfo {
        text_svma,
        text,
        eh_frame_svma,
        eh_frame,
        eh_frame_hdr_svma,
        eh_frame_hdr,
        ..ExplicitModuleSectionInfo::default()
    };
    Module::new(path.display().to_string(), range, bias, info)
}

/// Addresses of a stack as the step finds them, and how it ended.
fn ours(pid: u32, registers: &libc::user_regs_struct, unwinder: &mut RemoteUnwinder) -> (Vec<u64>, End) {
    let r = registers;
    // By DWARF number.
    let general =
        [r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    let far = Instant::now() + Duration::from_secs(600);
    let stack = unwinder.unwind(pid, general, r.rip, far);
    (stack.frames, stack.end)
}

fn theirs(registers: &libc::user_regs_struct, host: &Host, cache: &mut CacheX86_64, memory: &File) -> Vec<u64> {
    let mut read = |address| {
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, address).map(|()| u64::from_le_bytes(word)).map_err(|_| ())
    };
    let start = UnwindRegsX86_64::new(registers.rip, registers.rsp, registers.rbp);
    let mut frames = host.framehop.iter_frames(registers.rip, start, cache, &mut read);
    let mut addresses = Vec::new();
    while let Ok(Some(frame)) = frames.next() {
        addresses.push(match frame {
            FrameAddress::InstructionPointer(address) => address,
            FrameAddress::ReturnAddress(address) => address.get(),
        });
        if addresses.len() == MAX_FRAMES {
            break;
        }
    }
    addresses
}

/// Frames from the innermost on that are the same, and from the outermost on: where one of the two misses a frame, those of its
/// callers are not the same by number, but they are found.
fn in_common(theirs: &[u64], ours: &[u64]) -> usize {
    let inner = theirs.iter().zip(ours).take_while(|(theirs, ours)| theirs == ours).count();
    let outer = theirs[inner..].iter().rev().zip(ours[inner..].iter().rev());
    inner + outer.take_while(|(theirs, ours)| theirs == ours).count()
}

/// What a program is to show.
struct Expected {
    /// How often it is stopped.
    stops: usize,
    /// Frames that the deepest stack has at least.
    depth: usize,
    /// Share of framehop's frames that the step finds at least.
    share: f64,
}

/// Stops a program; prints and checks the share of framehop's frames that the step finds, and of stacks that
/// end complete. Programs that are not installed are skipped, loudly.
fn check(program: &str, arguments: &[&str], expected: Expected) {
    let Expected { stops, depth, share: min_share } = expected;
    if !Path::new(program).exists() {
        println!("SKIPPED: there is no {program}");
        return;
    }
    let traced = Traced::start(program, arguments);
    let host = Host::load(traced.child.id());
    let mut unwinder = RemoteUnwinder::default();
    let mut cache = CacheX86_64::new();
    let (mut frames, mut agreed, mut complete, mut deepest) = (0, 0, 0, 0);
    for _ in 0..stops {
        std::thread::sleep(Duration::from_millis(3));
        traced.stop(|registers| {
            let (ours, end) = ours(traced.child.id(), registers, &mut unwinder);
            let theirs = theirs(registers, &host, &mut cache, &traced.memory);
            // Where framehop gives up early there is nothing to compare with.
            frames += theirs.len().max(1);
            agreed += in_common(&theirs, &ours);
            complete += usize::from(end == End::Complete);
            deepest = deepest.max(ours.len());
        });
    }
    let share = agreed as f64 / frames as f64;
    println!(
        "{program}: {agreed} of {frames} frames agree ({:.2} %), {complete} of {stops} stacks complete, {deepest} frames at most",
        share * 100.0
    );
    assert!(deepest >= depth, "{program}: only {deepest} frames");
    assert!(share >= min_share, "{program}: {share}");
    assert!(complete * 100 >= stops * 99, "{program}: {complete} of {stops}");
}

/// Deep recursion of an interpreter in C.
#[test]
fn agrees_with_framehop_on_python() {
    let program = "def f(n):\n return sum(map(f, [n - 1])) + 1 if n else 0\nwhile 1: f(40)";
    check("/usr/bin/python3", &["-c", program], Expected { stops: 200, depth: 60, share: 0.99 });
}

/// Code of a JIT compiler, and C++. Framehop knows more prologues of functions without rules than the step does.
#[test]
fn agrees_with_framehop_on_node() {
    let program = "const f = n => n ? [n - 1].map(f)[0] + 1 : JSON.stringify({ a: [1, 2, 3] }).length; for (;;) f(40)";
    check("/usr/bin/node", &["-e", program], Expected { stops: 200, depth: 30, share: 0.99 });
}

/// A C program of short functions.
#[test]
fn agrees_with_framehop_on_xz() {
    check(
        "/usr/bin/xz",
        &["-9", "-k", "-c", "/proc/self/exe", "/usr/bin/perl", "/usr/bin/python3"],
        Expected { stops: 20, depth: 5, share: 0.99 },
    );
}

/// Hand-written assembler whose rules are expressions and rare registers.
#[test]
fn survives_openssl() {
    if !Path::new("/usr/bin/openssl").exists() {
        println!("SKIPPED: there is no openssl");
        return;
    }
    let traced = Traced::start("/usr/bin/openssl", &["speed", "-seconds", "20", "rsa2048"]);
    let mut unwinder = RemoteUnwinder::default();
    let mut complete = 0;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(3));
        traced.stop(|registers| {
            complete += usize::from(ours(traced.child.id(), registers, &mut unwinder).1 == End::Complete);
        });
    }
    println!("openssl: {complete} of 100 stacks complete");
    assert!(complete >= 99);
}
