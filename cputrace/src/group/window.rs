//! What a window says of each process: the account of its threads, and its samples on the CPU.

use std::collections::HashMap;

use rustc_hash::FxBuildHasher;

use crate::model::{Aspect, MappingKind, ProcessId, Profile, Recording, ThreadId, WaitHistogram};

/// What one process did in a window.
#[derive(Default)]
pub(super) struct InWindow {
    pub(super) name: String,
    pub(super) on_cpu_ns: u64,
    pub(super) run_queue_ns: u64,
    pub(super) run_queue_waits: WaitHistogram,
    pub(super) off_cpu_ns: [u64; 4],
    pub(super) switches_voluntary: u64,
    pub(super) switches_involuntary: u64,
    pub(super) migrations: u64,
    pub(super) samples_user: u64,
    pub(super) samples_kernel: u64,
    pub(super) has_ended: bool,
}

impl InWindow {
    pub(super) fn samples(&self) -> u64 {
        self.samples_user + self.samples_kernel
    }
}

/// All of them.
pub(super) struct Processes {
    pub(super) by_pid: HashMap<u32, InWindow, FxBuildHasher>,
}

impl Processes {
    /// By process id, of all that ran or were sampled.
    pub(super) fn of(window: &Recording) -> Self {
        let mut by_pid: HashMap<u32, InWindow, FxBuildHasher> = HashMap::default();
        for time in &window.threads {
            let process = by_pid.entry(time.pid).or_default();
            if time.pid == time.tid || process.name.is_empty() {
                process.name.clone_from(&time.name);
            }
            process.on_cpu_ns += time.on_cpu_ns;
            process.run_queue_ns += time.run_queue_ns;
            add(&mut process.run_queue_waits, &time.run_queue_waits);
            add(&mut process.off_cpu_ns, &time.off_cpu_ns);
            process.switches_voluntary += time.switches_voluntary;
            process.switches_involuntary += time.switches_involuntary;
            process.migrations += time.migrations;
            process.has_ended |= time.ended && time.pid == time.tid;
        }
        let profile = &window.profile;
        for process in profile.processes() {
            let row = by_pid.entry(process.pid).or_default();
            if row.name.is_empty() {
                profile.text(process.name).clone_into(&mut row.name);
            }
        }
        let on_cpu = profile.source_by_name(Aspect::OnCpu.name());
        for sample in profile.samples().iter().filter(|sample| Some(sample.source) == on_cpu) {
            let process = &profile.processes()[process_of(profile, sample.thread).index()];
            let Some(row) = by_pid.get_mut(&process.pid) else { continue };
            let leaf = profile.frames(sample.stack).next();
            let in_kernel = leaf.is_some_and(|location| {
                let mapping = profile.locations()[location.index()].mapping;
                profile.mappings()[mapping.index()].kind == MappingKind::Kernel
            });
            *if in_kernel { &mut row.samples_kernel } else { &mut row.samples_user } += sample.count;
        }
        Self { by_pid }
    }
}

fn process_of(profile: &Profile, thread: ThreadId) -> ProcessId {
    profile.threads()[thread.index()].process
}

/// Adds up, place by place.
pub(super) fn add<const N: usize>(sums: &mut [u64; N], more: &[u64; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}
