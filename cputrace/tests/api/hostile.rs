//! Clients that are slow, many, or up to no good, over real sockets: each gets its answer, the others do not notice, and memory
//! stays bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cputrace::export::Exporter;
use cputrace::export::trace_json::TraceJson;
use cputrace::model::View;
use cputrace::serve::http::Limits;
use serde_json::Value;

use super::{Answer, Server, support};

/// Impatient, so that the tests are not slow.
const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(1),
    body_pause: Duration::from_secs(1),
    write_pause: Duration::from_secs(2),
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends all of it, as far as the server listens, and reads the answer.
    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The server may have answered and gone away before it has read everything.
        let _ = stream.write_all(request);
        read(&mut stream)
    }
}

/// An answer up to the end of the connection, or as long as it says.
fn read(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let head_of = |bytes: &[u8]| bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    loop {
        if let Some(head) = head_of(&bytes) {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let length = field("content-length").map(|length| length.parse::<usize>().unwrap());
            if length.is_some_and(|length| bytes.len() >= head + length) {
                let status = text.split(' ').nth(1).unwrap().parse().unwrap();
                let kind = field("content-type").unwrap_or_default().to_owned();
                return Answer { status, kind, body: bytes[head..].to_vec() };
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    let status = String::from_utf8_lossy(&bytes).split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or(0), kind: String::new(), body: Vec::new() }
}

fn upload(length: impl std::fmt::Display) -> String {
    format!("POST /api/traces HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

/// Whoever sends a letter now and then is not waited for, and others are answered meanwhile, though there are as many of the
/// slow ones as there may be connections.
#[test]
fn slow_clients() {
    let server = Server::limited(1, LIMITS);
    let mut slow: Vec<_> = (0..LIMITS.connections).map(|_| server.connect()).collect();
    let start = Instant::now();
    let mut open = slow.len();
    // A letter each, four times a second: the head is never whole.
    for letter in b"GET /metrics HTTP/1.1\r\nhost: ".iter().cycle() {
        for stream in &mut slow {
            let _ = stream.write_all(&[*letter]);
        }
        if start.elapsed() > LIMITS.head * 2 {
            break;
        }
        thread::sleep(Duration::from_millis(250));
    }
    // Comes to its turn as soon as one of them is gone.
    assert_eq!(server.get("/-/healthy").status, 200);
    for mut stream in slow {
        open -= usize::from(matches!(stream.read(&mut [0; 1000]), Ok(0) | Err(_)));
    }
    assert_eq!(open, 0);
    assert!(start.elapsed() < PATIENCE);

    // A body that stops coming.
    let mut stream = server.connect();
    stream.write_all(format!("{}app;ma", upload(1000)).as_bytes()).unwrap();
    assert!(read(&mut stream).problem(408).contains("nothing of the request came for 1 s"));
    let mut stream = server.connect();
    let head =
        "POST /api/record HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    read(&mut stream).problem(408);

    // An answer that nobody reads.
    let mut stream = server.connect();
    for _ in 0..2000 {
        if stream.write_all(b"GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
            break;
        }
    }
    assert_eq!(server.get("/-/healthy").status, 200);
}

/// More than is allowed is refused with what is allowed, whether it says how much it is or not; the client can read that
/// although it still sends.
#[test]
fn too_much() {
    let server = Server::limited(0, LIMITS);
    let mut body = upload(70 << 20).into_bytes();
    let head = body.len();
    body.resize(head + (70 << 20), b' ');
    assert!(server.send(&body).problem(413).contains("64 MB"));
    // In pieces, without an end.
    let mut stream = server.connect();
    stream.write_all(b"POST /api/traces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let piece = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..70 {
        if stream.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = stream.write_all(b"0\r\n\r\n");
    assert!(read(&mut stream).problem(413).contains("64 MB"));
    // It is told before it is sent, to those who ask.
    let head = upload(100 << 20).replace("host: x", "host: x\r\nexpect: 100-continue");
    assert!(server.send(head.as_bytes()).problem(413).contains("64 MB"));
    assert_eq!(server.get("/api/traces").json()["total"], 0);
}

/// What is no HTTP, or too long a head.
#[test]
fn no_http() {
    let server = Server::limited(0, LIMITS);
    assert_eq!(server.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n").status, 400);
    assert_eq!(server.send(b"GET / HTTP/9.9\r\n\r\n").status, 400);
    assert_eq!(server.send(b"POST /api/traces HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n").status, 400);
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    assert_eq!(server.send(long.as_bytes()).status, 431);
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(1000));
    assert_eq!(server.send(many.as_bytes()).status, 431);
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(1 << 20));
    assert!([414, 431].contains(&server.send(path.as_bytes()).status));
    assert_eq!(server.get("/-/healthy").status, 200);
}

/// A thousand at once are all answered; those who bring more than can be read at once are told to come again, and what they
/// bring is not kept meanwhile.
#[test]
fn a_thousand_at_once() {
    const CLIENTS: usize = 1000;
    const BYTES: usize = 1 << 20;
    more_files(3 * CLIENTS as u64);
    let server = Server::limited(1, Limits { head: PATIENCE, body_pause: PATIENCE, ..LIMITS });
    // What a server that kept everything would have to keep is a gigabyte.
    let mut body = upload(BYTES).into_bytes();
    let head = body.len();
    body.extend(b"app;main;work 5\n".iter().cycle().take(BYTES));
    body.truncate(head + BYTES);
    let (answered, stored, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Barrier::new(CLIENTS);
    let before = resident();
    let peak = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let client = || {
                start.wait();
                let answer = server.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                assert_eq!(answer.status, 200);
                match server.send(&body).status {
                    201 => stored.fetch_add(1, Ordering::Relaxed),
                    503 => refused.fetch_add(1, Ordering::Relaxed),
                    status => panic!("{status}"),
                };
                answered.fetch_add(1, Ordering::Relaxed);
            };
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, client).unwrap();
        }
        let mut peak = 0;
        while answered.load(Ordering::Relaxed) < CLIENTS {
            peak = peak.max(resident());
            thread::sleep(Duration::from_millis(20));
        }
        peak
    });
    let (stored, refused) = (stored.into_inner(), refused.into_inner());
    let grown = peak.saturating_sub(before) >> 20;
    println!("{stored} were stored, {refused} refused; {grown} MB more at the most");
    assert!(stored > 0);
    // Other tests run beside this one.
    assert!(grown < 512, "{grown} MB");
    assert_eq!(server.get("/api/traces").json()["total"], stored);
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Both ends of all connections are ours.
fn more_files(count: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to `limit`, setrlimit reads it.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(limit.rlim_cur.max(count));
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

/// A trace.json in which any one value is of another type, or out of any range, is stored or refused, and no more than that.
#[test]
fn wrong_types() {
    let server = Server::limited(0, LIMITS);
    let mut trace = Vec::new();
    TraceJson.export(&support::recording(), View::default(), &mut trace).unwrap();
    let trace: Value = serde_json::from_slice(&trace).unwrap();
    let mut places = Vec::new();
    find(&trace, String::new(), &mut places);
    // Of many that are alike, a few.
    let step = places.len().div_ceil(150).max(1);
    let wrong =
        [Value::Null, (-1).into(), u64::MAX.into(), 1e300.into(), "x".into(), Value::Array(vec![]), true.into()];
    let mut refused = 0;
    for (number, place) in places.iter().enumerate().step_by(step) {
        let mut trace = trace.clone();
        *trace.pointer_mut(place).unwrap() = wrong[number % wrong.len()].clone();
        let answer = server.post("/api/traces", "application/json", trace.to_string().as_bytes());
        match answer.status {
            201 => {
                let id = answer.json()["id"].as_str().unwrap().to_owned();
                // What is stored can be shown.
                for path in ["samples", "profile?format=folded", "profile?format=pprof"] {
                    let shown = server.get(&format!("/api/traces/{id}/{path}"));
                    assert_eq!(shown.status, 200, "{place}: {}", String::from_utf8_lossy(&shown.body));
                }
                assert_eq!(server.delete(&format!("/api/traces/{id}")).status, 204);
            }
            _ => {
                answer.problem(422);
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

/// All places in a document, as JSON pointers.
fn find(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                find(value, format!("{place}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                find(value, format!("{place}/{index}"), places);
            }
        }
        _ => {}
    }
    places.push(place);
}
