//! From samples to a [`Profile`] and its [`Waits`]: equal ones added up, addresses normalized while the process lives.

mod wakes;

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use crate::collect::{Frames, Observation, RawSample};
use crate::model::{
    Event, Mapping, MappingId, MappingKind, Profile, SourceId, StackId, ThreadId, WaitEvent, WaitKey, Waits,
};
use crate::process::{Mappings, ObjectId, Place};
use wakes::Wakes;

/// What a window came to.
pub struct Aggregate {
    /// On-CPU samples, and the tables of all stacks.
    pub profile: Profile,
    /// Waits with their stacks.
    pub waits: Waits,
    /// The object behind each mapping.
    pub objects: HashMap<MappingId, ObjectId, FxBuildHasher>,
}

/// Builds the profile of one window.
pub struct Aggregator {
    profile: Profile,
    waits: Waits,
    wakes: Wakes,
    times: bool,
    source: SourceId,
    /// Of the event that is sampled beside the clock.
    event: Option<SourceId>,
    /// Of the counters that are read at each sample.
    counters: Vec<SourceId>,
    start_ns: u64,
    mapping_ids: HashMap<ObjectId, MappingId, FxBuildHasher>,
    objects: HashMap<MappingId, ObjectId, FxBuildHasher>,
}

impl Aggregator {
    /// A window that starts at `start_ns` (CLOCK_MONOTONIC); each sample of `source` is worth its period. `times` says
    /// whether the time of each sample and wait is kept besides the sums.
    pub fn new(profile: Profile, source: SourceId, start_ns: u64, times: bool) -> Self {
        Self {
            profile,
            waits: Waits::new(times),
            times,
            wakes: Wakes::default(),
            source,
            event: None,
            counters: Vec::new(),
            start_ns,
            mapping_ids: HashMap::default(),
            objects: HashMap::default(),
        }
    }

    /// Samples of an event come too; each is worth the period of this source.
    pub fn add_event_source(&mut self, of: impl FnOnce(&mut Profile) -> SourceId) {
        self.event = Some(of(&mut self.profile));
    }

    /// Samples of the clock have the counts of one more counter.
    pub fn add_counter_source(&mut self, of: impl FnOnce(&mut Profile) -> SourceId) {
        self.counters.push(of(&mut self.profile));
    }

    /// Moves the window's start.
    pub fn start_at(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
    }

    /// Adds a sample of a process as `mappings` knows it now.
    pub fn add(&mut self, time_ns: u64, sample: &RawSample, frames: Frames<'_>, mappings: &mut Mappings) {
        let stack = self.stack(sample.pid, frames, mappings);
        match sample.what {
            Observation::OnCpu | Observation::Event => {
                let source = self.event.filter(|_| sample.what == Observation::Event).unwrap_or(self.source);
                let thread = self.thread(sample, mappings);
                let value = self.profile.sources()[source.index()].period;
                let event = Event { at_ns: time_ns.saturating_sub(self.start_ns), value };
                self.profile.add((thread, source, stack), 1, value, self.times.then_some(event));
                for (source, count) in self.counters.iter().zip(frames.counted) {
                    self.profile.add((thread, *source, stack), 1, *count, None);
                }
            }
            // The waker may be of no target: no row of its own.
            Observation::Wake { woken_tid, blocked_ns } => {
                let waker = (self.profile.string(&sample.name()), stack);
                self.wakes.note(&mut self.waits, time_ns, sample.tid, waker, (woken_tid, blocked_ns));
            }
            Observation::Wait { state, blocked_ns, queued_ns } if time_ns > self.start_ns => {
                let thread = self.thread(sample, mappings);
                let began_ns = time_ns.saturating_sub(blocked_ns + queued_ns);
                let wake = self.wakes.end_of_wait(sample.tid, began_ns, time_ns);
                // What lies before the window is not its own.
                let before_ns = self.start_ns.saturating_sub(began_ns);
                let event = WaitEvent {
                    at_ns: began_ns.saturating_sub(self.start_ns),
                    blocked_ns: blocked_ns.saturating_sub(before_ns),
                    queued_ns: queued_ns.saturating_sub(before_ns.saturating_sub(blocked_ns)),
                };
                self.waits.add(WaitKey { thread, state, stack, wake }, event);
            }
            Observation::Wait { .. } => {}
        }
    }

    /// What was gathered.
    pub fn finish(self) -> Aggregate {
        Aggregate { profile: self.profile, waits: self.waits, objects: self.objects }
    }

    fn thread(&mut self, sample: &RawSample, mappings: &mut Mappings) -> ThreadId {
        let profile = &mut self.profile;
        let known = profile.process_by_pid(sample.pid);
        if let Some(process) = known
            && sample.has_no_name()
        {
            return profile.thread_of(process, sample.tid);
        }
        let name = if sample.has_no_name() { mappings.process_name(sample.pid) } else { sample.name() };
        let process = match known {
            // The process has the name of its main thread.
            Some(process) if sample.pid != sample.tid => process,
            None if sample.pid != sample.tid => profile.process(sample.pid, &mappings.process_name(sample.pid)),
            _ => profile.process(sample.pid, &name),
        };
        profile.thread(process, sample.tid, &name)
    }

    /// The id of a stack: root first, the user's part before the kernel's.
    fn stack(&mut self, pid: u32, frames: Frames<'_>, mappings: &mut Mappings) -> Option<StackId> {
        let mut stack = None;
        for (depth, &address) in frames.user.iter().enumerate().rev() {
            let place = mappings.normalize(pid, call(depth, address));
            stack = Some(self.push(stack, place, mappings));
        }
        for (depth, &address) in frames.kernel.iter().enumerate().rev() {
            let place = Place::in_kernel(call(depth, address));
            stack = Some(self.push(stack, place, mappings));
        }
        stack
    }

    fn push(&mut self, parent: Option<StackId>, place: Place, mappings: &Mappings) -> StackId {
        let mapping = self.mapping(place.object, mappings);
        let location = self.profile.location(mapping, place.address);
        self.profile.stack(parent, location)
    }

    fn mapping(&mut self, id: ObjectId, mappings: &Mappings) -> MappingId {
        if let Some(mapping) = self.mapping_ids.get(&id) {
            return *mapping;
        }
        let object = mappings.object(id);
        let build_id = object.file.as_ref().and_then(|(_, facts)| facts.build_id.clone());
        let mut numbered = object.path.to_string_lossy().into_owned();
        // Files with one path and no build id, of two containers or two versions of one, are told apart by a number.
        let mapping = (2..)
            .find_map(|number| {
                let path = self.profile.string(&numbered);
                let mapping = self.profile.mapping(Mapping { kind: object.kind, path, build_id: build_id.clone() });
                let other = self.objects.get(&mapping).map(|&other| mappings.object(other));
                let is_same = other.is_none_or(|other| {
                    build_id.is_some()
                        || other.kind != MappingKind::File
                        || other.file.is_none() && object.file.is_none()
                });
                numbered = format!("{} ({number})", object.path.display());
                is_same.then_some(mapping)
            })
            .expect("there are more numbers than files");
        self.mapping_ids.insert(id, mapping);
        // Of files with one build id the one that was seen last is the likeliest not to be overwritten.
        self.objects.insert(mapping, id);
        mapping
    }
}

/// The instruction that a frame stands for: the interrupted one for the leaf, for its callers the call,
/// which lies before the address that they return to.
fn call(depth: usize, address: u64) -> u64 {
    if depth == 0 { address } else { address.wrapping_sub(1) }
}
