//! From samples to a [`Profile`] and its [`Waits`]: equal ones added up, addresses normalized while the process lives.

mod wakes;

use std::collections::HashMap;
use std::time::Duration;

use rustc_hash::FxBuildHasher;

use crate::collect::{Frames, Observation, RawSample};
use crate::model::{
    Event, Mapping, MappingId, MappingKind, Ops, Profile, Source, SourceId, StackId, ThreadId, Unit, WaitEvent,
    WaitKey, WaitSum, Waits,
};
use crate::pmu::ibs::Decoder;
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
    /// What tagged ops came to.
    pub ops: Option<Ops>,
}

/// How tagged ops are read, and what they came to so far.
struct Tagged {
    decoder: Decoder,
    /// The source whose values are how long loads took.
    latency: SourceId,
    ops: Ops,
}

/// Threads whose last stacks are kept.
const MAX_LAST: usize = 4096;

/// The last user stack of a thread, root first, with the id at each frame: most of the next one is the same.
#[derive(Default)]
struct LastStack {
    pid: u32,
    /// What the mappings were then.
    version: u64,
    user: Vec<u64>,
    stacks: Vec<StackId>,
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
    /// Of its samples, what the CPU noted.
    tagged: Option<Tagged>,
    /// Waits below this length are samples, and stand for so much.
    sampled_below_ns: u64,
    /// Of the counters that are read at each sample.
    counters: Vec<SourceId>,
    /// What a sample of the clock stands for.
    period_ns: u64,
    start_ns: u64,
    mapping_ids: HashMap<ObjectId, MappingId, FxBuildHasher>,
    objects: HashMap<MappingId, ObjectId, FxBuildHasher>,
    /// By thread id.
    last: HashMap<u32, LastStack, FxBuildHasher>,
}

impl Aggregator {
    /// A window that starts at `start_ns` (CLOCK_MONOTONIC); each sample of `source` is worth its period, until
    /// [`Self::set_period`] says otherwise. `times` says
    /// whether the time of each sample and wait is kept besides the sums.
    pub fn new(profile: Profile, source: SourceId, start_ns: u64, times: bool) -> Self {
        let period_ns = profile.sources()[source.index()].period;
        Self {
            profile,
            waits: Waits::new(times),
            times,
            wakes: Wakes::default(),
            source,
            event: None,
            tagged: None,
            sampled_below_ns: 0,
            counters: Vec::new(),
            period_ns,
            start_ns,
            mapping_ids: HashMap::default(),
            objects: HashMap::default(),
            last: HashMap::default(),
        }
    }

    /// Samples of an event come too; each is worth the period of this source.
    pub fn add_event_source(&mut self, of: impl FnOnce(&mut Profile) -> SourceId) {
        self.event = Some(of(&mut self.profile));
    }

    /// Samples of the event are ops that the CPU tagged.
    pub fn decode_ops(&mut self, decoder: Decoder) {
        let name = self.profile.string("load-latency");
        let latency = self.profile.source(Source { name, unit: Unit::Count, period: 0 });
        self.tagged = Some(Tagged { decoder, latency, ops: Ops::default() });
    }

    /// Of waits below this length only samples come: each stands for so much of them.
    pub fn scale_waits_below(&mut self, ns: u64) {
        self.sampled_below_ns = ns;
    }

    /// Samples of the clock have the counts of one more counter.
    pub fn add_counter_source(&mut self, of: impl FnOnce(&mut Profile) -> SourceId) {
        self.counters.push(of(&mut self.profile));
    }

    /// From here on a sample of the clock stands for another time.
    pub fn set_period(&mut self, period: Duration) {
        self.period_ns = period.as_nanos() as u64;
    }

    /// Moves the window's start.
    pub fn start_at(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
    }

