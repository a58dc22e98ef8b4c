//! The REST API over HTTP, on a store of made-up windows: what is asked for is answered, and what is wrong is refused.
#![expect(clippy::unwrap_used, reason = "a test")]

mod guard;
mod hostile;
mod prometheus;
mod pyroscope;
#[path = "../support/mod.rs"]
mod support;
mod upload;
#[path = "../support/windows.rs"]
mod windows;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cputrace::group::{GroupOptions, Groups};
use cputrace::model::Target;
use cputrace::serve::http::{self, Limits, Listen};
use cputrace::serve::web_config::WebConfig;
use cputrace::serve::{PushOptions, Settings, State, WebSettings, router};
use cputrace::session::Options;
use cputrace::store::windows::Range;
use cputrace::store::{Digest, Retention, Store, unix_ms};
use cputrace::symbolize::Detail;
use serde_json::Value;
use tempfile::TempDir;
use windows::{facts, window};

/// A server of its own, which ends with the test.
struct Server {
    address: SocketAddr,
    start: SystemTime,
    state: Arc<State>,
    server: Option<http::Server>,
    _directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.take().unwrap().stop();
    }
}

/// An answer.
struct Answer {
    status: u16,
    kind: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The sentence of a problem document with this status.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.kind, "application/problem+json");
        assert_eq!(self.json()["status"], status);
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

impl Server {
    /// With windows of ten seconds each, the last of which has just ended: in each, group `a` has 30 ns on the CPU and `b` 10
    /// in each of two threads.
    fn start(windows: u32) -> Self {
        Self::limited(windows, Limits::default())
    }

    fn limited(windows: u32, limits: Limits) -> Self {
        Self::guarded(windows, limits, WebConfig::open(None, false, Arc::new(|_| {})).unwrap())
    }

    fn guarded(windows: u32, limits: Limits, web_config: WebConfig) -> Self {
        Self::of(&vec![window(&[("a", 30), ("b", 10)]); windows as usize], limits, web_config)
    }

    /// With these windows of ten seconds each, the last of which has just ended.
    fn with(windows: &[Digest]) -> Self {
        Self::of(windows, Limits::default(), WebConfig::open(None, false, Arc::new(|_| {})).unwrap())
    }

