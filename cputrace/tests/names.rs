//! Names of addresses in real programs, judged by binutils: `addr2line` for source lines and inlined functions, `nm` for
//! what a symbol table says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cputrace::model::*;
use cputrace::process::elf::ElfFacts;
use cputrace::symbolize::{Code, Detail, Tables, symbolize};
use proptest::prelude::*;
use support::lab::Lab;
use support::require;
use support::symbols::*;

/// What `addr2line` says: functions with their lines, innermost first.
fn addr2line(file: &Path, addresses: &[u64]) -> Vec<Vec<Frame>> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-f", "-i", "-e"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut all = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            all.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap().split(" (discriminator").next().unwrap();
        let (file, number) = place.rsplit_once(':').unwrap();
        let file = Path::new(file).file_name().unwrap().to_str().unwrap();
        all.last_mut().unwrap().push(Frame {
            system_name: line.to_owned(),
            name: String::new(),
            file: file.replace("??", ""),
            line: number.parse().unwrap_or(0),
        });
    }
    all
}

/// Every byte of the functions whose name contains `part`: functions, inlined ones, files and lines as addr2line's.
fn check_lines(program: &Path, part: &str) {
    let symbols = nm(program, &[]).into_iter().filter(|symbol| symbol.name.contains(part));
    let addresses: Vec<u64> = symbols.flat_map(|symbol| symbol.address..symbol.address + symbol.size).collect();
    assert!(addresses.len() > 20, "{part} is there");
    let named = names(|| elf(program), &addresses);
    for ((address, ours), theirs) in addresses.iter().zip(named).zip(addr2line(program, &addresses)) {
        let ours: Vec<_> = ours.unwrap().into_iter().map(|frame| Frame { name: String::new(), ..frame }).collect();
        assert_eq!(ours, theirs, "at {address:#x} of {}", program.display());
    }
}

/// Inlined functions and source lines of C, C++ and Rust are those that addr2line finds.
#[test]
fn inlines_and_lines_are_addr2lines() {
    if !(require("cc") && require("c++") && require("rustc") && require("addr2line")) {
        return;
    }
    let lab = Lab::new();
    let c = lab.compile("cc", &["-O2", "-g"], "sample.c");
    for function in ["hidden_sum", "file_local", "main"] {
        check_lines(&c, function);
    }
    let cpp = lab.compile("c++", &["-O2", "-g", "-std=c++17"], "sample.cpp");
    for function in ["Basket", "count", "main"] {
        check_lines(&cpp, function);
    }
    let rust = lab.compile("rustc", &["-O", "-g"], "sample.rs");
    for function in ["total", "words", "sample4main"] {
        check_lines(&rust, function);
    }
}

