//! Hardware counters: encodings against an oracle that was gathered apart from the tables, and against libpfm; machines that are
//! not here, from their files; the counters that are here, by the real kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pmu {
    pub(crate) mod fake;
    mod record;
}
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cputrace::collect::{Batch, Observation, ring};
use cputrace::ebpf::{Config as EbpfConfig, EventHook, Filter, Object};
use cputrace::model::CounterSubject;
use cputrace::pmu::counting::Counting;
use cputrace::pmu::cpu::Generation;
use cputrace::pmu::device::Root;
use cputrace::pmu::event::{Catalog, Encoded, Event, encode, instances, resolve};
use cputrace::pmu::format::Config;
use cputrace::pmu::perf::Perf;
use cputrace::pmu::source::{CounterSource, Request, Scope, burn};
use cputrace::pmu::{report, selftest};
use pmu::fake::{Machine, put};
use support::{require, skip_unless};

/// A row of the oracle.
struct Row {
    generation: Generation,
    name: String,
    config: u64,
    libpfm_agrees: bool,
    pmu: String,
}

fn oracle() -> Vec<Row> {
    let text = include_str!("pmu/encodings.csv");
    let rows = text.lines().filter(|line| line.starts_with("zen"));
    rows.map(|line| {
        let columns: Vec<_> = line.split(',').collect();
        // A name may have commas of its own behind it: the last two columns are taken from the end.
        let [generation, name, _, _, config, agrees, pmu] = columns[..] else { panic!("{line}") };
        let number: u32 = generation.strip_prefix("zen").unwrap().parse().unwrap();
        Row {
            generation: Generation::ALL[number as usize - 1],
            name: name.to_owned(),
            config: u64::from_str_radix(config.strip_prefix("0x").unwrap(), 16).unwrap(),
            libpfm_agrees: agrees == "yes",
            pmu: pmu.to_owned(),
        }
    })
    .collect()
}

/// A server of each generation.
fn servers() -> [Machine; 6] {
    [
        Machine::server("naples", 0x17, 0x01),
        Machine::server("rome", 0x17, 0x31),
        Machine::server("milan", 0x19, 0x01),
        Machine::server("genoa", 0x19, 0x11),
        Machine::server("turin", 0x1a, 0x02),
        Machine::server("venice", 0x1a, 0x50),
    ]
}

/// The table's event of this name in Linux.
fn event_of<'a>(catalog: &'a Catalog, name: &str) -> &'a Event {
    let kernel_name = name.split(":cmask").next().unwrap();
    let with_cmask = name.contains("cmask");
    let is_it = |event: &&Event| event.vendor_name == kernel_name && event.terms.contains("cmask") == with_cmask;
    catalog.events().iter().find(is_it).unwrap_or_else(|| panic!("{name} is in no table"))
}

