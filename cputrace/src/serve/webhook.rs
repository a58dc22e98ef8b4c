//! Tells a URL of alarms: a JSON document that those who receive Alertmanager's webhooks (its version 4) understand.
//!
//! In a thread of its own, behind a short queue: a receiver that does not answer holds up nothing. What cannot be delivered in
//! a few tries is dropped, and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{io, thread};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::analyze::anomaly::Alarm;
use crate::client::{self, Address};

/// Messages that wait; an alarm is one when it begins and one when it is over.
const QUEUE: usize = 64;

/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between two tries; after the last one it is dropped.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9)];

/// What became of the messages.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// The way to the receiver.
#[derive(Debug)]
pub(super) struct Webhook {
    url: String,
    messages: SyncSender<Value>,
    counts: Arc<Counts>,
}

impl Webhook {
    /// Starts its thread; nothing is sent yet. Goes on counting where there was another one `before` it.
    pub(super) fn start(url: &str, before: Option<&Self>) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{url:?} is no URL"));
        let address = Address::parse(url).ok_or_else(wrong)?;
        let (messages, received) = mpsc::sync_channel::<Value>(QUEUE);
        let counts = before.map(|before| before.counts.clone()).unwrap_or_default();
        let counted = counts.clone();
        let config = client::agent().timeout_global(Some(TIMEOUT)).build();
        let agent = ureq::Agent::new_with_config(config);
        // It ends with the sender; what waits then is not waited for.
        thread::Builder::new().name("webhook".to_owned()).spawn(move || {
            for message in received {
                deliver(&agent, &address, &message, &counted);
            }
        })?;
        Ok(Self { url: url.to_owned(), messages, counts })
    }

    /// Where messages go.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Has a message sent.
    pub(super) fn send(&self, message: Value) {
        match self.messages.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What became of the messages so far: by result.
    pub(super) fn counts(&self) -> [(&'static str, f64); 3] {
        let Counts { sent, failed, dropped, last_failure: _ } = &*self.counts;
        [("sent", sent), ("failed", failed), ("dropped", dropped)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed) as f64))
    }

    /// Why the last one failed, until one is delivered.
    pub(super) fn last_failure(&self) -> Option<String> {
        self.counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn deliver(agent: &ureq::Agent, address: &Address, message: &Value, counts: &Counts) {
    let body = message.to_string();
    let mut pauses = PAUSES.into_iter();
    loop {
        let request = agent.post(&address.url).header("content-type", "application/json");
        let authorization = address.authorization.iter();
        let request = authorization.fold(request, |request, value| request.header("authorization", value));
        let answer = request.send(&body);
        let failure = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered with HTTP status {}", answer.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        let is_sent = failure.is_none();
        *counts.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        if is_sent {
            counts.sent.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(pause) = pauses.next() else {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        thread::sleep(pause);
    }
}

/// The message about an alarm: `event` is what the store keeps of it.
pub(super) fn message(alarm: &Alarm, id: i64, summary: &str, event: &Value, host: &str) -> Value {
    let status = if alarm.end.is_some() { "resolved" } else { "firing" };
    let labels = json!({
        "alertname": "CputraceAnomaly",
        "instance": host,
        "groupname": alarm.group,
        "signal": alarm.reading.signal.name(),
    });
    let annotations = json!({ "summary": summary, "function": top_function(event) });
    let alert = json!({
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(alarm.start),
        // Of one that is not over, the zero time, as Alertmanager has it.
        "endsAt": alarm.end.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339),
        "generatorURL": format!("/api/anomalies/{id}"),
        "fingerprint": format!("{id:016x}"),
        "event": event,
    });
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{groupname=\"{}\"}}", alarm.group),
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "cputrace",
        "groupLabels": { "groupname": alarm.group },
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    })
}

/// The function that the alarm's profile has most more of.
pub(super) fn top_function(event: &Value) -> &str {
    event["diff"]["functions"][0]["name"].as_str().unwrap_or_default()
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A receiver that refuses first gets the message again, and all is counted.
    #[test]
    fn tries_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = thread::spawn(move || {
            let answers = ["HTTP/1.1 500 Broken", "HTTP/1.1 200 OK"].map(|status| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                // The body is the last part, and ends with its brace.
                while !request.ends_with(b"}") {
                    let mut bytes = [0; 1024];
                    let read = stream.read(&mut bytes).unwrap();
                    request.extend_from_slice(&bytes[..read]);
                }
                write!(stream, "{status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                String::from_utf8(request).unwrap()
            });
            assert!(answers[1].starts_with("POST /hook") && answers[1].ends_with("{\"a\":1}"), "{}", answers[1]);
        });
        let webhook = Webhook::start(&url, None).unwrap();
        webhook.send(json!({ "a": 1 }));
        receiver.join().unwrap();
        for _ in 0..100 {
            if webhook.counts()[0].1 > 0.0 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(webhook.counts(), [("sent", 1.0), ("failed", 0.0), ("dropped", 0.0)]);
        let elsewhere = Webhook::start("https://ann:secret@localhost/", Some(&webhook)).unwrap();
        assert_eq!(elsewhere.counts(), webhook.counts());
        assert_eq!(webhook.last_failure(), None);
    }
}