/// By symbols alone, one address tells the whole function: its extent is what nm says; of a stripped program what its unwind
/// information says.
#[test]
fn functions_as_a_whole() {
    if !(require("cc") && require("objcopy") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-g"], "sample.c");
    let symbol = nm(&program, &[]).into_iter().find(|symbol| symbol.name == "hidden_sum").unwrap();
    let extent = symbol.address..symbol.address + symbol.size;
    let stripped = lab.path("stripped");
    run(Command::new("objcopy").arg("--strip-all").args([&program, &stripped]));
    let unnamed = format!("file+{:#x}", symbol.address);
    for (file, name) in [(&program, "hidden_sum"), (&stripped, &*unnamed)] {
        let mut profile = Profile::new();
        let path = profile.string("/some/file");
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        let location = profile.location(mapping, ElfAddr(symbol.address + symbol.size / 2));
        let extents = symbolize(&mut profile, &|_| elf(file), Detail::Functions, &mut Tables::default(), &|| false);
        assert_eq!(extents, [(location, extent.clone())], "{name}");
        assert_eq!(profile.names(location), [name]);
    }
}

/// Readable names: C as it is, C++ with its parameters, Rust without its hash; the raw ones beside them.
#[test]
fn names_are_readable() {
    if !(require("c++") && require("rustc") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let check = |program: &Path, part: &str, name: &str| {
        let address = address_of(program, part);
        let frame = names(|| elf(program), &[address]).remove(0).unwrap().pop().unwrap();
        assert_eq!(frame.name, name);
        assert!(frame.system_name.starts_with("_Z") && frame.system_name.contains(part), "{frame:?}");
    };
    let cpp = lab.compile("c++", &["-O1", "-std=c++17"], "sample.cpp");
    let string = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >";
    check(&cpp, "Basket", &format!("shop::Basket<{string} >::add({string} const&, int)"));
    let rust = lab.compile("rustc", &["-O"], "sample.rs");
    check(&rust, "words", "sample::words");
    let rust = lab.compile("rustc", &["-O", "-Csymbol-mangling-version=v0"], "sample.rs");
    let address = address_of(&rust, "words");
    assert_eq!(frame_names(&names(|| elf(&rust), &[address])[0]), ["sample::words"]);
}

/// Debug information in a file of its own gives what the whole program gave; that of another program is damage that
/// costs nothing but itself.
#[test]
fn separate_debug_files() {
    if !(require("cc") && require("objcopy") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-g", "-Wl,--export-dynamic"], "sample.c");
    let symbol = nm(&program, &[]).into_iter().find(|symbol| symbol.name == "hidden_sum").unwrap();
    let addresses: Vec<u64> = (symbol.address..symbol.address + symbol.size).collect();
    let expected = names(|| elf(&program), &addresses);
    assert!(expected.iter().any(|named| frame_names(named) == ["square", "cube", "hidden_sum"]), "{expected:?}");
    let (debug, stripped) = (lab.path("debug"), lab.path("stripped"));
    run(Command::new("objcopy").arg("--only-keep-debug").args([&program, &debug]));
    run(Command::new("objcopy").arg("--strip-all").args([&program, &stripped]));
    let with = |debug: &Path| {
        let (stripped, debug) = (File::open(&stripped).unwrap(), File::open(debug).unwrap());
        Code::Elf { file: Arc::new(stripped), debug: Some(debug), package: None }
    };
    assert_eq!(names(|| with(&debug), &addresses), expected);
    for packing in ["zlib", "zstd"] {
        let packed = lab.path(packing);
        run(Command::new("objcopy").arg(format!("--compress-debug-sections={packing}")).args([&debug, &packed]));
        if fs::metadata(&packed).unwrap().len() < fs::metadata(&debug).unwrap().len() {
            assert_eq!(names(|| with(&packed), &addresses), expected, "{packing}");
        }
    }
    // An exported function keeps its name without the debug file, and with one that is none.
    let garbage = lab.path("garbage");
    fs::write(&garbage, "no ELF file").unwrap();
    for code in [&|| elf(&stripped), &|| with(&garbage)] as [&dyn Fn() -> Code; 2] {
        let named = names(code, &addresses);
        assert!(named.iter().all(|named| frame_names(named) == ["hidden_sum"]), "{named:?}");
    }
}

/// Debug information that was split off into a package gives what the whole program gave; a damaged package and another
/// program's cost the inlined functions, not the lines.
#[test]
fn split_debug_information() {
    if !(require("cc") && require("dwp") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let arguments = ["-O2", "-g", "-gdwarf-4"];
    let whole = lab.path("whole");
    fs::rename(lab.compile("cc", &arguments, "sample.c"), &whole).unwrap();
    let addresses = |program: &Path| {
        let symbol = nm(program, &[]).into_iter().find(|symbol| symbol.name == "hidden_sum").unwrap();
        (symbol.address..symbol.address + symbol.size).collect::<Vec<u64>>()
    };
    let expected = names(|| elf(&whole), &addresses(&whole));
    assert!(expected.iter().any(|named| frame_names(named) == ["square", "cube", "hidden_sum"]), "{expected:?}");
    let split = lab.compile("cc", &[&arguments[..], &["-gsplit-dwarf"]].concat(), "sample.c");
    run(Command::new("dwp").arg("-e").arg(&split).arg("-o").arg(lab.path("split.dwp")));
    let garbage = lab.path("garbage");
    fs::write(&garbage, "no package").unwrap();
    let with = |package: &Path| {
        let file = Arc::new(File::open(&split).unwrap());
        let code = || Code::Elf { file: file.clone(), debug: None, package: File::open(package).ok() };
        names(code, &addresses(&split))
    };
    assert_eq!(with(&lab.path("split.dwp")), expected);
    for other in [garbage, whole] {
        for named in with(&other) {
            let frames = named.unwrap();
            assert!(frames.len() == 1 && frames[0].name == "hidden_sum" && frames[0].line > 0, "{frames:?}");
        }
    }
}

/// A link to debug information that is somebody else's must not cost the names that the file itself has.
#[test]
fn a_wrong_debug_link_costs_nothing() {
    if !(require("cc") && require("objcopy") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-g"], "sample.c");
    let debug = lab.path("sample_c.debug");
    run(Command::new("objcopy").arg("--only-keep-debug").args([&program, &debug]));
    let address = address_of(&program, "hidden_sum");
    for strip in ["--strip-debug", "--keep-file-symbols"] {
        let linked = lab.path("linked");
        run(Command::new("objcopy").args([strip, "--add-gnu-debuglink"]).arg(&debug).args([&program, &linked]));
        let mut other = fs::read(&debug).unwrap();
        *other.last_mut().unwrap() ^= 1;
        fs::write(&debug, other).unwrap();
        assert_eq!(outermost(&names(|| elf(&linked), &[address])), [Ok("hidden_sum")], "{strip}");
    }
}

/// The small symbol table that Fedora's programs carry ("MiniDebugInfo") names functions that are not exported.
#[test]
fn mini_debug_info() {
    if !(require("cc") && require("objcopy") && require("xz") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2"], "sample.c");
    let (small, stripped) = (lab.path("small"), lab.path("stripped"));
    run(Command::new("objcopy")
        .args(["-S", "--remove-section", ".comment", "--keep-symbol=file_local"])
        .args([&program, &small]));
    run(Command::new("xz").arg(&small));
    run(Command::new("objcopy")
        .args(["-S", "--add-section"])
        .arg(format!(".gnu_debugdata={}", lab.path("small.xz").display()))
        .args([&program, &stripped]));
    let address = address_of(&program, "file_local");
    assert_eq!(outermost(&names(|| elf(&stripped), &[address, address + 3])), [Ok("file_local"), Ok("file_local")]);
    let main = address_of(&program, "main");
    assert_eq!(outermost(&names(|| elf(&stripped), &[main])), [Err(UnknownReason::NotInSymbolTable)]);
}

/// Some kilobytes that unpack to gigabytes are damage, before they take memory.
#[test]
fn packed_bombs_are_not_unpacked() {
    if !(require("cc") && require("objcopy") && require("xz")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2"], "sample.c");
    let (zeros, bomb) = (lab.path("zeros"), lab.path("bomb"));
    File::create(&zeros).unwrap().set_len(1 << 30).unwrap();
    run(Command::new("xz").args(["-0", "-T0"]).arg(&zeros));
    run(Command::new("objcopy")
        .args(["-S", "--add-section"])
        .arg(format!(".gnu_debugdata={}", lab.path("zeros.xz").display()))
        .args([&program, &bomb]));
    let address = address_of(&program, "hidden_sum");
    let before = peak_rss_kb();
    assert_eq!(outermost(&names(|| elf(&bomb), &[address])), [Err(UnknownReason::Damaged)]);
    assert!(peak_rss_kb() < before + 100_000, "from {before} to {} kB", peak_rss_kb());
}

/// The same of debug information: names come from the symbol table then.
#[test]
fn packed_debug_information_has_a_bound() {
    if !(require("cc") && require("objcopy")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-g"], "sample.c");
    let [zeros, large, bomb] = ["zeros", "large", "bomb"].map(|name| lab.path(name));
    File::create(&zeros).unwrap().set_len(300 << 20).unwrap();
    let section = format!(".debug_types={}", zeros.display());
    run(Command::new("objcopy").args(["--add-section", &section]).args([&program, &large]));
    run(Command::new("objcopy").arg("--compress-debug-sections=zlib").args([&large, &bomb]));
    assert!(fs::metadata(&bomb).unwrap().len() < 4 << 20);
    let address = address_of(&program, "hidden_sum");
    let (before, named) = (peak_rss_kb(), names(|| elf(&bomb), &[address]));
    assert_eq!(outermost(&named), [Ok("hidden_sum")]);
    assert!(named.iter().flatten().flatten().all(|frame| frame.line == 0), "{named:?}");
    assert!(peak_rss_kb() < before + 100_000, "from {before} to {} kB", peak_rss_kb());
}

/// Memory that this process's mappings of a file take; `None` if there are none.
fn resident_kb(file: &Path) -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_wanted, mut sum) = (false, None);
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let kb: u64 = rest.trim().trim_end_matches(" kB").parse().unwrap();
            sum = if is_wanted { Some(sum.unwrap_or(0) + kb) } else { sum };
        } else if line.contains('/') {
            is_wanted = line.ends_with(file.to_str().unwrap());
        } else if line.contains('-') {
            is_wanted = false;
        }
    }
    sum
}

fn peak_rss_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A file that was deleted, or replaced by another one, since it was opened.
#[test]
fn deleted_and_replaced_files() {
    if !(require("cc") && require("c++") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("cc", &["-O2", "-g"], "sample.c");
    let address = address_of(&program, "hidden_sum");
    let file = Arc::new(File::open(&program).unwrap());
    let found = || names(|| Code::Elf { file: file.clone(), debug: None, package: None }, &[address]);
    let expected = found();
    assert_eq!(outermost(&expected), [Ok("hidden_sum")]);
    fs::remove_file(&program).unwrap();
    assert_eq!(found(), expected, "deleted");
    fs::rename(lab.compile("c++", &["-O2", "-std=c++17"], "sample.cpp"), &program).unwrap();
    assert_eq!(found(), expected, "replaced");
}

/// What is no ELF file, or only the beginning of one, says so.
#[test]
fn other_files_are_damaged() {
    if !require("cc") {
        return;
    }
    let lab = Lab::new();
    let bytes = fs::read(lab.compile("cc", &["-O2", "-g"], "sample.c")).unwrap();
    let path = lab.path("file");
    for contents in
        [&b""[..], b"text", &[0xff; 10_000], &bytes[..4], &bytes[..64], &bytes[..100], &bytes[..bytes.len() / 2]]
    {
        fs::write(&path, contents).unwrap();
        assert_eq!(
            outermost(&names(|| elf(&path), &[0x1000])),
            [Err(UnknownReason::Damaged)],
            "{} bytes",
            contents.len()
        );
    }
    assert_eq!(outermost(&names(|| elf(lab.0.path()), &[0x1000])), [Err(UnknownReason::Damaged)], "a folder");
}

/// The kernel's code in each process, which is in no file on disk.
#[test]
fn the_vdso_has_names() {
    let image = Arc::new(cputrace::process::vdso::image().unwrap());
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*image)));
    if !require("nm") {
        return;
    }
    let lab = Lab::new();
    let copy = lab.path("vdso");
    fs::copy(path, &copy).unwrap();
    let symbols: Vec<_> = nm(&copy, &["-D"]).into_iter().filter(|symbol| symbol.size > 0).collect();
    assert!(symbols.iter().any(|symbol| symbol.name.contains("clock_gettime")), "{symbols:?}");
    let addresses: Vec<u64> = symbols.iter().map(|symbol| symbol.address + symbol.size - 1).collect();
    let named = names(|| Code::Elf { file: image.clone(), debug: None, package: None }, &addresses);
    for (symbol, name) in symbols.iter().zip(outermost(&named)) {
        let same = |other: &&Symbol| other.address == symbol.address && Ok(&*other.name) == name;
        assert!(symbols.iter().any(|other| same(&other)), "{symbol:?}: {name:?}");
    }
}

/// Addresses of the kernel, as root; without the right to see them, that is the reason.
#[test]
fn the_kernel_has_names() {
    let list = fs::read_to_string("/proc/kallsyms").unwrap();
    let line = list.lines().find(|line| line.ends_with(" T vfs_read")).unwrap();
    let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    let expected = if address == 0 { Err(UnknownReason::KernelRestricted) } else { Ok("vfs_read") };
    assert_eq!(outermost(&names(|| Code::Kernel, &[address, address + 1])), [expected; 2]);
}

/// Whoever stops the lookup gets the rest without names, of all files.
#[test]
fn stopping_stops() {
    let mut profile = Profile::new();
    for path in ["/a", "/b", "/c"] {
        let path = profile.string(path);
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        profile.location(mapping, ElfAddr(0x1000));
    }
    // As a message that is taken out of its channel.
    let asked = std::cell::Cell::new(0);
    let stopped = || asked.replace(asked.get() + 1) == 1;
    symbolize(
        &mut profile,
        &|_| Code::Missing(UnknownReason::FileGone),
        Detail::Lines,
        &mut Tables::default(),
        &stopped,
    );
    let reasons: Vec<_> = profile.locations().iter().map(|location| location.unknown.unwrap()).collect();
    assert_eq!(reasons, [UnknownReason::FileGone, UnknownReason::NotSymbolized, UnknownReason::NotSymbolized]);
}

/// A program in four shapes: with debug information, packed debug information, a small packed symbol table, none.
fn shapes() -> &'static [Vec<u8>] {
    static SHAPES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SHAPES.get_or_init(|| {
        let lab = Lab::new();
        let program = lab.compile("c++", &["-O2", "-g", "-std=c++17"], "sample.cpp");
        let packed = lab.compile("cc", &["-O2", "-g", "-gz"], "sample.c");
        let (small, mini, stripped) = (lab.path("small"), lab.path("mini"), lab.path("stripped"));
        run(Command::new("objcopy").args(["-S", "--keep-symbol=main"]).args([&program, &small]));
        run(Command::new("xz").arg(&small));
        let section = format!(".gnu_debugdata={}", lab.path("small.xz").display());
        run(Command::new("objcopy").args(["-S", "--add-section", &section]).args([&program, &mini]));
        run(Command::new("objcopy").arg("-S").args([&program, &stripped]));
        [program, packed, mini, stripped].iter().map(|path| fs::read(path).unwrap()).collect()
    })
}

/// Where to damage a file: anywhere, in its header, in the table of sections at its end.
fn damage() -> impl Strategy<Value = (f64, u8)> {
    (prop_oneof![0.0..1.0, 0.0..0.005, 0.95..1.0], any::<u8>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Damaged files end neither the facts' reader nor the symbolizer, and what they name is still a name or a reason.
    #[test]
    fn damaged_files_end_nothing(
        shape in 0..4_usize,
        damages in proptest::collection::vec(damage(), 1..30),
        length in prop_oneof![3 => Just(1.0), 1 => 0.0..1.0],
    ) {
        if require("cc") && require("c++") && require("objcopy") && require("xz") {
            let mut bytes = shapes()[shape].clone();
            let all = bytes.len() as f64;
            for (at, byte) in damages {
                bytes[(at * all) as usize] = byte;
            }
            bytes.truncate((length * all) as usize);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Ok(facts) = ElfFacts::read(&file) {
                let _ = facts.elf_addr(0x1234);
            }
            let (file, debug) = (Arc::new(file.try_clone().unwrap()), file);
            let addresses: Vec<u64> = (0x1000..0x3000).step_by(16).chain([0, u64::MAX]).collect();
            for named in names(|| Code::Elf { file: file.clone(), debug: debug.try_clone().ok(), package: debug.try_clone().ok() }, &addresses) {
                prop_assert!(named.is_err() || named.is_ok_and(|frames| !frames.is_empty()));
            }
        }
    }
}

/// A file that is cut short while its names are looked up costs its names, not the program.
#[test]
fn files_may_be_cut_short_meanwhile() {
    if !require("c++") {
        return;
    }
    let lab = Lab::new();
    let program = lab.compile("c++", &["-O2", "-g", "-std=c++17"], "sample.cpp");
    let bytes = fs::read(&program).unwrap();
    let addresses: Vec<u64> = (0x1000..0x4000).step_by(100).collect();
    let done = AtomicBool::new(false);
    let cut_short = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&program).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(10_000).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes[10_000..], 10_000).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let until = Instant::now() + Duration::from_secs(20);
        let mut cut_short = 0;
        while cut_short < 200 && Instant::now() < until {
            cut_short += u32::from(names(|| elf(&program), &addresses)[0] == Err(UnknownReason::Damaged));
        }
        done.store(true, Ordering::Relaxed);
        cut_short
    });
    assert!(cut_short > 0, "the file was never cut short at a bad moment");
}

