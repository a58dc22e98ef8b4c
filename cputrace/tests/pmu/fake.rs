//! Machines that are not here: a tree of `/proc` and `/sys` files as their drivers print them, and a kernel that answers as
//! theirs does. Only the hardware is made up; everything that reads it is the real thing.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use cputrace::pmu::cpu::PerfMonV2;
use cputrace::pmu::device::Root;
use cputrace::pmu::event::Encoded;
use cputrace::pmu::reading::Reading;
use cputrace::pmu::source::{CounterSource, Group, OpenError, ReadError, Request, Scope};
use cputrace::pmu::survey::Survey;
use tempfile::TempDir;

/// A machine.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) family: u32,
    pub(crate) model: u32,
    pub(crate) hypervisor: bool,
    pub(crate) watchdog: bool,
    pub(crate) paranoid: Option<i64>,
    pub(crate) root: bool,
    /// Counters of a core; 0: the kernel offers no PMU.
    pub(crate) counters: u32,
    pub(crate) perf_mon: Option<PerfMonV2>,
    /// Whether `amd_l3`, `amd_df`, `power` are there.
    pub(crate) uncore: bool,
    /// Memory controllers.
    pub(crate) controllers: u32,
    pub(crate) ibs: bool,
    /// A PMU that opens and counts nothing.
    pub(crate) dead: Option<&'static str>,
}

impl Machine {
    /// A server on bare metal, with everything its generation has, and root.
    pub(crate) fn server(name: &'static str, family: u32, model: u32) -> Self {
        let zen4_or_newer = family > 0x19 || (family == 0x19 && model >= 0x10);
        let perf_mon = PerfMonV2 { core: 6, lbr: 16, fabric: 16, memory: 48, controllers: 12 };
        Self {
            name,
            family,
            model,
            hypervisor: false,
            watchdog: true,
            paranoid: Some(2),
            root: true,
            counters: 6,
            perf_mon: zen4_or_newer.then_some(perf_mon),
            uncore: true,
            controllers: if zen4_or_newer { 12 } else { 0 },
            ibs: true,
            dead: None,
        }
    }

    /// A virtual machine on the same CPU: no uncore, no IBS, no watchdog.
    pub(crate) fn guest(name: &'static str, family: u32, model: u32, counters: u32) -> Self {
        Self {
            hypervisor: true,
            watchdog: false,
            counters,
            perf_mon: None,
            uncore: false,
            controllers: 0,
            ibs: false,
            ..Self::server(name, family, model)
        }
    }

    pub(crate) fn survey(&self) -> Survey {
        let tree = tempfile::tempdir().unwrap();
        self.write(&tree);
        Survey::take(&Root::new(tree.path()), self.perf_mon, &Kernel { machine: self.clone() })
    }

    /// The tree, as the drivers of Linux 7.2 print it.
    pub(crate) fn write(&self, tree: &TempDir) {
        let put = |path: &str, text: &str| put(tree.path(), path, text);
        let hypervisor = if self.hypervisor { " hypervisor" } else { "" };
        put(
            "proc/cpuinfo",
            &format!(
                "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: AMD {}\n\
                 flags\t\t: fpu vme perfctr_core{hypervisor}\n\nprocessor\t: 1\n",
                self.family, self.model, self.name
            ),
        );
        put("proc/self/status", &format!("CapEff:\t{:016x}\n", if self.root { u64::MAX >> 23 } else { 0 }));
        if let Some(paranoid) = self.paranoid {
            put("proc/sys/kernel/perf_event_paranoid", &format!("{paranoid}\n"));
        }
        put("proc/sys/kernel/nmi_watchdog", if self.watchdog { "1\n" } else { "0\n" });
        put("sys/devices/system/cpu/online", "0-15\n");
        let device = |name: &str, kind: u32, files: &[(&str, &str)]| {
            let base = format!("sys/bus/event_source/devices/{name}");
            put(&format!("{base}/type"), &format!("{kind}\n"));
            for (file, text) in files {
                put(&format!("{base}/{file}"), &format!("{text}\n"));
            }
        };
        device("software", 1, &[]);
        device("msr", 9, &[("format/event", "config:0-63"), ("events/tsc", "event=0x00")]);
        if self.counters > 0 {
            let files = [
                ("format/event", "config:0-7,32-35"),
                ("format/umask", "config:8-15"),
                ("format/edge", "config:18"),
                ("format/inv", "config:23"),
                ("format/cmask", "config:24-31"),
                ("events/cpu-cycles", "event=0x76"),
                ("events/cache-misses", "event=0x64,umask=0x09"),
                ("perf_event_mux_interval_ms", "4"),
            ];
            device("cpu", 4, &files);
        }
        if self.uncore {
            let l3: &[(&str, &str)] = if self.family == 0x17 {
                &[
                    ("format/event", "config:0-7"),
                    ("format/umask", "config:8-15"),
                    ("format/slicemask", "config:48-51"),
                    ("format/threadmask", "config:56-63"),
                    ("cpumask", "0,8"),
                ]
            } else {
                &[
                    ("format/event", "config:0-7"),
                    ("format/umask", "config:8-15"),
                    ("format/threadmask", "config:56-57"),
                    ("format/coreid", "config:42-44"),
                    ("format/enallslices", "config:46"),
                    ("format/enallcores", "config:47"),
                    ("format/sliceid", "config:48-50"),
                    ("cpumask", "0,8"),
                ]
            };
            device("amd_l3", 12, l3);
            let df: &[(&str, &str)] = if self.perf_mon.is_some() {
                &[("format/event", "config:0-7,32-37"), ("format/umask", "config:8-15,24-27"), ("cpumask", "0")]
            } else {
                &[("format/event", "config:0-7,32-35,59-60"), ("format/umask", "config:8-15"), ("cpumask", "0")]
            };
            device("amd_df", 11, df);
            let energy = [
                ("cpumask", "0"),
                ("format/event", "config:0-7"),
                ("events/energy-pkg", "event=0x02"),
                ("events/energy-pkg.unit", "Joules"),
                ("events/energy-pkg.scale", "2.3283064365386962890625e-10"),
            ];
            device("power", 13, &energy);
        }
        for number in 0..self.controllers {
            let files = [("format/event", "config:0-7"), ("format/rdwrmask", "config:8-9"), ("cpumask", "0")];
            device(&format!("amd_umc_{number}"), 20 + number, &files);
        }
        if self.ibs {
            let files =
                [("format/cnt_ctl", "config:19"), ("format/swfilt", "config2:0"), ("caps/zen4_ibs_extensions", "1")];
            device("ibs_op", 10, &files);
            device("ibs_fetch", 8, &[("format/rand_en", "config:57")]);
        }
    }
}

