//! Debian's Prometheus, scraping a real `cputrace serve` once a second while several groups of processes are at work: all
//! that the dashboards, variables, rules and alerts ask for is answered, with data.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cputrace::grafana::FILES;
use serde_json::Value;
use tempfile::TempDir;

use crate::dashboard::Dashboard;
use crate::promql::{self, Variables};
use crate::support::lab::{CPUTRACE, root};
use crate::support::require;
use crate::text;

/// What there may be no data of, by a part of its query, and why.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    (r#"event="cycles""#, "hardware counters, which virtual machines lack"),
    (r#"event="instructions""#, "hardware counters"),
    (r#"metric=~"retiring"#, "hardware counters"),
    (r#"unit="% of slots""#, "hardware counters"),
    (r#"metric=~"ipc"#, "hardware counters"),
    (r#"unit="/1000 instr""#, "hardware counters"),
    (r#"unit="%""#, "hardware counters"),
    (r#"unit="GB/s""#, "hardware counters"),
    (r#"unit="W""#, "hardware counters"),
    (r#"unit=~"GHz"#, "hardware counters"),
    (r#"metric="l3-miss-latency""#, "hardware counters"),
    ("cputrace_pmu_missing", "all is counted where there are hardware counters"),
    ("cputrace_anomaly_score", "what is usual takes minutes to learn"),
    ("cputrace_anomalies_total", "nothing is reported before that"),
    ("cputrace_governor_steps_total", "there is none while the overhead is below its limit"),
    ("cputrace_push_", "there with --push"),
    ("cputrace_webhook_messages_total", "there with --webhook"),
];

/// What Grafana would make of a panel of some minutes with a scrape interval of 15 seconds: at least four of them. A busy
/// machine takes longer than a second for a window.
const NOW: Variables<'_> = Variables {
    rate_interval: "60s",
    range: "120s",
    values: &[("job", ".+"), ("instance", ".+"), ("groupname", ".+")],
};

/// How long there is to be data of, at least.
const OBSERVED: Duration = Duration::from_secs(12);

/// How long anything may take: the first window has all of the host's programs to look at.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child that is asked to end with the test: it has children of its own.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `cputrace serve` with windows of a second, and where it answers.
fn serve(directory: &Path) -> (Service, String) {
    let arguments =
        "serve --listen 127.0.0.1:0 --window 1s --frequency 9 --wakers --pmu --pmu-stacks task-clock".split(' ');
    let mut command = Command::new(CPUTRACE);
    command.args(arguments).arg("--data-dir").arg(directory.join("store")).stderr(Stdio::piped());
    let mut service = Service(command.spawn().unwrap());
    let mut lines = BufReader::new(service.0.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.unwrap().split_once("serving http://")?.1.to_owned())).unwrap();
    // What it says later is read, too, for else it could not say it.
    thread::spawn(move || lines.for_each(drop));
    (service, address)
}

/// Prometheus with our own configuration, which is to scrape `target` every second; and where it answers.
fn prometheus(directory: &Path, name: &str, target: &str, options: &[&str]) -> (Service, String) {
    let directory = directory.join(name);
    std::fs::create_dir(&directory).unwrap();
    for file in FILES {
        if let Some(name) = file.path.strip_prefix("prometheus/").filter(|name| !name.contains('/')) {
            std::fs::write(
                directory.join(name),
                file.text.replace("127.0.0.1:9797", target).replace(": 15s", ": 1s").replace(": 10s", ": 1s"),
            )
            .unwrap();
        }
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", directory.join("scrape.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--log.level=error"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (Service(command.spawn().unwrap()), format!("http://127.0.0.1:{port}"))
}

/// Groups that compute, fight for a lock, write to a disk, and start others; they leave the CPU to what watches them.
fn load(directory: &Path) -> [Service; 2] {
    let kinds =
        ["--cpu", "1", "--cpu-load", "40", "--futex", "1", "--hdd", "1", "--hdd-bytes", "4m", "--timeout", "300"];
    let mut stress = Command::new("nice");
    stress.args(["-n", "19", "stress-ng"]).args(kinds).arg("--temp-path").arg(directory);
    let mut starts = Command::new("sh");
    starts.args(["-c", "for i in $(seq 3000); do sleep 0.1; done"]);
    [stress, starts].map(|mut load| Service(load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()))
}

/// A part of Prometheus' API; `None` while it does not answer.
fn ask(prometheus: &str, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
    let request = ureq::Agent::new_with_config(config).post(format!("{prometheus}/api/v1/{path}"));
    let mut answer = request.send_form(parameters.iter().copied()).ok()?;
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
    assert_eq!(answer["status"], "success", "{path} {parameters:?}: {}", answer["error"]);
    Some(answer["data"].clone())
}

/// Whether a query's answer has a number.
fn has_data(answer: &Value) -> bool {
    let series = answer["result"].as_array().into_iter().flatten();
    let values = series.flat_map(|series| match series["values"].as_array() {
        Some(values) => values.iter().collect(),
        None => vec![&series["value"]],
    });
    let mut numbers = values.filter_map(|value| value[1].as_str()?.parse::<f64>().ok());
    numbers.any(f64::is_finite)
}

/// Asks until there is data.
fn wait_for(prometheus: &str, expr: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !ask(prometheus, "query", &[("query", expr)]).is_some_and(|answer| has_data(&answer)) {
        assert!(Instant::now() < deadline, "no answer to {expr}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn get(address: &str, accept: &str) -> (String, Vec<u8>) {
    let mut answer = ureq::get(format!("http://{address}/metrics")).header("Accept", accept).call().unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, answer.body_mut().read_to_vec().unwrap())
}

/// What a scraper may ask for it gets, and promtool finds nothing to complain about in the names.
fn formats(address: &str) {
    let (kind, text) = get(address, "text/plain");
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(&text).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    let (kind, text) = get(address, "application/openmetrics-text;version=1.0.0");
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0") && text.ends_with(b"# EOF\n"), "{kind}");
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let (kind, bytes) = get(address, protobuf);
    assert!(kind.starts_with("application/vnd.google.protobuf") && !bytes.is_empty(), "{kind}");
}

/// Every flame graph panel's question, as Grafana's data source would put it, is answered with stacks.
fn flame_graphs(address: &str) {
    let ask = |method: &str, question: &Value| -> Value {
        let url = format!("http://{address}/querier.v1.QuerierService/{method}");
        let request = ureq::post(url).header("Content-Type", "application/json");
        let mut answer = request.send(question.to_string()).unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let (start, end) = ((now - 300_000).to_string(), now.to_string());
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels().filter(|panel| panel.0["type"] == "flamegraph") {
            let target = &panel.0["targets"][0];
            let selector = text(&target["labelSelector"]).replace("${groupname:regex}", ".+");
            let question = serde_json::json!({
                "profileTypeID": target["profileTypeId"], "labelSelector": selector, "start": start, "end": end,
                "maxNodes": target["maxNodes"].to_string(),
            });
            let answer = ask("SelectMergeStacktraces", &question);
            let levels = answer["flamegraph"]["levels"].as_array().map_or(0, Vec::len);
            assert!(levels > 2, "{}, {}: {question}: {answer}", dashboard.file, panel.title());
        }
    }
}

/// See the module.
#[test]
#[ignore = "needs root"]
fn prometheus_answers_all_queries() {
    if !(root() && require("prometheus") && require("promtool") && require("stress-ng")) {
        return;
    }
    let directory = TempDir::new().unwrap();
    let (_serve, address) = serve(directory.path());
    let _load = load(directory.path());
    let (_classic, classic) = prometheus(directory.path(), "classic", &address, &[]);
    let flag = "--enable-feature=native-histograms";
    let (_native, native) = prometheus(directory.path(), "native", &address, &[flag]);
    wait_for(&classic, "cputrace_windows_total > 0");
    let since = Instant::now();
    formats(&address);
    wait_for(&classic, "cputrace_windows_total > 2");
    thread::sleep(OBSERVED.saturating_sub(since.elapsed()));
    let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let (start, end) = ((end - since.elapsed().as_secs_f64()).to_string(), end.to_string());
    let mut empty = Vec::new();
    let mut excused = BTreeSet::new();
    let mut count = 0;
    let mut expect = |whose: String, expr: &str, is_there: bool| {
        count += 1;
        match MAY_BE_EMPTY.iter().find(|(part, _)| expr.contains(part)) {
            Some((part, _)) => {
                excused.insert(*part);
            }
            None if is_there => {}
            None => empty.push(format!("{whose}: {expr}")),
        }
    };
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            for target in panel.0["targets"].as_array().unwrap() {
                let Some(expr) = target["expr"].as_str() else { continue };
                let expr = promql::expand(expr, &NOW);
                let answer = match target["instant"] == true {
                    true => ask(&classic, "query", &[("query", &expr), ("time", &end)]),
                    false => {
                        let range = [("query", &*expr), ("start", &start), ("end", &end), ("step", "1")];
                        ask(&classic, "query_range", &range)
                    }
                };
                expect(format!("{}, {}", dashboard.file, panel.title()), &expr, has_data(&answer.unwrap()));
            }
        }
        for (name, series, label) in dashboard.label_variables() {
            let series = promql::expand(&series, &NOW);
            let mut url =
                ureq::get(format!("{classic}/api/v1/label/{label}/values")).query("match[]", &series).call().unwrap();
            let answer: Value = serde_json::from_str(&url.body_mut().read_to_string().unwrap()).unwrap();
            let values = answer["data"].as_array().unwrap();
            expect(format!("{}, ${name}", dashboard.file), &series, !values.is_empty());
        }
    }
    // Rules as Prometheus itself evaluates them; an alert that does not fire has all that it is made of.
    let rules = ask_rules(&classic);
    for (name, expr) in crate::rules() {
        let rule = rules.iter().find(|rule| rule["name"] == name.as_str()).unwrap();
        assert_eq!(rule["health"], "ok", "{name}: {}", text(&rule["lastError"]));
        for selector in promql::selectors(&expr).unwrap() {
            let answer = ask(&classic, "query", &[("query", &selector.text)]).unwrap();
            // What is recorded of nothing is nothing.
            let expr = if selector.name == "groupname:cputrace_ipc:ratio_rate5m" {
                r#"event="cycles""#
            } else {
                &selector.text
            };
            expect(name.clone(), expr, has_data(&answer));
        }
    }
    assert!(empty.is_empty(), "{} of {count} queries have no data:\n{}", empty.len(), empty.join("\n"));
    let stale: Vec<_> = MAY_BE_EMPTY.iter().filter(|(part, _)| !excused.contains(part)).collect();
    assert!(stale.is_empty(), "nothing asks for these: {stale:?}");
    flame_graphs(&address);
    // Native histograms come as protobuf, and have no series of buckets.
    wait_for(&native, "histogram_quantile(0.99, rate(cputrace_runqueue_latency_seconds[60s]))");
    wait_for(&native, "histogram_quantile(0.5, sum(rate(cputrace_group_runqueue_latency_seconds[60s])))");
    let buckets = ask(&native, "query", &[("query", "cputrace_runqueue_latency_seconds_bucket")]).unwrap();
    assert!(!has_data(&buckets));
    println!("{count} queries");
}

fn ask_rules(prometheus: &str) -> Vec<Value> {
    let mut answer = ureq::get(format!("{prometheus}/api/v1/rules")).call().unwrap();
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    let groups = answer["data"]["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}