    /// Adds a sample of a process as `mappings` knows it now.
    pub fn add(&mut self, time_ns: u64, sample: &RawSample, frames: Frames<'_>, mappings: &mut Mappings) {
        let stack = self.stack(sample, frames, mappings);
        match sample.what {
            Observation::OnCpu => {
                let source = self.source;
                let thread = self.thread(sample, mappings);
                let value = self.period_ns;
                let event = Event { at_ns: time_ns.saturating_sub(self.start_ns), value };
                self.profile.add((thread, source, stack), 1, value, self.times.then_some(event));
                for (source, count) in self.counters.iter().zip(frames.words) {
                    self.profile.add((thread, *source, stack), 1, *count, None);
                }
            }
            Observation::Event => {
                let Some(source) = self.event else { return };
                let thread = self.thread(sample, mappings);
                let value = self.profile.sources()[source.index()].period;
                let stack = self.with_op(thread, stack, frames, value);
                let event = Event { at_ns: time_ns.saturating_sub(self.start_ns), value };
                self.profile.add((thread, source, stack), 1, value, self.times.then_some(event));
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
                let sum = match blocked_ns + queued_ns {
                    0 => WaitSum::of(&event),
                    length_ns => WaitSum::of(&event).scaled(self.sampled_below_ns.max(length_ns), length_ns),
                };
                self.waits.add(WaitKey { thread, state, stack, wake }, event, sum);
            }
            Observation::Wait { .. } => {}
        }
    }

    /// What was gathered.
    pub fn finish(self) -> Aggregate {
        let ops = self.tagged.map(|tagged| tagged.ops);
        Aggregate { profile: self.profile, waits: self.waits, objects: self.objects, ops }
    }

    /// The stack of an event with what its op did as the leaf, where it is a tagged one; `value` is what it stands for.
    fn with_op(&mut self, thread: ThreadId, stack: Option<StackId>, frames: Frames<'_>, value: u64) -> Option<StackId> {
        let Some(Tagged { decoder, latency, ops }) = &mut self.tagged else { return stack };
        let op = frames.op_registers().map(|registers| decoder.decode(&registers));
        ops.add(op.as_ref());
        let label = self.profile.label(&op.map_or_else(|| "[unknown op]".to_owned(), |op| op.label()));
        let stack = self.profile.stack(stack, label);
        if let Some(cycles) = op.and_then(|op| op.memory?.latency_cycles) {
            self.profile.add((thread, *latency, Some(stack)), 1, value.saturating_mul(cycles.into()), None);
        }
        Some(stack)
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
    fn stack(&mut self, sample: &RawSample, frames: Frames<'_>, mappings: &mut Mappings) -> Option<StackId> {
        let mut stack = self.user_stack(sample, frames.user, mappings);
        for (depth, &address) in frames.kernel.iter().enumerate().rev() {
            let place = Place::in_kernel(call(depth, address));
            stack = Some(self.push(stack, place, mappings));
        }
        stack
    }

    /// The id of the user's part, whose leaf comes first. Callers that are those of the thread's last stack are not looked up again.
    fn user_stack(&mut self, sample: &RawSample, user: &[u64], mappings: &mut Mappings) -> Option<StackId> {
        let (pid, version) = (sample.pid, mappings.version());
        let last = self.last.remove(&sample.tid).filter(|last| (last.pid, last.version) == (pid, version));
        let mut last = last.unwrap_or_default();
        // Of a leaf the address itself counts, of a caller the call before it.
        let callers = user.len().min(last.user.len()).saturating_sub(1);
        let pairs = user.iter().rev().zip(&last.user).take(callers);
        let common = pairs.take_while(|(now, before)| now == before).count();
        last.user.truncate(common);
        last.stacks.truncate(common);
        for (depth, &address) in user.iter().enumerate().rev().skip(common) {
            let place = mappings.normalize(pid, call(depth, address));
            let stack = self.push(last.stacks.last().copied(), place, mappings);
            last.user.push(address);
            last.stacks.push(stack);
        }
        let stack = last.stacks.last().copied();
        if self.last.len() >= MAX_LAST {
            self.last.clear();
        }
        self.last.insert(sample.tid, LastStack { pid, version, ..last });
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
