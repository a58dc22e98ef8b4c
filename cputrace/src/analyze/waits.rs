//! Waits become samples: of `off-cpu` with the time blocked, of `run-queue` with the time waiting for a CPU, both with the
//! reason as the leaf in brackets, and of `wakers`, where on top of the wait stands who ended it, with its stack.

use std::collections::HashMap;

use super::reasons::{WaitReasons, Waiting};
use crate::model::{
    Aspect, Event, LocationId, MappingKind, Profile, Source, SourceId, StackId, ThreadId, Unit, Wait, WaitKey,
    WaitState, Waits, WakeId,
};

/// Functions of the program that tell what it waits for: those closest to the kernel.
const USER_FUNCTIONS: usize = 16;

/// The leaf of a run-queue wait that followed another wait.
const QUEUED: &str = "[waiting for a CPU]";

/// Adds the waits of the profile's threads to it. Its stacks have names by now.
pub fn add_to(profile: &mut Profile, waits: &Waits, reasons: &mut WaitReasons) {
    let mut stacks = Stacks { profile, reasons, waits, labelled: HashMap::new(), wakers: HashMap::new() };
    let [off_cpu, run_queue, wakers] =
        [Aspect::OffCpu, Aspect::RunQueue, Aspect::Wakers].map(|aspect| source(stacks.profile, aspect));
    let mut events = Vec::new();
    for wait in waits.all() {
        let Wait { key, count, blocked_ns, queued_ns, .. } = *wait;
        let Labelled { blocked, queued } = stacks.labelled(key);
        if blocked_ns > 0 {
            stacks.profile.add((key.thread, off_cpu, Some(blocked)), count, blocked_ns, None);
        }
        if queued_ns > 0 {
            stacks.profile.add((key.thread, run_queue, Some(queued)), count, queued_ns, None);
        }
        if let Some(wake) = key.wake
            && blocked_ns > 0
        {
            let stack = stacks.woken(blocked, wake);
            stacks.profile.add((key.thread, wakers, Some(stack)), count, blocked_ns, None);
        }
        for event in &wait.events {
            let blocked = Event { at_ns: event.at_ns, value: event.blocked_ns };
            events.push((blocked, (key.thread, off_cpu, Some(stacks.labelled(key).blocked))));
            let queued = Event { at_ns: event.at_ns + event.blocked_ns, value: event.queued_ns };
            events.push((queued, (key.thread, run_queue, Some(stacks.labelled(key).queued))));
        }
    }
    // In order of time: equal waits with different wakers are one sample.
    events.sort_by_key(|(event, _)| event.at_ns);
    for (event, key) in events.into_iter().filter(|(event, _)| event.value > 0) {
        profile.add(key, 0, 0, Some(event));
    }
}

fn source(profile: &mut Profile, aspect: Aspect) -> SourceId {
    let name = profile.string(aspect.name());
    profile.source(Source { name, unit: Unit::Nanoseconds, period: 0 })
}

/// The stacks of one kind of wait, with their leaf in brackets.
#[derive(Clone, Copy)]
struct Labelled {
    blocked: StackId,
    queued: StackId,
}

struct Stacks<'a> {
    profile: &'a mut Profile,
    reasons: &'a mut WaitReasons,
    waits: &'a Waits,
    labelled: HashMap<(ThreadId, WaitState, Option<StackId>), Labelled>,
    wakers: HashMap<(StackId, WakeId), StackId>,
}

impl Stacks<'_> {
    fn labelled(&mut self, key: WaitKey) -> Labelled {
        let known = (key.thread, key.state, key.stack);
        if let Some(labelled) = self.labelled.get(&known) {
            return *labelled;
        }
        let stack = self.without_scheduler(key.stack);
        let (mut kernel, mut user) = (Vec::new(), Vec::new());
        for location in self.profile.frames(stack) {
            let names = self.profile.names(location);
            if is_kernel(self.profile, location) {
                kernel.extend(names);
            } else if user.len() < USER_FUNCTIONS {
                user.extend(names);
            }
        }
        let thread = self.profile.text(self.profile.threads()[key.thread.index()].name).to_owned();
        let waiting = Waiting { state: key.state, thread: &thread, kernel: &kernel, user: &user };
        let reason = format!("[{}]", self.reasons.of(&waiting));
        let blocked = self.push_label(stack, &reason);
        let is_blocked = matches!(key.state, WaitState::OffCpu(_));
        let queued = if is_blocked { self.push_label(stack, QUEUED) } else { blocked };
        let labelled = Labelled { blocked, queued };
        self.labelled.insert(known, labelled);
        labelled
    }

    fn push_label(&mut self, stack: Option<StackId>, text: &str) -> StackId {
        let location = self.profile.label(text);
        self.profile.stack(stack, location)
    }

    /// The stack from where it calls the scheduler: what is below is the same in all of them, and our own hook.
    fn without_scheduler(&self, stack: Option<StackId>) -> Option<StackId> {
        self.above(stack, &["__schedule", "__traceiter_sched_exit_tp"])
    }

    /// The stack above the last of these functions of the kernel, if it has one near its leaf.
    fn above(&self, stack: Option<StackId>, functions: &[&str]) -> Option<StackId> {
        const NEAR: usize = 16;
        let (mut found, mut next) = (stack, stack);
        for _ in 0..NEAR {
            let Some(id) = next else { break };
            let (parent, location) = self.profile.stack_node(id);
            if self.kernel_name(location).is_some_and(|name| functions.contains(&name)) {
                found = parent;
            }
            next = parent;
        }
        found
    }

    /// The name of a function of the kernel.
    fn kernel_name(&self, location: LocationId) -> Option<&str> {
        let row = &self.profile.locations()[location.index()];
        let line = row.lines.first().filter(|_| is_kernel(self.profile, location))?;
        Some(self.profile.text(self.profile.functions()[line.function.index()].name))
    }

    /// A wait with who ended it on top, and who had woken that one.
    fn woken(&mut self, waiting: StackId, wake: WakeId) -> StackId {
        if let Some(stack) = self.wakers.get(&(waiting, wake)) {
            return *stack;
        }
        let mut stack = waiting;
        let mut next = Some(wake);
        while let Some(wake) = next.map(|id| self.waits.get(id)) {
            let woken_by = self.above(wake.stack, &["try_to_wake_up", "__traceiter_sched_waking"]);
            let mut frames: Vec<LocationId> = self.profile.frames(woken_by).collect();
            // The interrupted thread has nothing to do with it.
            let interrupt = frames.iter().rposition(|&frame| self.kernel_name(frame).is_some_and(is_interrupt));
            if let Some(interrupt) = interrupt {
                frames.truncate(interrupt + 1);
                stack = self.push_label(Some(stack), "[woken by an interrupt]");
            } else {
                let text = format!("[woken by {}]", self.profile.text(wake.waker));
                stack = self.push_label(Some(stack), &text);
            }
            for location in frames.into_iter().rev() {
                stack = self.profile.stack(Some(stack), location);
            }
            next = wake.before.filter(|_| interrupt.is_none());
        }
        self.wakers.insert((waiting, wake), stack);
        stack
    }
}

fn is_kernel(profile: &Profile, location: LocationId) -> bool {
    profile.mappings()[profile.locations()[location.index()].mapping.index()].kind == MappingKind::Kernel
}

/// Where the kernel takes an interrupt, in `arch/x86/entry`; the last ones before Linux 5.8.
fn is_interrupt(function: &str) -> bool {
    function.starts_with("asm_sysvec_")
        || ["asm_common_interrupt", "common_interrupt", "ret_from_intr", "apic_timer_interrupt"].contains(&function)
}
