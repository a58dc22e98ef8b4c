//! Queries: with Grafana's variables put in, taken apart, and what may be wrong with them.

use promql_parser::parser::{self, Expr, VectorSelector};

/// What stands for Grafana's variables.
#[derive(Clone, Copy)]
pub(crate) struct Variables<'a> {
    /// `$__rate_interval`.
    pub(crate) rate_interval: &'a str,
    /// `$__range`.
    pub(crate) range: &'a str,
    /// Those of the dashboard.
    pub(crate) values: &'a [(&'a str, &'a str)],
}

/// A query as Prometheus gets it.
pub(crate) fn expand(expr: &str, variables: &Variables<'_>) -> String {
    let Variables { rate_interval, range, values } = variables;
    let mut expr = expr.replace("$__rate_interval", rate_interval).replace("$__range", range);
    for (name, value) in *values {
        expr = expr.replace(&format!("${name}"), value);
    }
    expr
}

/// The variables that a text uses, in all ways of writing them.
pub(crate) fn variables(text: &str) -> Vec<String> {
    let after = text.split('$').skip(1).map(|part| part.trim_start_matches('{'));
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names = after.map(|part| part.split(|character| !is_name(character)).next().unwrap_or_default());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Names and expressions of the rules in a file of them, by its simple layout.
pub(crate) fn rules(yaml: &str) -> Vec<(String, String)> {
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut block = None;
    for line in yaml.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- record: ").or_else(|| line.strip_prefix("- alert: ")) {
            rules.push((name.to_owned(), String::new()));
            block = None;
        } else if let Some(expr) = line.strip_prefix("expr: ") {
            block = matches!(expr, ">-" | "|-").then_some(indent);
            if block.is_none() {
                rules.last_mut().unwrap().1 = expr.to_owned();
            }
        } else if block.is_some_and(|start| indent > start) {
            let expr = &mut rules.last_mut().unwrap().1;
            *expr += &format!("{line} ");
        } else {
            block = None;
        }
    }
    rules
}

/// What a query asks for.
pub(crate) struct Selector {
    /// The metric's name.
    pub(crate) name: String,
    /// Labels that are matched.
    pub(crate) labels: Vec<String>,
    /// As it was written, without a time.
    pub(crate) text: String,
}

/// All selectors of a query.
pub(crate) fn selectors(expr: &str) -> Result<Vec<Selector>, String> {
    let mut selectors = Vec::new();
    walk(&parser::parse(expr)?, &mut Vec::new(), &mut |selector, _| {
        let matchers = &selector.matchers.matchers;
        let labels: Vec<_> = matchers.iter().map(|matcher| matcher.name.clone()).collect();
        let name = selector.name.clone().unwrap_or_default();
        let shown: Vec<_> = matchers.iter().map(ToString::to_string).collect();
        let text = format!("{name}{{{}}}", shown.join(","));
        selectors.push(Selector { name, labels, text });
    });
    Ok(selectors)
}

/// Stands in for `$__rate_interval`, and for nothing else.
const MARK: &str = "8869990s";

/// The linter's rules of queries.
pub(crate) fn lint(expr: &str) -> Vec<String> {
    let values = &[("job", "$job"), ("instance", "$instance"), ("groupname", "$groupname")];
    let expanded = expand(expr, &Variables { rate_interval: MARK, range: "6069770s", values });
    let mut wrong = Vec::new();
    // target-promql-rule
    let parsed = match parser::parse(&expanded) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("{expr}: {error}")],
    };
    walk(&parsed, &mut Vec::new(), &mut |selector, parents| {
        let name = selector.name.as_deref().unwrap_or_default();
        // target-job-rule, target-instance-rule
        for label in ["job", "instance"] {
            let matcher = format!("{label}=~\"${label}\"");
            if !selector.matchers.matchers.iter().any(|known| known.to_string() == matcher) {
                wrong.push(format!("{name} lacks {matcher}"));
            }
        }
        let range = match parents {
            [.., Expr::MatrixSelector(matrix)] => Some(format!("{}s", matrix.range.as_secs())),
            _ => None,
        };
        let function = match parents {
            [.., Expr::Call(call), Expr::MatrixSelector(_)] => call.func.name,
            _ => "",
        };
        let is_rate = matches!(function, "rate" | "irate" | "increase");
        // target-counter-agg-rule
        let is_counter = ["_total", "_bucket"].iter().any(|suffix| name.ends_with(suffix));
        if is_counter != is_rate {
            wrong.push(format!("{name} is a counter without a rate, or no counter and has one"));
        }
        // target-rate-interval-rule
        if range.is_some_and(|range| range != MARK) && matches!(function, "rate" | "irate") {
            wrong.push(format!("the range of {name} is not $__rate_interval"));
        }
    });
    wrong
}

/// Shows each selector with what it stands in, outermost first.
fn walk<'a>(expr: &'a Expr, parents: &mut Vec<&'a Expr>, see: &mut dyn FnMut(&VectorSelector, &[&Expr])) {
    if let Expr::VectorSelector(selector) = expr {
        see(selector, parents);
        return;
    }
    parents.push(expr);
    match expr {
        Expr::Aggregate(aggregate) => walk(&aggregate.expr, parents, see),
        Expr::Unary(unary) => walk(&unary.expr, parents, see),
        Expr::Binary(binary) => {
            walk(&binary.lhs, parents, see);
            walk(&binary.rhs, parents, see);
        }
        Expr::Paren(inner) => walk(&inner.expr, parents, see),
        Expr::Subquery(subquery) => walk(&subquery.expr, parents, see),
        Expr::MatrixSelector(matrix) => see(&matrix.vs, parents),
        Expr::Call(call) => {
            for argument in &call.args.args {
                walk(argument, parents, see);
            }
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::VectorSelector(_) | Expr::Extension(_) => {}
    }
    parents.pop();
}
