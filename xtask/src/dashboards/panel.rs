//! A panel, and the JSON that Grafana reads of it.

use serde_json::{Value, json};

/// What `@target` stands for in a query: the chosen hosts.
const TARGET: &str = r#"job=~"$job", instance=~"$instance""#;
/// What `@group` stands for: the chosen groups there.
const GROUP: &str = r#"job=~"$job", instance=~"$instance", groupname=~"$groupname""#;

/// What a panel without data says, unless it has something better to say.
const EMPTY: &str = "No data. Does Prometheus scrape cputrace? See Agent health";

/// The time around a point of a graph that a link to its flame graph shows, in milliseconds.
const AROUND_MS: u64 = 60_000;

/// The data source of metrics.
pub(super) fn prometheus() -> Value {
    json!({"type": "prometheus", "uid": "${prometheus_datasource}"})
}

fn pyroscope() -> Value {
    json!({"type": "grafana-pyroscope-datasource", "uid": "${pyroscope_datasource}"})
}

/// How a panel shows its data.
enum Shape {
    Lines {
        stacked: bool,
    },
    Stat,
    /// A bar a series.
    Bars,
    /// Histogram buckets in time.
    Heatmap,
    /// A line a value of the label, with a column a query.
    Table {
        by: &'static str,
        name: &'static str,
    },
    FlameGraph,
}

/// What a panel asks for.
enum Query {
    Metric {
        expr: &'static str,
        legend: &'static str,
        /// A table's: its column's title and unit.
        column: Option<(&'static str, &'static str)>,
    },
    Profile {
        kind: &'static str,
    },
}

/// Where a link leads.
#[derive(Clone, Copy)]
enum Link {
    /// To the process group of the series.
    Group,
    /// To the flame graphs of the series' group, around the time of the point.
    FlameGraph,
    /// To the flame graphs of all groups, around the time of the point.
    FlameGraphOfAll,
}

/// A panel.
pub(super) struct Panel {
    shape: Shape,
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    queries: Vec<Query>,
    links: Vec<Link>,
    empty: &'static str,
    /// Where the value turns yellow, and red.
    limits: Option<(f64, f64)>,
    max: Option<f64>,
    pub(super) width: u64,
    pub(super) height: u64,
}

fn panel(shape: Shape, title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    let (queries, links) = (Vec::new(), Vec::new());
    let (limits, max) = (None, None);
    Panel { shape, title, description, unit, queries, links, empty: EMPTY, limits, max, width: 8, height: 8 }
}

/// Series in time.
pub(super) fn lines(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    panel(Shape::Lines { stacked: false }, title, unit, description)
}

/// Series in time that add up.
pub(super) fn stack(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    panel(Shape::Lines { stacked: true }, title, unit, description)
}

/// A number.
pub(super) fn stat(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    panel(Shape::Stat, title, unit, description).size(4, 4)
}

/// A bar a series, as of now.
pub(super) fn bars(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    panel(Shape::Bars, title, unit, description)
}

/// How many waits of which length, in time.
pub(super) fn heatmap(title: &'static str, description: &'static str) -> Panel {
    panel(Shape::Heatmap, title, "s", description)
}

/// Values of a label, named `name`, as of now.
pub(super) fn table(by: &'static str, name: &'static str, title: &'static str, description: &'static str) -> Panel {
    panel(Shape::Table { by, name }, title, "short", description).size(24, 10)
}

/// Stacks of the chosen groups over the dashboard's time.
pub(super) fn flame_graph(kind: &'static str, title: &'static str, description: &'static str) -> Panel {
    let mut panel = panel(Shape::FlameGraph, title, "none", description).size(24, 16);
    panel.queries.push(Query::Profile { kind });
    panel.empty("No such stacks in this time. Is the data source cputrace's own address?")
}

impl Panel {
    /// Adds a query; `@target` and `@group` stand for the matchers of the dashboard's variables.
    pub(super) fn query(mut self, expr: &'static str, legend: &'static str) -> Self {
        self.queries.push(Query::Metric { expr, legend, column: None });
        self
    }

    /// Adds a column to a table.
    pub(super) fn column(mut self, title: &'static str, unit: &'static str, expr: &'static str) -> Self {
        self.queries.push(Query::Metric { expr, legend: "", column: Some((title, unit)) });
        self
    }

    /// What it says without data.
    pub(super) fn empty(mut self, empty: &'static str) -> Self {
        self.empty = empty;
        self
    }

