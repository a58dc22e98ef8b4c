//! Samples and waits one by one, in order of time: for the formats that show a timeline.

use crate::model::{Aspect, Recording, StackId, ThreadId};

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Observation<'a> {
    /// [`Aspect::OnCpu`], [`Aspect::OffCpu`] or [`Aspect::RunQueue`].
    pub(super) aspect: Aspect,
    pub(super) thread: ThreadId,
    pub(super) stack: Option<StackId>,
    /// When it began, since the recording's start.
    pub(super) at_ns: u64,
    /// What it stands for, or how long it was.
    pub(super) ns: u64,
    /// Of a wait its reason.
    pub(super) label: &'a str,
    /// Of a wait the function of the program that is closest to it.
    pub(super) function: &'a str,
}

/// All whose time was kept.
pub(super) fn observations(recording: &Recording) -> Vec<Observation<'_>> {
    let profile = &recording.profile;
    let mut all = Vec::new();
    for aspect in [Aspect::OnCpu, Aspect::OffCpu, Aspect::RunQueue] {
        let source = profile.source_by_name(aspect.name());
        for sample in profile.samples().iter().filter(|sample| Some(sample.source) == source) {
            let label = profile.leaf_label(sample.stack).unwrap_or_default().trim_matches(['[', ']']);
            let function = if label.is_empty() { "" } else { profile.leaf_function(sample.stack).unwrap_or_default() };
            all.extend(sample.events.iter().map(|event| Observation {
                aspect,
                thread: sample.thread,
                stack: sample.stack,
                at_ns: event.at_ns,
                ns: event.value,
                label,
                function,
            }));
        }
    }
    all.sort_by_key(|observation| observation.at_ns);
    all
}
