//! Where names are missing that could be had: the sentences that say how.

use std::collections::BTreeMap;

use crate::model::{Aspect, MappingId, MappingKind, Profile, UnknownReason};

/// A smaller part of the samples is not worth a sentence, in percent.
const MIN_PERCENT: u64 = 5;

/// Files that are named.
const MAX_FILES: usize = 3;

/// A sentence for files without symbols and one for JIT code without a perf map, by the functions that samples were in.
pub fn notes(profile: &Profile) -> Vec<String> {
    let on_cpu = profile.source_by_name(Aspect::OnCpu.name());
    let (mut all, mut jit, mut files) = (0, 0, BTreeMap::<MappingId, u64>::new());
    for sample in profile.samples().iter().filter(|sample| Some(sample.source) == on_cpu) {
        all += sample.count;
        let Some(leaf) = profile.frames(sample.stack).next() else { continue };
        let location = &profile.locations()[leaf.index()];
        match (location.unknown, profile.mappings()[location.mapping.index()].kind) {
            (Some(UnknownReason::NoSymbols | UnknownReason::NotInSymbolTable), MappingKind::File) => {
                *files.entry(location.mapping).or_default() += sample.count;
            }
            (Some(UnknownReason::NoJitInfo), _) => jit += sample.count,
            _ => {}
        }
    }
    let percent = |count: u64| 100 * count / all.max(1);
    let mut files: Vec<_> = files.into_iter().filter(|(_, count)| percent(*count) >= MIN_PERCENT).collect();
    files.sort_by_key(|(mapping, count)| (std::cmp::Reverse(*count), *mapping));
    let name = |(mapping, count): &(MappingId, u64)| format!("{} ({} %)", profile.file_name(*mapping), percent(*count));
    let files: Vec<String> = files.iter().take(MAX_FILES).map(name).collect();
    let mut notes = Vec::new();
    if !files.is_empty() {
        notes.push(format!(
            "functions without names go by their addresses in {}: install the debug symbols (packages named -dbgsym, -dbg \
             or -debuginfo), or set DEBUGINFOD_URLS to a server that has them",
            files.join(", ")
        ));
    }
    if percent(jit) >= MIN_PERCENT {
        notes.push(format!(
            "{} % of the samples are in JIT code without names: let the runtime write a perf map (node \
             --perf-basic-prof, java -XX:+UnlockDiagnosticVMOptions -XX:+DumpPerfMapAtExit, python3 -X perf)",
            percent(jit)
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ElfAddr, Mapping, Source, Unit};

    /// The notes about samples: (file, kind, why it has no name, how many).
    fn notes_of(samples: &[(&str, MappingKind, Option<UnknownReason>, u64)]) -> Vec<String> {
        let mut profile = Profile::new();
        let name = profile.string(Aspect::OnCpu.name());
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 1 });
        let process = profile.process(1, "p");
        let thread = profile.thread(process, 1, "t");
        for &(path, kind, unknown, count) in samples {
            let path = profile.string(path);
            let mapping = profile.mapping(Mapping { kind, path, build_id: None });
            let location = profile.location(mapping, ElfAddr(1));
            profile.set_lines(location, unknown.map_or(Ok(Vec::new()), Err));
            let stack = profile.stack(None, location);
            profile.add((thread, source, Some(stack)), count, count, None);
        }
        notes(&profile)
    }

    /// Files with a part worth a sentence, the largest first; what has names or is small is left out.
    #[test]
    fn says_what_is_missing() {
        let no_symbols = Some(UnknownReason::NoSymbols);
        let file = MappingKind::File;
        let found = notes_of(&[
            ("/usr/lib/small.so", file, no_symbols, 4),
            ("/usr/lib/libx264.so.164", file, Some(UnknownReason::NotInSymbolTable), 20),
            ("/usr/bin/app", file, no_symbols, 40),
            ("/usr/bin/named", file, None, 30),
            ("[anon:1]", MappingKind::Anonymous, Some(UnknownReason::NoJitInfo), 6),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|note| note.contains(" in app (40 %), libx264.so.164 (20 %): ")), "{found:?}");
        assert!(found.iter().any(|note| note.starts_with("6 % of the samples are in JIT code")), "{found:?}");
        assert_eq!(notes_of(&[("/a", file, None, 100)]), Vec::<String>::new());
        assert_eq!(notes_of(&[]), Vec::<String>::new());
    }
}
