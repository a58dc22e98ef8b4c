//! A dashboard as Grafana reads it, and what there may be to complain about.

use std::collections::BTreeSet;

use cputrace::grafana::FILES;
use serde_json::Value;

use crate::promql::{self, Variables};
use crate::text;

pub(crate) const PROMETHEUS: &str = "prometheus";
pub(crate) const PYROSCOPE: &str = "grafana-pyroscope-datasource";

/// What Grafana would put for variables, with all hosts and groups chosen.
pub(crate) const TYPICAL: Variables<'static> =
    Variables { rate_interval: "1m", range: "30m", values: &[("job", ".+"), ("instance", ".+"), ("groupname", ".+")] };

/// Units that Grafana knows, as far as we need them.
const UNITS: &[&str] = &[
    "Bps",
    "GBs",
    "bool_yes_no",
    "bytes",
    "dateTimeFromNow",
    "hertz",
    "none",
    "ops",
    "percent",
    "percentunit",
    "reqps",
    "s",
    "short",
    "watt",
];

/// A dashboard.
pub(crate) struct Dashboard {
    /// Its file, below `grafana/`.
    pub(crate) file: String,
    json: Value,
}

/// A panel that is no heading.
pub(crate) struct Panel<'a>(pub(crate) &'a Value);

impl Panel<'_> {
    pub(crate) fn title(&self) -> &str {
        text(&self.0["title"])
    }

    /// Its queries of metrics.
    pub(crate) fn expressions(&self) -> Vec<String> {
        let targets = self.0["targets"].as_array().into_iter().flatten();
        targets.filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect()
    }

    /// All links from its data, wherever they stand.
    fn links(&self) -> Vec<&Value> {
        let config = &self.0["fieldConfig"];
        let overrides = config["overrides"].as_array().into_iter().flatten();
        let properties = overrides.flat_map(|rule| rule["properties"].as_array().into_iter().flatten());
        let in_overrides = properties.filter(|property| property["id"] == "links").map(|property| &property["value"]);
        let lists = [&config["defaults"]["links"]].into_iter().chain(in_overrides);
        lists.flat_map(|list| list.as_array().into_iter().flatten()).collect()
    }
}

