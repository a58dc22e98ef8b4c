//! cputrace as Grafana's "Pyroscope" data source: by the client that Grafana uses (in Go, its source lies in
//! `pyroscope_client`), and by plain requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::SystemTime;

use cputrace::group::{Groups, Labels};
use cputrace::model::Recording;
use cputrace::serve::http::Limits;
use cputrace::serve::{PushOptions, PushTo, Settings, State};
use cputrace::store::{Digest, Store, unix_ms};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{recording, require};
use crate::{Answer, Server, agent, answer, settings};

const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
const SAMPLES: &str = "process_cpu:samples:count:cpu:nanoseconds";
const OFF_CPU: &str = "off_cpu:off_cpu:nanoseconds::";

/// Builds the Go program.
fn build_client(directory: &TempDir) -> PathBuf {
    let program = directory.path().join("client");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/pyroscope_client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(source);
    assert!(build.env("GOFLAGS", "-mod=readonly").status().unwrap().success());
    program
}

/// Grafana's client, in a process that stays for a test: its connections do, too.
struct Client {
    process: Child,
    calls: ChildStdin,
    answers: BufReader<ChildStdout>,
    _directory: TempDir,
}

impl Client {
    /// Builds and starts it.
    fn start(server: &Server) -> Self {
        let directory = TempDir::new().unwrap();
        let mut client = Command::new(build_client(&directory));
        client.arg(server.url("")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = client.spawn().unwrap();
        let (calls, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, calls, answers, _directory: directory }
    }

    fn send(&mut self, call: &Value) -> Value {
        writeln!(self.calls, "{call}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{call}: {error}: {line}"))
    }

