//! Boots Debian's kernels in QEMU, and has each load the eBPF program, sample and unwind a known workload there.
//!
//! Packages come from the archive that this machine's apt already uses, each suite through an apt root of its own; on
//! the machine itself only QEMU and busybox are installed. Emulated, for nothing needs to be fast here.
//!
//! A run of all of them writes [`TABLE`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::system::{self, cargo, command, install, output, root, target};

/// The matrix.
const MINORS: [&str; 4] = ["5.10", "6.1", "6.12", "7.3"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which kernels, by their minor versions
    #[arg(default_values = MINORS)]
    minors: Vec<String>,
}

/// What each kernel did, for readers.
const TABLE: &str = "docs/kernels.md";

/// Instructions that a kernel may go through to verify one of our programs: it refuses a million.
const MAX_VERIFIED: u64 = 150_000;

/// Where a minor version is found, in order of preference.
fn suites(minor: &str) -> &'static [&'static str] {
    match minor {
        "5.10" => &["bullseye-security", "bullseye"],
        "6.1" => &["bookworm-security", "bookworm"],
        "6.12" => &["trixie-security", "trixie"],
        _ => &["trixie-backports"],
    }
}

/// A machine that has not come to its first process by then is tried again.
const BOOT_TIME: Duration = Duration::from_secs(60);

/// For all of it.
const RUN_TIME: Duration = Duration::from_secs(180);

/// Stacks that have to be complete, in percent.
const COMPLETE: f64 = 90.0;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let folder = prepare()?;
    let initramfs = initramfs(&folder)?;
    let mut rows = Vec::new();
    for minor in &args.minors {
        match fetch(&folder, minor).and_then(|kernel| boot(&kernel, &initramfs)) {
            Ok(row) => {
                println!("{minor:<6} {}", row.text);
                rows.push(row);
            }
            Err(error) => println!("{minor:<6} FAILED: {error:#}"),
        }
    }
    let failed = args.minors.len() - rows.len();
    println!("\nkernels: {} passed, {failed} failed", rows.len());
    if failed > 0 {
        bail!("{failed} kernels failed");
    }
    if args.minors == MINORS {
        fs::write(root().join(TABLE), table(&rows))?;
    }
    Ok(())
}

/// What a kernel did.
struct Row {
    /// `uname -r`
    release: String,
    /// How stacks ended, and all the rest in a line.
    text: String,
    /// Instructions gone through for each program that ran.
    verified: Vec<(String, Option<u64>)>,
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "# Kernels\n\nWhat Debian's kernels make of cputrace: `cargo xtask kernels` boots each in QEMU, records the sample workload without\n\
         frame pointers there, and writes this file. The kernel refuses a program that takes it more than a million instructions\n\
         to verify; the aim is 150,000. Linux before 5.16 does not tell how many it took.\n\n\
         | kernel | stacks | programs that ran, with the instructions that verifying them took |\n| --- | --- | --- |\n",
    );
    for Row { release, text: line, verified } in rows {
        let stacks = line.split(" | ").next().unwrap_or_default().trim_start_matches("stacks").trim();
        let programs: Vec<_> = verified
            .iter()
            .map(|(name, count)| count.map_or_else(|| name.clone(), |count| format!("{name} {count}")))
            .collect();
        text += &format!("| {release} | {stacks} | {} |\n", programs.join(", "));
    }
    text
}

/// The matrix's ends, for `cargo xtask test`: a line a kernel goes to `results`. A kernel that cannot be had here, for want of a
/// Debian archive, is left out, loudly.
pub(crate) fn test(results: &mut Vec<String>) -> anyhow::Result<()> {
    let folder = prepare()?;
    let kernels: Vec<_> = ["5.10", "7.3"].map(|minor| (minor, fetch(&folder, minor))).into_iter().collect();
    if kernels.iter().all(|(_, kernel)| kernel.is_err()) {
        results.extend(kernels.iter().filter_map(|(minor, kernel)| {
            let error = kernel.as_ref().err()?;
            Some(format!("SKIPPED: Linux {minor} cannot be had: {error:#}"))
        }));
        return Ok(());
    }
    let initramfs = initramfs(&folder)?;
    for (minor, kernel) in kernels {
        let Row { text, .. } = boot(&kernel?, &initramfs).with_context(|| format!("Linux {minor}"))?;
        println!("{minor:<6} {text}");
        results.push(format!("{minor:<6} {}", text.split(" | ").next().unwrap_or_default()));
    }
    Ok(())
}

/// Installs what it takes; where kernels and the root file system are kept.
fn prepare() -> anyhow::Result<PathBuf> {
    install(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("/bin/busybox", "busybox-static"),
        ("cpio", "cpio"),
        ("cc", "gcc"),
        ("dpkg-deb", "dpkg"),
    ])?;
    let folder = target().join("kernels");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The newest kernel of a minor version.
