//! What the window's thread writes and requests read.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, broadcast};

use super::Settings;
use super::front::Requests;
use super::push::{Push, PushOptions};

use crate::group::Groups;
use crate::group::rule::RuleError;
use crate::metrics::collect::{self, Families};
use crate::metrics::counters::CounterSums;
use crate::metrics::own::OwnSums;
use crate::metrics::{self, Family, Value};
use crate::model::Recording;
use crate::process::host;
use crate::session::{Options, Stop};
use crate::store::windows::{Range, WindowFacts};
use crate::store::{Digest, Retention, Store, StoreError};

/// How often it is looked whether there is too much in the store.
const RETAIN_EVERY: Duration = Duration::from_mins(5);

/// Uploads that are read at once: each may take some hundred megabytes.
const UPLOADS: usize = 2;

/// News that a slow reader of the live stream may be behind.
const NEWS: usize = 16;

/// What is told to those who follow what happens.
#[derive(Clone, Debug)]
pub struct News {
    /// What happened: `window`.
    pub kind: &'static str,
    /// More about it, as JSON.
    pub data: Arc<str>,
}

/// Shared by all threads of the server.
pub struct State {
    is_ready: AtomicBool,
    /// Where windows, traces and events are.
    pub store: Store,
    retention: Mutex<Retention>,
    unwind_kb: u64,
    window: Duration,
    sums: Mutex<Sums>,
    news: broadcast::Sender<News>,
    /// One permit an upload.
    pub uploads: Arc<Semaphore>,
    /// One permit a recording on demand.
    pub recordings: Arc<Semaphore>,
    /// How these are made.
    pub on_demand: Options,
    /// Ends the one that runs.
    recording: Mutex<Option<Sender<Stop>>>,
    /// Answers so far.
    pub requests: Requests,
    reloaded: Mutex<Reloaded>,
    /// What is to be said to the user, but only once.
    say: Box<dyn Fn(&str) + Send + Sync>,
    push: Mutex<Option<Push>>,
    store_failed: AtomicBool,
    windows_not_stored: AtomicU64,
}

/// When the configuration was read last.
struct Reloaded {
    is_right: bool,
    right_at: SystemTime,
}

/// What windows are added up to.
struct Sums {
    groups: Groups,
    own: OwnSums,
    counters: CounterSums,
    retained: Instant,
    notes: Vec<String>,
}

impl State {
    /// Of a server that watches nothing yet. `say` shows a line to whoever runs it.
    pub fn new(settings: &Settings, store: Store, groups: Groups, say: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        store.notes().iter().for_each(|note| say(note));
        let sums = Sums {
            groups,
            own: OwnSums::default(),
            counters: CounterSums::default(),
            retained: Instant::now(),
            notes: store.notes().to_vec(),
        };
        Self {
            is_ready: AtomicBool::new(false),
            store,
            retention: Mutex::new(settings.retention),
            unwind_kb: settings.session.unwind_kb,
            window: settings.window,
            sums: Mutex::new(sums),
            news: broadcast::Sender::new(NEWS),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            recordings: Arc::new(Semaphore::new(1)),
            on_demand: settings.on_demand.clone(),
            recording: Mutex::default(),
            requests: Requests::default(),
            reloaded: Mutex::new(Reloaded { is_right: true, right_at: SystemTime::now() }),
            say,
            push: Mutex::default(),
            store_failed: AtomicBool::new(false),
            windows_not_stored: AtomicU64::new(0),
        }
    }

    /// How long a window is.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What cputrace says of itself.
    pub fn own(&self) -> OwnSums {
        self.sums().own.clone()
    }

