//! The whole time of all threads in a few numbers: on the CPU, waiting for one, and waiting for what.

use std::collections::HashMap;

use crate::model::{Aspect, MappingKind, Profile, Recording, StackId, WaitHistogram, view};

/// Where the time went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shares {
    /// Threads.
    pub threads: usize,
    /// Their lifetimes within the recording, added up.
    pub elapsed_ns: u64,
    /// On the CPU.
    pub on_cpu_ns: u64,
    /// Waiting for one.
    pub run_queue_ns: u64,
    /// Its waits, by length.
    pub run_queue_waits: WaitHistogram,
    /// The longest of them.
    pub run_queue_max_ns: u64,
    /// Waiting for something else, by reason, the longest first.
    pub waits: Vec<WaitShare>,
    /// Waits that were not kept with their stacks: they are short, as a rule.
    pub brief_ns: u64,
    /// What is in no part.
    pub residual_ns: u64,
}

impl Shares {
    /// What so many percent of the run-queue waits are shorter than: the upper end of a row of the histogram, or the longest
    /// wait if that is less. `None` if there were no waits.
    pub fn run_queue_percentile_ns(&self, percent: u64) -> Option<u64> {
        wait_percentile_ns(&self.run_queue_waits, percent).map(|end| end.min(self.run_queue_max_ns))
    }
}

/// What so many percent of waits are shorter than: the upper end of a row of their histogram. `None` if there were none.
pub fn wait_percentile_ns(waits: &WaitHistogram, percent: u64) -> Option<u64> {
    let all: u64 = waits.iter().sum();
    let mut below = 0;
    let row = waits.iter().position(|&count| {
        below += count;
        below > 0 && below * 100 >= all * percent
    })?;
    Some(2_u64 << row)
}

/// A reason's part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitShare {
    /// The reason.
    pub reason: String,
    /// The program's function that most of it is in, if there is one.
    pub function: Option<String>,
    /// How long.
    pub ns: u64,
}

/// Adds up the recording's threads; `None` where their time was not accounted. `hide_idle` leaves out waits in which a thread
/// has nothing to do.
pub fn shares(recording: &Recording, hide_idle: bool) -> Option<Shares> {
    recording.scheduler.as_ref()?;
    let mut shares = Shares { threads: recording.threads.len(), ..Shares::default() };
    let mut off_cpu_ns = 0;
    for time in &recording.threads {
        shares.elapsed_ns += time.elapsed_ns;
        shares.on_cpu_ns += time.on_cpu_ns;
        shares.run_queue_ns += time.run_queue_ns;
        shares.run_queue_max_ns = shares.run_queue_max_ns.max(time.run_queue_max_ns);
        for (sum, count) in shares.run_queue_waits.iter_mut().zip(time.run_queue_waits) {
            *sum += count;
        }
        shares.residual_ns += time.residual_ns().unsigned_abs();
        off_cpu_ns += time.off_cpu_total_ns();
    }
    let profile = &recording.profile;
    let source = profile.source_by_name(Aspect::OffCpu.name());
    let mut reasons: HashMap<&str, (u64, HashMap<String, u64>)> = HashMap::new();
    let mut functions: HashMap<Option<StackId>, Option<String>> = HashMap::new();
    let mut known_ns = 0_u64;
    for sample in profile.samples().iter().filter(|sample| Some(sample.source) == source) {
        let Some(label) = profile.leaf_label(sample.stack) else { continue };
        let (sum_ns, of_functions) = reasons.entry(label).or_default();
        *sum_ns = sum_ns.saturating_add(sample.value);
        known_ns = known_ns.saturating_add(sample.value);
        if let Some(name) = functions.entry(sample.stack).or_insert_with(|| waiting_function(profile, sample.stack)) {
            let ns = of_functions.entry(name.clone()).or_default();
            *ns = ns.saturating_add(sample.value);
        }
    }
    shares.brief_ns = off_cpu_ns.saturating_sub(known_ns);
    for (label, (ns, functions)) in reasons {
        if hide_idle && label.starts_with(view::IDLE) {
            shares.elapsed_ns = shares.elapsed_ns.saturating_sub(ns);
            continue;
        }
        let most = functions.into_iter().max_by(|a, b| (a.1, &b.0).cmp(&(b.1, &a.0)));
        let function = most.filter(|(_, most_ns)| *most_ns > ns / 2).map(|(name, _)| name);
        let reason = label.trim_matches(['[', ']']).to_owned();
        shares.waits.push(WaitShare { reason, function, ns });
    }
    shares.waits.sort_by(|a, b| (b.ns, &a.reason).cmp(&(a.ns, &b.reason)));
    Some(shares)
}

/// The innermost function that is the program's own, and none of the libraries that all programs wait in.
pub(super) fn waiting_function(profile: &Profile, stack: Option<StackId>) -> Option<String> {
    profile.frames(stack).find_map(|location| {
        let row = &profile.locations()[location.index()];
        let mapping = &profile.mappings()[row.mapping.index()];
        let path = profile.text(mapping.path);
        let file = path.rsplit('/').next().unwrap_or(path);
        let is_own = matches!(mapping.kind, MappingKind::File | MappingKind::Anonymous)
            && !SYSTEM_LIBRARIES.iter().any(|library| file.starts_with(library))
            && row.unknown.is_none();
        // The outermost inlined function: what is inlined into it is a detail.
        let name = profile.names(location).pop().filter(|_| is_own)?;
        (!SYSTEM_NAMES.iter().any(|prefix| name.starts_with(prefix))).then_some(name)
    })
}

/// Files that waits pass through in any program.
const SYSTEM_LIBRARIES: [&str; 9] =
    ["libc.", "libc-", "libpthread", "ld-linux", "ld-musl", "libstdc++", "libgcc_s", "libuv", "libglib"];

/// Functions that waits pass through and that are linked into programs.
const SYSTEM_NAMES: [&str; 9] =
    ["std::", "core::", "alloc::", "<std::", "<core::", "<alloc::", "parking_lot", "__pthread_", "pthread_"];

#[cfg(test)]
mod tests {
    use super::*;

    /// A percentile is the end of the row that it lies in, and never more than the longest wait.
    #[test]
    fn percentiles() {
        let mut shares = Shares { run_queue_max_ns: 5000, ..Shares::default() };
        assert_eq!(shares.run_queue_percentile_ns(50), None);
        (shares.run_queue_waits[4], shares.run_queue_waits[10], shares.run_queue_waits[12]) = (60, 39, 1);
        for (percent, expected) in [(50, 32), (60, 32), (61, 2048), (99, 2048), (100, 5000)] {
            assert_eq!(shares.run_queue_percentile_ns(percent), Some(expected), "{percent}");
        }
    }
}
