//! A spike and a lock fight are reported, by the server itself and to its webhook.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cputrace::ebpf::Waits;
use cputrace::group::GroupOptions;
use cputrace::serve::{self, Caller, PushOptions, Settings, WebSettings};
use cputrace::session::{EndReason, Options, Stop};
use cputrace::store::Retention;
use serde_json::Value;

use crate::support::lab::{Lab, Running, root, signal};
use crate::support::require;
use crate::{alone, options};

/// Takes the bodies of what is sent to it.
fn receiver() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let taken = bodies.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            taken.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (url, bodies)
}

fn get(url: &str) -> Option<String> {
    ureq::get(url).call().ok()?.body_mut().read_to_string().ok()
}

/// The anomalies of a group so far.
fn anomalies(server: &str, group: &str) -> Vec<Value> {
    let all = get(&format!("{server}/api/anomalies")).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let all = all.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    all.into_iter().filter(|anomaly| anomaly["event"]["group"] == group).collect()
}

/// Waits until something is there.
fn wait_for<T>(what: &str, most: Duration, mut find: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < most, "{what}: not within {most:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A spike and a lock fight in a program that did nothing before are reported once each, within 15 seconds, with the function
/// that does it at the top, to the webhook too. The server watches that program alone: not every machine that runs tests can
/// name all of its code within a window of a second.
#[test]
#[ignore = "needs root"]
fn trouble_is_reported_once() {
    let lab = Lab::new();
    if !(root() && require("cc")) {
        return;
    }
    let _alone = alone();
    let program = lab.path("trouble");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/trouble.c");
    let built = Command::new("cc").args(["-O2", "-g", "-pthread", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success());
    let trouble = Running::start(Command::new(&program).arg("6"));
    let (hook, told) = receiver();
    let session = Options {
        waits: Some(Waits { min: Duration::from_millis(10), samples_shorter: false, wakers: false }),
        pmu: Vec::new(),
        event: None,
        stack_counters: Vec::new(),
        max_overhead: Some(0.5),
        ..options(trouble.0.id())
    };
    let settings = Settings {
        web: WebSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            config_file: None,
            allow_anonymous: false,
            connections: 100,
        },
        data_dir: lab.path("store"),
        retention: Retention::default(),
        groups: GroupOptions::default(),
        window: Duration::from_secs(1),
        webhook: Some(hook),
        push: PushOptions::default(),
        on_demand: session.clone(),
        session,
    };
    let (sender, stop) = mpsc::channel();
    let (started, url) = mpsc::channel();
    let (_, reload) = mpsc::channel();
    let server = thread::spawn(move || {
        let mut on_start = |url: &str| started.send(url.to_owned()).unwrap();
        let caller = Caller { on_start: &mut on_start, say: Arc::new(|line| eprintln!("{line}")), stop, reload };
        serve::run(&settings, None, caller).unwrap()
    });
    let url = url.recv().unwrap();
    let windows = |text: String| {
        let line = text.lines().find(|line| line.starts_with("cputrace_windows_total"))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok().filter(|&windows| windows >= 72.0)
    };
    wait_for("72 windows", Duration::from_secs(180), || get(&format!("{url}/metrics")).and_then(windows));
    assert_eq!(anomalies(&url, "trouble"), Vec::<Value>::new());
    for (number, (name, kind, function)) in
        [("USR1", "cpu", "burn"), ("USR2", "off-cpu", "fight")].into_iter().enumerate()
    {
        signal(&trouble.0, name);
        let (found, after) =
            wait_for(kind, Duration::from_secs(15), || anomalies(&url, "trouble").get(number).cloned());
        eprintln!("{kind}: after {after:?}: {found:#}");
        assert_eq!(found["event"]["signal"], kind);
        assert_eq!(found["event"]["diff"]["functions"][0]["name"], function, "{found:#}");
        let id = &found["id"];
        let over = || {
            let one: Value = serde_json::from_str(&get(&format!("{url}/api/anomalies/{id}"))?).ok()?;
            Some(one).filter(|one| one["event"]["end"].is_number())
        };
        let (over, _) = wait_for("the end", Duration::from_secs(30), over);
        assert!(over["event"]["end"].as_f64() > over["event"]["start"].as_f64());
        assert!(get(&format!("{url}{}", over["event"]["diff"]["url"].as_str().unwrap())).unwrap().contains(function));
    }
    assert_eq!(anomalies(&url, "trouble").len(), 2);
    let of_trouble = |message: &&Value| message["commonLabels"]["groupname"] == "trouble";
    let told = wait_for("the webhook", Duration::from_secs(20), || {
        let told: Vec<Value> = told.lock().unwrap().iter().filter(of_trouble).cloned().collect();
        (told.len() >= 4).then_some(told)
    });
    let statuses: Vec<_> = told.0.iter().map(|message| message["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["firing", "resolved", "firing", "resolved"]);
    assert_eq!(told.0[0]["alerts"][0]["annotations"]["function"], "burn");
    let metrics = get(&format!("{url}/metrics")).unwrap();
    for line in [
        r#"cputrace_anomalies_total{groupname="trouble",signal="cpu"} 1"#,
        r#"cputrace_anomalies_total{groupname="trouble",signal="off-cpu"} 1"#,
        r#"cputrace_webhook_messages_total{result="failed"} 0"#,
        "cputrace_overhead_limit_ratio 0.5",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
    }
    assert!(metrics.contains(r#"cputrace_anomaly_score{groupname="trouble",signal="cpu"}"#));
    sender.send(Stop).unwrap();
    assert_eq!(server.join().unwrap(), EndReason::Stopped);
}
