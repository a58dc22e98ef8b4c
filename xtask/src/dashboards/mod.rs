//! Grafana's dashboards, from tables of panels: `cargo xtask dashboards` writes `grafana/dashboards/*.json`.
//!
//! [`panel`] knows Grafana's JSON; each of the other files is one dashboard. The classic JSON model is what provisioning,
//! import and Grafana's site all take; data sources are variables, for `__inputs` works with import alone.

mod agent;
mod flame_graphs;
mod group;
mod overview;
mod panel;
mod pmu;
mod scheduler;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use panel::Panel;

use crate::system::root;

/// The version of Grafana's classic model that the JSON is of.
const SCHEMA_VERSION: u64 = 42;

/// Panels side by side fill so many columns.
const COLUMNS: u64 = 24;

/// A dashboard.
struct Dashboard {
    /// Its uid behind `cputrace-`, and its file's name.
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// Variables behind those that all have.
    variables: Vec<Variable>,
    rows: Vec<Row>,
}

/// Panels below a heading.
struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

fn row(title: &'static str, panels: impl IntoIterator<Item = Panel>) -> Row {
    Row { title, panels: panels.into_iter().collect() }
}

/// A variable at the top of a dashboard.
enum Variable {
    /// A data source of a type.
    DataSource { name: &'static str, label: &'static str, kind: &'static str },
    /// Values of a label.
    Label { name: &'static str, label: &'static str, query: &'static str },
}

impl Variable {
    /// Groups of the chosen hosts.
    const GROUP: Self = Self::Label {
        name: "groupname",
        label: "Group",
        query: r#"label_values(cputrace_group_processes{job=~"$job", instance=~"$instance"}, groupname)"#,
    };
    /// Where profiles are.
    const PYROSCOPE: Self = Self::DataSource {
        name: "pyroscope_datasource",
        label: "Pyroscope data source",
        kind: "grafana-pyroscope-datasource",
    };

    /// What all dashboards have.
    fn common() -> [Self; 3] {
        [
            Self::DataSource { name: "prometheus_datasource", label: "Prometheus data source", kind: "prometheus" },
            Self::Label { name: "job", label: "Job", query: "label_values(cputrace_build_info, job)" },
            Self::Label {
                name: "instance",
                label: "Instance",
                query: r#"label_values(cputrace_build_info{job=~"$job"}, instance)"#,
            },
        ]
    }

    fn json(&self) -> Value {
        match self {
            Self::DataSource { name, label, kind } => json!({
                "name": name, "label": label, "type": "datasource", "query": kind,
                "current": {"text": "default", "value": "default"},
                "hide": 0, "includeAll": false, "multi": false, "options": [], "refresh": 1, "regex": "",
                "skipUrlSync": false,
            }),
            Self::Label { name, label, query } => json!({
                "name": name, "label": label, "type": "query", "query": query, "definition": query,
                "datasource": panel::prometheus(),
                "current": {"text": "All", "value": "$__all"},
                "allValue": ".+", "hide": 0, "includeAll": true, "multi": true, "options": [],
                // When the time range changes.
                "refresh": 2,
                "regex": "", "skipUrlSync": false,
                // By name, upper and lower case alike.
                "sort": 5,
            }),
        }
    }
}

impl Dashboard {
    fn path(&self) -> PathBuf {
        root().join("grafana/dashboards").join(format!("{}.json", self.name))
    }

    fn json(&self) -> Value {
        let Self { name, title, description, variables, rows } = self;
        let common = Variable::common();
        let variables: Vec<_> = common.iter().chain(variables).map(Variable::json).collect();
        json!({
            "uid": format!("cputrace-{name}"),
            "title": format!("cputrace / {title}"),
            "description": description,
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "tags": ["cputrace"],
            "timezone": "browser",
            "editable": false,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "refresh": "30s",
            "time": {"from": "now-30m", "to": "now"},
            "timepicker": {},
            "annotations": {"list": []},
            "links": [{
                "title": "cputrace", "type": "dashboards", "tags": ["cputrace"], "icon": "dashboard", "tooltip": "",
                "asDropdown": false, "includeVars": true, "keepTime": true, "targetBlank": false, "url": "",
            }],
            "templating": {"list": variables},
            "panels": place(rows),
        })
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(&self.json())? + "\n")
    }
}

/// Panels from left to right, each row below a heading.
fn place(rows: &[Row]) -> Vec<Value> {
    let mut panels = Vec::new();
    let mut y = 0;
    for Row { title, panels: in_row } in rows {
        let id = panels.len() + 1;
        panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in in_row {
            if x + panel.width > COLUMNS {
                y += height;
                (x, height) = (0, 0);
            }
            panels.push(panel.json(panels.len() + 1, x, y));
            x += panel.width;
            height = height.max(panel.height);
        }
        y += height;
    }
    panels
}

/// All of them, in the order in which they are read.
fn all() -> [Dashboard; 6] {
    [
        overview::dashboard(),
        group::dashboard(),
        scheduler::dashboard(),
        pmu::dashboard(),
        flame_graphs::dashboard(),
        agent::dashboard(),
    ]
}

pub(crate) fn run() -> anyhow::Result<()> {
    for dashboard in all() {
        write(&dashboard.path(), &dashboard.text()?)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    /// The committed dashboards are what these tables say.
    #[test]
    fn dashboards_are_up_to_date() {
        for dashboard in super::all() {
            let written = std::fs::read_to_string(dashboard.path()).unwrap_or_default();
            assert!(written == dashboard.text().unwrap(), "{}: cargo xtask dashboards", dashboard.path().display());
        }
    }
}
