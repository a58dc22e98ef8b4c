//! Trace events, for <https://ui.perfetto.dev> and `chrome://tracing`: a track a thread, with its waits as slices and its
//! samples as moments.
//!
//! Format: "Trace Event Format" of the Chromium project, the JSON array form.

use std::collections::HashSet;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::Exporter;
use super::observation::observations;
use crate::model::{Aspect, LocationId, MappingKind, Profile, Recording, StackId, View};

/// Functions of the program that a slice shows: those closest to the wait.
const FRAMES: usize = 8;

/// Trace events.
#[derive(Debug)]
pub struct Perfetto;

impl Exporter for Perfetto {
    fn name(&self) -> &'static str {
        "perfetto"
    }

    fn description(&self) -> &'static str {
        "trace events for Perfetto: what each thread waited for, in time"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["perfetto.json"]
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn export(&self, recording: &Recording, _view: View, out: &mut dyn Write) -> io::Result<()> {
        let profile = &recording.profile;
        let mut separator = "[";
        let mut write = |event: Value| -> io::Result<()> {
            write!(out, "{separator}\n{event}")?;
            separator = ",";
            Ok(())
        };
        let mut named = HashSet::new();
        for observation in observations(recording) {
            let thread = &profile.threads()[observation.thread.index()];
            let process = &profile.processes()[thread.process.index()];
            let (pid, tid) = (process.pid, thread.tid);
            if named.insert(observation.thread) {
                let [process, thread] = [process.name, thread.name].map(|name| profile.text(name));
                write(json!({"ph": "M", "name": "process_name", "pid": pid, "tid": tid, "args": {"name": process}}))?;
                write(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}))?;
            }
            let at_us = observation.at_ns as f64 / 1e3;
            let args = json!({"stack": stack(profile, observation.stack)});
            write(if observation.aspect == Aspect::OnCpu {
                let name = profile.leaf_function(observation.stack).unwrap_or("[no stack]");
                json!({"ph": "i", "s": "t", "cat": "on-cpu", "name": name, "pid": pid, "tid": tid, "ts": at_us, "args": args})
            } else {
                let (name, length_us) = (observation.label, observation.ns as f64 / 1e3);
                json!({
                    "ph": "X", "cat": observation.aspect.name(), "name": name, "pid": pid, "tid": tid,
                    "ts": at_us, "dur": length_us, "args": args,
                })
            })?;
        }
        // Without events it is a list all the same.
        out.write_all(if separator == "[" { b"[]\n" } else { b"\n]\n" })
    }
}

/// Leaf first, a line each, without the kernel's: of a wait the reason says what those would.
fn stack(profile: &Profile, stack: Option<StackId>) -> String {
    let is_programs = |location: &LocationId| {
        let mapping = profile.locations()[location.index()].mapping;
        !matches!(profile.mappings()[mapping.index()].kind, MappingKind::Kernel | MappingKind::Label)
    };
    let names = profile.frames(stack).filter(is_programs).flat_map(|location| profile.names(location));
    names.take(FRAMES).collect::<Vec<_>>().join("\n")
}
