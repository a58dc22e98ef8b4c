//! One session from attach to detach: the only place that joins the parts.
//!
//! [`record`] reads as the table of contents; [`Watch`] is the same, with a recording of each window instead of one at the
//! end.
//! - [`run`]: what is attached, and the loop that takes what the kernel has.
//! - [`cost`]: what that costs, and [`governor`]: how much is sampled so that it does not cost too much.
//! - [`window`]: what a window brought, as a recording.

pub mod cost;
pub mod governor;
mod run;
mod window;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::analyze::reasons::RuleError;
use crate::analyze::spikes::spikes;
use crate::ebpf::Waits;
use crate::model::{MetricValue, Recording, Target, Tier, Timeline};
use crate::process::command::{CommandError, HeldCommand};
use crate::process::own::{self, Priority, Work};
use crate::process::target::TargetError;
use crate::source::counters::CpuCountersError;
use crate::source::event::EventClockError;
use crate::symbolize::{Detail, Tables};
use crate::tier::TierError;
use cost::Look;
use run::{Session, Windows};
pub use window::session_id;
use window::{Closed, Finisher};

/// How often it is looked whether the last window has its names.
const JOIN_INTERVAL: Duration = Duration::from_millis(50);

/// Windows that have ended and have no names yet; while there are so many, the next one goes on.
const MAX_UNNAMED: usize = 2;

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
    /// Kernel memory that unwind tables may take, in kilobytes.
    pub unwind_kb: u64,
    /// Whether each thread's time is accounted, at every switch.
    pub accounting: bool,
    /// With the account: which waits are kept with their stacks.
    pub waits: Option<Waits>,
    /// Whether the time of each sample and wait is kept.
    pub timeline: bool,
    /// How much is looked up of the places in code.
    pub detail: Detail,
    /// A user's own rules for the reasons of waits.
    pub wait_rules: String,
    /// The sets of metrics to count beside the samples; empty for none.
    pub pmu: Vec<String>,
    /// An event to sample beside the clock, as a user writes it.
    pub event: Option<String>,
    /// Events that each of its samples stands for; `None`: what suits the event.
    pub event_period: Option<u64>,
    /// Counters that are read at each sample and switch, so that stacks have their counts; as a user writes them.
    pub stack_counters: Vec<String>,
    /// The share of the host's CPU time that a [`Watch`] may take: what is over it is sampled less. `None`: whatever it takes.
    pub max_overhead: Option<f64>,
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
    /// What counters say so far, of all targets.
    pub metrics: &'a [MetricValue],
}

/// The caller wants the recording to end, or not to wait for names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop;

/// Why a recording ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The time was over.
    Duration,
    /// The caller sent [`Stop`].
    Stopped,
    /// All targets are gone.
    TargetsGone,
}

/// What a recording brought.
#[derive(Debug)]
pub struct Outcome {
    /// The recording.
    pub recording: Recording,
    /// Why it ended.
    pub end: EndReason,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The targets cannot be recorded.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The wanted tier cannot be used.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The command does not run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The event to sample cannot be sampled.
    #[error(transparent)]
    Event(#[from] EventClockError),
    /// The counters to read at samples cannot be read.
    #[error(transparent)]
    Counters(#[from] CpuCountersError),
    /// The rules for the reasons of waits are wrong.
    #[error(transparent)]
    WaitRules(#[from] RuleError),
}

/// Records until the time is over, the targets are gone, or the caller sends [`Stop`].
/// A second [`Stop`] gives up on the names that are not looked up yet; what was gathered is returned all the same.
pub fn record(
    options: &Options,
    mut command: Option<&mut HeldCommand>,
    on_progress: &mut dyn FnMut(&Progress<'_>),
    stop: &Receiver<Stop>,
) -> Result<Outcome, SessionError> {
    let mut finisher = Finisher::new(options)?;
    let priority = Priority::raise(Work::Collecting);
    let mut session = Session::attach(options, command.as_deref())?;
    session.start()?;
    if let Some(command) = command.as_deref_mut() {
        command.release()?;
    }
    let end = session.run(command, on_progress, None, stop);
    session.detach();
    drop(priority);
    // Once said counts for all that is left.
    let is_stopped = Cell::new(false);
    let stopped = || {
        is_stopped.set(is_stopped.get() || stop.try_recv().is_ok());
        is_stopped.get()
    };
    let mut recording = finisher.finish(session.close_window(), &mut Tables::new(session.take_ask_kernel()), &stopped);
    recording.spikes = spikes(&recording);
    Ok(Outcome { recording, end })
}

/// A recording without an end: hands over what each window brought, without a gap between two of them.
pub struct Watch<'a> {
    session: Session<'a>,
    finisher: Finisher,
    priority: Priority,
}

impl<'a> Watch<'a> {
    /// Finds the targets and attaches to them; the clock runs from here on.
    pub fn start(options: &'a Options) -> Result<Self, SessionError> {
        let finisher = Finisher::new(options)?;
        let priority = Priority::raise(Work::Collecting);
        let mut session = Session::attach(options, None)?;
        session.start()?;
        Ok(Self { session, finisher, priority })
    }

    /// Calls `on_window` with what each window of this length brought, until the caller sends [`Stop`], the targets are
    /// gone or the time is over; the last window may be shorter. A second [`Stop`] gives up on names. `on_look` is told each
    /// second what it costs, and tells what it may cost from then on; it must not take long: the collection waits for it.
    ///
    /// Names are looked up, and `on_window` is called, in a thread of their own: neither holds up the collection. If they
    /// take longer than a window, the next window gets longer; none is left out.
    ///
    /// # Panics
    ///
    /// If that thread does, with its panic, at the next window's end: what goes on without it would lose all windows in silence.
    pub fn run(
        self,
        window: Duration,
        on_window: &mut (dyn FnMut(Recording) + Send),
        on_look: &dyn Fn(&Look) -> Option<f64>,
        stop: &Receiver<Stop>,
    ) -> EndReason {
        let Self { mut session, mut finisher, priority: _priority } = self;
        let is_stopped = AtomicBool::new(false);
        let unnamed = AtomicUsize::new(0);
        let ask_kernel = session.take_ask_kernel();
        thread::scope(|scope| {
            let (is_stopped, unnamed) = (&is_stopped, &unnamed);
            let (sender, closed) = mpsc::channel::<Closed>();
            let hand_over = move |window| {
                unnamed.fetch_add(1, Ordering::Relaxed);
                sender.send(window).is_ok()
            };
            let names = scope.spawn(move || {
                own::lower_priority();
                let mut tables = Tables::new(ask_kernel);
                for window in closed {
                    on_window(finisher.finish(window, &mut tables, &|| is_stopped.load(Ordering::Relaxed)));
                    unnamed.fetch_sub(1, Ordering::Relaxed);
                }
            });
            let has_room = || unnamed.load(Ordering::Relaxed) < MAX_UNNAMED || names.is_finished();
            let windows = Windows { length: window, has_room: &has_room, hand_over: &hand_over, on_look };
            let end = session.run(None, &mut |_| {}, Some(windows), stop);
            session.detach();
            hand_over(session.close_window());
            drop(hand_over);
            while !names.is_finished() {
                match stop.recv_timeout(JOIN_INTERVAL) {
                    Ok(Stop) => is_stopped.store(true, Ordering::Relaxed),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            names.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            end
        })
    }
}
