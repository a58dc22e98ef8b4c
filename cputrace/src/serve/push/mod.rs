//! Hands windows on to servers that keep those of many hosts: a Pyroscope, or whatever takes OpenTelemetry's profiles.
//!
//! - [`pyroscope`], [`otlp`]: a window in their formats.
//! - [`owner`]: whose profiles a window has.
//!
//! Each destination has a thread and a short queue: one that does not answer holds up nothing. A window is tried again until
//! it is too old to be taken, with pauses that grow; what is dropped is counted.

mod otlp;
mod owner;
mod pyroscope;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use ureq::Agent;

use crate::client::{self, Address};
use crate::metrics::{self, collect::Families};
use crate::store::Digest;
use crate::store::windows::Range;

/// Windows that wait for a destination.
const QUEUE: usize = 16;

/// How long a destination may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses between two tries grow from this one to that.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// A window that is older is dropped: receivers refuse what is an hour old.
const MAX_AGE: Duration = Duration::from_mins(30);

/// Where windows are handed on to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PushOptions {
    /// A Pyroscope.
    pub pyroscope: Option<PushTo>,
    /// A receiver of OpenTelemetry's profiles, by HTTP.
    pub otlp: Option<PushTo>,
}

/// A server that takes windows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushTo {
    /// Its URL, with `user:password@` before the host where it asks for that.
    pub url: String,
    /// Headers that it wants: names and values.
    pub headers: Vec<(String, String)>,
}

/// A window to be handed on.
#[derive(Debug)]
struct Window {
    range: Range,
    digest: Digest,
}

/// A format of windows.
struct Format {
    name: &'static str,
    /// Where it is received, below a URL.
    path: &'static str,
    content_type: &'static str,
    /// A window of this host as messages, each of which is a request.
    encode: fn(&Window, &str) -> Vec<Vec<u8>>,
}

const PYROSCOPE: Format = Format {
    name: "pyroscope",
    path: "/push.v1.PusherService/Push",
    content_type: "application/proto",
    encode: pyroscope::encode,
};

const OTLP: Format = Format {
    name: "otlp",
    path: "/v1development/profiles",
    content_type: "application/x-protobuf",
    encode: otlp::encode,
};

/// What became of the windows.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    retries: AtomicU64,
    bytes: AtomicU64,
    queued: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// Why a request was not taken.
enum Failure {
    /// It never will be.
    Refused(String),
    /// Later it may be.
    Later(String),
}

/// A destination, in its own thread.
struct Destination {
    format: Format,
    url: String,
    headers: Vec<(String, String)>,
    agent: Agent,
    hostname: String,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
}

/// The way to a destination.
struct Way {
    name: &'static str,
    to: PushTo,
    windows: SyncSender<Arc<Window>>,
    counts: Arc<Counts>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The ways to all destinations.
#[derive(Default)]
pub(super) struct Push {
    ways: Vec<Way>,
}

impl Push {
    /// Hands windows on to these from now on: what was sent elsewhere is not waited for, and is counted on where there is another
    /// destination instead.
    pub(super) fn take_up(&mut self, options: &PushOptions, hostname: &str) -> io::Result<()> {
        let PushOptions { pyroscope, otlp } = options;
        for (format, to) in [(PYROSCOPE, pyroscope), (OTLP, otlp)] {
            let before = self.ways.iter().position(|way| way.name == format.name);
            if before.map(|index| &self.ways[index].to) == to.as_ref() {
                continue;
            }
            let before = before.map(|index| self.ways.remove(index));
            if let Some(to) = to {
                let counts = before.as_ref().map(|way| way.counts.clone()).unwrap_or_default();
                self.ways.push(Way::start(format, to, counts, hostname)?);
            }
            // Its thread ends as soon as what waits is sent or refused.
            before.iter().for_each(|way| way.stopping.store(true, Ordering::Relaxed));
        }
        Ok(())
    }

