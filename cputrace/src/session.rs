//! One recording from attach to detach: the only place that joins the parts.

use std::time::Duration;

use crate::model::{Target, Tier, Timeline};

/// What to record, decided by the caller.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whom.
    pub targets: Vec<Target>,
    /// Samples a second and CPU.
    pub frequency: u32,
    /// Until when; `None`: until the targets are gone or a signal comes.
    pub duration: Option<Duration>,
    /// Interval of the `/proc` timeline.
    pub interval: Duration,
    /// The tier to use; `None`: the best that is allowed.
    pub tier: Option<Tier>,
    /// Whether children of the targets, by fork and exec, are targets too.
    pub follow_children: bool,
}

/// How far a recording is: what the live terminal shows.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Time since the start.
    pub elapsed: Duration,
    /// Until when, if that is known.
    pub duration: Option<Duration>,
    /// Samples kept so far.
    pub samples: u64,
    /// Samples lost so far.
    pub lost: u64,
    /// The timelines so far, one a process.
    pub timelines: &'a [Timeline],
}
