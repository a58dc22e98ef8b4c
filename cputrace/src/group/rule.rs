//! Rules that put processes into groups, by templates as process-exporter has them.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::facts::Facts;

/// A rule as it is written in the configuration. A process fits if each kind of condition that is given fits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleText {
    /// The group's name: text with `{{.Comm}}`, `{{.ExeBase}}`, `{{.ExeFull}}`, `{{.Username}}`, `{{.Cgroup}}`, `{{.Unit}}`,
    /// `{{.Container}}`, `{{.Pod}}` and, of named parts of `cmdline`, `{{.Matches.NAME}}`.
    pub name: String,
    /// Names of processes, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub comm: Vec<String>,
    /// Executables, any of them: a path, or its last part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<String>,
    /// Regular expressions that the command line has to match, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
    /// Users, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<String>,
    /// A regular expression that the control group's path has to match.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup: String,
}

/// Why a rule is none.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// No name.
    #[error("a group needs a name, for example name = \"{{{{.Comm}}}}\"")]
    NoName,
    /// A template's field that there is not.
    #[error("group {name:?}: there is no field {{{{.{field}}}}}; known are {FIELDS}")]
    Field {
        /// The rule's name.
        name: String,
        /// What is unknown.
        field: String,
    },
    /// A `{{` without its end.
    #[error("group {name:?}: {{{{ without }}}}")]
    Open {
        /// The rule's name.
        name: String,
    },
    /// No regular expression.
    #[error("group {name:?}: {error}")]
    Regex {
        /// The rule's name.
        name: String,
        /// Why not.
        error: regex::Error,
    },
}

const FIELDS: &str =
    "Comm, ExeBase, ExeFull, Username, Cgroup, Unit, Container, Pod and Matches.NAME with a (?P<NAME>…) in cmdline";

/// A part of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Comm,
    ExeBase,
    ExeFull,
    Username,
    Cgroup,
    Unit,
    Container,
    Pod,
    Match(String),
}

/// A rule that is ready for use.
#[derive(Clone, Debug)]
pub struct Rule {
    parts: Vec<Part>,
    comm: Vec<String>,
    exe: Vec<String>,
    cmdline: Vec<Regex>,
    user: Vec<String>,
    cgroup: Option<Regex>,
}

impl Rule {
    /// Understands a rule.
    pub fn new(text: &RuleText) -> Result<Self, RuleError> {
        let RuleText { name, comm, exe, cmdline, user, cgroup } = text;
        let regex = |text: &String| Regex::new(text).map_err(|error| RuleError::Regex { name: name.clone(), error });
        let cmdline = cmdline.iter().map(regex).collect::<Result<Vec<_>, _>>()?;
        let captures: Vec<&str> = cmdline.iter().flat_map(|regex| regex.capture_names().flatten()).collect();
        let parts = parts(name, &captures)?;
        let cgroup = (!cgroup.is_empty()).then(|| regex(cgroup)).transpose()?;
        Ok(Self { parts, comm: comm.clone(), exe: exe.clone(), cmdline, user: user.clone(), cgroup })
    }

    /// The group's name, if it is the same for all processes.
    pub fn fixed_name(&self) -> Option<&str> {
        match &self.parts[..] {
            [Part::Text(name)] => Some(name),
            _ => None,
        }
    }

    /// The name of the group that the process is in by this rule, if it fits.
    pub fn apply(&self, facts: &Facts) -> Option<String> {
        let Self { parts, comm, exe, cmdline, user, cgroup } = self;
        let any = |list: &[String], values: &[&str]| {
            list.is_empty() || list.iter().any(|wanted| values.contains(&wanted.as_str()))
        };
        let fits = any(comm, &[&facts.comm])
            && any(exe, &[&facts.exe, facts.exe_base()])
            && any(user, &[&facts.user])
            && cgroup.as_ref().is_none_or(|regex| regex.is_match(&facts.cgroup));
        if !fits {
            return None;
        }
        let captures: Vec<_> =
            cmdline.iter().map(|regex| regex.captures(&facts.cmdline)).collect::<Option<Vec<_>>>()?;
        let mut name = String::new();
        for part in parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Comm => name.push_str(&facts.comm),
                Part::ExeBase => name.push_str(facts.exe_base()),
                Part::ExeFull => name.push_str(&facts.exe),
                Part::Username => name.push_str(&facts.user),
                Part::Cgroup => name.push_str(&facts.cgroup),
                Part::Unit => name.push_str(facts.unit()),
                Part::Container => name.push_str(facts.container()),
                Part::Pod => name.push_str(&facts.pod()),
                Part::Match(wanted) => {
                    let found = captures.iter().find_map(|captures| captures.name(wanted));
                    name.push_str(found.map_or("", |found| found.as_str()));
                }
            }
        }
        // A group without a name is none: the next rule may have one.
        (!name.is_empty()).then_some(name)
    }
}

