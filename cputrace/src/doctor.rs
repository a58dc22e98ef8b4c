//! What the system allows: facts with their effect and fix. Prints nothing; `cli` does.
//!
//! Most facts are small files under `/proc` and `/sys`; the verdict on eBPF is not guessed from them but tried: the
//! object is loaded, and a clock opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ebpf::{Filter, MOST_STACKS, WaitHook, Waits};
use crate::model::{Clock, Tier};
use crate::tier::{self, Scope};

/// What a fact means for cputrace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All is well.
    Good,
    /// Something is off, the rest works.
    Limited,
    /// The best tier does not work.
    Bad,
}

/// One fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// About what.
    pub what: &'static str,
    /// What it means.
    pub verdict: Verdict,
    /// The fact.
    pub found: String,
    /// What it leads to, where it is not good.
    pub effect: &'static str,
    /// What to do about it, where it is not good.
    pub fix: &'static str,
}

/// The name of the finding that decides.
const EBPF: &str = "eBPF sampling";

/// Looks at this system.
pub fn examine() -> Vec<Finding> {
    let mut findings = Files { root: PathBuf::from("/") }.examine();
    findings.extend(try_ebpf());
    findings
}

/// Whether the best tier works.
pub fn ebpf_works(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.what == EBPF && finding.verdict != Verdict::Bad)
}

/// Loads and attaches everything for a moment.
fn try_ebpf() -> [Finding; 2] {
    let scope = Scope {
        filter: Filter::Processes { follow_children: true },
        pids: &[],
        frequency: 99,
        unwind_kb: 0,
        accounting: true,
        event: None,
        counters: 0,
        newcomers: 0,
        most_stacks: MOST_STACKS,
        waits: Some(Waits { min: Duration::from_millis(1), samples_shorter: false, wakers: true }),
    };
    let started = tier::start(Some(Tier::Ebpf), &scope)
        .and_then(|(mut sampler, notes)| Ok((sampler.ticks()?, sampler.wait_hook(), notes)));
    let (sampling, waits) = match started {
        Ok((ticks, hook, notes)) => {
            let clock = ticks.clock.map_or("-", Clock::name);
            let found = hook.map_or_else(|| notes.join("; "), |hook: WaitHook| format!("taken at the {}", hook.name()));
            let verdict = if hook.is_some() { Verdict::Good } else { Verdict::Limited };
            ((Verdict::Good, format!("works, by the clock {clock}")), (verdict, found))
        }
        Err(error) => ((Verdict::Bad, format!("does not work: {error}")), (Verdict::Limited, "none".to_owned())),
    };
    let sampling = Finding {
        what: EBPF,
        verdict: sampling.0,
        found: sampling.1,
        effect: "stacks come from perf_event_open for processes of your own, else there is only the /proc timeline",
        fix: "run cputrace as root (sudo), on Linux 5.10 or newer",
    };
    let waits = Finding {
        what: "stacks of waits",
        verdict: waits.0,
        found: waits.1,
        effect: "threads' time is at best known by state, without the stacks that they waited with",
        fix: "use a kernel with BTF and function tracing (CONFIG_FUNCTION_TRACER), or Linux 6.15 or newer",
    };
    [sampling, waits]
}

/// The files that facts are read from, under a root.
struct Files {
    root: PathBuf,
}

impl Files {
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    fn examine(&self) -> Vec<Finding> {
        vec![
            self.privileges(),
            self.kernel(),
            self.btf(),
            self.lockdown(),
            self.paranoid(),
            self.sample_rate(),
            self.pmu(),
            self.kernel_symbols(),
            self.memory_lock(),
            self.jit(),
            self.cgroups(),
        ]
    }

