//! The output of `perf script`: a line a sample, its frames below it, leaf first.
//!
//! ```text
//! comm  pid/tid [cpu] seconds:  period event:
//!         address function+0x1 (file)
//! ```
//!
//! What is there depends on its `-F`; process and thread id, CPU, time and period may be missing.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use regex::Regex;

use super::{ImportError, recording};
use crate::model::{
    ElfAddr, Event, Function, LocationId, Mapping, MappingKind, Profile, Recording, Source, SourceId, StackId,
    ThreadId, Unit, UnknownReason,
};

/// A sample's first line.
const HEAD: &str = r"^\s*(?P<comm>\S.*?)\s+(?:(?P<pid>-?\d+)/)?(?P<tid>-?\d+)\s+(?:\[\d+\]\s+)?(?:(?P<seconds>\d+)\.(?P<fraction>\d{1,9}):\s+)?(?:(?P<period>\d+)\s+)?(?P<event>\S+?):(?:\s.*)?$";

/// One of its frames.
const FRAME: &str = r"^\s+(?P<address>[0-9a-f]+)\s+(?P<function>\S.*?)\s+\((?P<file>[^()]*(?:\([^()]*\))?)\)\s*$";

pub(super) fn read(text: &str) -> Result<Recording, ImportError> {
    let pattern = |text: &str| Regex::new(text).map_err(|error| ImportError::Text(error.to_string()));
    let (head, frame) = (pattern(HEAD)?, pattern(FRAME)?);
    let mut script = Script::default();
    let mut sample: Option<Sample> = None;
    for line in text.lines() {
        // A frame may be followed by a line of source, which is none.
        if let (Some(sample), Some(found)) = (&mut sample, frame.captures(line)) {
            let address = u64::from_str_radix(&found["address"], 16).unwrap_or(0);
            let location = script.location(address, &found["function"], &found["file"]);
            sample.stack.push(location);
        } else if let Some(found) = (!line.starts_with('#')).then(|| head.captures(line)).flatten() {
            script.add(sample.take());
            let number = |name: &str| found.name(name).and_then(|found| found.as_str().parse::<u64>().ok());
            let id = |name: &str| number(name).and_then(|number| u32::try_from(number).ok());
            let tid = id("tid").unwrap_or(0);
            let fraction = found.name("fraction").map_or("", |found| found.as_str());
            let fraction_ns = format!("{fraction:0<9}").parse().unwrap_or(0);
            sample = Some(Sample {
                thread: script.thread(id("pid").unwrap_or(tid), tid, &found["comm"]),
                at_ns: number("seconds")
                    .map(|seconds| seconds.saturating_mul(1_000_000_000).saturating_add(fraction_ns)),
                period: number("period").unwrap_or(1),
                event: found["event"].to_owned(),
                stack: Vec::new(),
            });
        }
    }
    script.add(sample);
    if script.profile.samples().is_empty() {
        return Err(ImportError::Text("no sample was found in what looks like the output of perf script".to_owned()));
    }
    let (first, last) = script.span_ns.unwrap_or_default();
    let duration = Duration::from_nanos(last - first);
    // It does not say the date.
    let start = SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(recording(script.profile, start, duration, "the output of perf script"))
}

struct Sample {
    thread: ThreadId,
    at_ns: Option<u64>,
    period: u64,
    event: String,
    /// Leaf first.
    stack: Vec<LocationId>,
}

#[derive(Default)]
struct Script {
    profile: Profile,
    sources: HashMap<String, SourceId>,
    locations: HashMap<(String, String), LocationId>,
    /// The first and the last sample's time.
    span_ns: Option<(u64, u64)>,
}

impl Script {
    /// A process is called what its first thread is called.
    fn thread(&mut self, pid: u32, tid: u32, comm: &str) -> ThreadId {
        let process = match self.profile.process_by_pid(pid) {
            Some(process) if tid != pid => process,
            _ => self.profile.process(pid, comm),
        };
        self.profile.thread(process, tid, comm)
    }

    fn add(&mut self, sample: Option<Sample>) {
        let Some(Sample { thread, at_ns, period, event, stack }) = sample else { return };
        let source = self.source(&event, period);
        let mut node: Option<StackId> = None;
        for location in stack.into_iter().rev() {
            node = Some(self.profile.stack(node, location));
        }
        if let Some(at_ns) = at_ns {
            let (first, last) = self.span_ns.unwrap_or((at_ns, at_ns));
            self.span_ns = Some((first.min(at_ns), last.max(at_ns)));
        }
        let first_ns = self.span_ns.map_or(0, |(first, _)| first);
        let event = at_ns.map(|at_ns| Event { at_ns: at_ns.saturating_sub(first_ns), value: period });
        self.profile.add((thread, source, node), 1, period, event);
    }