impl Dashboard {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let files = FILES.iter().filter(|file| file.path.starts_with("dashboards/"));
        files.map(|file| Self { file: file.path.to_owned(), json: serde_json::from_str(file.text).unwrap() }).collect()
    }

    pub(crate) fn uid(&self) -> &str {
        text(&self.json["uid"])
    }

    pub(crate) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let panels = self.json["panels"].as_array().into_iter().flatten();
        panels.filter(|panel| panel["type"] != "row").map(Panel)
    }

    fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().map_or(&[], Vec::as_slice)
    }

    fn variable(&self, name: &str) -> Option<&Value> {
        self.variables().iter().find(|variable| variable["name"] == name)
    }

    /// Variables with values of a label: their name, of which series, and which label.
    pub(crate) fn label_variables(&self) -> Vec<(String, String, String)> {
        let queries = self.variables().iter().filter(|variable| variable["type"] == "query");
        queries
            .map(|variable| {
                let query = text(&variable["query"]);
                let inner = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
                let (series, label) = inner.and_then(|inner| inner.rsplit_once(", ")).unwrap_or_default();
                (text(&variable["name"]).to_owned(), series.to_owned(), label.to_owned())
            })
            .collect()
    }

    /// What is wrong with it. `all` are those that links may lead to.
    pub(crate) fn lint(&self, all: &[Self]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut want = |is_right: bool, complaint: &str| {
            if !is_right {
                wrong.push(complaint.to_owned());
            }
        };
        let json = &self.json;
        // Provisioning.
        want((8..=40).contains(&self.uid().len()), "the uid has to be 8 to 40 characters long");
        want(json["schemaVersion"] == 42, "the schema's version is 42");
        want(json.get("__inputs").is_none() && json.get("id").is_none(), "__inputs and id are for one installation");
        // uneditable-dashboard
        want(json["editable"] == false, "it is editable");
        // template-datasource-rule. A variable of Pyroscope cannot have the name that the linter wants, see `.lint`.
        let sources: Vec<_> = self.variables().iter().filter(|variable| variable["type"] == "datasource").collect();
        want(
            sources.first().is_some_and(|source| source["query"] == PROMETHEUS),
            "Prometheus is not the first variable",
        );
        for source in &sources {
            let expected = match text(&source["query"]) {
                PROMETHEUS => ("prometheus_datasource", "Prometheus data source"),
                PYROSCOPE => ("pyroscope_datasource", "Pyroscope data source"),
                other => ("", other),
            };
            want((text(&source["name"]), text(&source["label"])) == expected, "a data source has another name");
        }
        // template-job-rule, template-instance-rule
        for (name, label) in [("job", "Job"), ("instance", "Instance")] {
            let variable = self.variable(name).unwrap_or(&Value::Null);
            want(variable["datasource"]["uid"] == "${prometheus_datasource}", "job or instance is of no data source");
            want(variable["type"] == "query" && variable["multi"] == true, "job or instance cannot be several");
            want(variable["allValue"] == ".+" && variable["label"] == label, "job or instance has no allValue .+");
        }
        for (name, series, label) in self.label_variables() {
            // template-on-time-change-reload-rule
            let variable = self.variable(&name).unwrap_or(&Value::Null);
            want(variable["refresh"] == 2, "a variable is not read again when the time changes");
            // template-label-promql-rule
            let selectors = promql::selectors(&promql::expand(&series, &TYPICAL));
            want(selectors.is_ok_and(|all| all.len() == 1) && !label.is_empty(), "a variable's query is wrong");
        }
        let ids: BTreeSet<_> = self.panels().map(|panel| panel.0["id"].as_u64()).collect();
        want(ids.len() == self.panels().count(), "two panels have one id");
        for panel in self.panels() {
            wrong.extend(self.lint_panel(&panel, all).into_iter().map(|text| format!("{}: {text}", panel.title())));
        }
        wrong
    }

    fn lint_panel(&self, panel: &Panel<'_>, all: &[Self]) -> Vec<String> {
        let mut wrong = Vec::new();
        let defaults = &panel.0["fieldConfig"]["defaults"];
        // panel-title-description-rule
        if panel.title().is_empty() || text(&panel.0["description"]).len() < 20 {
            wrong.push("it has no title or no description".to_owned());
        }
        // panel-units-rule
        if !UNITS.contains(&text(&defaults["unit"])) {
            wrong.push(format!("{} is no unit", defaults["unit"]));
        }
        if text(&defaults["noValue"]).is_empty() {
            wrong.push("it does not say what no data means".to_owned());
        }
        // panel-datasource-rule
        let source = match text(&panel.0["datasource"]["type"]) {
            PROMETHEUS => "${prometheus_datasource}",
            _ => "${pyroscope_datasource}",
        };
        let name = source.trim_start_matches("${").trim_end_matches('}');
        if panel.0["datasource"]["uid"] != source || self.variable(name).is_none() {
            wrong.push("its data source is no variable".to_owned());
        }
        // panel-no-targets-rule
        let targets = panel.0["targets"].as_array().map_or(&[][..], Vec::as_slice);
        if targets.is_empty() {
            wrong.push("it asks for nothing".to_owned());
        }
        for target in targets {
            if target["datasource"] != panel.0["datasource"] {
                wrong.push("a query has another data source".to_owned());
            }
            if let Some(expr) = target["expr"].as_str() {
                wrong.extend(promql::lint(expr));
            }
            // All variables that are used are there.
            let used = promql::variables(&format!("{}{}", text(&target["expr"]), text(&target["labelSelector"])));
            wrong.extend(
                used.into_iter()
                    .filter(|name| !name.starts_with("__") && self.variable(name).is_none())
                    .map(|name| format!("there is no variable {name}")),
            );
        }
        for link in panel.links() {
            let url = text(&link["url"]);
            let Some((uid, query)) = url.strip_prefix("/d/").and_then(|path| path.split_once('?')) else {
                wrong.push(format!("{url} leads to no dashboard"));
                continue;
            };
            let Some(dashboard) = all.iter().find(|dashboard| dashboard.uid() == uid) else {
                wrong.push(format!("there is no dashboard {uid}"));
                continue;
            };
            for parameter in query.split('&').filter_map(|parameter| parameter.strip_prefix("var-")) {
                let name = parameter.split('=').next().unwrap_or_default();
                if dashboard.variable(name).is_none() {
                    wrong.push(format!("{uid} has no variable {name}"));
                }
            }
        }
        wrong
    }
}
