//! Windows as `cputrace serve` stores them, made up.

use cputrace::group::Labels;
use cputrace::model::{ElfAddr, Function, Line, Mapping, MappingKind, Profile, Source, Unit};
use cputrace::store::Digest;
use cputrace::store::windows::WindowFacts;

/// A window in which each group has samples of a function of its own, below a common one, in two threads.
pub(crate) fn window(groups: &[(&str, u64)]) -> Digest {
    let mut profile = Profile::new();
    let (path, file, name) = (profile.string("/bin/x"), profile.string("x.c"), profile.string("on-cpu"));
    let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 30 });
    let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
    let mut labels = Vec::new();
    for (pid, &(group, value)) in (1..).zip(groups) {
        let process = profile.process(pid, group);
        labels.push(Labels { group: group.to_owned(), unit: format!("{group}.service"), ..Labels::default() });
        let mut location = |address: u64, function: &str| {
            let name = profile.string(function);
            let function = profile.function(Function { name, system_name: name, file, start_line: 7 });
            let location = profile.location(mapping, ElfAddr(address));
            profile.set_lines(location, Ok(vec![Line { function, line: 8 }]));
            location
        };
        let (main, own) = (location(1, "main"), location(u64::from(pid) + 16, &format!("work_{group}")));
        let root = profile.stack(None, main);
        let leaf = profile.stack(Some(root), own);
        for tid in [pid, pid + 1000] {
            let thread = profile.thread(process, tid, "t");
            profile.add((thread, source, Some(leaf)), 1, value, None);
        }
    }
    let mut digest = Digest::new();
    digest.add_profile(&profile, &labels);
    digest
}

/// What is known of it.
pub(crate) fn facts() -> WindowFacts {
    WindowFacts { windows: 1, covered_ms: 10_000, frequency_hz: 19.0, samples_kept: 3, ..WindowFacts::default() }
}