    /// The first event is what flame graphs are drawn of; others are sources of their own.
    fn source(&mut self, event: &str, period: u64) -> SourceId {
        if let Some(&source) = self.sources.get(event) {
            return source;
        }
        let name = if self.sources.is_empty() { "on-cpu" } else { event };
        let is_time = ["cpu-clock", "task-clock"].contains(&event.split(':').next().unwrap_or_default());
        let unit = if is_time { Unit::Nanoseconds } else { Unit::Count };
        let name = self.profile.string(name);
        let source = self.profile.source(Source { name, unit, period });
        self.sources.insert(event.to_owned(), source);
        source
    }

    fn location(&mut self, address: u64, function: &str, file: &str) -> LocationId {
        let name = function.rsplit_once("+0x").map_or(function, |(name, _)| name);
        let is_named = name != "[unknown]";
        let key = (if is_named { name.to_owned() } else { format!("{address:x}") }, file.to_owned());
        if let Some(&location) = self.locations.get(&key) {
            return location;
        }
        let profile = &mut self.profile;
        let path = profile.string(file);
        let mapping = profile.mapping(Mapping { kind: kind(file), path, build_id: None });
        let location = if is_named {
            let (name, no_file) = (profile.string(name), profile.string(""));
            let function = profile.function(Function { name, system_name: name, file: no_file, start_line: 0 });
            profile.function_location(mapping, function)
        } else {
            let location = profile.location(mapping, ElfAddr(address));
            profile.set_unknown(location, UnknownReason::NoSymbols);
            location
        };
        self.locations.insert(key, location);
        location
    }
}

/// What code a file is: perf has the kernel and its modules in brackets.
fn kind(file: &str) -> MappingKind {
    match file {
        "[vdso]" | "[vsyscall]" => MappingKind::Vdso,
        "[unknown]" => MappingKind::Unmapped,
        "//anon" | "[heap]" | "[stack]" => MappingKind::Anonymous,
        _ if file.starts_with('[') || file.ends_with(".ko") => MappingKind::Kernel,
        _ => MappingKind::File,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// All forms of the first line; frames with C++ names, of the kernel, inlined, without names, with lines of source.
    #[test]
    fn scripts_are_read() {
        let recording = read(
            "# ========\n\
             perf 16540 [000]  2169.899267:    5025125 cpu-clock:pppH: \n\
             \tffffffff81445260 s_next+0x0 ([kernel.kallsyms])\n\
             \t           24ac36 [unknown] (/usr/bin/perf)\n\n\
             Web Content 7/8 [001]  2171.899267:    5025125 cpu-clock:pppH: \n\
             \t     7f01 std::map<int, (anonymous namespace)::T>::at(int) const+0x5 (/opt/a b/lib.so (deleted))\n\
             \t  at.h:12\n\
             \t     7f01 inlined_one (inlined)\n\
             \t     7f01 inlined_two (inlined)\n\n\
             java 9 cycles: \n\
             \t     10 Main::run+0x10 (/tmp/perf-9.map)\n\n\
             swapper     0 [000]  2170.5: sched:sched_switch: prev_comm=swapper/0 ==> next_comm=a\n\n",
        )
        .unwrap();
        assert_eq!(recording.duration, Duration::from_secs(2));
        let profile = &recording.profile;
        let samples = profile.samples().iter().map(|sample| {
            let mut names: Vec<_> = profile.frames(sample.stack).flat_map(|location| profile.names(location)).collect();
            names.reverse();
            let thread = &profile.threads()[sample.thread.index()];
            let pid = profile.processes()[thread.process.index()].pid;
            let source = profile.text(profile.sources()[sample.source.index()].name);
            let (name, stack) = (profile.text(thread.name), names.join(";"));
            format!("{name} {pid}/{} {source} {} {} [{stack}]", thread.tid, sample.count, sample.value)
        });
        insta::assert_snapshot!(samples.collect::<Vec<_>>().join("\n"), @r"
        perf 16540/16540 on-cpu 1 5025125 [perf+0x24ac36;s_next]
        Web Content 7/8 on-cpu 1 5025125 [inlined_two;inlined_one;std::map<int, (anonymous namespace)::T>::at(int) const]
        java 9/9 cycles 1 1 [Main::run]
        swapper 0/0 sched:sched_switch 1 1 []
        ");
    }

    /// What is none is refused.
    #[test]
    fn other_texts_are_refused() {
        for text in ["\t1 a (b)\n", "  hello: world\n", "a 1 x\n\t1 b (c)\n"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