    fn of(windows: &[Digest], limits: Limits, web_config: WebConfig) -> Self {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let start = SystemTime::now() - Duration::from_secs(10) * u32::try_from(windows.len()).unwrap();
        for (number, window) in (0..).zip(windows) {
            let from = start + Duration::from_secs(10) * number;
            let range = Range { from, to: from + Duration::from_secs(10) };
            store.add_window(range, &facts(), window).unwrap();
        }
        let settings = settings(directory.path(), limits);
        let groups = Groups::new(&settings.groups).unwrap();
        let state = Arc::new(State::new(&settings, store, groups, Box::new(|_| {})));
        let listen = Listen { address: settings.web.listen, limits, web: Arc::new(web_config) };
        let server = http::Server::start(listen, router(state.clone()), state.clone()).unwrap();
        Self { address: server.address(), start, state, server: Some(server), _directory: directory }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Answer {
        answer(agent().get(self.url(path)).call().unwrap())
    }

    fn post(&self, path: &str, kind: &str, body: &[u8]) -> Answer {
        answer(agent().post(self.url(path)).header("content-type", kind).send(body).unwrap())
    }

    fn delete(&self, path: &str) -> Answer {
        answer(agent().delete(self.url(path)).call().unwrap())
    }
}

/// What a server does here: nothing by itself.
fn settings(data_dir: &Path, limits: Limits) -> Settings {
    let session = Options {
        targets: vec![Target::All],
        frequency: 19,
        duration: None,
        interval: Duration::from_secs(1),
        tier: None,
        follow_children: true,
        unwind_kb: 16 << 10,
        accounting: true,
        waits: None,
        timeline: false,
        detail: Detail::Lines,
        wait_rules: String::new(),
        pmu: Vec::new(),
        event: None,
        event_period: None,
        stack_counters: Vec::new(),
        max_overhead: None,
    };
    let web = WebSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        config_file: None,
        allow_anonymous: false,
        connections: limits.connections,
    };
    Settings {
        web,
        data_dir: data_dir.to_owned(),
        retention: Retention::default(),
        groups: GroupOptions::default(),
        window: Duration::from_secs(10),
        webhook: None,
        push: PushOptions::default(),
        on_demand: session.clone(),
        session,
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
    Answer { status: response.status().as_u16(), kind: kind.unwrap_or_default(), body }
}

/// Every link of the first page leads somewhere; it takes no samples here, and says so.
#[test]
fn links_of_the_first_page() {
    let server = Server::start(3);
    let page = String::from_utf8(server.get("/").body).unwrap();
    let links: Vec<_> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(links.len() > 5, "{page}");
    for link in links {
        let expected = if link == "/-/ready" { 503 } else { 200 };
        assert_eq!(server.get(link).status, expected, "{link}");
    }
}

/// What a range came to, as folded stacks: those of its windows alone, and of whom was asked for alone.
#[test]
fn profiles_of_a_range() {
    let server = Server::start(6);
    let start = unix_ms(server.start);
    let folded = |query: &str| {
        let answer = server.get(&format!("/api/profile?format=folded&{query}"));
        assert_eq!((answer.status, &*answer.kind), (200, "text/plain; charset=utf-8"));
        String::from_utf8(answer.body).unwrap()
    };
    // Samples, not nanoseconds: two threads in six windows.
    assert_eq!(folded(""), "a;main;work_a 12\nb;main;work_b 12\n");
    assert_eq!(folded(&format!("from={start}&to={}", start + 20_000)), "a;main;work_a 4\nb;main;work_b 4\n");
    assert_eq!(folded("group=b"), "b;main;work_b 12\n");
    assert_eq!(folded("pid=1"), "a;main;work_a 12\n");
    assert_eq!(folded("group=c"), "");
    assert_eq!(folded("source=off-cpu"), "");
    assert_eq!(folded("to=now-1h"), "");
    // Every other format, of something and of nothing.
    for format in ["json", "flamegraph", "pprof", "firefox", "perfetto"] {
        for query in ["", "&to=now-1h"] {
            let answer = server.get(&format!("/api/profile?format={format}{query}"));
            assert_eq!(answer.status, 200, "{format}");
            assert!(!answer.body.is_empty(), "{format}");
        }
    }
    assert!(server.get("/api/profile?format=x").problem(400).contains("there is no format \"x\""));
    assert!(server.get("/api/profile?from=x").problem(400).contains("\"x\" is no time"));
    assert!(server.get("/api/profile?source=x").problem(400).contains("unknown variant `x`"));
    assert!(server.get("/api/profile?from=now&to=now-1h").problem(422).contains("ends before it begins"));
}

/// A flame graph as columns and as rows; two ranges side by side.
#[test]
fn flame_graphs() {
    let server = Server::start(6);
    let graph = server.get("/api/flamegraph").json();
    assert_eq!(graph["names"], serde_json::json!(["total", "main", "work_a", "work_b"]));
    assert_eq!(graph["level"], serde_json::json!([0, 1, 2, 2]));
    assert_eq!(graph["value"], serde_json::json!([24, 24, 12, 12]));
    assert_eq!(graph["self"], serde_json::json!([0, 0, 12, 12]));
    assert_eq!((&graph["total"], &graph["unit"]), (&Value::from(24), &Value::from("samples")));
    let rows = server.get("/api/flamegraph?shape=rows&group=a").json();
    assert_eq!(rows[2], serde_json::json!({ "level": 2, "value": 12, "self": 12, "label": "work_a" }));
    let start = unix_ms(server.start);
    let (first, rest) = (format!("{start}..{}", start + 10_000), format!("{}..{}", start + 10_000, start + 60_000));
    let diff = server.get(&format!("/api/diff?base={first}&against={rest}&group=b")).json();
    assert_eq!((&diff["total"], &diff["totalRight"]), (&Value::from(2), &Value::from(10)));
    assert_eq!(diff["valueRight"], serde_json::json!([10, 10, 10]));
    assert!(server.get("/api/diff?base=trace-x&against=now-1h..now").problem(404).contains("no trace \"trace-x\""));
    assert!(server.get("/api/diff?base=x&against=now-1h..now").problem(400).contains("no range of time"));
    assert!(server.get("/api/diff?base=now-1h..now").problem(400).contains("against"));
    assert!(server.get("/api/flamegraph?max_nodes=0").problem(400).contains("max_nodes"));
}

/// Series have a value where there was a window, and none where there was not.
#[test]
fn series_have_gaps() {
    let server = Server::start(6);
    let start = unix_ms(server.start) - 20_000;
    let answer = server.get(&format!("/api/series?from={start}&to={}&step=20", start + 80_000)).json();
    assert_eq!(answer["series"][0]["group"], "a");
    let values = answer["series"][0]["values"].as_array().unwrap();
    // Two windows with 60 ns each in twenty seconds.
    assert_eq!(values[0], Value::Null);
    for value in &values[1..] {
        assert!((value.as_f64().unwrap() - 6e-9).abs() < 1e-12, "{value}");
    }
    assert_eq!(values.len(), 4);
    let timeline = server.get("/api/timeline").json();
    assert_eq!(timeline.as_array().unwrap().len(), 6);
    assert_eq!(timeline[0]["frequency"], 19.0);
    assert!(server.get("/api/series?from=0&to=now&step=1").problem(422).contains("longer step"));
    assert!(server.get("/api/series?step=0").problem(400).contains("step"));
    assert_eq!(server.get("/api/anomalies").json(), serde_json::json!([]));
}

/// A form with one file, as browsers and `curl -F` send it.
fn form(field: &str, contents: &[u8]) -> (String, Vec<u8>) {
    let mut body =
        format!("--xyz\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"my.json\"\r\n\r\n").into_bytes();
    body.extend_from_slice(contents);
    body.extend_from_slice(b"\r\n--xyz--\r\n");
    ("multipart/form-data; boundary=xyz".to_owned(), body)
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// All that can be uploaded comes back in other formats, and goes when it is deleted.
#[test]
fn uploads() {
    let server = Server::start(1);
    let pprof = server.get("/api/profile").body;
    let json = server.get("/api/profile?format=json").body;
    let packed = zstd::bulk::compress(&json, 1).unwrap();
    let (multipart, in_form) = form("file", &json);
    let script = b"app 7 1.5: 1 cpu-clock:\n\t4005 work_a+0x5 (/bin/x)\n\t4001 main+0x1 (/bin/x)\n\n";
    for (kind, body, expected) in [
        ("application/json", &json[..], "a;main;work_a 2"),
        ("application/octet-stream", &packed, "a;main;work_a 2"),
        (&*multipart, &in_form, "a;main;work_a 2"),
        ("application/octet-stream", &pprof, "a;main;work_a 2"),
        ("text/plain", b"app;main;work_a 5\nother;f_[k] 1\n", "app;main;work_a 5"),
        ("text/plain", script, "app;main;work_a 1"),
    ] {
        let stored = server.post("/api/traces", kind, body);
        assert_eq!(stored.status, 201, "{kind}: {}", String::from_utf8_lossy(&stored.body));
        let id = stored.json()["id"].as_str().unwrap().to_owned();
        let folded = server.get(&format!("/api/traces/{id}/profile?format=folded"));
        let folded = String::from_utf8(folded.body).unwrap();
        assert!(folded.lines().any(|line| line == expected), "{kind}: {folded}");
        assert_eq!(server.get(&format!("/api/traces/{id}")).json()["id"], *id);
        assert!(server.get(&format!("/api/traces/{id}/samples")).json()["processes"].is_array());
    }
    let page = server.get("/api/traces?limit=2").json();
    assert_eq!((&page["total"], page["traces"].as_array().unwrap().len()), (&Value::from(6), 2));
    let named = server.get("/api/traces?contains=my.json").json();
    let id = named["traces"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(named["total"], 1);
    assert_eq!(server.delete(&format!("/api/traces/{id}")).status, 204);
    assert!(server.delete(&format!("/api/traces/{id}")).problem(404).contains(&id));
    assert!(server.get(&format!("/api/traces/{id}")).problem(404).contains("/api/traces lists them"));
    assert!(server.get("/api/traces?limit=0").problem(400).contains("limit"));
}

/// What the ancestor recorded can be uploaded as it was.
#[test]
fn the_ancestors_traces() {
    let server = Server::start(0);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let ancestor = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let ancestor = ancestor.filter(|name| name.contains("ancestor") && name.ends_with("json")).collect::<Vec<_>>();
    assert!(!ancestor.is_empty());
    for name in ancestor {
        let (kind, body) = form("file", &fixture(&name));
        let stored = server.post("/api/traces", &kind, &body);
        assert_eq!(stored.status, 201, "{name}");
        let samples = server.get(&format!("/api/traces/{}/samples", stored.json()["id"].as_str().unwrap())).json();
        assert!(!samples["samples"].as_array().unwrap().is_empty(), "{name}");
    }
}

/// What is no profile, or too large, is refused with what is wrong; nothing is stored.
#[test]
fn hostile_uploads() {
    let server = Server::start(1);
    let post = |kind: &str, body: &[u8]| server.post("/api/traces", kind, body);
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..200 {
        std::io::Write::write_all(&mut bomb, &vec![b' '; 1 << 20]).unwrap();
    }
    assert!(post("application/gzip", &bomb.finish().unwrap()).problem(413).contains("larger than 128 MB"));
    assert!(post("application/json", b"{").problem(422).contains("not a trace.json"));
    assert!(post("application/json", b"{\"session_id\": 5}").problem(422).contains("not a trace.json"));
    assert!(post("text/plain", b"").problem(422).contains("it is empty"));
    assert!(post("text/plain", b"hello").problem(422).contains("\"hello\" is no stack"));
    assert!(post("application/octet-stream", &[0xff; 100]).problem(422).contains("no pprof profile"));
    let mut truncated = server.get("/api/profile").body;
    truncated.truncate(truncated.len() / 2);
    assert!(post("application/octet-stream", &truncated).problem(422).contains("cannot be unpacked"));
    let (kind, body) = form("fyle", b"x");
    assert!(post(&kind, &body).problem(422).contains("no field \"file\""));
    assert!(post("multipart/form-data", b"x").problem(400).contains("boundary"));
    let deep = "[".repeat(1 << 20);
    assert_eq!(post("application/json", format!("{{\"a\":{deep}").as_bytes()).status, 422);
    assert_eq!(server.get("/api/traces").json()["total"], 0);
}

/// Pages from elsewhere are refused: by where a change comes from, and by the name that they ask for.
#[test]
fn other_sites_are_refused() {
    let server = Server::start(1);
    let post = |header: &str, value: &str| {
        let request = agent().post(server.url("/api/traces")).header(header, value);
        answer(request.send(&b"app;main;work_a 5\n"[..]).unwrap())
    };
    assert!(post("sec-fetch-site", "cross-site").problem(403).contains("from elsewhere"));
    post("origin", "http://evil.example").problem(403);
    assert_eq!(post("origin", &format!("http://{}", server.address)).status, 201);
    let get = |host: &str| answer(agent().get(server.url("/api/groups")).header("host", host).call().unwrap());
    assert!(get("evil.example:9797").problem(403).contains("is not this host"));
    assert_eq!(get("localhost:9797").status, 200);
}

/// What there is not is said in the same way everywhere.
#[test]
fn wrong_paths_and_methods() {
    let server = Server::start(0);
    server.get("/api/nope").problem(404);
    server.get("/api/traces/x/y").problem(404);
    server.delete("/api/groups").problem(405);
    server.post("/api/record", "text/plain", b"x").problem(415);
    server.post("/api/record", "application/json", b"{\"pid\": 1, \"x\": 2}").problem(422);
    server.post("/api/record", "application/json", b"{\"pid\": 1, \"duration\": -1}").problem(400);
    assert!(server.post("/api/record", "application/json", b"{\"pid\": 4194305}").problem(422).contains("4194305"));
    assert_eq!(server.get("/-/healthy").status, 200);
    // Nothing is watched here.
    assert_eq!(server.get("/-/ready").status, 503);
    assert_eq!(server.get("/api/status").json()["ready"], false);
}

/// Prometheus gets what it asks for.
#[test]
fn metrics_are_negotiated() {
    let server = Server::start(0);
    let get = |accept: &str| answer(agent().get(server.url("/metrics")).header("accept", accept).call().unwrap());
    assert_eq!(get("*/*").kind, "text/plain; version=0.0.4; charset=utf-8");
    let open = get("application/openmetrics-text;version=1.0.0");
    assert_eq!(open.kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.ends_with(b"# EOF\n"));
    let proto = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    assert!(get(proto).kind.starts_with("application/vnd.google.protobuf"));
}

/// schemathesis makes up requests from the API's own document and finds no answer that the document does not have.
#[test]
fn schemathesis_finds_nothing() {
    let Some(schemathesis) = std::env::var_os("CPUTRACE_SCHEMATHESIS").map(PathBuf::from) else {
        assert!(std::env::var_os("CPUTRACE_REQUIRE_ALL").is_none(), "schemathesis is wanted and not there");
        println!("SKIPPED schemathesis_finds_nothing: CPUTRACE_SCHEMATHESIS does not say where schemathesis is");
        return;
    };
    let server = Server::start(3);
    server.post("/api/traces", "text/plain", b"app;main;work_a 5\n");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/schemathesis.toml");
    let status = Command::new(schemathesis)
        .arg("--config-file")
        .arg(config)
        .args(["run", &server.url("/api/openapi.json"), "--no-color"])
        .status()
        .unwrap();
    assert!(status.success());
}
