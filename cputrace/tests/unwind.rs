//! The unwinder's own source, on the host: its tables against gimli row by row, its stacks against framehop's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use cputrace::process::elf::{self, ElfFacts};
use cputrace::unwind::build;
use cputrace_common::sample::End;
use cputrace_common::unwind::step::{Found, Machine, State, Step, step};
use cputrace_common::unwind::table::{CHUNK_WORDS, Range, Table};
use framehop::Unwinder;
use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use gimli::{BaseAddresses, CfaRule, EhFrame, LittleEndian, RegisterRule, UnwindSection};
use proptest::prelude::*;
use support::require;

/// Tables and memory as the step sees them.
struct Host<R> {
    pool: Vec<u32>,
    ranges: Vec<(Range, Table)>,
    read: R,
}

impl<R: FnMut(u64) -> Option<u64>> Host<R> {
    fn new(read: R) -> Self {
        Self { pool: Vec::new(), ranges: Vec::new(), read }
    }

    /// Adds a file's table, for addresses from `start` to `end`.
    fn add(&mut self, file: &File, start: u64, end: u64, bias: u64) {
        let position = self.pool.len().next_multiple_of(2);
        let (words, table) = build(file).unwrap().place(position as u32);
        self.pool.resize(position, 0);
        self.pool.extend(words);
        // A chunk is always whole.
        self.pool.resize(self.pool.len().next_multiple_of(CHUNK_WORDS), 0);
        self.ranges.push((Range { start, end, bias, table: 0, reserved: 0 }, table));
    }
}

impl<R: FnMut(u64) -> Option<u64>> Machine for Host<R> {
    fn read(&mut self, address: u64) -> Option<u64> {
        (self.read)(address)
    }

    fn read_code(&mut self, address: u64) -> Option<u64> {
        (self.read)(address)
    }

    fn range(&mut self, address: u64) -> Found {
        let found = self.ranges.iter().copied().find(|(range, _)| (range.start..range.end).contains(&address));
        found.map_or(Found::NoFile, |(range, table)| Found::File(range, table))
    }

    fn chunk(&mut self, index: u32) -> Option<*const u32> {
        self.pool.get(index as usize * CHUNK_WORDS..).map(<[u32]>::as_ptr)
    }
}

/// Memory in which every word differs, so that a wrong address shows.
fn word_at(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 | 1 << 40
}

const SP: u64 = 0x7ffe_0000_1000;
const BP: u64 = 0x7ffe_0000_2000;

/// What gimli's row makes of the registers: the caller's (pc, sp, bp); `None` where ours does not follow.
fn by_gimli(row: &gimli::UnwindTableRow<usize>) -> Option<(u64, u64, u64)> {
    let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
    let cfa = match register.0 {
        7 => SP,
        6 => BP,
        _ => return None,
    };
    let cfa = cfa.wrapping_add_signed(*offset);
    let Some(RegisterRule::Offset(-8)) = row.register(gimli::Register(16)) else { return None };
    let bp = match row.register(gimli::Register(6)) {
        Some(RegisterRule::Offset(offset)) => word_at(cfa.wrapping_add_signed(offset)),
        None | Some(RegisterRule::SameValue) => BP,
        Some(RegisterRule::Undefined) => 0,
        _ => return None,
    };
    (cfa > SP).then(|| (word_at(cfa - 8), cfa, bp))
}

