//! What this machine can count: the CPU, its PMUs, and for each whether it really works. That a PMU is listed and an event opens
//! proves nothing, so each is tried: opened, given work, read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::cpu::{CpuInfo, Generation, Identity, PerfMonV2};
use super::device::{Device, Root, cpu_list};
use super::event::{Catalog, Encoded, Event, encode, instances, is_of_host};
use super::metric::{METRICS, Metric};
use super::perf::Perf;
use super::plan::{Plan, plan};
use super::reading::Reading;
use super::reason::{Facts, Reason};
use super::source::{CounterSource, Request, Scope, burn};

/// How much CPU time a counter gets to show that it counts.
const TRIAL: Duration = Duration::from_millis(10);

/// Counters of a core, at most: four bits of CPUID.
const MAX_COUNTERS: u32 = 15;

/// Where a core's counters are not told: those of every Zen.
const USUAL_COUNTERS: u32 = 6;

/// PMUs of the tables, and the events to try each with, whichever the catalog has.
const TRIALS: &[(&str, &[&str])] = &[
    ("software", &["task-clock"]),
    ("cpu", &["cycles"]),
    ("amd_l3", &["l3-accesses"]),
    ("amd_df", &["df-dram-ch0", "df-writes-local-ch0"]),
    ("amd_umc", &["umc-clock"]),
    ("power", &["energy-package"]),
    ("msr", &["tsc"]),
];

/// PMUs that sample and cannot count, and their events: instruction-based sampling.
const SAMPLING: &[(&str, &str)] = &[("ibs_op", "ibs-op"), ("ibs_fetch", "ibs-fetch")];

/// After how many ops or fetches a sample of theirs should come: a multiple of 16.
const SAMPLING_PERIOD: u64 = 1 << 16;

/// A PMU that works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usable {
    /// Counters that can be had at once.
    pub counters: u32,
    /// Only what runs in user mode may be counted.
    pub user_only: bool,
}

/// Where a group is to be opened.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    /// Its events, encoded for one device.
    pub events: Vec<Encoded>,
    /// On this CPU; `None`: wherever a task runs.
    pub cpu: Option<u32>,
}

