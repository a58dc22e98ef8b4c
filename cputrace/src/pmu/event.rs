//! The events: tables by generation, and what a user may write for one.
//!
//! The tables are text beside this file, so that they can be read and compared; they are parsed once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::cpu::Generation;
use super::device::{Device, DeviceError, Root, number};
use super::format::Config;

/// One row of an event table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its name here; the kernel's generic events are called `generic/NAME`.
    pub name: &'static str,
    /// Its PMU; `amd_umc` stands for each `amd_umc_N`.
    pub pmu: &'static str,
    /// Its encoding, in the terms of the PMU's format files.
    pub terms: &'static str,
    /// AMD's name for it, as Linux has it.
    pub vendor_name: &'static str,
    /// The file in Linux's source that has it.
    pub source: &'static str,
}

impl Event {
    /// How many counters it takes: FLOPs come too fast for one, and the kernel pairs two.
    pub fn weight(&self) -> u32 {
        let flops = self.pmu == "cpu" && self.terms.split(',').any(|term| term == "event=0x3");
        if flops { 2 } else { 1 }
    }

    /// What it counts, and its unit.
    pub fn description(&self) -> (&'static str, &'static str) {
        describe(self.name)
    }
}

/// What an event of this name counts, and its unit.
pub fn describe(name: &str) -> (&'static str, &'static str) {
    if name.starts_with("generic/") {
        return ("what the kernel programs for perf's generic event of this name", "count");
    }
    NAMES.get(name).copied().unwrap_or(("an event given by its encoding", "count"))
}

/// Whether events of this PMU are of the host as a whole, and never of one task.
pub fn is_of_host(pmu: &str) -> bool {
    !matches!(pmu, "cpu" | "software" | "ibs_op" | "ibs_fetch")
}

/// The tables' texts, by generation.
fn text(generation: Generation) -> &'static str {
    match generation {
        Generation::Zen1 => include_str!("events/zen1.txt"),
        Generation::Zen2 => include_str!("events/zen2.txt"),
        Generation::Zen3 => include_str!("events/zen3.txt"),
        Generation::Zen4 => include_str!("events/zen4.txt"),
        Generation::Zen5 => include_str!("events/zen5.txt"),
        Generation::Zen6 => include_str!("events/zen6.txt"),
    }
}

static NAMES: LazyLock<BTreeMap<&'static str, (&'static str, &'static str)>> = LazyLock::new(|| {
    let columns = |line: &'static str| {
        let (name, rest) = line.split_once(' ')?;
        let (unit, description) = rest.trim_start().split_once(' ')?;
        Some((name, (description.trim_start(), unit)))
    };
    lines(include_str!("events/names.txt")).filter_map(columns).collect()
});

/// The lines of a table that are neither empty nor a comment.
pub(super) fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn rows(text: &'static str) -> impl Iterator<Item = Event> {
    lines(text).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let mut next = || columns.next();
        Some(Event { name: next()?, pmu: next()?, terms: next()?, vendor_name: next()?, source: next()? })
    })
}

/// Events of the kernel's own that perf calls otherwise.
const PERFS_NAMES: [(&str, &str); 3] =
    [("cpu-migrations", "migrations"), ("cs", "context-switches"), ("faults", "page-faults")];

/// perf's generic events of a core, which the kernel knows how to count on most CPUs: `PERF_COUNT_HW_*`.
const GENERIC: [(&str, u64); 11] = [
    ("cpu-cycles", 0),
    ("cycles", 0),
    ("instructions", 1),
    ("cache-references", 2),
    ("cache-misses", 3),
    ("branches", 4),
    ("branch-misses", 5),
    ("bus-cycles", 6),
    ("stalled-cycles-frontend", 7),
    ("stalled-cycles-backend", 8),
    ("ref-cycles", 9),
];

/// The events that a CPU has.
#[derive(Clone, Debug)]
pub struct Catalog {
    events: Vec<Event>,
}

impl Catalog {
    /// Those of a generation; without one those that every Linux has.
    pub fn of(generation: Option<Generation>) -> Self {
        let common = rows(include_str!("events/common.txt"));
        Self { events: common.chain(generation.map(text).into_iter().flat_map(rows)).collect() }
    }

    /// All of them.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// By the name here, with - or _, by AMD's name, or by perf's generic name, in this order.
    pub fn find(&self, name: &str) -> Option<&Event> {
        let name = PERFS_NAMES.iter().find(|(perfs, _)| *perfs == name).map_or(name, |(_, ours)| *ours);
        let dashed = name.replace('_', "-");
        let generic = format!("generic/{name}");
        let by = |matches: &dyn Fn(&Event) -> bool| self.events.iter().find(|event| matches(event));
        by(&|event| event.name == dashed)
            .or_else(|| by(&|event| event.vendor_name == name && !event.terms.contains("cmask")))
            .or_else(|| by(&|event| event.name == generic))
    }
}

/// An event as the kernel wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// What it is called where it is shown.
    pub name: String,
    /// `perf_event_attr.type`.
    pub kind: u32,
    /// The words of `perf_event_attr`.
    pub config: Config,
    /// The PMU, as the kernel calls it.
    pub pmu: String,
}