    /// What is answered, which has to be the same however it is asked.
    fn call(&mut self, method: &str, request: &Value) -> Value {
        let mut answers = Vec::new();
        for (codec, prefix) in [("binary", ""), ("json", ""), ("binary", "/pyroscope"), ("json", "/pyroscope/")] {
            let prefix = prefix.trim_end_matches('/');
            answers.push(self.send(&json!({ "codec": codec, "prefix": prefix, "method": method, "request": request })));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{method} {request}: {answers:?}");
        answers.remove(0)
    }

    /// The answer, which is no error.
    fn ask(&mut self, method: &str, request: &Value) -> Value {
        let mut answer = self.call(method, request);
        assert!(answer["error"].is_null(), "{method} {request}: {answer}");
        answer["answer"].take()
    }

    /// The sentence of an error with this code.
    fn refused(&mut self, method: &str, request: &Value, code: &str) -> String {
        let answer = self.call(method, request);
        assert_eq!(answer["code"], code, "{method} {request}: {answer}");
        answer["error"].as_str().unwrap().to_owned()
    }

    /// A flame graph's stacks, as Grafana finds them.
    fn folded(&mut self, request: &Value) -> Vec<String> {
        let call = json!({ "method": "SelectMergeStacktraces", "request": request, "as": "folded" });
        let answer = self.send(&call);
        let lines = answer["answer"].as_array().unwrap_or_else(|| panic!("{answer}"));
        lines.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn names(answer: &Value) -> Vec<&str> {
    let names = answer["names"].as_array().map_or(&[][..], |names| names);
    names.iter().map(|name| name.as_str().unwrap()).collect()
}

/// (labels, values, times since `start`) of each series.
fn series(answer: &Value, start: i64) -> Vec<(String, Vec<f64>, Vec<i64>)> {
    let all = answer["series"].as_array().map_or(&[][..], |series| series);
    let series = all.iter().map(|series| {
        let labels = series["labels"].as_array().map_or(&[][..], |labels| labels).iter();
        let labels =
            labels.map(|label| format!("{}={}", label["name"].as_str().unwrap(), label["value"].as_str().unwrap()));
        let points = series["points"].as_array().unwrap();
        let time = |point: &Value| point["timestamp"].as_str().unwrap().parse::<i64>().unwrap() - start;
        let values = points.iter().map(|point| point["value"].as_f64().unwrap()).collect();
        (labels.collect::<Vec<_>>().join(","), values, points.iter().map(time).collect())
    });
    series.collect()
}

/// Every method, by the official client: in both codecs, at both places, with data, without, and with what is wrong.
#[test]
fn grafanas_client_calls_every_method() {
    if !require("go") {
        return;
    }
    let server = Server::start(6);
    let mut client = Client::start(&server);
    let start = unix_ms(server.start);
    let end = start + 60_000;
    let span = json!({ "start": start, "end": end });
    let with = |more: Value| {
        let mut request = span.clone();
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };

    // Profile types: also of all time, and of none.
    let types = client.ask("ProfileTypes", &span);
    let ids: Vec<_> =
        types["profileTypes"].as_array().unwrap().iter().map(|each| each["ID"].as_str().unwrap()).collect();
    assert_eq!(ids, [CPU, SAMPLES]);
    let expected = json!({ "ID": CPU, "name": "process_cpu", "sampleType": "cpu", "sampleUnit": "nanoseconds",
        "periodType": "cpu", "periodUnit": "nanoseconds" });
    assert_eq!(types["profileTypes"][0], expected);
    assert_eq!(client.ask("ProfileTypes", &json!({})), types);
    // What "Save & test" asks.
    assert_eq!(client.ask("ProfileTypes", &json!({ "start": 1000, "end": 4000 })), json!({}));

    // Labels.
    let all = client.ask("LabelNames", &span);
    let shown: Vec<_> = names(&all).into_iter().filter(|name| !name.starts_with("__")).collect();
    assert_eq!(shown, ["comm", "hostname", "pid", "service_name", "threadname", "unit"]);
    assert!(names(&all).contains(&"__profile_type__"));
    let mut values = |name: &str, matchers: &[&str]| {
        let answer = client.ask("LabelValues", &with(json!({ "name": name, "matchers": matchers })));
        names(&answer).join(" ")
    };
    assert_eq!(values("service_name", &[]), "a b");
    assert_eq!(values("service_name", &[""]), "a b");
    assert_eq!(values("service_name", &["{}"]), "a b");
    assert_eq!(values("service_name", &["{unit=\"b.service\"}"]), "b");
    assert_eq!(values("service_name", &["{unit=\"b.service\"}", "{comm=~\"a|x\"}"]), "a b");
    assert_eq!(values("comm", &["process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name!=\"a\",pod=\"\"}"]), "b");
    assert_eq!(values("unit", &["off_cpu:off_cpu:nanoseconds::{}"]), "");
    assert_eq!(values("pid", &["{service_name=\"b\"}"]), "2");
    assert_eq!(values("__profile_type__", &["{service_name=\"b\"}"]), format!("{CPU} {SAMPLES}"));
    assert_eq!(values("nonsense", &[]), "");
    let sets = client.ask("Series", &with(json!({ "labelNames": ["service_name", "__profile_type__"] })));
    assert_eq!(sets["labelsSet"].as_array().unwrap().len(), 4);
    let pair = |name: &str, value: &str| json!({ "name": name, "value": value });
    assert_eq!(sets["labelsSet"][0]["labels"], json!([pair("service_name", "a"), pair("__profile_type__", CPU)]));
    let empty = json!({ "start": 1000, "end": 4000, "name": "comm" });
    for method in ["LabelNames", "LabelValues", "Series"] {
        let mut request = empty.clone();
        if method != "LabelValues" {
            request.as_object_mut().unwrap().remove("name");
        }
        assert_eq!(client.ask(method, &request), json!({}), "{method}");
    }

    // Series: a point is what there was up to it. Two threads in each window of ten seconds.
    let mut select = |more: Value| {
        let mut request = with(json!({ "profileTypeID": CPU, "labelSelector": "{}", "step": 10.0 }));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        series(&client.ask("SelectSeries", &request), start)
    };
    let times: Vec<i64> = (1..=6).map(|point| point * 10_000).collect();
    assert_eq!(select(json!({})), [(String::new(), vec![80.0; 6], times.clone())]);
    let by_group = [
        ("service_name=a".to_owned(), vec![60.0; 6], times.clone()),
        ("service_name=b".to_owned(), vec![20.0; 6], times.clone()),
    ];
    assert_eq!(select(json!({ "groupBy": ["service_name"] })), by_group);
    assert_eq!(select(json!({ "groupBy": ["service_name"], "limit": "1" })), by_group[..1]);
    assert_eq!(select(json!({ "groupBy": ["service_name"], "labelSelector": "{unit=~\"b.*\"}" })), by_group[1..]);
    assert_eq!(select(json!({ "groupBy": ["comm", "pid"] }))[1].0, "comm=b,pid=2");
    assert_eq!(select(json!({ "profileTypeID": SAMPLES }))[0].1, vec![4.0; 6]);
    assert_eq!(
        select(json!({ "step": 15.0 })),
        [(String::new(), vec![120.0; 4], vec![15_000, 30_000, 45_000, 60_000])]
    );
    assert_eq!(
        select(json!({ "step": 15.0, "aggregation": "TIME_SERIES_AGGREGATION_TYPE_AVERAGE" }))[0].1,
        vec![80.0; 4]
    );
    let below = |functions: &[&str]| {
        let site: Vec<_> = functions.iter().map(|name| json!({ "name": name })).collect();
        json!({ "callSite": site })
    };
    assert_eq!(select(json!({ "stackTraceSelector": below(&["main", "work_b"]) }))[0].1, vec![20.0; 6]);
    assert_eq!(select(json!({ "stackTraceSelector": below(&["work_b"]) })), []);
    assert_eq!(select(json!({ "start": 1000, "end": 4000, "step": 1.0 })), []);
    assert_eq!(select(json!({ "profileTypeID": OFF_CPU })), []);

    // Stacks.
    let of = |selector: &str| with(json!({ "profileTypeID": SAMPLES, "labelSelector": selector }));
    assert_eq!(client.folded(&of("{}")), ["main;work_a 12", "main;work_b 12"]);
    assert_eq!(client.folded(&of("{service_name=\"b\"}")), ["main;work_b 12"]);
    assert_eq!(client.folded(&of("{pid=\"1\"}")), ["main;work_a 12"]);
    let mut request = of("{}");
    request["stackTraceSelector"] = below(&["total", "main", "work_a"]);
    assert_eq!(client.folded(&request), ["main;work_a 12"]);
    request = of("{}");
    request["maxNodes"] = json!(1);
    assert_eq!(client.folded(&request), ["other 24"]);
    let graph = client.ask("SelectMergeStacktraces", &with(json!({ "profileTypeID": CPU, "labelSelector": "{}" })));
    let expected = json!({
        "names": ["total", "main", "work_a", "work_b"],
        "levels": [{ "values": ["0", "480", "0", "0"] }, { "values": ["0", "480", "0", "1"] },
            { "values": ["0", "360", "360", "2", "0", "120", "120", "3"] }],
        "total": "480", "maxSelf": "360",
    });
    assert_eq!(graph["flamegraph"], expected);
    for request in [of("{service_name=\"nobody\"}"), json!({ "start": 1000, "end": 4000, "profileTypeID": CPU })] {
        assert_eq!(client.ask("SelectMergeStacktraces", &request), json!({}));
    }
    let mut left = of("{}");
    left["end"] = json!(start + 20_000);
    let diff = client.ask("Diff", &json!({ "left": left, "right": of("{service_name=\"a\"}") }));
    assert_eq!((&diff["flamegraph"]["leftTicks"], &diff["flamegraph"]["rightTicks"]), (&json!("8"), &json!("12")));
    let leaves = json!(["0", "4", "4", "0", "12", "12", "2", "0", "4", "4", "0", "0", "0", "3"]);
    assert_eq!(diff["flamegraph"]["levels"][2]["values"], leaves);

    // pprof: Go's own reads it.
    let file = tempfile::NamedTempFile::with_suffix(".pb.gz").unwrap();
    for call in [
        json!({ "method": "SelectMergeProfile", "as": file.path(), "request": with(json!({ "profileTypeID": CPU, "labelSelector": "{}" })) }),
    ] {
        assert!(client.send(&call)["error"].is_null());
        let pprof = Command::new("go").args(["tool", "pprof", "-top"]).arg(file.path()).output().unwrap();
        let top = String::from_utf8(pprof.stdout).unwrap();
        for line in ["Type: cpu", "Total samples = 480ns", "360ns 75.00% 75.00%      360ns 75.00%  work_a"] {
            assert!(top.contains(line), "{line} in {top}{}", String::from_utf8_lossy(&pprof.stderr));
        }
    }
    let mut request = of("{}");
    request["format"] = json!("PROFILE_FORMAT_PPROF");
    let profile = client.ask("SelectMergeStacktraces", &request);
    assert_eq!(profile["pprof"]["profile"]["sample"].as_array().unwrap().len(), 2);

    // What the store has.
    let stats = client.ask("GetProfileStats", &json!({}));
    let expected =
        json!({ "dataIngested": true, "oldestProfileTime": start.to_string(), "newestProfileTime": end.to_string() });
    assert_eq!(stats, expected);
    let cost = client.ask("AnalyzeQuery", &with(json!({ "query": "{}" })));
    assert_eq!(cost["queryScopes"][0]["blockCount"], "6");

    // What is wrong, and what there is not.
    let typed = |more: Value| {
        let mut request = with(json!({ "profileTypeID": CPU, "labelSelector": "{}", "step": 10.0 }));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    for (method, request, code, word) in [
        ("SelectSeries", typed(json!({ "profileTypeID": "x" })), "invalid_argument", "no profile type \"x\""),
        ("SelectSeries", typed(json!({ "labelSelector": "{a=" })), "invalid_argument", "is no selector"),
        ("SelectSeries", typed(json!({ "labelSelector": "{a=~\"(\"}" })), "invalid_argument", "regular expression"),
        ("SelectSeries", typed(json!({ "step": 0.0 })), "invalid_argument", "a step of 0 s"),
        ("SelectSeries", typed(json!({ "step": 0.001 })), "invalid_argument", "give a longer step"),
        ("SelectSeries", typed(json!({ "end": 5 })), "invalid_argument", "ends before it begins"),
        ("SelectSeries", json!({ "profileTypeID": CPU, "step": 1.0 }), "invalid_argument", "no range of time"),
        ("LabelValues", with(json!({})), "invalid_argument", "no name of a label"),
        ("Diff", json!({}), "invalid_argument", "no left side"),
        (
            "Diff",
            json!({ "left": of("{}"), "right": with(json!({ "profileTypeID": CPU })) }),
            "invalid_argument",
            "one profile type",
        ),
    ] {
        assert!(client.refused(method, &request, code).contains(word), "{method} {request}");
    }
    let stacks = |more: Value| {
        let mut request = of("{}");
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    for (request, code) in [
        (stacks(json!({ "maxNodes": (1 << 20) + 1 })), "invalid_argument"),
        (stacks(json!({ "format": "PROFILE_FORMAT_DOT" })), "unimplemented"),
        (stacks(json!({ "spanSelector": ["x"] })), "unimplemented"),
        (stacks(json!({ "stackTraceSelector": { "goPgo": {} } })), "unimplemented"),
    ] {
        client.refused("SelectMergeStacktraces", &request, code);
    }
    let sentence = client.refused("SelectHeatmap", &json!({}), "unimplemented");
    assert!(sentence.contains("SelectMergeStacktraces"), "{sentence}");
    client.refused("SelectMergeSpanProfile", &json!({}), "unimplemented");
}

/// The flame graph of each type has the stacks of the folded export of the same time.
#[test]
fn flame_graphs_are_the_folded_export() {
    if !require("go") {
        return;
    }
    let (mut digest, recording) = (Digest::new(), recording());
    let labels = |group: &str| Labels { group: group.to_owned(), ..Labels::default() };
    digest.add_profile(&recording.profile, &[labels("app"), labels("other")]);
    let server = Server::with(&[digest.clone(), digest]);
    let mut client = Client::start(&server);
    let start = unix_ms(server.start);
    for (id, source, scale) in
        [(SAMPLES, "on-cpu", 1), (OFF_CPU, "off-cpu", 1000), ("runqueue:delay:nanoseconds::", "run-queue", 1000)]
    {
        let request = json!({ "profileTypeID": id, "labelSelector": "{}", "start": start, "end": start + 20_000 });
        let found = client.folded(&request);
        let export =
            server.get(&format!("/api/profile?format=folded&source={source}&from={start}&to={}", start + 20_000));
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for line in String::from_utf8(export.body).unwrap().lines() {
            let (stack, weight) = line.rsplit_once(' ').unwrap();
            // Its stacks begin with the process, and it marks the kernel's functions.
            let stack =
                stack.split_once(';').map_or("", |(_, stack)| stack).replace("_[k]", "").replace("[no stack]", "");
            *expected.entry(stack).or_default() += weight.parse::<u64>().unwrap() * scale;
        }
        let expected: Vec<_> = expected.into_iter().map(|(stack, weight)| format!("{stack} {weight}")).collect();
        assert!(!expected.is_empty(), "{source}");
        let mut found: Vec<_> = found.iter().map(|line| line.replace("; with", ": with")).collect();
        found.sort();
        let mut expected = expected.iter().map(|line| line.replace("; with", ": with")).collect::<Vec<_>>();
        expected.sort();
        assert_eq!(found, expected, "{source}");
    }
}

/// Windows are handed on to a Pyroscope and to a receiver of OpenTelemetry's profiles, both read with their makers' messages;
/// what is not taken at first is sent again.
#[test]
fn windows_are_handed_on() {
    if !require("go") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let mut receiver = Command::new(build_client(&directory));
    let mut receiver = receiver.args(["receive", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let url = lines.next().unwrap()["address"].as_str().unwrap().to_owned();
    // One asks for a user, the other for headers.
    let headers = [("x-scope-orgid", "team"), ("authorization", "Bearer token")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let with_user = url.replace("http://", "http://ann:s%40cret@");
    let push = PushOptions {
        pyroscope: Some(PushTo { url: format!("{with_user}/"), headers: Vec::new() }),
        otlp: Some(PushTo { url, headers }),
    };
    // What is old would not be sent twice.
    let window = Recording { start: SystemTime::now(), ..recording() };
    let settings = Settings { push, ..settings(directory.path(), Limits::default()) };
    let groups = Groups::new(&settings.groups).unwrap();
    let state = State::new(&settings, Store::open(directory.path()).unwrap(), groups, Box::new(|_| {}));
    state.take_up(&settings).unwrap();
    state.add(&window);
    let (mut refused, mut done) = (0, 0);
    let mut found: Vec<Value> = Vec::new();
    while done < 2 {
        let line = lines.next().unwrap();
        refused += u32::from(line["refused"] == true);
        done += u32::from(line["done"] == true);
        if line["from"].is_string() {
            found.push(line);
        }
    }
    state.stop();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    assert_eq!(refused, 2);
    let from = |side: &'static str| found.iter().filter(move |profile| profile["from"] == side);
    let sum = |side: &'static str, types: &str| {
        let all = from(side).filter(|profile| profile["types"][0] == types);
        let stacks = all.flat_map(|profile| profile["stacks"].as_array().unwrap());
        let weight = |stack: &Value| stack.as_str().unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        stacks.map(weight).sum::<u64>()
    };
    // Eight samples of 10,101,010 ns; waits of 110 ms, and of 5 ms in a run queue.
    assert_eq!((sum("pyroscope", "cpu/nanoseconds"), sum("otlp", "samples/count")), (8 * 10_101_010, 8));
    for side in ["pyroscope", "otlp"] {
        // Of waits, each is there once more by who ended it, where that is known.
        assert!([110_000_000, 170_000_000, 220_000_000].contains(&sum(side, "off_cpu/nanoseconds")), "{found:?}");
        assert_eq!(sum(side, "delay/nanoseconds"), 5_000_000, "{found:?}");
    }
    let period = json!(["samples/count", "cpu/nanoseconds:10101010"]);
    assert!(from("otlp").any(|profile| profile["types"] == period && profile["labels"]["service.name"].is_string()));
    let stack = json!("main;main;parse<T>; with a semicolon;vfs_write 20202020");
    assert!(from("pyroscope").all(|profile| profile["labels"]["service_name"].is_string()));
    assert!(
        from("pyroscope").any(|profile| {
            profile["labels"]["__name__"] == "process_cpu" && profile["stacks"].as_array().unwrap().contains(&stack)
        }),
        "{found:?}"
    );
}

fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (Answer, Option<String>) {
    let request =
        headers.iter().fold(agent().post(server.url(path)), |request, (name, value)| request.header(*name, *value));
    let response = request.send(body).unwrap();
    let encoding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
    (answer(response), encoding)
}

/// Plain requests, as the Drilldown app and curl send them: JSON in several forms, packed and not, wrong ones.
#[test]
fn plain_requests() {
    let server = Server::start(2);
    let start = unix_ms(server.start);
    let json_type = ("content-type", "application/json; charset=utf-8");
    let path = "/pyroscope/querier.v1.QuerierService/Series";
    let (plain, _) = post(&server, path, &[json_type], br#"{"labelNames":["service_name"],"matchers":[]}"#);
    assert_eq!((plain.status, &*plain.kind), (200, "application/json"));
    let expected = json!({ "labelsSet": [{ "labels": [{ "name": "service_name", "value": "a" }] },
        { "labels": [{ "name": "service_name", "value": "b" }] }] });
    assert_eq!(plain.json(), expected);
    assert_eq!(post(&server, "/querier.v1.QuerierService/Series", &[json_type], b"").0.status, 200);
    let (settings, _) = post(&server, "/settings.v1.SettingsService/Get", &[json_type], b"{}");
    assert_eq!((settings.status, settings.json()), (200, json!({})));

    // Packed, both ways.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let names = format!(r#"{{"profileTypeID":"{CPU}","start":{start},"end":"{}","step":0.01}}"#, start + 20_000);
    gzip.write_all(names.as_bytes()).unwrap();
    let packed = gzip.finish().unwrap();
    let headers = [json_type, ("content-encoding", "gzip"), ("accept-encoding", "br, gzip")];
    let (response, encoding) = post(&server, "/querier.v1.QuerierService/SelectSeries", &headers, &packed);
    assert_eq!((response.status, encoding.as_deref()), (200, Some("gzip")));
    let mut text = String::new();
    // The client unpacks it, where it can.
    if response.body.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&*response.body).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(response.body).unwrap();
    }
    assert!(text.contains(r#""points""#));

    // What is wrong, in Connect's form.
    let series = "/querier.v1.QuerierService/SelectSeries";
    let refused = |path: &str, headers: &[(&str, &str)], body: &[u8], status: u16, code: &str| {
        let (answer, _) = post(&server, path, headers, body);
        assert_eq!((answer.status, &*answer.kind), (status, "application/json"), "{path}");
        assert_eq!(answer.json()["code"], code, "{path}");
        answer.json()["message"].as_str().unwrap().to_owned()
    };
    assert!(refused(series, &[json_type], b"{", 400, "invalid_argument").contains("no such message"));
    assert!(refused(series, &[json_type], b"[]", 400, "invalid_argument").contains("a JSON object is expected"));
    refused(series, &[("content-type", "application/proto")], &[0xff; 9], 400, "invalid_argument");
    refused(series, &[("content-type", "application/grpc")], b"", 415, "unknown");
    refused(series, &[json_type, ("content-encoding", "br")], b"{}", 501, "unimplemented");
    refused(series, &[json_type, ("content-encoding", "gzip")], b"{}", 400, "invalid_argument");
    refused(series, &[json_type], &vec![b' '; (1 << 20) + 1], 429, "resource_exhausted");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 4 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    refused(series, &[json_type, ("content-encoding", "gzip")], &bomb, 429, "resource_exhausted");
    refused("/querier.v1.QuerierService/Nope", &[json_type], b"{}", 501, "unimplemented");
    refused("/vcs.v1.VCSService/GithubApp", &[json_type], b"{}", 501, "unimplemented");
    assert_eq!(server.get(series).status, 405);
}

/// Flame graphs as the Drilldown app draws them.
#[test]
fn rendered_graphs() {
    let server = Server::start(6);
    let start = unix_ms(server.start);
    let end = start + 60_000;
    let query = |selector: &str| format!("{CPU}{selector}").replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
    let all = query("{}");
    for prefix in ["", "/pyroscope"] {
        let page = server
            .get(&format!("{prefix}/pyroscope/render?query={all}&from={start}&until={end}&format=json&groupBy=comm"));
        assert_eq!(page.status, 200);
        let page = page.json();
        assert_eq!(
            page["flamebearer"]["levels"],
            json!([[0, 480, 0, 0], [0, 480, 0, 1], [0, 360, 360, 2, 0, 120, 120, 3]])
        );
        assert_eq!((&page["flamebearer"]["numTicks"], &page["version"]), (&json!(480), &json!(1)));
        assert_eq!(
            page["metadata"],
            json!({ "format": "single", "spyName": "cputrace", "sampleRate": 1_000_000_000, "units": "samples", "name": "cpu" })
        );
        assert_eq!(page["timeline"]["durationDelta"], 15);
        assert_eq!(page["groups"].as_object().unwrap().len(), 2);
    }
    let b = query("{service_name=\"b\"}");
    let page = server.get(&format!(
        "/pyroscope/render-diff?leftQuery={all}&leftFrom={start}&leftUntil={end}&rightQuery={b}&rightFrom=now-1h&rightUntil=now"
    ));
    let page = page.json();
    assert_eq!(
        (&page["leftTicks"], &page["rightTicks"], &page["metadata"]["format"]),
        (&json!(480), &json!(120), &json!("double"))
    );
    let nothing = server.get(&format!("/pyroscope/render?query={all}&from=1000&until=2000")).json();
    assert_eq!(nothing["flamebearer"]["levels"], json!([]));
    for (path, word) in [
        ("/pyroscope/render".to_owned(), "no \"query\""),
        ("/pyroscope/render?query=%7B%7D".to_owned(), "no profile type"),
        (format!("/pyroscope/render?query={all}&from=x"), "\"x\" is no time"),
        (format!("/pyroscope/render?query={all}&from=now-1h&max-nodes=x"), "no number"),
        (format!("/pyroscope/render-diff?leftQuery={all}"), "rightQuery"),
    ] {
        let answer = server.get(&path);
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{path}: {}", answer.json());
    }
    let dot = server.get(&format!("/pyroscope/render?query={all}&from={start}&until={end}&format=dot"));
    assert_eq!((dot.status, &dot.json()["code"]), (501, &json!("unimplemented")));
}
