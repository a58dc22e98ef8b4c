//! Debian's Prometheus scrapes what we export, and finds in it what we say.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::lab::Running;
use crate::support::{recording, require};
use crate::{Server, agent, answer, guard};

/// Longer than a scrape takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose metrics all have values: two windows, in which threads of groups ran and waited.
fn server() -> Server {
    let server = Server::start(3);
    server.state.add(&recording());
    server.state.add(&recording());
    server
}

/// Prometheus with one target, until it is dropped.
struct Prometheus {
    _directory: tempfile::TempDir,
    running: Running,
    url: String,
}

impl Prometheus {
    fn start(server: &Server, flags: &[&str]) -> Self {
        Self::scraping(server, "", flags)
    }

    /// By these lines about the scrape. Once more where another test's connection has taken the port that was free: a thousand come
    /// and go here.
    fn scraping(server: &Server, scrape: &str, flags: &[&str]) -> Self {
        let tries = std::iter::repeat_with(|| Self::start_once(server, scrape, flags)).take(5);
        tries.filter_map(Self::listens).next().expect("Prometheus does not start")
    }

    /// `None` if it has ended.
    fn listens(mut self) -> Option<Self> {
        let started = Instant::now();
        // As it starts it answers that it is not ready.
        let is_ready =
            |url: &str| agent().get(format!("{url}/-/ready")).call().is_ok_and(|answer| answer.status() == 200);
        while !is_ready(&self.url) && started.elapsed() < PATIENCE {
            if self.running.0.try_wait().unwrap().is_some() {
                return None;
            }
            thread::sleep(Duration::from_millis(100));
        }
        Some(self)
    }

    fn start_once(server: &Server, scrape: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        let target =
            format!("- job_name: cputrace\n    static_configs: [{{ targets: ['{}'] }}]\n{scrape}", server.address);
        fs::write(&config, format!("global: {{ scrape_interval: 1s }}\nscrape_configs:\n  {target}\n")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display())).args(flags);
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let running = Running::start(&mut command);
        Self { _directory: directory, running, url: format!("http://127.0.0.1:{port}") }
    }

    /// What it knows by a query; `None` until it answers.
    fn query(&self, query: &str) -> Option<Vec<Value>> {
        let request = agent().get(format!("{}/api/v1/query", self.url)).query("query", query);
        let answer = answer(request.call().ok()?);
        answer.json()["data"]["result"].as_array().cloned()
    }
}

/// By name and labels, as they are written in the text format.
fn series(metric: &Value) -> String {
    let labels: BTreeMap<_, _> = metric.as_object().unwrap().iter().collect();
    let of_target = |label: &str| ["__name__", "instance", "job"].contains(&label);
    let name = metric["__name__"].as_str().unwrap();
    let labels: Vec<_> =
        labels.iter().filter(|(label, _)| !of_target(label)).map(|(label, value)| format!("{label}={value}")).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// The same series with the same values arrive as OpenMetrics and, with native histograms, as protobuf.
#[test]
fn prometheus_scrapes_it() {
    if !require("prometheus") {
        return;
    }
    let server = server();
    for (flags, native) in [(&[][..], false), (&["--enable-feature=native-histograms"], true)] {
        let prometheus = Prometheus::start(&server, flags);
        let started = Instant::now();
        let found = loop {
            let found =
                prometheus.query("{__name__=~'cputrace_(group|run|window|sampl|stacks).*'}").unwrap_or_default();
            if !found.is_empty() {
                break found;
            }
            assert!(started.elapsed() < PATIENCE, "Prometheus scrapes nothing");
            thread::sleep(Duration::from_millis(200));
        };
        let text = String::from_utf8(server.get("/metrics").body).unwrap();
        let mut ours: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            ours.insert(name.to_owned(), value.parse().unwrap());
        }
        let mut histograms = 0;
        for row in &found {
            let name = series(&row["metric"]);
            if let Some(histogram) = row.get("histogram") {
                let count = match name.split_once('{') {
                    Some((name, labels)) => format!("{name}_count{{{labels}"),
                    None => format!("{name}_count"),
                };
                assert_eq!(histogram[1]["count"], ours[&count].to_string(), "{name}");
                histograms += 1;
            } else if !name.contains("le=") {
                let value: f64 = row["value"][1].as_str().unwrap().parse().unwrap();
                assert!((ours[&name] - value).abs() < 1e-9, "{name}: {} of ours, {value}", ours[&name]);
            }
        }
        assert!(found.len() > 50, "{}", found.len());
        assert_eq!(histograms > 0, native, "{histograms}");
        let quantile =
            if native { "cputrace_runqueue_latency_seconds" } else { "cputrace_runqueue_latency_seconds_bucket" };
        let quantile = prometheus.query(&format!("histogram_quantile(0.99, {quantile})")).unwrap();
        let quantile: f64 = quantile[0]["value"][1].as_str().unwrap().parse().unwrap();
        assert!(quantile > 0.0 && quantile < 100.0, "{quantile}");
    }
}

/// promtool has nothing to say of the text.
#[test]
fn promtool_finds_nothing() {
    if !require("promtool") {
        return;
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&server().get("/metrics").body).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success() && said.iter().all(String::is_empty), "{said:?}");
}

/// Over TLS, by a certificate that it trusts and a user's password; not without.
#[test]
fn prometheus_scrapes_it_over_tls() {
    if !(require("prometheus") && require("openssl")) {
        return;
    }
    let guarded = guard::Guarded::over_tls(&guard::users(&[("ann", "secret")]));
    let authority = guarded.directory.path().join("cert.pem");
    for (password, is_up) in [("secret", "1"), ("other", "0")] {
        let scrape = format!(
            "    scheme: https\n    basic_auth: {{ username: ann, password: {password} }}\n    tls_config: {{ ca_file: {} }}\n",
            authority.display()
        );
        let prometheus = Prometheus::scraping(&guarded.server, &scrape, &[]);
        let started = Instant::now();
        let up = loop {
            if let Some(row) = prometheus.query("up").unwrap_or_default().first() {
                break row["value"][1].clone();
            }
            assert!(started.elapsed() < PATIENCE, "Prometheus scrapes nothing");
            thread::sleep(Duration::from_millis(200));
        };
        assert_eq!(up, is_up, "{password}");
        let found = prometheus.query("cputrace_build_info").unwrap();
        assert_eq!(found.len(), usize::from(is_up == "1"));
    }
}