fn fetch(folder: &Path, minor: &str) -> anyhow::Result<PathBuf> {
    let kept = folder.join(format!("vmlinuz-{minor}"));
    if kept.exists() {
        return Ok(kept);
    }
    for suite in suites(minor) {
        let apt = Apt::new(folder, suite)?;
        for package in apt.images(minor)? {
            let unpacked = apt.root.join("unpacked");
            if apt.unpack(&package, &unpacked).is_ok()
                && let Some(image) = find(&unpacked, "vmlinuz")
            {
                fs::rename(image, &kept)?;
                return Ok(kept);
            }
        }
    }
    bail!("no suite has a kernel {minor}")
}

/// apt on one suite of the archive that this machine's apt uses.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> anyhow::Result<Self> {
        let apt = Self { root: folder.join(suite) };
        for part in
            ["state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/preferences.d", "unpacked"]
        {
            fs::create_dir_all(apt.root.join(part))?;
        }
        fs::write(apt.root.join("status"), "")?;
        let archive = archive(suite.ends_with("-security"))?;
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(apt.root.join("etc/sources.list"), format!("deb [signed-by={keys}] {archive} {suite} main\n"))?;
        system::run(apt.get().arg("update"))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut get = command("apt-get");
        get.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]);
        for (option, part) in [
            ("Dir::Etc::sourcelist", "etc/sources.list"),
            ("Dir::Etc::sourceparts", "etc/sources.list.d"),
            ("Dir::Etc::preferencesparts", "etc/preferences.d"),
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            get.arg("-o").arg(format!("{option}={}", self.root.join(part).display()));
        }
        get.current_dir(self.root.join("unpacked"));
        get
    }

    /// Packages with a kernel image of a minor version, the newest first.
    fn images(&self, minor: &str) -> anyhow::Result<Vec<String>> {
        let mut cache = command("apt-cache");
        cache.args(self.get().get_args().filter(|argument| *argument != "-qq"));
        let names = output(cache.args(["search", "--names-only", &format!("^linux-(image|binary)-{minor}[.]")]))?;
        let is_image = |name: &&str| name.ends_with("-cloud-amd64") && !name.contains("-rt-");
        let mut names: Vec<_> =
            names.lines().filter_map(|line| line.split_once(' ').map(|(name, _)| name)).filter(is_image).collect();
        // From 6.19 on the image is in linux-binary-*, and linux-image-* only asks for it.
        names.sort_by_key(|name| (name.starts_with("linux-image"), std::cmp::Reverse(version(name))));
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn unpack(&self, package: &str, to: &Path) -> anyhow::Result<()> {
        system::run(self.get().args(["download", package]))?;
        let file = find(to, &format!("{package}_")).context("apt downloaded nothing")?;
        system::run(command("dpkg-deb").arg("-x").arg(file).arg(to))
    }
}

fn version(package: &str) -> Vec<u32> {
    package.split(['-', '.', '+']).filter_map(|number| number.parse().ok()).collect()
}

/// The address of the archive, from this machine's own sources.
fn archive(security: bool) -> anyhow::Result<String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        text += &fs::read_to_string(entry.path()).unwrap_or_default();
    }
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_ascii_whitespace).filter(|word| word.starts_with("http"));
    let found = words.find(|word| word.contains("security") == security && word.contains("debian"));
    Ok(found.context("this machine's apt has no Debian archive")?.to_owned())
}

/// The first file below a folder whose name begins so.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().starts_with(name)
            && entry.metadata().is_ok_and(|data| data.len() > 0)
        {
            return Some(path);
        }
    }
    None
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
echo INIT
/bin/busybox --install -s /bin
export PATH=/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tracefs nodev /sys/kernel/tracing
mkdir -p /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /tmp
/cputrace record --tier ebpf -F 199 --event page-faults --pmu --pmu-stacks task-clock,migrations -o t.json -o t.folded -- /sample_app --seconds 3 --phases deep,cpu,sleep,lock 2>&1
status=$?
/cputrace record --tier ebpf --event sched:sched_switch -q -o s.json -o s.folded -- /sample_app --seconds 1 --phases sleep 2>&1
grep -o '\"name\":\"sched:sched_switch\"[^}]*' s.json | sed 's/^/TRACEPOINT /'
grep -o '{\"name\":\"at_tracepoint\",\"run_time_seconds\":[^}]*}' s.json | sed 's/^/PROGRAM /'
echo RELEASE $(uname -r)
grep -o '{\"name\":\"[a-z_]*\",\"run_time_seconds\":[^}]*}' t.json | sed 's/^/PROGRAM /'
echo EXIT $status deep $(grep -c deep_call t.folded)
poweroff -f
";

