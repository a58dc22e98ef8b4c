//! What `cputrace grafana export` writes: dashboards by the rules of Grafana's own linter and model, queries by Prometheus'
//! grammar and by our table of metrics, rules by promtool. [`live`] has Prometheus run them all against a real server.

#![expect(clippy::unwrap_used, reason = "a test")]

mod dashboard;
mod live;
mod promql;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cputrace::grafana::{Existing, ExportError};
use cputrace::grafana::{FILES, export};
use cputrace::metrics::{Kind, METRICS};
use dashboard::{Dashboard, PROMETHEUS, PYROSCOPE};
use serde_json::Value;
use support::require;
use support::skip_unless;

/// Metrics that Prometheus itself makes of each scrape.
const OF_PROMETHEUS: &[&str] = &["up", "scrape_duration_seconds"];

/// Metrics that are in no panel, and why not.
const IN_NO_PANEL: &[(&str, &str)] = &[];

/// The folder of the repository.
fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana")
}

/// The name of the table's metric that a series is of, by the suffixes that histograms have.
fn metric_of(series: &str) -> Option<&'static str> {
    let plain = METRICS.iter().find(|metric| metric.name == series && metric.kind != Kind::Histogram);
    let of_histogram = || {
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix))?;
        METRICS.iter().find(|metric| metric.name == name && metric.kind == Kind::Histogram)
    };
    plain.or_else(of_histogram).map(|metric| metric.name)
}

/// Expressions of rules and alerts, by their names.
fn rules() -> Vec<(String, String)> {
    let mut rules = Vec::new();
    for file in ["prometheus/rules.yaml", "prometheus/alerts.yaml"] {
        let text = FILES.iter().find(|known| known.path == file).unwrap().text;
        rules.extend(promql::rules(text));
    }
    rules
}

/// Every file of the folder is in the binary, but what is only for readers of the repository.
#[test]
fn all_files_are_embedded() {
    fn walk(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.strip_prefix(source()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&source(), &mut found);
    found.retain(|path| !path.starts_with("pictures/") && path != "README.md" && path != ".lint");
    let embedded: BTreeSet<_> = FILES.iter().map(|file| file.path.to_owned()).collect();
    assert_eq!(embedded, found);
}

/// What is exported is all there, again changes nothing, and what somebody has changed stays without `--force`.
#[test]
fn export_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("new/folder");
    export(&to, Existing::Keep).unwrap();
    for file in FILES {
        assert_eq!(fs::read_to_string(to.join(file.path)).unwrap(), file.text);
    }
    export(&to, Existing::Keep).unwrap();
    let changed = to.join("prometheus/rules.yaml");
    fs::write(&changed, "groups: []\n").unwrap();
    fs::remove_file(to.join("compose.yaml")).unwrap();
    let error = export(&to, Existing::Keep).unwrap_err();
    assert!(matches!(&error, ExportError::Differs { path } if *path == changed), "{error}");
    assert!(!to.join("compose.yaml").exists());
    assert_eq!(fs::read_to_string(&changed).unwrap(), "groups: []\n");
    export(&to, Existing::Overwrite).unwrap();
    assert!(to.join("compose.yaml").exists());
    assert_ne!(fs::read_to_string(&changed).unwrap(), "groups: []\n");
}

/// The command says in a sentence what it did, and what it could not do.
#[test]
fn export_by_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cputrace"))
            .current_dir(directory.path())
            .args(["grafana", "export"])
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["out"]), (true, format!("cputrace: wrote {} files into out\n", FILES.len())));
    fs::write(directory.path().join("out/compose.yaml"), "mine").unwrap();
    let differs =
        "cputrace: out/compose.yaml is there already and differs, so nothing was written; --force overwrites it\n";
    assert_eq!(run(&["out"]), (false, differs.to_owned()));
    assert!(run(&["out", "--force"]).0);
    fs::write(directory.path().join("file"), "").unwrap();
    let (done, said) = run(&["file"]);
    assert!(!done && said.starts_with("cputrace: file/") && said.lines().count() == 1, "{said}");
}

