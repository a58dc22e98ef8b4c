//! Folded stacks: `process;outer;inner 12`.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::{ImportError, recording};
use crate::model::{ElfAddr, Function, Line, Mapping, MappingKind, Profile, Recording, Source, ThreadId, Unit};

pub(super) fn read(text: &str) -> Result<Recording, ImportError> {
    let is_line = |line: &str| {
        line.rsplit_once(' ').is_some_and(|(stack, count)| !stack.is_empty() && count.parse::<u64>().is_ok())
    };
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    match lines.find(|line| !is_line(line)) {
        None if !text.trim().is_empty() => Ok(of_lines(text)),
        None => Err(ImportError::Text("it is empty".to_owned())),
        Some(line) => {
            let line: String = line.chars().take(60).collect();
            Err(ImportError::Text(format!("{line:?} is no stack with a number behind it")))
        }
    }
}

fn of_lines(text: &str) -> Recording {
    let mut profile = Profile::new();
    let (name, path, file) = (profile.string("on-cpu"), profile.string("[imported]"), profile.string(""));
    let source = profile.source(Source { name, unit: Unit::Count, period: 1 });
    let mut threads: HashMap<&str, ThreadId> = HashMap::new();
    for (stack, count) in text.lines().filter_map(|line| line.trim_end().rsplit_once(' ')) {
        let Ok(count) = count.parse::<u64>() else { continue };
        let mut frames = stack.split(';');
        // By convention the first frame is the process.
        let name = frames.next().unwrap_or_default();
        let thread = *threads.entry(name).or_insert_with(|| {
            let process = profile.new_process(0, name);
            profile.new_thread(process, 0, name)
        });
        let mut node = None;
        for frame in frames {
            let (name, kind) = match frame.strip_suffix("_[k]") {
                Some(name) => (name, MappingKind::Kernel),
                None => (frame.strip_suffix("_[i]").unwrap_or(frame), MappingKind::File),
            };
            let name = profile.string(name);
            let function = profile.function(Function { name, system_name: name, file, start_line: 0 });
            let mapping = profile.mapping(Mapping { kind, path, build_id: None });
            // There is no address: the function's number stands for one.
            let location = profile.location(mapping, ElfAddr(function.index() as u64));
            profile.set_lines(location, Ok(vec![Line { function, line: 0 }]));
            node = Some(profile.stack(node, location));
        }
        profile.add((thread, source, node), count, count, None);
    }
    recording(profile, SystemTime::now(), Duration::ZERO, "folded stacks")
}