    /// Hands a window on; where the queue is full, it is dropped.
    pub(super) fn send(&self, range: Range, digest: Digest) {
        if self.ways.is_empty() {
            return;
        }
        let window = Arc::new(Window { range, digest });
        for Way { windows, counts, .. } in &self.ways {
            counts.queued.fetch_add(1, Ordering::Relaxed);
            if windows.try_send(window.clone()).is_err() {
                counts.queued.fetch_sub(1, Ordering::Relaxed);
                counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Why windows are not taken now, by destination.
    pub(super) fn failures(&self) -> Vec<String> {
        let failures = self.ways.iter().filter_map(|Way { name, counts, .. }| {
            let failure = counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
            Some(format!("windows are not handed on ({name}): {failure}"))
        });
        failures.collect()
    }

    /// What became of the windows.
    pub(super) fn collect(&self, families: &mut Families) {
        for Way { name, counts, .. } in &self.ways {
            let Counts { sent, refused, dropped, retries, bytes, queued, last_failure: _ } = &**counts;
            for (result, count) in [("sent", sent), ("refused", refused), ("dropped", dropped)] {
                families.push(&metrics::PUSH_WINDOWS, &[name, result], count.load(Ordering::Relaxed) as f64);
            }
            for (metric, count) in
                [(&metrics::PUSH_RETRIES, retries), (&metrics::PUSH_BYTES, bytes), (&metrics::PUSH_QUEUE, queued)]
            {
                families.push(metric, &[name], count.load(Ordering::Relaxed) as f64);
            }
        }
    }

    /// Sends what waits, as long as that is taken, and ends.
    pub(super) fn stop(self) {
        self.ways.iter().for_each(|way| way.stopping.store(true, Ordering::Relaxed));
        for Way { windows, thread, .. } in self.ways {
            drop(windows);
            let _ = thread.join();
        }
    }
}

impl Way {
    /// Starts its thread; nothing is sent yet.
    fn start(format: Format, to: &PushTo, counts: Arc<Counts>, hostname: &str) -> io::Result<Self> {
        let (windows, queue) = mpsc::sync_channel(QUEUE);
        let (name, stopping) = (format.name, Arc::new(AtomicBool::new(false)));
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no URL", to.url));
        let Address { url, authorization } = Address::parse(&to.url).ok_or_else(wrong)?;
        let authorization = authorization.map(|value| ("Authorization".to_owned(), value));
        let destination = Destination {
            url: format!("{}{}", url.trim_end_matches('/'), format.path),
            format,
            headers: authorization.into_iter().chain(to.headers.iter().cloned()).collect(),
            agent: Agent::new_with_config(client::agent().timeout_global(Some(TIMEOUT)).build()),
            hostname: hostname.to_owned(),
            counts: counts.clone(),
            stopping: stopping.clone(),
        };
        let thread = thread::Builder::new().name(format!("push {name}")).spawn(move || destination.run(&queue))?;
        Ok(Self { name, to: to.clone(), windows, counts, stopping, thread })
    }
}

impl Destination {
    fn run(&self, queue: &Receiver<Arc<Window>>) {
        for window in queue {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            let result = self.deliver(&window);
            let is_over = self.stopping.load(Ordering::Relaxed) && matches!(result, Err(Failure::Later(_)));
            let (count, failure) = match result {
                Ok(()) => (&self.counts.sent, None),
                Err(Failure::Refused(failure)) => (&self.counts.refused, Some(failure)),
                Err(Failure::Later(failure)) => (&self.counts.dropped, Some(failure)),
            };
            count.fetch_add(1, Ordering::Relaxed);
            self.set_failure(failure);
            if is_over {
                // What cannot be reached at the end is not waited for again and again.
                return;
            }
        }
    }

    fn set_failure(&self, failure: Option<String>) {
        *self.counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// All of a window, unless some of it is refused or has become too old.
    fn deliver(&self, window: &Window) -> Result<(), Failure> {
        for message in (self.format.encode)(window, &self.hostname) {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            let packed = gzip.write_all(&message).and_then(|()| gzip.finish());
            let body = packed.map_err(|error| Failure::Refused(error.to_string()))?;
            let [mut pause, longest] = PAUSES;
            while let Err(failure) = self.post(&body) {
                let Failure::Later(why) = &failure else { return Err(failure) };
                let age = SystemTime::now().duration_since(window.range.to).unwrap_or_default();
                if age > MAX_AGE || !self.wait(pause) {
                    return Err(failure);
                }
                self.set_failure(Some(why.clone()));
                self.counts.retries.fetch_add(1, Ordering::Relaxed);
                pause = longest.min(pause * 2);
            }
            self.counts.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn post(&self, body: &[u8]) -> Result<(), Failure> {
        let Self { format, url, headers, agent, .. } = self;
        let request = agent.post(url).header("content-type", format.content_type).header("content-encoding", "gzip");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut answer = request.send(body).map_err(|error| Failure::Later(format!("{url}: {error}")))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        // What a receiver says is wrong is worth more than its status; but not any length of it.
        let text = answer.body_mut().with_config().limit(1 << 10).read_to_string().unwrap_or_default();
        let why = format!("{url} answered {status}: {}", text.trim());
        let may_come = status.is_server_error() || [408, 429].contains(&status.as_u16());
        Err(if may_come { Failure::Later(why) } else { Failure::Refused(why) })
    }

    /// Waits, unless it is to end.
    fn wait(&self, pause: Duration) -> bool {
        const SLICE: Duration = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while waited < pause && !self.stopping.load(Ordering::Relaxed) {
            thread::sleep(SLICE);
            waited += SLICE;
        }
        !self.stopping.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A destination that stays keeps its thread; one in the place of another goes on counting; one that is gone ends.
    #[test]
    fn destinations_change() {
        let to = |url: &str| Some(PushTo { url: url.to_owned(), headers: Vec::new() });
        let options = |pyroscope: &str, otlp: &str| PushOptions { pyroscope: to(pyroscope), otlp: to(otlp) };
        let mut push = Push::default();
        push.take_up(&options("http://a", "http://b"), "host").unwrap();
        let ends: Vec<_> = push.ways.iter().map(|way| (way.counts.clone(), way.stopping.clone())).collect();
        push.take_up(&options("http://a", "http://ann:secret@c"), "host").unwrap();
        let way = |name: &str| push.ways.iter().find(|way| way.name == name).unwrap();
        assert!(Arc::ptr_eq(&way("pyroscope").stopping, &ends[0].1));
        assert!(Arc::ptr_eq(&way("otlp").counts, &ends[1].0));
        assert!(!Arc::ptr_eq(&way("otlp").stopping, &ends[1].1));
        let have_ended = ends.iter().map(|(_, stopping)| stopping.load(Ordering::Relaxed));
        assert_eq!(have_ended.collect::<Vec<_>>(), [false, true]);
        push.take_up(&PushOptions { pyroscope: None, otlp: None }, "host").unwrap();
        assert!(push.ways.is_empty() && ends[0].1.load(Ordering::Relaxed));
        push.stop();
    }
}