/// The rules of Grafana's dashboard-linter, and some more that provisioning needs.
#[test]
fn dashboards_are_clean() {
    let mut complaints = Vec::new();
    let dashboards = Dashboard::all();
    for dashboard in &dashboards {
        complaints.extend(dashboard.lint(&dashboards).into_iter().map(|text| format!("{}: {text}", dashboard.file)));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let uids: BTreeSet<_> = dashboards.iter().map(Dashboard::uid).collect();
    assert_eq!(uids.len(), 6);
}

/// What is asked for is in the table of metrics, with labels that they have; and what is in the table is in some panel.
#[test]
fn queries_and_metrics_fit() {
    let recorded: BTreeSet<String> =
        rules().into_iter().map(|(name, _)| name).filter(|name| name.contains(':')).collect();
    let mut complaints = Vec::new();
    let mut in_panels = BTreeSet::new();
    let mut check = |whose: &str, expr: &str, is_panel: bool| {
        for selector in promql::selectors(expr).unwrap_or_else(|error| panic!("{whose}: {expr}: {error}")) {
            let name = selector.name.clone();
            if OF_PROMETHEUS.contains(&&*name) || recorded.contains(&name) && !is_panel {
                continue;
            }
            let Some(metric) = metric_of(&name) else {
                complaints.push(format!("{whose}: there is no metric {name}"));
                continue;
            };
            if is_panel {
                in_panels.insert(metric);
            }
            let labels = METRICS.iter().find(|known| known.name == metric).unwrap().labels;
            for label in selector.labels.iter().filter(|label| !["job", "instance", "le"].contains(&&***label)) {
                if !labels.contains(&&**label) {
                    complaints.push(format!("{whose}: {name} has no label {label}"));
                }
            }
        }
    };
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            for expr in panel.expressions() {
                check(
                    &format!("{}, {}", dashboard.file, panel.title()),
                    &promql::expand(&expr, &dashboard::TYPICAL),
                    true,
                );
            }
        }
        for (name, metric, _) in dashboard.label_variables() {
            check(&format!("{}, ${name}", dashboard.file), &promql::expand(&metric, &dashboard::TYPICAL), false);
        }
    }
    for (name, expr) in rules() {
        check(&name, &expr, false);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let excused: BTreeSet<_> = IN_NO_PANEL.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    let missing: Vec<_> = all.difference(&in_panels).filter(|name| !excused.contains(*name)).collect();
    assert!(missing.is_empty(), "in no panel, and no reason in IN_NO_PANEL: {missing:?}");
    assert!(excused.is_subset(&all) && excused.is_disjoint(&in_panels));
}

/// Each alert says what is wrong, how that is meant, and what to do; and has a test of its own.
#[test]
fn alerts_are_explained_and_tested() {
    let alerts = fs::read_to_string(source().join("prometheus/alerts.yaml")).unwrap();
    let mut tests = String::new();
    for file in fs::read_dir(source().join("prometheus/tests")).unwrap() {
        tests += &fs::read_to_string(file.unwrap().path()).unwrap();
    }
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        for key in ["severity: ", "summary: ", "description: ", "runbook: "] {
            let text = alert.lines().find_map(|line| line.trim().strip_prefix(key));
            assert!(text.is_some_and(|text| !text.is_empty()), "{name} has no {key}");
        }
        assert!(tests.contains(&format!("alertname=\"{name}\", alertstate=\"firing\"")), "{name} has no test");
    }
    for (name, _) in rules().iter().filter(|(name, _)| name.contains(':')) {
        assert!(tests.contains(&**name), "{name} has no test");
    }
}

/// promtool on the configuration, the rules, and their unit tests.
#[test]
fn promtool_is_content() {
    if !require("promtool") {
        return;
    }
    let directory = source().join("prometheus");
    let run = |arguments: &[&str]| {
        let output = Command::new("promtool").current_dir(&directory).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
    };
    run(&["check", "config", "--lint=all", "--lint-fatal", "scrape.yaml"]);
    run(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", "alerts.yaml"]);
    let tests = fs::read_dir(directory.join("tests")).unwrap().map(|file| file.unwrap().path());
    let tests: Vec<_> = tests.map(|path| path.to_str().unwrap().to_owned()).collect();
    assert!(tests.len() >= 2);
    run(&["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect::<Vec<_>>());
}

/// Grafana's own model of a dashboard (its Foundation SDK) reads ours and loses nothing of it.
#[test]
fn grafana_knows_every_key() {
    let sdk = std::env::var_os("CPUTRACE_GRAFANA_SDK");
    if !skip_unless(sdk.is_some(), "CPUTRACE_GRAFANA_SDK does not say which Python has Grafana's SDK") {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grafana/round_trip.py");
    let dashboards = Dashboard::all();
    let files = dashboards.iter().map(|dashboard| source().join(&dashboard.file));
    let output = Command::new(sdk.unwrap()).arg(script).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), dashboards.len(), "{said}");
}

/// Flame graphs ask for profiles by the names that the server has.
#[test]
fn profile_types() {
    let mut seen = BTreeMap::<String, usize>::new();
    for dashboard in Dashboard::all() {
        for panel in dashboard.panels() {
            let is_flame_graph = panel.0["type"] == "flamegraph";
            assert_eq!(panel.0["datasource"]["type"], if is_flame_graph { PYROSCOPE } else { PROMETHEUS });
            if is_flame_graph {
                let target = &panel.0["targets"][0];
                assert_eq!(target["queryType"], "profile");
                *seen.entry(target["profileTypeId"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    assert!(seen.len() >= 3 && seen.keys().all(|kind| kind.split(':').count() == 5), "{seen:?}");
}

/// The text of a JSON value, empty where there is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