/// Every row of every function of a file: the step by our table comes to what gimli's row says.
fn check_against_gimli(path: &str) {
    let file = File::open(path).unwrap();
    let [eh_frame] = elf::sections(&file, [".eh_frame"]).unwrap();
    let eh_frame = eh_frame.unwrap();
    let bytes = eh_frame.read(&file, u64::MAX).unwrap();
    let mut frame = EhFrame::new(&bytes, LittleEndian);
    frame.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(eh_frame.address);
    let mut host = Host::new(|address| Some(word_at(address)));
    host.add(&file, 0, u64::MAX, 0);
    let (mut context, mut entries, mut checked, mut others) =
        (gimli::UnwindContext::new(), frame.entries(&bases), 0, 0);
    while let Some(entry) = entries.next().unwrap() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
        if fde.is_signal_trampoline() {
            continue;
        }
        let mut table = fde.rows(&frame, &bases, &mut context).unwrap();
        while let Some(row) = table.next_row().unwrap() {
            let (start, end) = (row.start_address(), row.end_address());
            if start == end {
                continue;
            }
            let Some(expected) = by_gimli(row) else {
                others += 1;
                continue;
            };
            for pc in [start, end - 1] {
                let mut state = State { pc, sp: SP, bp: BP, innermost: 1, exact: 1, ..State::default() };
                assert_eq!(step(&mut state, &mut host), Step::Caller, "{path} {pc:#x}");
                assert_eq!((state.pc, state.sp, state.bp), expected, "{path} {pc:#x}");
            }
            checked += 1;
        }
    }
    eprintln!("{path}: {checked} rows agree with gimli, {others} are of kinds that were not compared");
    assert!(checked > 100 && others * 20 < checked, "{checked} rows compared, {others} not");
}

/// The table of this program, of libc and of others that are there equals gimli's.
#[test]
fn tables_equal_gimlis() {
    check_against_gimli("/proc/self/exe");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc =
        maps.lines().find_map(|line| line.split_ascii_whitespace().nth(5).filter(|path| path.contains("libc.so")));
    check_against_gimli(libc.unwrap());
    for path in ["/usr/bin/python3.11", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"] {
        if std::path::Path::new(path).exists() {
            check_against_gimli(path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A damaged file gives a smaller table or an error, never a panic, and no step by it goes astray.
    #[test]
    fn damaged_files_do_no_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        let original = File::open("/bin/ls").unwrap();
        let mut bytes = vec![0; original.metadata().unwrap().len() as usize];
        original.read_exact_at(&mut bytes, 0).unwrap();
        let [eh_frame] = elf::sections(&original, [".eh_frame"]).unwrap();
        let size = eh_frame.unwrap().size as usize;
        // Most of it within the call frame information, which lies near the end.
        let region = bytes.len() - 4 * size..bytes.len();
        for (at, byte) in damage {
            let at = region.start + at.index(region.len());
            bytes[at] = byte;
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        if let Ok(table) = build(&file) {
            let (words, placed) = table.place(0);
            prop_assert!(placed.first_rule as usize + table.rules.len() * 2 == words.len());
            let mut host = Host::new(|address| Some(word_at(address)));
            host.pool = words;
            host.pool.resize(host.pool.len().next_multiple_of(CHUNK_WORDS), 0);
            host.ranges.push((Range { start: 0, end: u64::MAX, bias: 0, table: 0, reserved: 0 }, placed));
            for pc in (0..0x20_0000).step_by(97) {
                let mut state = State { pc, sp: SP, bp: BP, innermost: 1, exact: 1, ..State::default() };
                let _ = step(&mut state, &mut host);
            }
        }
    }
}

/// A stopped thread: its registers, its memory, its mappings.
struct Stopped {
    pid: i32,
    memory: File,
}

impl Stopped {
    fn attach(pid: u32) -> Self {
        let pid = pid.cast_signed();
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: plain system calls on a child of ours.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, null, null), 0);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        Self { pid, memory: File::open(format!("/proc/{pid}/mem")).unwrap() }
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: fills in the structure given.
        unsafe {
            let mut registers = std::mem::zeroed::<libc::user_regs_struct>();
            let null = std::ptr::null_mut::<libc::c_void>();
            assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, self.pid, null, &raw mut registers), 0);
            registers
        }
    }

    fn read(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// Executable mappings with a file: (start, end, bias, file).
    fn files(&self) -> Vec<(u64, u64, u64, File)> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let lines = maps.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let executable =
            lines.filter(|fields| fields.len() == 6 && fields[1].contains('x') && fields[5].starts_with('/'));
        executable
            .map(|fields| {
                let (start, end) = fields[0].split_once('-').unwrap();
                let file = File::open(fields[5]).unwrap();
                let linked = ElfFacts::read(&file).unwrap().elf_addr(hex(fields[2])).unwrap();
                (hex(start), hex(end), hex(start).wrapping_sub(linked.0), file)
            })
            .collect()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as in `attach`.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.pid, null, null) };
    }
}