/// What this machine can count.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The CPU.
    pub cpu: CpuInfo,
    /// Its generation.
    pub identity: Identity,
    /// What it says of its counters.
    pub perf_mon: Option<PerfMonV2>,
    /// What reasons are told from.
    pub facts: Facts,
    /// The PMUs that the kernel offers.
    pub devices: BTreeMap<String, Device>,
    /// Files that could not be understood.
    pub problems: Vec<String>,
    /// The events of this CPU.
    pub catalog: Catalog,
    /// By PMU, in the order of the tables: whether it works.
    pub states: Vec<(&'static str, Result<Usable, Reason>)>,
    /// The same of PMUs that sample and cannot count.
    pub sampling: Vec<(&'static str, Result<(), Reason>)>,
    online: Vec<u32>,
}

impl Survey {
    /// Looks at this machine.
    pub fn here() -> Self {
        Self::take(&Root::new("/"), PerfMonV2::of_this_cpu(), &Perf)
    }

    /// Looks at the machine below `root`, and tries what it offers.
    pub fn take(root: &Root, perf_mon: Option<PerfMonV2>, source: &dyn CounterSource) -> Self {
        let cpu = CpuInfo::parse(&root.read("proc/cpuinfo").unwrap_or_default());
        let identity = cpu.identify();
        let (devices, problems) = root.devices();
        let facts = Facts {
            hypervisor: cpu.has("hypervisor"),
            core_pmu: devices.contains_key("cpu"),
            paranoid: root.read("proc/sys/kernel/perf_event_paranoid").and_then(|text| text.parse().ok()),
            capable: capable(&root.read("proc/self/status").unwrap_or_default()),
            watchdog: root.read("proc/sys/kernel/nmi_watchdog").as_deref() == Some("1"),
        };
        let online = root.read("sys/devices/system/cpu/online").and_then(|text| cpu_list(&text)).unwrap_or_default();
        let catalog = Catalog::of(identity.generation());
        let (states, sampling) = (Vec::new(), Vec::new());
        let mut survey = Self { cpu, identity, perf_mon, facts, devices, problems, catalog, states, sampling, online };
        survey.sampling = SAMPLING.iter().map(|(pmu, event)| (*pmu, survey.try_sampling(pmu, event, source))).collect();
        survey.states = TRIALS.iter().map(|(pmu, events)| (*pmu, survey.try_pmu(pmu, events, source))).collect();
        survey
    }

    /// The generation whose table is used.
    pub fn generation(&self) -> Option<Generation> {
        self.identity.generation()
    }

    /// Whether a PMU of the tables works.
    pub fn state(&self, pmu: &str) -> Result<Usable, Reason> {
        let state = self.states.iter().find(|(name, _)| *name == pmu).map(|(_, state)| state.clone());
        state.unwrap_or_else(|| Err(Reason::Encoding(format!("{pmu} is no PMU of the event tables"))))
    }

    /// The groups for the metrics of these sets, and why some cannot be had.
    pub fn plan(&self, sets: &[&str]) -> Plan {
        let of_sets = |metric: &&Metric| sets.contains(&metric.set);
        let here = |metric: &&Metric| metric.is_on(self.generation());
        let metrics: Vec<_> = METRICS.iter().filter(of_sets).filter(here).cloned().collect();
        let (uncounted, countable): (Vec<_>, Vec<_>) =
            metrics.iter().cloned().partition(|metric| self.user_only() && in_kernel(metric));
        let budget = |pmu| self.state(pmu).map(|usable| usable.counters);
        let too_large = |weight, budget| Reason::too_large(weight, budget, &self.facts);
        let mut plan = plan(&countable, &self.catalog, &budget, &too_large);
        plan.refused.extend(uncounted.into_iter().map(|metric| (metric, Reason::in_kernel(&self.facts))));
        // A set that has anything here is not measured by what other generations have more of.
        let mut missing: Vec<&Metric> = METRICS.iter().filter(of_sets).collect();
        missing.retain(|metric| metrics.iter().all(|known| known.set != metric.set));
        let mut seen = BTreeSet::new();
        missing.retain(|metric| seen.insert(metric.name));
        plan.refused.extend(missing.into_iter().map(|metric| (metric.clone(), self.not_here(metric))));
        plan
    }

    /// Whether what tasks do can be counted in user mode only.
    pub fn user_only(&self) -> bool {
        ["cpu", "software"].iter().any(|pmu| self.state(pmu).is_ok_and(|usable| usable.user_only))
    }

    /// Why this CPU does not have a metric.
    pub fn not_here(&self, metric: &Metric) -> Reason {
        let Some(generation) = self.generation() else { return self.unknown_cpu() };
        // Where nothing of the core is counted, that is the reason.
        if let Err(reason) = self.state("cpu") {
            return reason;
        }
        let lines = METRICS.iter().filter(|other| other.name == metric.name);
        let known: Vec<_> = lines.filter_map(|other| other.generations.as_ref()).map(span).collect();
        Reason::NotOnGeneration { generation, known: format!("{} do", known.join(" and ")) }
    }

    /// Why this CPU's table has no event of a PMU.
    fn not_in_table(&self, pmu: &str) -> Reason {
        let Some(generation) = self.generation() else { return self.unknown_cpu() };
        let has = |known: &&Generation| Catalog::of(Some(**known)).events().iter().any(|event| event.pmu == pmu);
        let known: Vec<_> = Generation::ALL.iter().filter(has).map(|known| known.number()).collect();
        let (first, last) = (known.first().copied().unwrap_or(0), known.last().copied().unwrap_or(0));
        Reason::NotOnGeneration { generation, known: format!("{} do", span(&(first..=last))) }
    }

    /// Where a group of these events is to be opened.
    pub fn places(&self, events: &[Event]) -> Result<Vec<Place>, Reason> {
        let mut places = Vec::new();
        let Some(first) = events.first() else { return Ok(places) };
        if first.pmu == "software" {
            let events = events.iter().map(software).collect::<Result<_, _>>()?;
            return Ok(vec![Place { events, cpu: None }]);
        }
        for device in instances(&self.devices, first.pmu) {
            let events: Result<Vec<_>, _> = events.iter().map(|event| encode(event, device)).collect();
            let events = events.map_err(|error| Reason::Encoding(error.to_string()))?;
            let place = |cpu| Place { events: events.clone(), cpu };
            match &device.cpus {
                _ if !is_of_host(first.pmu) => places.push(place(None)),
                Some(cpus) => places.extend(cpus.iter().map(|cpu| place(Some(*cpu)))),
                // Without a cpumask it counts on every CPU.
                None => places.extend(self.online.iter().map(|cpu| place(Some(*cpu)))),
            }
        }
        if places.is_empty() { Err(Reason::NoCpus(first.pmu.to_owned())) } else { Ok(places) }
    }

    /// The CPUs that are on.
    pub fn online(&self) -> &[u32] {
        &self.online
    }

    fn unknown_cpu(&self) -> Reason {
        if !self.facts.core_pmu {
            return Reason::no_pmu(&self.facts);
        }
        let name = if self.cpu.name.is_empty() { "nameless" } else { &self.cpu.name };
        Reason::UnknownCpu(name.to_owned())
    }

    /// Tries a PMU; in two steps, for a lack of rights in the kernel's mode hides whether the event is there at all.
    fn try_pmu(&self, pmu: &'static str, events: &[&str], source: &dyn CounterSource) -> Result<Usable, Reason> {
        if self.facts.paranoid.is_none() {
            return Err(Reason::NoPerfEvents);
        }
        let core = pmu == "cpu";
        let Some(event) = events.iter().find_map(|name| self.catalog.find(name)).filter(|event| event.pmu == pmu)
        else {
            return Err(self.not_in_table(pmu));
        };
        if core && !self.facts.core_pmu {
            // What the kernel says to the raw event tells a lack of rights from a lack of hardware.
            let cycles = Encoded { kind: 4, ..software(&Event { terms: "config=0x76", ..*event })? };
            let opened = source.open(Request { events: &[cycles], scope: Scope::Own, user_only: true });
            let errno = opened.map_or_else(|error| error.errno, |_| libc::ENOENT);
            return Err(Reason::of_errno(errno, pmu, &self.facts));
        }
        if is_of_host(pmu) && instances(&self.devices, pmu).is_empty() {
            return Err(Reason::pmu_absent(pmu, &self.facts));
        }
        let Place { events: encoded, cpu } = self.places(&[*event])?.swap_remove(0);
        let scope = cpu.map_or(Scope::Own, Scope::Cpu);
        let reason = |errno| Reason::of_errno(errno, pmu, &self.facts);
        let (reading, user_only) = if is_of_host(pmu) {
            (trial(source, &encoded, scope, false).map_err(reason)?, false)
        } else {
            let user = trial(source, &encoded, scope, true).map_err(reason)?;
            let both = source.open(Request { events: &encoded, scope, user_only: false });
            (user, both.is_err())
        };
        if reading.running_ns == 0 {
            return Err(Reason::never_scheduled(&self.facts));
        }
        if reading.values == [0] {
            return Err(Reason::DeadCounter);
        }
        let counters = match pmu {
            "cpu" => self.core_counters(&encoded[0], source),
            "amd_l3" => 6,
            "amd_df" => self.perf_mon.map_or(4, |perf_mon| perf_mon.fabric),
            "amd_umc" => self.perf_mon.map_or(4, |perf_mon| perf_mon.memory / perf_mon.controllers.max(1)),
            // Not of the hardware's making: as many as events.
            _ => MAX_COUNTERS,
        };
        Ok(Usable { counters, user_only })
    }

    /// Tries a PMU that can only sample.
    fn try_sampling(&self, pmu: &'static str, event: &str, source: &dyn CounterSource) -> Result<(), Reason> {
        if self.facts.paranoid.is_none() {
            return Err(Reason::NoPerfEvents);
        }
        let Some(device) = self.devices.get(pmu) else { return Err(Reason::pmu_absent(pmu, &self.facts)) };
        let event = self.catalog.find(event).ok_or_else(|| self.not_in_table(pmu))?;
        let encoded = encode(event, device).map_err(|error| Reason::Encoding(error.to_string()))?;
        match source.interrupts(&encoded, SAMPLING_PERIOD) {
            Ok(0) => Err(Reason::NoInterrupt),
            Ok(_) => Ok(()),
            Err(error) => Err(Reason::of_errno(error.errno, pmu, &self.facts)),
        }
    }

    /// How many counters of a core can be had at once: the largest group that really runs.
    fn core_counters(&self, cycles: &Encoded, source: &dyn CounterSource) -> u32 {
        let limit = self.perf_mon.map_or(USUAL_COUNTERS, |perf_mon| perf_mon.core).min(MAX_COUNTERS);
        let runs = |count: &u32| {
            let events = vec![cycles.clone(); *count as usize];
            trial(source, &events, Scope::Own, true).is_ok_and(|reading| reading.running_ns > 0)
        };
        // One was seen to run.
        (2..=limit).take_while(runs).last().unwrap_or(1)
    }
}

/// Generations, for people.
pub fn span(generations: &RangeInclusive<u32>) -> String {
    match (generations.start(), generations.end()) {
        (first, last) if first == last => format!("Zen {first}"),
        (first, last) => format!("Zen {first} to {last}"),
    }
}

/// Whether a metric counts what happens in the kernel only: in user mode it would always be 0.
fn in_kernel(metric: &Metric) -> bool {
    metric.events().iter().any(|event| ["context-switches", "migrations"].contains(event))
}

/// An event of the software PMU, whose numbers are part of the kernel's interface.
fn software(event: &Event) -> Result<Encoded, Reason> {
    let no_number = || Reason::Encoding(format!("{} has no number", event.name));
    let number = event.terms.strip_prefix("config=").and_then(super::device::number).ok_or_else(no_number)?;
    let config = super::format::Config { words: [number, 0, 0] };
    Ok(Encoded { name: event.name.to_owned(), kind: 1, config, pmu: event.pmu.to_owned() })
}

/// Opens a group, lets it count for a moment of work, and reads it.
fn trial(source: &dyn CounterSource, events: &[Encoded], scope: Scope, user_only: bool) -> Result<Reading, i32> {
    let mut group = source.open(Request { events, scope, user_only }).map_err(|error| error.errno)?;
    group.enable().map_err(|error| error.0)?;
    burn(TRIAL);
    group.read().map_err(|error| error.0)
}

/// Whether a process with this `/proc/self/status` may count everything: CAP_PERFMON or CAP_SYS_ADMIN.
fn capable(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    effective & (1 << 38 | 1 << 21) != 0
}