pub(crate) fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The machine's kernel.
pub(crate) struct Kernel {
    pub(crate) machine: Machine,
}

impl CounterSource for Kernel {
    fn open(&self, request: Request<'_>) -> Result<Box<dyn Group>, OpenError> {
        let Machine { counters, watchdog, paranoid, root, dead, .. } = self.machine;
        let Request { events, scope, user_only } = request;
        let refuse = |member, errno| Err(OpenError { member, errno });
        let pmu = &*events[0].pmu;
        // In the kernel's order: rights in the kernel's mode, the PMU, rights on the CPU, options, size.
        match paranoid {
            None => return refuse(0, libc::ENOSYS),
            Some(level) if !root && (level >= 3 || (level >= 2 && !user_only)) => return refuse(0, libc::EACCES),
            Some(_) => {}
        }
        if pmu == "cpu" && counters == 0 {
            return refuse(0, libc::ENOENT);
        }
        let of_host = !["cpu", "software"].contains(&pmu);
        if matches!(scope, Scope::Cpu(_)) && !root && paranoid > Some(0) {
            return refuse(0, libc::EACCES);
        }
        if of_host && (user_only || !matches!(scope, Scope::Cpu(_))) {
            return refuse(0, libc::EINVAL);
        }
        let size = events.len() as u32;
        if pmu == "cpu" && size > counters {
            return refuse(counters as usize, libc::EINVAL);
        }
        let runs = pmu != "cpu" || size <= counters - u32::from(watchdog);
        let counts = dead != Some(pmu);
        let reads = Rc::new(Cell::new(0));
        Ok(Box::new(FakeGroup { members: events.len(), runs, counts, reads }))
    }

    fn interrupts(&self, event: &Encoded, _period: u64) -> Result<u64, OpenError> {
        let Machine { paranoid, root, .. } = self.machine;
        if event.pmu.starts_with("ibs_") && !root && paranoid >= Some(2) {
            return Err(OpenError { member: 0, errno: libc::EACCES });
        }
        Ok(u64::from(self.machine.dead != Some("interrupts") || event.pmu != "cpu"))
    }
}

struct FakeGroup {
    members: usize,
    runs: bool,
    counts: bool,
    reads: Rc<Cell<u64>>,
}

impl Group for FakeGroup {
    fn enable(&mut self) -> Result<(), ReadError> {
        Ok(())
    }

    fn read(&mut self) -> Result<Reading, ReadError> {
        self.reads.set(self.reads.get() + 1);
        let enabled_ns = self.reads.get() * 10_000_000;
        let running_ns = if self.runs { enabled_ns } else { 0 };
        let value = if self.runs && self.counts { enabled_ns * 3 } else { 0 };
        Ok(Reading { enabled_ns, running_ns, values: vec![value; self.members] })
    }
}