    /// From where on a value is a warning, and from where on it is bad.
    pub(super) fn limits(mut self, warning: f64, bad: f64) -> Self {
        self.limits = Some((warning, bad));
        self
    }

    /// The axis' end.
    pub(super) fn max(mut self, max: f64) -> Self {
        self.max = Some(max);
        self
    }

    pub(super) fn size(mut self, width: u64, height: u64) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    pub(super) fn width(self, width: u64) -> Self {
        let height = self.height;
        self.size(width, height)
    }

    /// Links each series to its group.
    pub(super) fn leads_to_group(mut self) -> Self {
        self.links.push(Link::Group);
        self
    }

    /// Links each point to what its group did at that time.
    pub(super) fn leads_to_flame_graph(mut self) -> Self {
        self.links.push(Link::FlameGraph);
        self
    }

    /// Links each point to what the host did at that time.
    pub(super) fn leads_to_flame_graph_of_all(mut self) -> Self {
        self.links.push(Link::FlameGraphOfAll);
        self
    }

    pub(super) fn json(&self, id: usize, x: u64, y: u64) -> Value {
        let Self { shape, title, description, unit, queries, links, empty, limits, max, width, height } = self;
        let mut json = json!({
            "id": id,
            "type": shape.plugin(),
            "title": title,
            "description": description,
            "datasource": if matches!(shape, Shape::FlameGraph) { pyroscope() } else { prometheus() },
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "targets": queries.iter().zip('A'..='Z').map(|(query, id)| query.json(id, shape)).collect::<Vec<_>>(),
            "options": shape.options(),
            "fieldConfig": {
                "defaults": {
                    "unit": unit,
                    "noValue": empty,
                    "color": {"mode": if limits.is_some() { "thresholds" } else { "palette-classic" }},
                    "thresholds": thresholds(*limits),
                    "custom": shape.custom(),
                    "links": links.iter().map(|link| link.json(shape)).collect::<Vec<_>>(),
                },
                "overrides": [],
            },
        });
        if matches!(shape, Shape::Lines { .. }) {
            // A line keeps its own colour.
            json["fieldConfig"]["defaults"]["color"] = json!({"mode": "palette-classic"});
            json["fieldConfig"]["defaults"]["min"] = json!(0);
        }
        if let Some(max) = max {
            json["fieldConfig"]["defaults"]["max"] = json!(max);
        }
        if let Shape::Table { by, name } = shape {
            self.tabulate(&mut json, by, name);
        }
        json
    }

    /// Joins the columns by the label, and names them.
    fn tabulate(&self, json: &mut Value, by: &str, name: &str) {
        let columns: Vec<_> = self.queries.iter().filter_map(Query::column).collect();
        let mut names = json!({by: name});
        let mut order = json!({by: 0});
        let mut overrides = vec![json!({
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "links", "value": self.links.iter().map(|link| link.json(&self.shape)).collect::<Vec<_>>()}],
        })];
        for ((index, (title, unit)), id) in columns.iter().enumerate().zip('A'..='Z') {
            // With one query there is nothing to merge, and the value has no letter.
            let value = if columns.len() == 1 { "Value".to_owned() } else { format!("Value #{id}") };
            names[&value] = json!(title);
            order[&value] = json!(index + 1);
            overrides.push(json!({
                "matcher": {"id": "byName", "options": title},
                "properties": [{"id": "unit", "value": unit}],
            }));
        }
        json["fieldConfig"]["defaults"]["links"] = json!([]);
        json["fieldConfig"]["overrides"] = json!(overrides);
        json["transformations"] = json!([
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": true}, "renameByName": names, "indexByName": order}},
        ]);
        if let Some((first, _)) = columns.first() {
            json["options"]["sortBy"] = json!([{"displayName": first, "desc": true}]);
        }
    }
}

fn thresholds(limits: Option<(f64, f64)>) -> Value {
    let mut steps = vec![json!({"color": "green", "value": null})];
    if let Some((warning, bad)) = limits {
        steps.push(json!({"color": "orange", "value": warning}));
        steps.push(json!({"color": "red", "value": bad}));
    }
    json!({"mode": "absolute", "steps": steps})
}