    /// What is off or went wrong: of the store, and of the last window.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.sums().notes.clone();
        notes.extend(self.lock_push().iter().flat_map(Push::failures));
        notes
    }

    /// Hands windows on from here on.
    pub fn push(&self, options: &PushOptions) -> io::Result<()> {
        *self.lock_push() = Some(Push::start(options, &host::host().hostname)?);
        Ok(())
    }

    /// Hands on what still waits for it, and no more.
    pub fn stop(&self) {
        let push = self.lock_push().take();
        if let Some(push) = push {
            push.stop();
        }
    }

    fn lock_push(&self) -> MutexGuard<'_, Option<Push>> {
        self.push.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the groups; windows wait for it.
    pub fn with_groups<T>(&self, look: impl FnOnce(&Groups) -> T) -> T {
        look(&self.sums().groups)
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// From here on samples are taken.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Whether samples are taken.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Shows a line to whoever runs the server.
    pub fn say(&self, line: &str) {
        (self.say)(line);
    }

    /// Takes up what can change while it runs; what is wrong changes nothing.
    pub fn take_up(&self, settings: &Settings) -> Result<(), RuleError> {
        self.sums().groups.set_rules(&settings.groups)?;
        *locked(&self.retention) = settings.retention;
        Ok(())
    }

    /// The configuration has been read again, or could not be.
    pub fn set_reloaded(&self, is_right: bool) {
        let mut reloaded = locked(&self.reloaded);
        reloaded.is_right = is_right;
        if is_right {
            reloaded.right_at = SystemTime::now();
        }
    }

    /// A recording on demand runs, and can be ended early.
    pub fn begin_recording(&self) -> Receiver<Stop> {
        let (sender, receiver) = mpsc::channel();
        *locked(&self.recording) = Some(sender);
        receiver
    }

    /// The server ends: so do recordings on demand, and what they have is stored.
    pub fn stop_recordings(&self) {
        if let Some(sender) = locked(&self.recording).take() {
            // Fails only where it has ended meanwhile.
            let _ = sender.send(Stop);
        }
    }

    /// Takes what a window brought.
    pub fn add(&self, window: &Recording) {
        let (labels, is_time_to_retain) = {
            let sums = &mut *self.sums();
            sums.own.add(window);
            sums.notes = self.store.notes().iter().chain(&window.notes).cloned().collect();
            let labels = sums.groups.add(window);
            sums.counters.add(window, &labels);
            sums.counters.retain(&sums.groups);
            let is_time = sums.retained.elapsed() >= RETAIN_EVERY;
            if is_time {
                sums.retained = Instant::now();
            }
            (labels, is_time)
        };
        self.tell(window);
        let retention = *locked(&self.retention);
        let range = Range { from: window.start, to: window.start + window.duration };
        let mut digest = Digest::new();
        digest.add_profile(&window.profile, &labels);
        let stored = self.keep(window, range, &digest);
        if let Some(push) = &*self.lock_push() {
            push.send(range, digest);
        }
        let stored = stored.and_then(|()| match is_time_to_retain {
            true => self.store.retain(&retention, SystemTime::now()).map(drop),
            false => Ok(()),
        });
        match stored {
            Ok(()) => {
                if self.store_failed.swap(false, Ordering::Relaxed) {
                    let lost = self.windows_not_stored.swap(0, Ordering::Relaxed);
                    (self.say)(&format!("the store works again; {lost} windows are missing in it"));
                }
            }
            Err(error) => {
                self.windows_not_stored.fetch_add(1, Ordering::Relaxed);
                // A disk that stays full is said once; `cputrace_store_failed_writes_total` goes on.
                if !self.store_failed.swap(true, Ordering::Relaxed) {
                    let fix = if error.is_full() { "; make room, or give --data-dir another place" } else { "" };
                    (self.say)(&format!("windows are not stored: {error}{fix}"));
                }
            }
        }
    }

    /// Tells those who follow what groups did in the window.
    fn tell(&self, window: &Recording) {
        if self.news.receiver_count() == 0 {
            return;
        }
        let groups: Vec<_> = self.with_groups(|groups| {
            let groups = groups.in_window().iter().map(|(group, &(on_cpu_ns, run_queue_ns, off_cpu_ns))| {
                serde_json::json!({
                    "group": group,
                    "cpu_seconds": collect::seconds(on_cpu_ns),
                    "run_queue_seconds": collect::seconds(run_queue_ns),
                    "off_cpu_seconds": collect::seconds(off_cpu_ns),
                })
            });
            groups.collect()
        });
        let data = serde_json::json!({
            "start": collect::unix_seconds(window.start),
            "duration": window.duration.as_secs_f64(),
            "frequency": window.sampling.asked_hz,
            "samples": window.ledger.samples_kept,
            "lost": window.ledger.lost(),
            "groups": groups,
        });
        // Fails only where the last one has gone away meanwhile.
        let _ = self.news.send(News { kind: "window", data: data.to_string().into() });
    }

    fn keep(&self, window: &Recording, range: Range, digest: &Digest) -> Result<(), StoreError> {
        let ledger = &window.ledger;
        let facts = WindowFacts {
            windows: 1,
            covered_ms: millis(window.duration),
            frequency_hz: window.sampling.asked_hz as u32,
            samples_expected: ledger.samples_expected(),
            samples_kept: ledger.samples_kept,
            bpf_ns: nanos(window.overhead.bpf_run_time.unwrap_or_default()),
            own_cpu_ns: nanos(window.overhead.own_cpu),
        };
        self.store.add_window(range, &facts, digest)
    }

    /// All metrics, as of now.
    pub fn metrics(&self) -> Vec<Family> {
        let mut families = Families::default();
        {
            let sums = self.sums();
            collect::groups(&mut families, &sums.groups);
            collect::own(&mut families, &sums.own);
            sums.counters.collect(&mut families);
        }
        families.number(&metrics::UNWIND_LIMIT, self.unwind_kb as f64 * 1024.0);
        families.number(&metrics::STORE_BYTES, self.store.bytes() as f64);
        families.number(&metrics::STORE_LIMIT, locked(&self.retention).bytes as f64);
        if let Ok(windows) = self.store.windows() {
            families.number(&metrics::STORE_WINDOWS, windows as f64);
        }
        families.number(&metrics::STORE_FAILED, self.store.failed_writes() as f64);
        if let Some(push) = &*self.lock_push() {
            push.collect(&mut families);
        }
        let requests = self.requests.all().into_iter();
        let requests =
            requests.map(|((path, code), count)| (vec![path, code.to_string()], Value::Number(count as f64)));
        families.add(&metrics::HTTP_REQUESTS, requests);
        {
            let reloaded = locked(&self.reloaded);
            families.number(&metrics::CONFIG_LAST_SUCCESSFUL, f64::from(u8::from(reloaded.is_right)));
            families.number(&metrics::CONFIG_LAST_SUCCESS, collect::unix_seconds(reloaded.right_at));
        }
        collect::process(&mut families);
        families.finish()
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        locked(&self.sums)
    }
}

/// What a panic left half added is still the best there is.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
