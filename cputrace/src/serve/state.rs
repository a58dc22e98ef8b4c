//! What the window's thread writes and requests read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::group::{Groups, Labels};
use crate::metrics::collect::{self, Families};
use crate::metrics::counters::CounterSums;
use crate::metrics::own::OwnSums;
use crate::metrics::{self, Family};
use crate::model::Recording;
use crate::store::windows::{Range, WindowFacts};
use crate::store::{Digest, Retention, Store, StoreError};

/// How often it is looked whether there is too much in the store.
const RETAIN_EVERY: Duration = Duration::from_mins(5);

/// Shared by all threads of the server.
pub struct State {
    is_ready: AtomicBool,
    /// Where windows, traces and events are.
    pub store: Store,
    retention: Retention,
    unwind_kb: u64,
    sums: Mutex<Sums>,
    /// What is to be said to the user, but only once.
    say: Box<dyn Fn(&str) + Send + Sync>,
    store_failed: AtomicBool,
    windows_not_stored: AtomicU64,
}

/// What windows are added up to.
struct Sums {
    groups: Groups,
    own: OwnSums,
    counters: CounterSums,
    retained: Instant,
}

impl State {
    /// Of a server that watches nothing yet. `say` shows a line to whoever runs it.
    pub fn new(
        store: Store,
        retention: Retention,
        groups: Groups,
        unwind_kb: u64,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        store.notes().iter().for_each(|note| say(note));
        let sums = Sums { groups, own: OwnSums::default(), counters: CounterSums::default(), retained: Instant::now() };
        Self {
            is_ready: AtomicBool::new(false),
            store,
            retention,
            unwind_kb,
            sums: Mutex::new(sums),
            say,
            store_failed: AtomicBool::new(false),
            windows_not_stored: AtomicU64::new(0),
        }
    }

    /// From here on samples are taken.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Whether samples are taken.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Takes what a window brought.
    pub fn add(&self, window: &Recording) {
        let (labels, is_time_to_retain) = {
            let sums = &mut *self.sums();
            sums.own.add(window);
            let labels = sums.groups.add(window);
            sums.counters.add(window, &labels);
            sums.counters.retain(&sums.groups);
            let is_time = sums.retained.elapsed() >= RETAIN_EVERY;
            if is_time {
                sums.retained = Instant::now();
            }
            (labels, is_time)
        };
        let stored = self.keep(window, &labels);
        let stored = stored.and_then(|()| match is_time_to_retain {
            true => self.store.retain(&self.retention, SystemTime::now()).map(drop),
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

    fn keep(&self, window: &Recording, labels: &[Labels]) -> Result<(), StoreError> {
        let mut digest = Digest::new();
        digest.add_profile(&window.profile, labels);
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
        let range = Range { from: window.start, to: window.start + window.duration };
        self.store.add_window(range, &facts, &digest)
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
        families.number(&metrics::STORE_LIMIT, self.retention.bytes as f64);
        if let Ok(windows) = self.store.windows() {
            families.number(&metrics::STORE_WINDOWS, windows as f64);
        }
        families.number(&metrics::STORE_FAILED, self.store.failed_writes() as f64);
        collect::process(&mut families);
        families.finish()
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Sums that a panic left half added are still the best there are.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