impl Shape {
    /// Grafana's name of it.
    fn plugin(&self) -> &'static str {
        match self {
            Self::Lines { .. } => "timeseries",
            Self::Stat => "stat",
            Self::Bars => "bargauge",
            Self::Heatmap => "heatmap",
            Self::Table { .. } => "table",
            Self::FlameGraph => "flamegraph",
        }
    }

    fn options(&self) -> Value {
        let last = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
        match self {
            Self::Lines { .. } => json!({
                "legend": {
                    "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["mean", "max"],
                    "sortBy": "Mean", "sortDesc": true,
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Self::Stat => json!({
                "reduceOptions": last, "colorMode": "value", "graphMode": "area", "justifyMode": "auto",
                "orientation": "auto", "textMode": "auto", "wideLayout": true,
            }),
            Self::Bars => json!({
                "reduceOptions": last, "displayMode": "basic", "orientation": "horizontal", "showUnfilled": true,
                "valueMode": "color", "namePlacement": "auto", "minVizWidth": 8, "minVizHeight": 12, "maxVizHeight": 20,
                "sizing": "auto", "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": false},
            }),
            Self::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "color": {
                    "mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "fill": "dark-orange", "scale": "exponential",
                    "reverse": false, "steps": 64,
                },
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
                "filterValues": {"le": 1e-9},
                "legend": {"show": true},
                "rowsFrame": {"layout": "auto"},
                "tooltip": {"mode": "single", "showColorScale": false, "yHistogram": true},
                "yAxis": {"axisPlacement": "left", "reverse": false, "unit": "s"},
            }),
            Self::Table { .. } => json!({"showHeader": true, "cellHeight": "sm"}),
            Self::FlameGraph => json!({}),
        }
    }

    fn custom(&self) -> Value {
        match self {
            Self::Lines { stacked } => json!({
                "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": if *stacked { 60 } else { 10 },
                "gradientMode": "none", "showPoints": "auto", "pointSize": 4, "spanNulls": false,
                "stacking": {"mode": if *stacked { "normal" } else { "none" }, "group": "A"},
                "axisPlacement": "auto", "scaleDistribution": {"type": "linear"},
            }),
            Self::Heatmap => json!({"scaleDistribution": {"type": "linear"}}),
            Self::Table { .. } => json!({"align": "auto", "cellOptions": {"type": "auto"}, "filterable": true}),
            Self::Stat | Self::Bars | Self::FlameGraph => json!({}),
        }
    }
}

impl Query {
    fn column(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Metric { column, .. } => *column,
            Self::Profile { .. } => None,
        }
    }

    fn json(&self, id: char, shape: &Shape) -> Value {
        match self {
            Self::Metric { expr, legend, .. } => {
                let is_instant = matches!(shape, Shape::Table { .. } | Shape::Bars);
                let format = match shape {
                    Shape::Table { .. } => "table",
                    Shape::Heatmap => "heatmap",
                    _ => "time_series",
                };
                json!({
                    "refId": id.to_string(),
                    "datasource": prometheus(),
                    "editorMode": "code",
                    "expr": expr.replace("@target", TARGET).replace("@group", GROUP),
                    "legendFormat": legend,
                    "format": format,
                    "instant": is_instant,
                    "range": !is_instant,
                })
            }
            Self::Profile { kind } => json!({
                "refId": id.to_string(),
                "datasource": pyroscope(),
                "queryType": "profile",
                "profileTypeId": kind,
                // Several groups as a regular expression, whose backslashes stay what they are between backticks.
                "labelSelector": "{service_name=~`${groupname:regex}`}",
                "groupBy": [],
                "maxNodes": 8192,
            }),
        }
    }
}

impl Link {
    fn json(self, shape: &Shape) -> Value {
        // A group's name may have any character.
        let group = match shape {
            Shape::Table { .. } => "${__value.text:percentencode}",
            _ => "${__field.labels.groupname:percentencode}",
        };
        let variables = "${prometheus_datasource:queryparam}&${job:queryparam}&${instance:queryparam}";
        let around = match shape {
            Shape::Table { .. } | Shape::Bars => "${__url_time_range}".to_owned(),
            _ => format!("time=${{__value.time}}&time.window={AROUND_MS}"),
        };
        let (title, url) = match self {
            Self::Group => (
                "Process group".to_owned(),
                format!("/d/cputrace-group?{variables}&var-groupname={group}&${{__url_time_range}}"),
            ),
            Self::FlameGraph => (
                "Flame graph of that time".to_owned(),
                format!("/d/cputrace-flame-graphs?{variables}&var-groupname={group}&{around}"),
            ),
            Self::FlameGraphOfAll => {
                ("Flame graph of that time".to_owned(), format!("/d/cputrace-flame-graphs?{variables}&{around}"))
            }
        };
        json!({"title": title, "url": url, "targetBlank": false})
    }
}
