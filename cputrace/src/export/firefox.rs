//! The Firefox Profiler's format, for <https://profiler.firefox.com>: samples in time, a track a thread, and on it the waits
//! as markers with their reasons and stacks.

use std::collections::HashMap;
use std::io::{self, Write};

use fxprof_processed_profile::{
    CategoryColor, CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, MarkerFieldFlags, MarkerFieldFormat,
    MarkerTiming, ProcessHandle, Profile, SamplingInterval, StackHandle, StaticSchemaMarker, StaticSchemaMarkerField,
    StringHandle, ThreadHandle, Timestamp,
};

use super::Exporter;
use super::observation::{Observation, observations};
use crate::model::{self, Aspect, MappingKind, ProcessId, Recording, StackId, ThreadId, View};

/// The Firefox Profiler's format.
#[derive(Debug)]
pub struct Firefox;

impl Exporter for Firefox {
    fn name(&self) -> &'static str {
        "firefox"
    }

    fn description(&self) -> &'static str {
        "Firefox Profiler: samples and waits in time"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["firefox.json"]
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn export(&self, recording: &Recording, _view: View, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(out, &profile(recording)).map_err(io::Error::from)
    }
}

/// A wait on a thread's track.
struct WaitMarker {
    reason: StringHandle,
    function: StringHandle,
    category: CategoryHandle,
}

impl StaticSchemaMarker for WaitMarker {
    const UNIQUE_MARKER_TYPE_NAME: &'static str = "Wait";
    const CHART_LABEL: Option<&'static str> = Some("{marker.name}");
    const TABLE_LABEL: Option<&'static str> = Some("{marker.name} in {marker.data.function}");
    const FIELDS: &'static [StaticSchemaMarkerField] = &[StaticSchemaMarkerField {
        key: "function",
        label: "Function",
        format: MarkerFieldFormat::String,
        flags: MarkerFieldFlags::SEARCHABLE,
    }];

    fn name(&self, _profile: &mut Profile) -> StringHandle {
        self.reason
    }

    fn category(&self, _profile: &mut Profile) -> CategoryHandle {
        self.category
    }

    fn string_field_value(&self, _field_index: u32) -> StringHandle {
        self.function
    }

    fn number_field_value(&self, _field_index: u32) -> f64 {
        0.0
    }
}

/// What was made in the profile so far.
struct Made<'a> {
    model: &'a model::Profile,
    profile: Profile,
    processes: HashMap<ProcessId, ProcessHandle>,
    threads: HashMap<ThreadId, ThreadHandle>,
    stacks: HashMap<(ThreadId, StackId), Option<StackHandle>>,
    user: CategoryHandle,
    kernel: CategoryHandle,
    waiting: CategoryHandle,
}

fn profile(recording: &Recording) -> Profile {
    // Of what was not sampled there is no rate; the format wants one.
    let interval = SamplingInterval::from_hz((recording.sampling.asked_hz as f32).max(1.0));
    let mut profile = Profile::new("cputrace", recording.start.into(), interval);
    profile.set_symbolicated(true);
    profile.set_os_name(&format!("Linux {}", recording.host.kernel));
    let user = profile.add_category("User", CategoryColor::Yellow);
    let kernel = profile.add_category("Kernel", CategoryColor::Orange);
    let waiting = profile.add_category("Waiting", CategoryColor::Blue);
    let mut made = Made {
        model: &recording.profile,
        profile,
        processes: HashMap::new(),
        threads: HashMap::new(),
        stacks: HashMap::new(),
        user,
        kernel,
        waiting,
    };
    for observation in observations(recording) {
        made.add(&observation);
    }
    made.profile
}

impl Made<'_> {
    fn add(&mut self, observation: &Observation<'_>) {
        let &Observation { aspect, thread: id, stack, at_ns, ns, label, function } = observation;
        let thread = self.thread(id);
        let stack = stack.and_then(|stack| self.stack(id, thread, stack));
        let start = Timestamp::from_nanos_since_reference(at_ns);
        if aspect == Aspect::OnCpu {
            self.profile.add_sample(thread, start, stack, CpuDelta::from_nanos(ns), 1);
            return;
        }
        let [reason, function] = [label, function].map(|text| self.profile.intern_string(text));
        let timing = MarkerTiming::Interval(start, Timestamp::from_nanos_since_reference(at_ns.saturating_add(ns)));
        let marker = self.profile.add_marker(thread, timing, WaitMarker { reason, function, category: self.waiting });
        self.profile.set_marker_stack(thread, marker, stack);
    }

    fn thread(&mut self, id: ThreadId) -> ThreadHandle {
        if let Some(thread) = self.threads.get(&id) {
            return *thread;
        }
        let start = Timestamp::from_nanos_since_reference(0);
        let model::Thread { process: process_id, tid, name } = self.model.threads()[id.index()];
        let model::Process { pid, name: process_name } = self.model.processes()[process_id.index()];
        let profile = &mut self.profile;
        let process = self.processes.entry(process_id);
        let process = *process.or_insert_with(|| profile.add_process(self.model.text(process_name), pid, start));
        let thread = profile.add_thread(process, tid, start, pid == tid);
        profile.set_thread_name(thread, self.model.text(name));
        self.threads.insert(id, thread);
        thread
    }

    fn stack(&mut self, id: ThreadId, thread: ThreadHandle, stack: StackId) -> Option<StackHandle> {
        if let Some(handle) = self.stacks.get(&(id, stack)) {
            return *handle;
        }
        let mut frames = Vec::new();
        for location in self.model.frames(Some(stack)) {
            let row = &self.model.locations()[location.index()];
            let category = match self.model.mappings()[row.mapping.index()].kind {
                MappingKind::Kernel => self.kernel,
                MappingKind::Label => self.waiting,
                _ => self.user,
            };
            for name in self.model.names(location) {
                let frame = Frame::Label(self.profile.intern_string(&name));
                frames.push(FrameInfo { frame, category_pair: category.into(), flags: FrameFlags::empty() });
            }
        }
        let handle = self.profile.intern_stack_frames(thread, frames.into_iter().rev());
        self.stacks.insert((id, stack), handle);
        handle
    }
}