fn parts(name: &str, captures: &[&str]) -> Result<Vec<Part>, RuleError> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some((text, field)) = rest.split_once("{{") {
        let (field, after) = field.split_once("}}").ok_or_else(|| RuleError::Open { name: name.to_owned() })?;
        parts.push(Part::Text(text.to_owned()));
        let field = field.trim();
        let part = match field.trim_start_matches('.') {
            "Comm" => Part::Comm,
            "ExeBase" => Part::ExeBase,
            "ExeFull" => Part::ExeFull,
            "Username" => Part::Username,
            "Cgroup" => Part::Cgroup,
            "Unit" => Part::Unit,
            "Container" => Part::Container,
            "Pod" => Part::Pod,
            other => {
                let wanted = other.strip_prefix("Matches.").filter(|wanted| captures.contains(wanted));
                let unknown = || RuleError::Field { name: name.to_owned(), field: other.to_owned() };
                Part::Match(wanted.ok_or_else(unknown)?.to_owned())
            }
        };
        parts.push(part);
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    parts.retain(|part| *part != Part::Text(String::new()));
    if parts.is_empty() {
        return Err(RuleError::NoName);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn postgres() -> Facts {
        Facts {
            comm: "postgres".to_owned(),
            exe: "/usr/lib/postgresql/15/bin/postgres".to_owned(),
            cmdline: "/usr/lib/postgresql/15/bin/postgres -D /var/lib/main -p 5433".to_owned(),
            user: "pg".to_owned(),
            cgroup: "/system.slice/pg.service".to_owned(),
            ..Facts::default()
        }
    }

    /// Names are made of the fields, and conditions hold together.
    #[test]
    fn rules_fit_or_do_not() {
        let check = |text: &str, expected: Option<&str>| {
            let rule = Rule::new(&toml::from_str(text).unwrap()).unwrap();
            assert_eq!(rule.apply(&postgres()).as_deref(), expected, "{text}");
        };
        check("name = '{{.Comm}}'", Some("postgres"));
        check("name = 'db {{ .Username }}@{{.Unit}}'", Some("db pg@pg.service"));
        check("name = '{{.ExeBase}}-{{.Matches.port}}'\ncmdline = ['-p (?P<port>\\d+)']", Some("postgres-5433"));
        check("name = 'x'\ncmdline = ['-p 1\\b', '-D']", None);
        check("name = 'x'\ncomm = ['nginx', 'postgres']\nuser = ['pg']", Some("x"));
        check("name = 'x'\ncomm = ['postgres']\nuser = ['root']", None);
        check("name = 'x'\nexe = ['postgres']", Some("x"));
        check("name = 'x'\nexe = ['/usr/lib/postgresql/15/bin/postgres']", Some("x"));
        check("name = 'x'\ncgroup = '^/user'", None);
        // What is empty is no group.
        check("name = '{{.Container}}'", None);
    }

    /// A wrong rule is refused with what is wrong.
    #[test]
    fn wrong_rules_are_refused() {
        let check = |text: &str, expected: &str| {
            let error = Rule::new(&toml::from_str(text).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check("name = ''", "needs a name");
        check("name = '{{.PID}}'", "there is no field {{.PID}}");
        check("name = '{{.Matches.a}}'\ncmdline = ['b']", "there is no field {{.Matches.a}}");
        check("name = '{{.Comm'", "{{ without }}");
        check("name = 'x'\ncmdline = ['(']", "group \"x\": regex");
        assert!(toml::from_str::<RuleText>("name = 'x'\nfoo = 1").unwrap_err().to_string().contains("foo"));
    }
}
