//! Folded stacks, the format of Brendan Gregg's flame graph tools: `process;root;…;leaf count`, a line a stack.
//!
//! Counts are samples, or microseconds of what is not sampled. As those tools have it, `_[k]` marks a function in the kernel and `_[i]` one inlined into its caller.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::Exporter;
use crate::model::{MappingKind, Profile, Recording, View, Weight};

/// Folded stacks.
#[derive(Debug)]
pub struct Folded;

impl Exporter for Folded {
    fn name(&self) -> &'static str {
        "folded"
    }

    fn description(&self) -> &'static str {
        "folded stacks, for flame graph tools"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["folded", "collapsed"]
    }

    fn content_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }

    fn export(&self, recording: &Recording, view: View, out: &mut dyn Write) -> io::Result<()> {
        for (stack, weight) in folded(recording, view) {
            writeln!(out, "{stack} {weight}")?;
        }
        Ok(())
    }
}

/// Each distinct stack of a view with its weight, in order of their text.
pub(super) fn folded(recording: &Recording, view: View) -> BTreeMap<String, u64> {
    let (profile, weights) = view.of(recording);
    let mut lines: BTreeMap<_, u64> = BTreeMap::new();
    for weight in weights {
        let sum = lines.entry(line(&profile, &weight)).or_default();
        *sum = sum.saturating_add(weight.weight);
    }
    lines
}

fn line(profile: &Profile, weight: &Weight) -> String {
    let thread = &profile.threads()[weight.thread.index()];
    let process = &profile.processes()[thread.process.index()];
    let mut frames: Vec<String> = Vec::new();
    for id in profile.frames(weight.stack) {
        let location = &profile.locations()[id.index()];
        let kernel = profile.mappings()[location.mapping.index()].kind == MappingKind::Kernel;
        let names = profile.names(id);
        let outermost = names.len() - 1;
        frames.extend(names.into_iter().enumerate().map(|(depth, name)| {
            let mark = if kernel {
                "_[k]"
            } else if depth < outermost {
                "_[i]"
            } else {
                ""
            };
            clean(&name) + mark
        }));
    }
    if frames.is_empty() {
        frames.push("[no stack]".to_owned());
    }
    frames.push(clean(profile.text(process.name)));
    frames.reverse();
    frames.join(";")
}

/// A frame's name must not contain what separates frames and lines.
fn clean(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
}