impl Encoded {
    /// Events that a sample is to stand for, where nobody says: a prime in what comes all the time, so that no loop keeps in
    /// step with it, and every single one of the kernel's own.
    pub fn default_period(&self) -> u64 {
        let (_, unit) = describe(&self.name);
        match (&*self.pmu, unit) {
            // Instruction-based sampling: a multiple of 16.
            ("ibs_op" | "ibs_fetch", _) => 1 << 18,
            (_, "ns") => 1_000_003,
            ("software" | "tracepoint", _) => 1,
            (_, "cycles" | "instructions" | "ops" | "slots") => 2_000_003,
            (_, "branches") => 200_003,
            _ => 20_011,
        }
    }
}

/// Why an event cannot be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventError {
    /// Nobody knows the name.
    #[error(
        "there is no event {0:?}: `cputrace pmu list --events` shows those of this CPU; others are written \
         cpu/event=0xc0,umask=0x1/, r00c0 or sched:sched_switch"
    )]
    Unknown(String),
    /// Other CPUs have it.
    #[error("the event {event} is known of {generations} alone: `cputrace pmu list --events` shows those of this CPU")]
    OfOthers {
        /// The event.
        event: String,
        /// Of which it is known.
        generations: String,
    },
    /// The PMU is not there.
    #[error("the event {event} needs the PMU {pmu}, which is not in /sys/bus/event_source/devices")]
    NoPmu {
        /// The event.
        event: String,
        /// Its PMU.
        pmu: String,
    },
    /// Its terms cannot be encoded.
    #[error("the event {event}: {source}")]
    Device {
        /// The event.
        event: String,
        /// Why.
        source: DeviceError,
    },
    /// Tracepoints are not listed.
    #[error(
        "the tracepoint {0} cannot be looked up: /sys/kernel/tracing/events is missing or not readable for this user; be root, \
         and mount tracefs (mount -t tracefs nodev /sys/kernel/tracing)"
    )]
    NoTracefs(String),
    /// There is no such tracepoint.
    #[error(
        "there is no tracepoint {0} in /sys/kernel/tracing/events: `ls` there shows the groups, and in each its tracepoints"
    )]
    NoTracepoint(String),
}

/// `PERF_TYPE_HARDWARE`.
const TYPE_HARDWARE: u32 = 0;
/// `PERF_TYPE_RAW`: the CPU's own event numbers.
const TYPE_RAW: u32 = 4;
/// `PERF_TYPE_SOFTWARE`.
const TYPE_SOFTWARE: u32 = 1;
/// `PERF_TYPE_TRACEPOINT`.
const TYPE_TRACEPOINT: u32 = 2;

/// The devices that a PMU's name in the tables stands for.
pub fn instances<'a>(devices: &'a BTreeMap<String, Device>, pmu: &str) -> Vec<&'a Device> {
    let numbered = |name: &str| {
        let number = name.strip_prefix(pmu).and_then(|rest| rest.strip_prefix('_'));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    devices.values().filter(|device| device.name == pmu || numbered(&device.name)).collect()
}

/// An event of a table on one device.
pub fn encode(event: &Event, device: &Device) -> Result<Encoded, EventError> {
    let encoded = device.encode(event.terms);
    let config = encoded.map_err(|source| EventError::Device { event: event.name.to_owned(), source })?;
    Ok(Encoded { name: event.name.to_owned(), kind: device.kind, config, pmu: device.name.clone() })
}