/// A root file system with the static binary and the workload without frame pointers.
fn initramfs(folder: &Path) -> anyhow::Result<PathBuf> {
    let triple = "x86_64-unknown-linux-gnu";
    let mut build = cargo();
    build.args(["build", "--locked", "--release", "--package", "cputrace", "--target", triple]);
    system::run(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let tree = folder.join("root");
    for part in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(tree.join(part))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    fs::copy(target().join(triple).join("release/cputrace"), tree.join("cputrace"))?;
    let source = root().join("workload/sample_app.c");
    let flags = ["-O2", "-static", "-pthread", "-fomit-frame-pointer", "-o"];
    system::run(command("cc").args(flags).arg(tree.join("sample_app")).arg(source))?;
    fs::write(tree.join("init"), INIT)?;
    system::run(command("chmod").arg("755").arg(tree.join("init")))?;
    let image = folder.join("initramfs.gz");
    let pack = "find . | cpio -o -H newc --quiet | gzip -1";
    let packed = fs::File::create(&image)?;
    system::run(Command::new("sh").args(["-c", pack]).current_dir(&tree).stdout(packed))?;
    Ok(image)
}

/// Boots a kernel.
fn boot(kernel: &Path, initramfs: &Path) -> anyhow::Result<Row> {
    for _ in 0..3 {
        if let Some(console) = run_machine(kernel, initramfs)? {
            return judge(&console);
        }
    }
    bail!("it never came to its first process")
}

/// The console's text; `None` if the machine did not come up, which emulation does not always.
fn run_machine(kernel: &Path, initramfs: &Path) -> anyhow::Result<Option<String>> {
    let log = kernel.with_extension("log");
    // One thread: QEMU 7's parallel emulation panics where the kernel changes its own code.
    let machine = ["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "1024"];
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(machine)
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet loglevel=4 panic=-1", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log)?)
        .spawn()?;
    let start = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let ended = qemu.try_wait()?.is_some();
        let console = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let up = console.contains("INIT");
        if ended || start.elapsed() > if up { RUN_TIME } else { BOOT_TIME } {
            // It may have ended by itself.
            let _ = qemu.kill();
            qemu.wait()?;
            return Ok(up.then_some(console));
        }
    }
}

/// It recorded by eBPF, the stacks are complete, the threads' time was accounted, page faults were sampled, and counters were
/// read at samples.
fn judge(console: &str) -> anyhow::Result<Row> {
    let line = |start: &str| console.lines().map(str::trim).find(|line| line.starts_with(start));
    let last = || console.lines().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
    let stacks = line("stacks").with_context(last)?;
    let complete: f64 = stacks.split_ascii_whitespace().nth(1).and_then(|share| share.parse().ok()).unwrap_or(0.0);
    let recorded = line("EXIT 0").is_some_and(|line| !line.ends_with(" 0"));
    if !recorded || !stacks.contains("complete") || complete < COMPLETE {
        bail!("{stacks} | {}", last());
    }
    if line("waits").is_none() {
        bail!("the threads' time was not accounted | {}", last());
    }
    if line("event     page-faults").is_none_or(|line| line.contains(": 0 samples kept")) {
        bail!("no page faults were sampled | {}", last());
    }
    if line("TRACEPOINT ").is_none_or(|line| !line.contains("\"kept\":") || line.contains("\"kept\":0,")) {
        bail!("no tracepoint was sampled | {}", last());
    }
    if line("stretches").is_none_or(|line| line.starts_with("stretches 0 ") || line.contains("refused")) {
        bail!("counters were not read at samples | {}", last());
    }
    let notes = console.lines().map(str::trim).filter(|line| line.starts_with("note"));
    let lines =
        ["samples", "time", "waits", "event", "stretches", "counters"].into_iter().filter_map(line).chain(notes);
    let text = format!("{stacks} | {}", lines.collect::<Vec<_>>().join(" | "));
    let mut verified = Vec::new();
    for program in console.lines().filter_map(|line| line.trim().strip_prefix("PROGRAM ")) {
        let program: serde_json::Value = serde_json::from_str(program)?;
        let count = program["verified_instructions"].as_u64();
        let name = program["name"].as_str().unwrap_or_default().to_owned();
        if count.is_some_and(|count| count > MAX_VERIFIED) {
            bail!("{name} takes {count:?} instructions to verify");
        }
        verified.push((name, count));
    }
    if verified.is_empty() {
        bail!("no program ran | {}", last());
    }
    verified.sort();
    let release = line("RELEASE ").map(|line| line["RELEASE ".len()..].to_owned()).with_context(last)?;
    Ok(Row { release, text, verified })
}