/// A large symbol table that was sorted once names what is asked later. Another file in its place is read as it is; one that is
/// cut short after that costs its names, not the program.
#[test]
fn large_symbol_tables_are_kept() {
    if !(require("cc") && require("nm")) {
        return;
    }
    let lab = Lab::new();
    let library = lab.path("many.so");
    let write = |prefix: &str| {
        let function =
            |number| format!("{prefix}{number}: nop\n.type {prefix}{number},@function\n.size {prefix}{number},1\n");
        let code = lab.path("many.s");
        fs::write(&code, (0..60_000).map(function).collect::<String>()).unwrap();
        let _ = fs::remove_file(&library);
        run(Command::new("cc").args(["-shared", "-nostdlib", "-o"]).args([&library, &code]));
        nm(&library, &[]).into_iter().find(|symbol| symbol.name == format!("{prefix}7")).unwrap().address
    };
    let mut tables = Tables::default();
    let mut named = |address| {
        let mut profile = Profile::new();
        let path = profile.string("/many.so");
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        let locations = [0, 30_000].map(|more| profile.location(mapping, ElfAddr(address + more)));
        symbolize(&mut profile, &|_| elf(&library), Detail::Functions, &mut tables, &|| false);
        locations.map(|location| (profile.names(location).join(""), profile.locations()[location.index()].unknown))
    };
    let is = |prefix: &str| [7, 30_007].map(|number| (format!("{prefix}{number}"), None));
    let address = write("one_");
    assert_eq!(named(address), is("one_"));
    // It stays mapped, and takes no memory between two windows.
    assert_eq!(resident_kb(&library), Some(0));
    assert_eq!(named(address), is("one_"));
    assert_eq!(resident_kb(&library), Some(0));
    assert_eq!(named(write("two_")), is("two_"));
    let cut = File::options().write(true).open(&library).unwrap();
    let length = cut.metadata().unwrap().len();
    cut.set_len(length / 2).unwrap();
    assert!(named(address).iter().all(|(name, unknown)| unknown.is_some() && !name.contains("two_")));
    assert_eq!(named(write("three_")), is("three_"));
}