/// Whatever a user may write for an event: a name, `PMU/terms/`, `rHEX`, `SUBSYSTEM:TRACEPOINT`.
pub fn resolve(
    text: &str,
    catalog: &Catalog,
    devices: &BTreeMap<String, Device>,
    root: &Root,
) -> Result<Encoded, EventError> {
    let named = |kind, word, pmu: &str| Encoded {
        name: text.to_owned(),
        kind,
        config: Config { words: [word, 0, 0] },
        pmu: pmu.to_owned(),
    };
    if let Some(event) = catalog.find(text) {
        let no_pmu = || EventError::NoPmu { event: text.to_owned(), pmu: event.pmu.to_owned() };
        // The software PMU's number is part of the kernel's interface.
        if event.pmu == "software" {
            let config = event.terms.strip_prefix("config=").and_then(number).ok_or_else(no_pmu)?;
            return Ok(Encoded { name: event.name.to_owned(), ..named(TYPE_SOFTWARE, config, "software") });
        }
        let devices = instances(devices, event.pmu);
        let name = event.name.trim_start_matches("generic/").to_owned();
        return Ok(Encoded { name, ..encode(event, devices.first().ok_or_else(no_pmu)?)? });
    }
    if let Some((_, number)) = GENERIC.iter().find(|(name, _)| *name == text) {
        return Ok(named(TYPE_HARDWARE, *number, "cpu"));
    }
    if let Some((pmu, terms)) = text.strip_suffix('/').and_then(|text| text.split_once('/')) {
        let device = devices.get(pmu);
        let device =
            device.ok_or_else(|| EventError::NoPmu { event: text.to_owned(), pmu: pmu.chars().take(40).collect() })?;
        // The kernel's own events are named in the PMU's directory.
        let terms = device.events.get(terms).map_or(terms, String::as_str);
        let encoded = device.encode(terms);
        let config = encoded.map_err(|source| EventError::Device { event: text.to_owned(), source })?;
        return Ok(Encoded { name: text.to_owned(), kind: device.kind, config, pmu: pmu.to_owned() });
    }
    if let Some(word) = text.strip_prefix('r').and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
        return Ok(named(TYPE_RAW, word, "cpu"));
    }
    if let Some((subsystem, name)) = text.split_once(':')
        && [subsystem, name].iter().all(|part| !part.is_empty() && !part.contains(['/', '.']))
    {
        let events = ["sys/kernel/tracing/events", "sys/kernel/debug/tracing/events"];
        let events = events.into_iter().find(|events| root.has(events));
        let events = events.ok_or_else(|| EventError::NoTracefs(text.to_owned()))?;
        let id = root.read(format!("{events}/{subsystem}/{name}/id")).and_then(|id| id.parse().ok());
        return Ok(named(TYPE_TRACEPOINT, id.ok_or_else(|| EventError::NoTracepoint(text.to_owned()))?, "tracepoint"));
    }
    let knows = |generation: &&Generation| Catalog::of(Some(**generation)).find(text).is_some();
    let known: Vec<_> = Generation::ALL.iter().filter(knows).map(|generation| generation.number()).collect();
    Err(match (known.first(), known.last()) {
        (Some(first), Some(last)) => {
            EventError::OfOthers { event: text.to_owned(), generations: super::survey::span(&(*first..=*last)) }
        }
        _ => EventError::Unknown(text.chars().take(80).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each table is whole: every line a row, every name once and described, every PMU known.
    #[test]
    fn tables_are_whole() {
        for generation in Generation::ALL {
            let expected = lines(text(*generation)).count() + lines(include_str!("events/common.txt")).count();
            let catalog = Catalog::of(Some(*generation));
            assert_eq!(catalog.events().len(), expected, "{generation}");
            for event in catalog.events() {
                let same = catalog.events().iter().filter(|other| other.name == event.name);
                assert_eq!(same.count(), 1, "{generation}: {}", event.name);
                assert!(
                    event.name.starts_with("generic/") || NAMES.contains_key(event.name),
                    "{} is not described",
                    event.name
                );
                let pmus = ["cpu", "amd_l3", "amd_df", "amd_umc", "software", "msr", "power", "ibs_op", "ibs_fetch"];
                assert!(pmus.contains(&event.pmu), "{}", event.pmu);
            }
        }
    }

    /// Every description is of an event that some generation has.
    #[test]
    fn no_description_too_many() {
        let catalogs: Vec<_> = Generation::ALL.iter().map(|generation| Catalog::of(Some(*generation))).collect();
        for name in NAMES.keys() {
            assert!(catalogs.iter().any(|catalog| catalog.find(name).is_some()), "{name}");
        }
    }

    #[test]
    fn names() {
        let catalog = Catalog::of(Some(Generation::Zen3));
        let found = |name| catalog.find(name).map(|event| event.name);
        assert_eq!(found("branch_misses"), Some("branch-misses"));
        assert_eq!(found("ex_ret_brn_misp"), Some("branch-misses"));
        assert_eq!(found("cache-misses"), Some("generic/cache-misses"));
        assert_eq!(found("slots-backend"), None);
        assert_eq!(catalog.find("flops").map(Event::weight), Some(2));
        assert_eq!(catalog.find("cycles").map(Event::weight), Some(1));
    }

    #[test]
    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn no_such_event() {
        let (catalog, none, root) = (Catalog::of(None), BTreeMap::new(), Root::new("/nowhere"));
        let resolve = |text| resolve(text, &catalog, &none, &root);
        assert!(matches!(resolve("cpu/event=1/"), Err(EventError::NoPmu { .. })));
        assert!(matches!(resolve("no-such"), Err(EventError::Unknown(_))));
        assert_eq!(
            resolve("slots-backend").unwrap_err().to_string().split(':').next(),
            Some("the event slots-backend is known of Zen 4 to 6 alone")
        );
        assert_eq!(resolve("cpu-cycles").map(|event| (event.kind, event.config.words[0])), Ok((TYPE_HARDWARE, 0)));
        assert_eq!(resolve("cs"), resolve("context-switches"));
        assert_eq!(resolve("cpu-migrations").map(|event| event.config.words[0]), Ok(4));
        assert!(matches!(resolve("a:../../b"), Err(EventError::Unknown(_))));
        assert!(matches!(resolve("sched:none"), Err(EventError::NoTracefs(_))));
        assert_eq!(resolve("r1c0").map(|event| (event.kind, event.config.words[0])), Ok((TYPE_RAW, 0x1c0)));
        assert_eq!(resolve("page-faults").map(|event| event.default_period()), Ok(1));
        assert_eq!(resolve("page-faults").map(|event| (event.kind, event.config.words[0])), Ok((TYPE_SOFTWARE, 2)));
    }
}