fn by_step(stopped: &Stopped, host: &mut Host<impl FnMut(u64) -> Option<u64>>) -> (Vec<u64>, End) {
    let r = stopped.registers();
    let registers =
        [r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    let mut state = State { pc: r.rip, sp: r.rsp, bp: r.rbp, registers, innermost: 1, exact: 1, ..State::default() };
    let mut frames = vec![state.pc];
    while frames.len() < 1000 {
        match step(&mut state, host) {
            Step::Caller => frames.push(state.pc),
            Step::Again => {}
            Step::End(end) => return (frames, end),
        }
    }
    (frames, End::Truncated)
}

fn by_framehop(stopped: &Stopped, files: &[(u64, u64, u64, File)]) -> Vec<u64> {
    let mut unwinder: UnwinderX86_64<Vec<u8>> = UnwinderX86_64::new();
    for (start, end, bias, file) in files {
        let [eh_frame, header, text] = elf::sections(file, [".eh_frame", ".eh_frame_hdr", ".text"]).unwrap();
        let range = |section: Option<elf::Section>| section.map(|s| s.address..s.address + s.size);
        let contents = |section: Option<elf::Section>| section.map(|s| s.read(file, u64::MAX).unwrap());
        let sections = framehop::ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(text),
            text: contents(text),
            eh_frame_svma: range(eh_frame),
            eh_frame: contents(eh_frame),
            eh_frame_hdr_svma: range(header),
            eh_frame_hdr: contents(header),
            ..Default::default()
        };
        unwinder.add_module(framehop::Module::new(format!("{start:x}"), *start..*end, *bias, sections));
    }
    let r = stopped.registers();
    let mut cache = CacheX86_64::<_>::new();
    let mut read = |address| stopped.read(address).ok_or(());
    let registers = UnwindRegsX86_64::new(r.rip, r.rsp, r.rbp);
    let mut frames = unwinder.iter_frames(r.rip, registers, &mut cache, &mut read);
    std::iter::from_fn(|| frames.next().ok().flatten()).map(|frame| frame.address()).take(1000).collect()
}

/// Real processes, stopped at random: our stacks end complete, and have framehop's frames.
#[test]
fn stacks_agree_with_framehop() {
    let script = "import hashlib\n\
                  def down(n):\n    return hashlib.md5(bytes(range(200))).digest() if n == 0 else down(n - 1)\n\
                  def sort(n):\n    return sorted(map(str, range(n)), key=lambda s: down(20))\n\
                  while True: sort(50)";
    let programs: [(&str, &[&str]); 3] = [
        ("python3", &["python3", "-c", script]),
        ("xz", &["sh", "-c", "exec xz -9 -c < /dev/urandom"]),
        ("openssl", &["openssl", "speed", "-seconds", "60", "rsa2048"]),
    ];
    let (mut frames, mut agreed, mut stacks, mut complete) = (0, 0, 0, 0);
    for (name, words) in programs {
        if !require(name) {
            continue;
        }
        let mut command = Command::new(words[0]);
        let mut child = command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
        for turn in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(7 + turn % 5));
            let stopped = Stopped::attach(child.id());
            let files = stopped.files();
            let mut host = Host::new(|address| stopped.read(address));
            for (start, end, bias, file) in &files {
                host.add(file, *start, *end, *bias);
            }
            let ((ours, end), theirs) = (by_step(&stopped, &mut host), by_framehop(&stopped, &files));
            stacks += 1;
            complete += usize::from(end == End::Complete);
            frames += theirs.len();
            agreed += theirs.iter().zip(&ours).filter(|(theirs, ours)| theirs == ours).count();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    eprintln!("{agreed} of {frames} frames agree with framehop; {complete} of {stacks} stacks are complete");
    assert!(agreed * 100 >= frames * 97, "{agreed} of {frames} frames agree with framehop");
    assert!(complete * 100 >= stacks * 97, "{complete} of {stacks} stacks are complete");
}
