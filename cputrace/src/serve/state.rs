//! What the window's thread writes and requests read.

use std::io;
use std::mem::take;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, broadcast};

use super::anomalies::{Anomalies, Told, Window};
use super::front::Requests;
use super::overhead::OverheadSums;
use super::push::{Push, PushOptions};
use super::webhook::{self, Webhook};
use super::{ServeError, Settings};

use crate::analyze::anomaly::Change;
use crate::group::{GroupWindow, Groups};
use crate::metrics::collect::{self, Families};
use crate::metrics::counters::CounterSums;
use crate::metrics::own::OwnSums;
use crate::metrics::{self, Family, Value};
use crate::model::Recording;
use crate::process::host;
use crate::session::cost::Look;
use crate::session::governor::Decision;
use crate::session::{Options, Stop};
use crate::store::events::EventKind;
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
    /// What happened: `window`, `anomaly` (it begins), `anomaly-update`, `anomaly-end`.
    pub kind: &'static str,
    /// More about it, as JSON.
    pub data: Arc<str>,
}

/// Ends a recording on demand with the request for it: whoever asked may have gone away.
#[derive(Debug)]
pub struct EndsRecording(Sender<Stop>);

impl Drop for EndsRecording {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.0.send(Stop);
    }
}

/// Shared by all threads of the server.
pub struct State {
    is_ready: AtomicBool,
    /// Where windows, traces and events are.
    pub store: Store,
    retention: Mutex<Retention>,
    /// What may be taken of the host's CPU time.
    max_overhead: Mutex<Option<f64>>,
    unwind_kb: u64,
    window: Duration,
    /// This host's name, where only this host can ask.
    local_name: Option<String>,
    sums: Mutex<Sums>,
    overhead: Mutex<Overhead>,
    anomalies: Mutex<Anomalies>,
    webhook: Mutex<Option<Webhook>>,
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
    push: Mutex<Push>,
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

/// What cputrace costs. Apart from the sums, which are held for as long as a window takes: the collection waits for this.
#[derive(Default)]
struct Overhead {
    sums: OverheadSums,
    /// The governor's steps that are not stored yet.
    steps: Vec<Look>,
}

impl State {
    /// Of a server that watches nothing yet. `say` shows a line to whoever runs it.
    pub fn new(settings: &Settings, store: Store, groups: Groups, say: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        let notes = store.notes();
        notes.iter().for_each(|note| say(note));
        let sums =
            Sums { groups, own: OwnSums::default(), counters: CounterSums::default(), retained: Instant::now(), notes };
        Self {
            is_ready: AtomicBool::new(false),
            store,
            retention: Mutex::new(settings.retention),
            max_overhead: Mutex::new(settings.session.max_overhead),
            unwind_kb: settings.session.unwind_kb,
            window: settings.window,
            local_name: settings.web.listen.ip().is_loopback().then(|| host::host().hostname),
            sums: Mutex::new(sums),
            overhead: Mutex::default(),
            anomalies: Mutex::default(),
            webhook: Mutex::default(),
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

    /// This host's name, where only this host can ask.
    pub fn local_name(&self) -> Option<&str> {
        self.local_name.as_deref()
    }

    /// How long a window is.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What cputrace says of itself.
    pub fn own(&self) -> OwnSums {
        self.sums().own.clone()
    }

    /// What it costs.
    pub fn overhead(&self) -> OverheadSums {
        self.lock_overhead().sums.clone()
    }

    /// What is off or went wrong: of the store, and of the last window.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.sums().notes.clone();
        let failure = locked(&self.webhook).as_ref().and_then(Webhook::last_failure);
        notes.extend(failure.map(|failure| format!("the webhook does not take messages: {failure}")));
        notes.extend(locked(&self.push).failures());
        notes
    }

    /// Hands windows on to these from here on.
    fn push(&self, options: &PushOptions) -> io::Result<()> {
        locked(&self.push).take_up(options, &host::host().hostname)
    }

    /// Tells a URL of alarms from here on.
    fn tell_to(&self, url: Option<&str>) -> io::Result<()> {
        let mut webhook = locked(&self.webhook);
        if webhook.as_ref().map(Webhook::url) != url {
            *webhook = url.map(|url| Webhook::start(url, webhook.as_ref())).transpose()?;
        }
        Ok(())
    }

    /// Hands on what still waits for it, and no more.
    pub fn stop(&self) {
        let push = take(&mut *locked(&self.push));
        push.stop();
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

    /// Takes up what can change while it runs; a wrong rule changes nothing.
    pub fn take_up(&self, settings: &Settings) -> Result<(), ServeError> {
        self.sums().groups.set_rules(&settings.groups)?;
        self.push(&settings.push).map_err(ServeError::Push)?;
        self.tell_to(settings.webhook.as_deref()).map_err(ServeError::Webhook)?;
        *locked(&self.retention) = settings.retention;
        *locked(&self.max_overhead) = settings.session.max_overhead;
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

    /// A recording on demand runs, and can be ended early: at the latest when the first of what is returned is dropped.
    pub fn begin_recording(&self) -> (EndsRecording, Receiver<Stop>) {
        let (sender, receiver) = mpsc::channel();
        *locked(&self.recording) = Some(sender.clone());
        (EndsRecording(sender), receiver)
    }

    /// The server ends: so do recordings on demand, and what they have is stored.
    pub fn stop_recordings(&self) {
        if let Some(sender) = locked(&self.recording).take() {
            // Fails only where it has ended meanwhile.
            let _ = sender.send(Stop);
        }
    }

    /// Takes what the last second cost; steps of the governor are stored with the next window. Returns what may be taken of the
    /// host's CPU time from now on.
    pub fn add_look(&self, look: &Look) -> Option<f64> {
        let before = {
            let overhead = &mut *self.lock_overhead();
            let before = overhead.sums.last().map(|look| look.frequency_hz);
            overhead.sums.add(look);
            overhead.steps.extend(look.decision.map(|_| *look));
            before
        };
        if let (Some(decision), Some(limit)) = (look.decision, look.limit) {
            self.say_step(look, decision, limit, before.unwrap_or(look.frequency_hz));
        }
        *locked(&self.max_overhead)
    }

    fn say_step(&self, look: &Look, decision: Decision, limit: f64, before: f64) {
        let (share, limit, hz) = (100.0 * look.window_share, 100.0 * limit, look.frequency_hz);
        (self.say)(&match decision {
            Decision::Lower => format!(
                "the overhead is over its limit ({share:.2} % of the host's CPU time in a window, {limit:.2} % allowed): sampling at \
                 {hz:.2} Hz instead of {before:.2} Hz, and half as many stacks of waits"
            ),
            Decision::Raise => {
                format!(
                    "the overhead is below its limit ({share:.2} %, {limit:.2} % allowed): sampling at {hz:.2} Hz again"
                )
            }
            Decision::Exhausted => format!(
                "the overhead stays over its limit ({share:.2} %, {limit:.2} % allowed) at the lowest frequency, {hz:.2} Hz: what is left is \
                 mostly the account of the threads' time at each switch; a higher --max-overhead allows for it"
            ),
        });
    }

    /// Stores the governor's steps.
    fn keep_steps(&self) -> Result<(), StoreError> {
        let steps = std::mem::take(&mut self.lock_overhead().steps);
        for look in steps {
            let Some(decision) = look.decision else { continue };
            let event = serde_json::json!({
                "decision": match decision {
                    Decision::Lower => "down",
                    Decision::Raise => "up",
                    Decision::Exhausted => "at the lowest frequency",
                },
                "overhead_ratio": look.window_share,
                "limit_ratio": look.limit,
                "frequency": look.frequency_hz,
            });
            self.store.add_event(EventKind::Governor, look.at, &event)?;
        }
        Ok(())
    }

    fn lock_overhead(&self) -> MutexGuard<'_, Overhead> {
        locked(&self.overhead)
    }

    /// Takes what a window brought.
    pub fn add(&self, window: &Recording) {
        let (labels, in_window, is_time_to_retain) = {
            let sums = &mut *self.sums();
            sums.own.add(window);
            sums.notes = self.store.notes();
            sums.notes.extend_from_slice(&window.notes);
            let labels = sums.groups.add(window);
            sums.counters.add(window, &labels);
            sums.counters.retain(&sums.groups);
            let is_time = sums.retained.elapsed() >= RETAIN_EVERY;
            if is_time {
                sums.retained = Instant::now();
            }
            let groups = &sums.groups;
            self.lock_anomalies().retain(&|name| groups.all().any(|(group, _)| group == name));
            (labels, groups.in_window().clone(), is_time)
        };
        self.tell(window);
        let noted = self.store.notes().len();
        let retention = *locked(&self.retention);
        // Room is made on a full disk, too.
        let retained = match is_time_to_retain {
            true => self.store.retain(&retention, SystemTime::now()).map(drop),
            false => Ok(()),
        };
        let range = Range { from: window.start, to: window.start + window.duration };
        let mut digest = Digest::new();
        digest.add_profile(&window.profile, &labels);
        let stored = self.keep(window, range, &digest).and_then(|()| self.keep_steps()).and(retained);
        let window = Window { recording: window, range, labels: &labels, digest: &digest, groups: &in_window };
        let told = self.lock_anomalies().look(&window, &self.store);
        told.iter().for_each(|told| self.tell_of(told));
        locked(&self.push).send(range, digest);
        self.store.notes().iter().skip(noted).for_each(|note| (self.say)(note));
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
            let groups = groups.in_window().iter().map(|(group, window)| {
                let GroupWindow { on_cpu_ns, run_queue_ns, run_queue_waits: _, off_cpu_ns } = *window;
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
            frequency_hz: window.sampling.asked_hz,
            samples_expected: ledger.samples_expected(),
            samples_kept: ledger.samples_kept,
            bpf_ns: nanos(window.overhead.bpf_run_time.unwrap_or_default()),
            own_cpu_ns: nanos(window.overhead.own_cpu),
        };
        self.store.add_window(range, &facts, digest)
    }

    /// Tells everyone of an alarm.
    fn tell_of(&self, told: &Told) {
        let summary = told.summary();
        let Told { change, id, event } = told;
        let kind = match change {
            Change::Started(_) => "anomaly",
            Change::Updated(_) => "anomaly-update",
            Change::Ended(_) => "anomaly-end",
        };
        let data = serde_json::json!({ "id": id, "summary": summary, "event": event });
        // Fails where nobody listens.
        let _ = self.news.send(News { kind, data: data.to_string().into() });
        if matches!(change, Change::Updated(_)) {
            return;
        }
        (self.say)(&summary);
        if let Some(webhook) = &*locked(&self.webhook) {
            let hostname = host::host().hostname;
            webhook.send(webhook::message(told.alarm(), *id, &summary, event, &hostname));
        }
    }

    fn lock_anomalies(&self) -> MutexGuard<'_, Anomalies> {
        locked(&self.anomalies)
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
        self.lock_overhead().sums.collect(&mut families);
        self.lock_anomalies().collect(&mut families);
        if let Some(webhook) = &*locked(&self.webhook) {
            families.by_label(&metrics::WEBHOOKS, webhook.counts());
        }
        families.number(&metrics::UNWIND_LIMIT, self.unwind_kb as f64 * 1024.0);
        families.number(&metrics::STORE_BYTES, self.store.bytes() as f64);
        families.number(&metrics::STORE_LIMIT, locked(&self.retention).bytes as f64);
        if let Ok(windows) = self.store.windows() {
            families.number(&metrics::STORE_WINDOWS, windows as f64);
        }
        families.number(&metrics::STORE_FAILED, self.store.failed_writes() as f64);
        locked(&self.push).collect(&mut families);
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