    fn privileges(&self) -> Finding {
        // capability(7)
        const NEEDED: [(u32, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (19, "CAP_SYS_PTRACE")];
        const SYS_ADMIN: u32 = 21;
        let status = self.read("proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        let has = |bit: u32| effective >> bit & 1 != 0;
        // CAP_SYS_ADMIN stands for the first two; files of other users' processes need the third all the same.
        let missing: Vec<_> = NEEDED
            .iter()
            .filter(|(bit, _)| !(has(*bit) || *bit != 19 && has(SYS_ADMIN)))
            .map(|(_, name)| *name)
            .collect();
        Finding {
            what: "privileges",
            verdict: if missing.is_empty() { Verdict::Good } else { Verdict::Bad },
            found: if missing.is_empty() {
                "all that is needed".to_owned()
            } else {
                format!("lacks {}", missing.join(", "))
            },
            effect: "no eBPF; only processes of your own can be sampled",
            fix: "run cputrace as root (sudo)",
        }
    }

    fn kernel(&self) -> Finding {
        let release = self.read("proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Finding {
            what: "kernel",
            verdict: if version >= (5, 10) { Verdict::Good } else { Verdict::Bad },
            found: format!("Linux {release}"),
            effect: "the eBPF program is tested from Linux 5.10 on; its ring buffer came with 5.8",
            fix: "use a newer kernel",
        }
    }

    fn btf(&self) -> Finding {
        let found = self.has("sys/kernel/btf/vmlinux");
        Finding {
            what: "kernel types (BTF)",
            verdict: if found { Verdict::Good } else { Verdict::Limited },
            found: if found { "/sys/kernel/btf/vmlinux" } else { "none" }.to_owned(),
            effect: "children of the targets are not followed, and missed ticks not counted",
            fix: "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        }
    }

    fn lockdown(&self) -> Finding {
        let modes = self.read("sys/kernel/security/lockdown").unwrap_or_else(|| "[none]".to_owned());
        let mode = modes.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
        Finding {
            what: "lockdown",
            verdict: if mode == "confidentiality" { Verdict::Bad } else { Verdict::Good },
            found: mode,
            effect: "eBPF programs may not read memory",
            fix: "boot with lockdown=integrity or without it",
        }
    }

    fn paranoid(&self) -> Finding {
        let level = self.number("proc/sys/kernel/perf_event_paranoid");
        let (verdict, effect) = match level {
            Some(..=1) => (Verdict::Good, ""),
            Some(2) => (Verdict::Limited, "without root: processes of your own only, and no kernel frames"),
            _ => (Verdict::Limited, "without root: nothing can be sampled"),
        };
        Finding {
            what: "perf for users",
            verdict,
            found: level.map_or("no perf events".to_owned(), |level| format!("kernel.perf_event_paranoid = {level}")),
            effect,
            fix: "run cputrace as root, or: sudo sysctl kernel.perf_event_paranoid=1",
        }
    }

    fn sample_rate(&self) -> Finding {
        let rate = self.number("proc/sys/kernel/perf_event_max_sample_rate").unwrap_or(0);
        Finding {
            what: "highest rate",
            verdict: if rate >= 1000 { Verdict::Good } else { Verdict::Limited },
            found: format!("kernel.perf_event_max_sample_rate = {rate}"),
            effect: "higher frequencies are refused",
            fix: "sudo sysctl kernel.perf_event_max_sample_rate=100000",
        }
    }

    fn pmu(&self) -> Finding {
        let found = self.has("sys/bus/event_source/devices/cpu");
        Finding {
            what: "hardware counters",
            verdict: if found { Verdict::Good } else { Verdict::Limited },
            found: if found { "the CPU's PMU" } else { "none" }.to_owned(),
            effect: "samples are taken by the timer cpu-clock, which does not see code with interrupts off",
            fix: "`cputrace pmu list` says why there are none, and what can be done",
        }
    }

    fn kernel_symbols(&self) -> Finding {
        let level = self.number("proc/sys/kernel/kptr_restrict").unwrap_or(0);
        let kallsyms = self.read("proc/kallsyms").unwrap_or_default();
        let shown = kallsyms.lines().take(1000).any(|line| !line.starts_with("0000000000000000"));
        Finding {
            what: "kernel symbols",
            verdict: if shown { Verdict::Good } else { Verdict::Limited },
            found: format!("kernel.kptr_restrict = {level}, {}", if shown { "shown" } else { "hidden" }),
            effect: "kernel frames have no names",
            fix: "run cputrace as root, with kernel.kptr_restrict at 1 or less",
        }
    }

    fn memory_lock(&self) -> Finding {
        let pages = self.number("proc/sys/kernel/perf_event_mlock_kb").unwrap_or(0);
        let limits = self.read("proc/self/limits").unwrap_or_default();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let limit = limit.and_then(|rest| rest.split_ascii_whitespace().next()).unwrap_or("unknown").to_owned();
        Finding {
            what: "locked memory",
            verdict: Verdict::Good,
            found: format!(
                "kernel.perf_event_mlock_kb = {pages}, RLIMIT_MEMLOCK = {limit} (not needed from Linux 5.11 on)"
            ),
            effect: "",
            fix: "",
        }
    }

    fn jit(&self) -> Finding {
        let on = self.number("proc/sys/net/core/bpf_jit_enable").unwrap_or(1) != 0;
        Finding {
            what: "eBPF compiler",
            verdict: if on { Verdict::Good } else { Verdict::Limited },
            found: if on { "on" } else { "off" }.to_owned(),
            effect: "eBPF programs are interpreted: a sample costs several times as much",
            fix: "sudo sysctl net.core.bpf_jit_enable=1",
        }
    }

    fn cgroups(&self) -> Finding {
        let mounts = self.read("proc/self/mounts").unwrap_or_default();
        let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let mount = unified.and_then(|line| line.split(' ').nth(1)).map(Path::new);
        Finding {
            what: "control groups",
            verdict: if mount.is_some() { Verdict::Good } else { Verdict::Limited },
            found: mount
                .map_or("no unified hierarchy".to_owned(), |mount| format!("unified hierarchy at {}", mount.display())),
            effect: "--cgroup lists a group's processes instead of filtering in the kernel",
            fix: "boot with systemd.unified_cgroup_hierarchy=1",
        }
    }
}