/// Every encoding of every generation, from the tables through the format files as the drivers print them, is the number
/// that Linux has.
#[test]
fn encodings_equal_the_oracle() {
    let mut checked = 0;
    for (generation, server) in Generation::ALL.iter().zip(servers()) {
        let tree = tempfile::tempdir().unwrap();
        server.write(&tree);
        let (devices, problems) = Root::new(tree.path()).devices();
        assert_eq!(problems, Vec::<String>::new());
        let catalog = Catalog::of(Some(*generation));
        for row in oracle().iter().filter(|row| row.generation == *generation) {
            let event = event_of(&catalog, &row.name);
            assert_eq!(event.pmu, row.pmu, "{generation}: {}", row.name);
            let devices = instances(&devices, event.pmu);
            assert!(!devices.is_empty(), "{}", event.pmu);
            for device in devices {
                let encoded = encode(event, device).unwrap();
                assert_eq!(encoded.config, Config { words: [row.config, 0, 0] }, "{generation}: {}", row.name);
                assert_eq!(encoded.kind, device.kind);
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 667);
}

/// libpfm's own tables have the same numbers wherever the oracle says that they do.
#[test]
fn encodings_agree_with_libpfm() {
    let headers = Path::new("/usr/include/perfmon/pfmlib.h").exists();
    if !require("cc") || !skip_unless(headers, "there is no libpfm4-dev") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("libpfm");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pmu/libpfm.c");
    assert!(Command::new("cc").arg("-o").args([&program, &source]).arg("-lpfm").status().unwrap().success());
    let text = String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap();
    // By PMU and event code: the codes of its umasks.
    let mut known: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
    for line in text.lines() {
        let mut columns = line.split(' ');
        let pmu = columns.next().unwrap();
        let mut codes = columns.map(|code| u64::from_str_radix(code.strip_prefix("0x").unwrap(), 16).unwrap());
        known.entry((pmu, codes.next().unwrap())).or_default().extend(codes);
    }
    let pmus = [
        &["amd64_fam17h_zen1"][..],
        &["amd64_fam17h_zen2"],
        &["amd64_fam19h_zen3", "amd64_fam19h_zen3_l3"],
        &["amd64_fam19h_zen4"],
        &["amd64_fam1ah_zen5", "amd64_fam1ah_zen5_l3"],
        &[],
    ];
    let mut agreed = BTreeMap::new();
    for row in oracle().iter().filter(|row| row.libpfm_agrees) {
        let names = pmus[row.generation.number() as usize - 1];
        if !names.iter().any(|name| known.keys().any(|(pmu, _)| pmu == name)) {
            continue; // This libpfm is older than the CPU.
        }
        let event = row.config & 0xff | row.config >> 24 & 0xf00;
        let umask = row.config >> 8 & 0xff;
        let is_known = names.iter().filter_map(|name| known.get(&(*name, event))).any(|umasks| {
            // One of its umasks, or exactly some of them together.
            let parts = umasks.iter().filter(|part| **part & !umask == 0).fold(0, |all, part| all | part);
            parts == umask
        });
        assert!(is_known, "{}: {} ({:#x})", row.generation, row.name, row.config);
        *agreed.entry(row.generation).or_insert(0) += 1;
    }
    // Zen 1 to 4 are in every libpfm since 4.13.
    eprintln!("libpfm agrees: {agreed:?}");
    assert!(agreed.len() >= 4 && agreed.values().all(|rows| *rows > 60), "{agreed:?}");
}

/// What `pmu list` says on machines of every kind, to the word.
#[test]
fn reports_of_other_machines() {
    let plain_user =
        |name, paranoid| Machine { root: false, paranoid: Some(paranoid), ..Machine::server(name, 0x19, 0x01) };
    let machines = servers().into_iter().chain([
        Machine::guest("kvm with 6 counters", 0x19, 0x01, 6),
        Machine::guest("kvm with 4 counters", 0x17, 0x31, 4),
        Machine::guest("firecracker", 0x19, 0x01, 0),
        Machine { hypervisor: false, ..Machine::guest("bare metal without a driver", 0x19, 0x01, 0) },
        Machine {
            hypervisor: true,
            controllers: 0,
            dead: Some("amd_l3"),
            ..Machine::server("guest with a dead amd_l3", 0x1a, 0x02)
        },
        Machine { dead: Some("cpu"), ..Machine::guest("guest whose counters stay 0", 0x1a, 0x02, 6) },
        Machine { ibs: false, ..Machine::server("server without IBS", 0x19, 0x11) },
        plain_user("user at paranoid 2", 2),
        plain_user("user at paranoid 3", 3),
        Machine { paranoid: None, ..Machine::server("kernel without perf events", 0x19, 0x01) },
        Machine::server("model nobody knows", 0x1a, 0x3f),
        Machine::server("not a Zen", 0x15, 0x02),
    ]);
    for machine in machines {
        insta::with_settings!({ snapshot_path => "pmu/reports", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(machine.name.replace(' ', "_"), report::list(&machine.survey()));
        });
    }
}

/// Files that say nonsense: each is named, and the rest works.
#[test]
fn malformed_files() {
    let devices = "sys/bus/event_source/devices";
    let cases: &[(&str, &str, &str)] = &[
        ("cpu/type", "four", "its file type says \"four\""),
        ("cpu/type", "", "its file type says \"\""),
        ("cpu/type", "99999999999999999999", "its file type says"),
        ("cpu/format/event", "config:0-7,", "the term event is left out"),
        ("cpu/format/event", "config:0-7,4-9", "overlap or are reversed"),
        ("cpu/format/event", "config:7-0", "overlap or are reversed"),
        ("cpu/format/event", "config3:0-7", "\"config3\", which this version does not know"),
        ("cpu/format/umask", "config:200-207", "cannot be understood"),
        ("cpu/format/umask", "\u{0}\u{0}\u{0}", "cannot be understood"),
        ("amd_l3/cpumask", "3-1", "its file cpumask says \"3-1\""),
        ("amd_l3/cpumask", "0-4294967295", "its file cpumask says"),
        ("amd_l3/cpumask", "a,b", "its file cpumask says"),
    ];
    for (file, text, problem) in cases {
        let machine = Machine::server("milan", 0x19, 0x01);
        let tree = tempfile::tempdir().unwrap();
        machine.write(&tree);
        put(tree.path(), &format!("{devices}/{file}"), text);
        let root = Root::new(tree.path());
        let survey = cputrace::pmu::survey::Survey::take(&root, None, &pmu::fake::Kernel { machine });
        let said = survey.problems.iter().filter(|said| said.contains(problem)).count();
        assert_eq!((said, survey.problems.len()), (1, 1), "{file} {text:?}: {:?}", survey.problems);
        let (broken, works) = if file.starts_with("cpu") { ("cpu", "amd_l3") } else { ("amd_l3", "cpu") };
        // A term that an event does not need may be missing.
        if !file.ends_with("umask") {
            assert!(survey.state(broken).is_err(), "{file} {text:?}");
        }
        assert!(survey.state(works).is_ok(), "{file} {text:?}: {:?}", survey.state(works));
    }
    // An empty cpumask is well-formed: the driver found no unit.
    let machine = Machine::server("milan", 0x19, 0x01);
    let tree = tempfile::tempdir().unwrap();
    machine.write(&tree);
    put(tree.path(), &format!("{devices}/amd_l3/cpumask"), "\n");
    let survey = cputrace::pmu::survey::Survey::take(&Root::new(tree.path()), None, &pmu::fake::Kernel { machine });
    assert_eq!(survey.state("amd_l3").unwrap_err().code(), "no_cpus");
}

/// A tree of nothing at all.
#[test]
fn nothing_there() {
    let tree = tempfile::tempdir().unwrap();
    let machine = Machine { paranoid: None, ..Machine::guest("nothing", 0, 0, 0) };
    let survey = cputrace::pmu::survey::Survey::take(&Root::new(tree.path()), None, &pmu::fake::Kernel { machine });
    assert!(survey.states.iter().all(|(_, state)| state.is_err()));
    assert!(report::list(&survey).contains("[no_perf_events]"));
}

/// The self-test tries every event that is usable, and finds an interrupt that never comes.
#[test]
fn self_test_of_other_machines() {
    // A sum of events would take long: only what every Linux has, and a PMU that does not interrupt.
    let guest = Machine { dead: Some("interrupts"), ..Machine::guest("guest", 0x19, 0x01, 4) };
    let outcome = selftest::run(&guest.survey(), &pmu::fake::Kernel { machine: guest });
    let catalog = Catalog::of(Some(Generation::Zen3));
    let events = catalog.events().iter().filter(|event| ["cpu", "software", "msr"].contains(&event.pmu));
    assert_eq!((outcome.counted, outcome.zero, outcome.wrong), (events.count(), 0, 1), "{}", outcome.text);
    assert!(outcome.text.contains("WRONG cycles: it counts but its interrupt never came"), "{}", outcome.text);
}

/// Counters at work on machines that are not here: what counts has numbers, what never ran has none and a reason.
#[test]
fn counting_on_other_machines() {
    let machine = Machine::server("genoa", 0x19, 0x11);
    let count = |later: Machine, sets: &[&str]| {
        let source = Box::new(pmu::fake::Kernel { machine: later });
        let mut counting = Counting::new(machine.survey(), source, sets, true, usize::MAX);
        counting.add_process(7, &[(7, "app".to_owned()), (8, "worker".to_owned())]);
        counting.enable();
        counting.read();
        counting.read();
        counting.close_window(Duration::from_secs(1), &|_| Some("renamed".to_owned()))
    };
    let counters = count(machine.clone(), &["base", "topdown", "l3", "memory", "energy"]);
    assert_eq!(counters.missing, []);
    let subjects: Vec<_> = counters.scopes.iter().map(|scope| scope.subject.clone()).collect();
    assert_eq!(
        subjects,
        [
            CounterSubject::Targets,
            CounterSubject::Process { pid: 7, name: "renamed".to_owned() },
            CounterSubject::Thread { pid: 7, tid: 7, name: "renamed".to_owned() },
            CounterSubject::Thread { pid: 7, tid: 8, name: "worker".to_owned() },
            CounterSubject::Host,
        ]
    );
    let value = |scope: usize, name: &str| {
        counters.scopes[scope].metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    };
    // Each counter goes 3 a nanosecond, for 20 ms.
    assert_eq!(value(0, "ipc"), Some(1.0));
    assert_eq!(value(0, "frequency"), Some(3.0));
    assert_eq!(value(0, "l3-miss-ratio"), None, "no process has a part of the L3");
    assert_eq!(value(4, "l3-miss-ratio"), Some(100.0));
    // 12 controllers, 60 million reads of 64 bytes each, in a second.
    assert!((value(4, "dram-reads").unwrap() - 12.0 * 60e6 * 64e-9).abs() < 1e-9);
    assert!((value(4, "package-power").unwrap() - 60e6 / 2_f64.powi(32)).abs() < 1e-9);
    assert_eq!(value(3, "ipc"), Some(1.0));

    // Somebody takes a counter after the survey: what needs all five opens and never runs, the rest counts.
    let counters = count(Machine { counters: 5, ..machine.clone() }, &["base", "topdown"]);
    let [missing] = &counters.missing[..] else { panic!("{:?}", counters.missing) };
    assert_eq!(missing.code, "never_scheduled");
    assert!(missing.reason.contains("nmi_watchdog=0"), "{}", missing.reason);
    let counted: Vec<_> = counters.scopes[0].metrics.iter().map(|metric| metric.name.clone()).collect();
    assert!(!counted.is_empty() && counted.iter().all(|name| !missing.metrics.contains(name)), "{counted:?}");
    assert_eq!(counted.len() + missing.metrics.len(), 17);

    // The whole host: cycles by wall-clock time are no frequency.
    let mut counting = Counting::new(
        machine.survey(),
        Box::new(pmu::fake::Kernel { machine: machine.clone() }),
        &["base"],
        true,
        usize::MAX,
    );
    counting.add_host();
    counting.enable();
    counting.read();
    let counters = counting.close_window(Duration::from_secs(1), &|_| None);
    assert_eq!(counters.missing.iter().map(|missing| &*missing.code).collect::<Vec<_>>(), ["idle_time"]);
    assert_eq!(counters.missing[0].metrics, ["frequency"]);
    assert_eq!(counters.scopes.len(), 1);
    assert!(counters.scopes[0].metrics.iter().any(|metric| metric.name == "ipc"));

    // All of them: the groups do not even open.
    let counters = count(Machine { counters: 1, watchdog: false, ..machine.clone() }, &["base"]);
    assert_eq!(counters.missing[0].code, "bad_group");
    assert_eq!(counters.scopes, []);
}

fn of_this_machine(event: &str) -> Encoded {
    let root = Root::new("/");
    resolve(event, &Catalog::of(None), &root.devices().0, &root).unwrap()
}

/// Page faults of this very thread: as many as it touches fresh pages, for a plain user too.
#[test]
fn counts_page_faults() {
    const PAGES: usize = 1000;
    let events = [of_this_machine("page-faults"), of_this_machine("task-clock")];
    let request = Request { events: &events, scope: Scope::Own, user_only: true };
    let mut group = match Perf.open(request) {
        Ok(group) => group,
        Err(error) => {
            assert!(!skip_unless(false, &format!("perf_event_open is refused: {error}")));
            return;
        }
    };
    group.enable().unwrap();
    let before = group.read().unwrap();
    // Fresh from the kernel, whatever the allocator keeps; one page of it at a time.
    let length = PAGES * 4096;
    // SAFETY: a private mapping of its own, unmapped below.
    let memory = unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED);
    // SAFETY: the mapping above. Huge pages would make fewer faults.
    unsafe { libc::madvise(memory, length, libc::MADV_NOHUGEPAGE) };
    for page in 0..PAGES {
        // SAFETY: within the mapping.
        unsafe { memory.cast::<u8>().add(page * 4096).write_volatile(1) };
    }
    let after = group.read().unwrap();
    // SAFETY: the mapping above, which nobody uses any more.
    unsafe { libc::munmap(memory, length) };
    let faults = (after.values[0] - before.values[0]) as usize;
    // Reading allocates a little too.
    assert!((PAGES..PAGES + 100).contains(&faults), "{faults} faults of {PAGES} pages");
    assert!(after.values[1] > before.values[1] && after.running_ns > before.running_ns);
}

/// The time stamp counter through its PMU: a group of two, read together, ticks as the register itself does.
#[cfg(target_arch = "x86_64")]
#[test]
#[ignore = "needs root"]
fn counts_time_stamps() {
    let root = Root::new("/");
    if !skip_unless(root.has("sys/bus/event_source/devices/msr/events/tsc"), "there is no PMU msr with tsc") {
        return;
    }
    let tsc = of_this_machine("tsc");
    let mut group = Perf.open(Request { events: &[tsc.clone(), tsc], scope: Scope::Cpu(0), user_only: false }).unwrap();
    group.enable().unwrap();
    let clock = || {
        // SAFETY: every x86-64 CPU has it.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    let outside = clock();
    let before = group.read().unwrap();
    let inside = clock();
    burn(Duration::from_millis(20));
    let inside = clock() - inside;
    let after = group.read().unwrap();
    let outside = clock() - outside;
    for (before, after) in before.values.iter().zip(&after.values) {
        // Its ticks lie between those of the two spans around it, whatever else the machine does. CPUs' counters are in
        // step to within a microsecond or two.
        let ticks = after - before;
        assert!(ticks + 100_000 > inside && ticks < outside + 100_000, "{inside} <= {ticks} <= {outside}");
    }
    assert_eq!(after.running_ns, after.enabled_ns);
}

/// The program for tagged ops at the ticks of a timer, of which the CPU notes nothing: each comes with its stack, and no
/// registers are made up.
#[test]
#[ignore = "needs root"]
fn ops_without_registers() {
    let config = EbpfConfig {
        filter: Filter::All,
        ring_bytes: 1 << 20,
        accounting: false,
        waits: None,
        event: Some(EventHook::Op),
        counters: 0,
        newcomers: 0,
        most_stacks: cputrace::ebpf::MOST_STACKS,
    };
    let mut object = Object::load(config).unwrap();
    assert_eq!(object.notes(), Vec::<String>::new());
    // On this thread's own CPU, wherever it goes.
    let mut builder = perf_event::Builder::new(perf_event::events::Software::CPU_CLOCK);
    builder.observe_self().any_cpu().include_kernel().sample_period(1_000_000).sample(perf_event::SampleFlag::RAW);
    let mut counter = builder.build().unwrap();
    counter.set_bpf(object.on_event(EventHook::Op).unwrap().as_raw_fd()).unwrap();
    counter.enable().unwrap();
    burn(Duration::from_millis(100));
    counter.disable().unwrap();
    let mut batch = Batch::default();
    ring::drain(object.ring(), &mut batch, &mut |_, _, _| unreachable!());
    assert_eq!(batch.bad_records, 0);
    let (events, frames) = batch.in_order(u64::MAX);
    let mut samples = 0;
    for (_, event) in events {
        let cputrace::collect::Event::Sample(sample) = event else { continue };
        assert_eq!((sample.pid, sample.what), (std::process::id(), Observation::Event));
        let frames = sample.frames(frames);
        assert_eq!(frames.op_registers(), None);
        assert!(!frames.kernel.is_empty() || !frames.user.is_empty());
        samples += 1;
    }
    assert!(samples > 5, "{samples}");
}

/// The self-test on this very machine: whatever is usable counts, and the clock interrupts.
#[test]
#[ignore = "needs root"]
fn self_test() {
    let output = Command::new(env!("CARGO_BIN_EXE_cputrace")).args(["pmu", "selftest"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ok    task-clock interrupts"), "{text}");
    assert!(text.contains("ok    minor-faults <= page-faults"), "{text}");
}

/// What the kernel refuses, to root and to a plain user: each answer becomes the right reason.
#[test]
#[ignore = "needs root"]
fn errno_matrix() {
    let cycles =
        Encoded { name: "cycles".to_owned(), kind: 4, config: Config { words: [0x76, 0, 0] }, pmu: "cpu".to_owned() };
    let no_such = Encoded { kind: 4000, ..cycles.clone() };
    let errno = |event: &Encoded, scope, user_only| {
        Perf.open(Request { events: std::slice::from_ref(event), scope, user_only })
            .map_or_else(|error| error.errno, |_| 0)
    };
    if !Root::new("/").has("sys/bus/event_source/devices/cpu") {
        assert_eq!(errno(&cycles, Scope::Own, true), libc::ENOENT);
        assert_eq!(errno(&cycles, Scope::Cpu(0), false), libc::ENOENT);
    }
    assert_eq!(errno(&no_such, Scope::Own, true), libc::ENOENT);
    let clock = of_this_machine("task-clock");
    assert_eq!(errno(&clock, Scope::Own, true), 0);
    assert_eq!(errno(&clock, Scope::Cpu(100_000), false), libc::EINVAL);
    assert_eq!(errno(&clock, Scope::Task { tid: 0x3fff_fff0, processes: false }, false), libc::ESRCH);
    let tsc = of_this_machine("tsc");
    assert_eq!(errno(&tsc, Scope::Cpu(0), false), 0);

    // The same by the program, as nobody.
    let list = |arguments: &[&str]| {
        let output = Command::new(arguments[0]).args(&arguments[1..]).args(["pmu", "list"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = folder.path().join("cputrace");
    std::fs::copy(env!("CARGO_BIN_EXE_cputrace"), &program).unwrap();
    Command::new("chmod").arg("-R").arg("a+rx").arg(folder.path()).status().unwrap();
    let program = program.to_str().unwrap();
    let nobody = list(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program]);
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    match paranoid.trim().parse::<i32>().unwrap() {
        2 => {
            assert!(nobody.contains("software  works, for user mode only"), "{nobody}");
            assert!(nobody.contains("msr       - [no_permission]"), "{nobody}");
            // In user mode these would be 0, whatever happens.
            assert!(nobody.contains("software  - [in_kernel] context-switches, migrations: "), "{nobody}");
        }
        3.. => assert!(nobody.contains("software  - [no_permission]"), "{nobody}"),
        _ => assert!(nobody.contains("software  works"), "{nobody}"),
    }
    let root = list(&[program]);
    assert!(root.contains("software  works\n") && root.contains("msr       works"), "{root}");
}
