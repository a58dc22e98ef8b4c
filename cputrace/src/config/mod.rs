//! The configuration of `cputrace serve`: one table of settings, of which the file's sections, the environment variables,
//! the options of the command line and docs/configuration.md are made.
//!
//! - [`setting`]: what a row is.
//! - [`value`]: kinds of values.
//! - [`source`]: file, environment and command line.
//!
//! A new setting is a row in its section below, and its way into [`Settings`] in [`Config::settings`].

mod setting;
pub mod source;
pub mod value;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ebpf::Waits;
use crate::group::GroupOptions;
use crate::model::Target;
use crate::serve::{PushOptions, PushTo, Settings, WebSettings};
use crate::session::Options;
use crate::store::Retention;
use crate::symbolize::Detail;
use setting::settings;
pub use setting::{Setting, Takes};
use source::ConfigError;
use value::{Bytes, Connections, Frequency, Headers, Rules, Sets, Share, ShortTime, Time, Url, WantedTier};

settings! {
    /// Where it is to be reached.
    web: Web {
        /// Address and port to listen on
        listen: SocketAddr = ([127, 0, 0, 1], 9797).into(), "listen" "ADDRESS:PORT", Restart;
        /// A file with TLS, users and headers, as Prometheus' exporter-toolkit has it; read again when it changes
        config_file: PathBuf = PathBuf::new(), "web-config" "FILE", Restart;
        /// Let in everybody who reaches this host, where `listen` is not the loopback
        allow_anonymous: bool = false, "allow-anonymous" "BOOL", Restart;
        /// Let `POST /-/reload` have the configuration read again
        enable_lifecycle: bool = false, "web-enable-lifecycle" "BOOL", Restart;
        /// Connections that there may be at once; more wait
        max_connections: Connections = Connections::default(), "max-connections" "COUNT", Restart;
    }

    /// What is sampled, and how.
    sampling: Sampling {
        /// Samples a second and CPU
        frequency: Frequency = Frequency(19), "frequency" "HZ", Restart;
        /// Length of a window: seconds, or with a unit
        window: Time = Time(Duration::from_secs(10)), "window" "TIME", Restart;
        /// What cputrace may take of the CPU time of all CPUs: over it, less is sampled; off: whatever it takes
        max_overhead: Share = Share(Some(0.01)), "max-overhead" "PERCENT", Reload;
        /// Sample in this way only: ebpf, perf_event or proc, instead of the best that is allowed
        tier: WantedTier = WantedTier(None), "tier" "TIER", Restart;
        /// Kernel memory that unwind tables may take: megabytes, or with a unit
        unwind_memory: Bytes = Bytes(64 << 20), "unwind-memory" "SIZE", Restart;
        /// Name inlined functions too, where there is debug information: takes many times the CPU time for names
        inlined: bool = false, "inlined" "BOOL", Restart;
        /// Keep waits with their stacks
        off_cpu: bool = true, "off-cpu" "BOOL", Restart;
        /// Keep waits of at least this time: milliseconds, or with a unit
        off_cpu_min: ShortTime = ShortTime(Duration::from_millis(10)), "off-cpu-min" "TIME", Restart;
        /// Keep with each wait who ended it
        wakers: bool = false, "wakers" "BOOL", Restart;
        /// Rules for the reasons of waits, that come before the built-in ones
        wait_rules: PathBuf = PathBuf::new(), "wait-rules" "FILE", Restart;
        /// Sample where this event happens, beside the clock (see `cputrace pmu list --events`)
        event: String = String::new(), "event" "EVENT", Restart;
        /// Events that each sample of these stands for; 0: what suits the event
        event_period: u64 = 0, "event-period" "COUNT", Restart;
    }

    /// What the CPU's counters and the kernel's count.
    counters: Counters {
        /// Count what the CPU's counters and the kernel's can tell of the host (see `cputrace pmu list`)
        pmu: bool = false, "pmu" "BOOL", Restart;
        /// Count these sets of metrics, with `pmu` or without
        sets: Sets = Sets::default(), "pmu-metrics" "SET,…", Restart;
        /// Read these counters at each sample and switch, up to four, so that stacks have their counts
        stacks: Vec<String> = Vec::new(), "pmu-stacks" "EVENT,…", Restart;
    }

    /// How processes are put into groups.
    groups: Groups {
        /// The rules; the first that fits a process counts
        rules: Rules = Rules(GroupOptions::default().rules), "" "", Reload;
        /// Groups that there may be at once; processes beyond are in `~other`
        max: usize = GroupOptions::default().max, "max-groups" "COUNT", Reload;
        /// How long a group stays after its last process has ended
        linger: Time = Time(GroupOptions::default().linger), "group-linger" "TIME", Reload;
    }

    /// What is kept.
    store: Store {
        /// Directory of the store
        data_dir: PathBuf = PathBuf::from("/var/lib/cputrace"), "data-dir" "DIR", Restart;
        /// How long windows, traces and events are kept
        age: Time = Time(Retention::default().age), "retention" "TIME", Reload;
        /// How long windows are kept as they were recorded, before only their sums are
        fine_age: Time = Time(Retention::default().fine_age), "retention-fine" "TIME", Reload;
        /// How large the store may grow: megabytes, or with a unit
        size: Bytes = Bytes(Retention::default().bytes), "retention-size" "SIZE", Reload;
    }

    /// Who is told of anomalies.
    alerts: Alerts {
        /// URL that is sent a message when an anomaly begins and when it is over, as Alertmanager's webhooks are
        webhook: Url = Url(None), "webhook" "URL", Reload;
    }

    /// Where windows are handed on to, for many hosts in one place.
    push: Push {
        /// URL of a Pyroscope that each window is sent to
        pyroscope: Url = Url(None), "push" "URL", Reload;
        /// Headers that it is sent, each as `Name: value`, such as X-Scope-OrgID
        pyroscope_headers: Headers = Headers::default(), "push-headers" "HEADER,…", Reload;
        /// URL of a receiver of OpenTelemetry's profiles (v1development, which still changes) that each window is sent to
        otlp: Url = Url(None), "push-otlp" "URL", Reload;
        /// Headers that it is sent
        otlp_headers: Headers = Headers::default(), "push-otlp-headers" "HEADER,…", Reload;
    }
}

impl Config {
    /// What `serve` is to do by it.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let Self { web, sampling, counters, groups, store, alerts, push } = self;
        let receiver = |url: &Url, headers: &Headers| {
            let headers = headers.0.clone();
            url.0.clone().map(|url| PushTo { url, headers })
        };
        let wait_rules = match &sampling.wait_rules {
            path if path.as_os_str().is_empty() => String::new(),
            path => fs::read_to_string(path).map_err(|error| ConfigError::WaitRules { path: path.clone(), error })?,
        };
        let waits = Waits { min: sampling.off_cpu_min.0, samples_shorter: false, wakers: sampling.wakers };
        let sets = if counters.pmu && counters.sets.0.is_empty() { Sets::usual() } else { counters.sets.clone() };
        let session = Options {
            targets: vec![Target::All],
            frequency: sampling.frequency.0,
            duration: None,
            interval: Duration::from_secs(1),
            tier: sampling.tier.0,
            follow_children: true,
            unwind_kb: sampling.unwind_memory.0 >> 10,
            accounting: true,
            waits: sampling.off_cpu.then_some(waits),
            timeline: false,
            detail: if sampling.inlined { Detail::Lines } else { Detail::Functions },
            wait_rules,
            pmu: sets.0,
            event: (!sampling.event.is_empty()).then(|| sampling.event.clone()),
            event_period: (sampling.event_period > 0).then_some(sampling.event_period),
            stack_counters: counters.stacks.clone(),
            max_overhead: sampling.max_overhead.0,
        };
        // As `cputrace record` does without flags.
        let waits = Some(Waits { min: Duration::from_millis(1), samples_shorter: false, wakers: true });
        let (interval, detail) = (Duration::from_millis(100), Detail::Lines);
        let on_demand = Options { interval, waits, timeline: true, detail, ..session.clone() };
        Ok(Settings {
            web: WebSettings {
                listen: web.listen,
                config_file: (!web.config_file.as_os_str().is_empty()).then(|| web.config_file.clone()),
                allow_anonymous: web.allow_anonymous,
                connections: web.max_connections.0,
            },
            data_dir: store.data_dir.clone(),
            retention: Retention { age: store.age.0, fine_age: store.fine_age.0, bytes: store.size.0 },
            groups: GroupOptions { rules: groups.rules.0.clone(), max: groups.max, linger: groups.linger.0 },
            window: sampling.window.0,
            webhook: alerts.webhook.0.clone(),
            push: PushOptions {
                pyroscope: receiver(&push.pyroscope, &push.pyroscope_headers),
                otlp: receiver(&push.otlp, &push.otlp_headers),
            },
            session,
            on_demand,
        })
    }

    /// As a file that says the same.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (index, (section, doc)) in SECTIONS.iter().enumerate() {
            let blank = if index > 0 { "\n" } else { "" };
            let _ = writeln!(text, "{blank}#{doc}\n[{section}]");
            for setting in SETTINGS.iter().filter(|setting| setting.section == *section) {
                let _ = writeln!(text, "# {}\n{} = {}", setting.help(), setting.key, (setting.get)(self));
            }
        }
        text
    }

    /// The settings in which the other one differs.
    pub fn changes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static Setting> + 'a {
        SETTINGS.iter().filter(move |setting| (setting.get)(self) != (setting.get)(other))
    }
}

/// docs/configuration.md.
pub fn markdown() -> String {
    let mut text = format!(
        "# Settings of `cputrace serve`\n\n\
         Generated by `cargo xtask docs`. An option counts before an environment variable, that before the file, that before \
         the default.\nThe file is `{}`, or what `--config` or `CPUTRACE_CONFIG` names; `cputrace serve --print-config` \
         shows what is in\neffect as such a file. A change that needs no restart is taken up at SIGHUP.\n",
        source::DEFAULT_FILE
    );
    for (section, doc) in SECTIONS {
        let _ = write!(text, "\n## [{section}]\n\n{}\n\n", doc.trim());
        text.push_str(
            "| key | option | variable | default | restart | what it is |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for setting in SETTINGS.iter().filter(|setting| setting.section == *section) {
            let option = if setting.flag.is_empty() { String::new() } else { format!("`--{}`", setting.flag) };
            let variable = setting.variable().map(|variable| format!("`{variable}`")).unwrap_or_default();
            let restart = if setting.takes == Takes::Restart { "yes" } else { "no" };
            let Setting { key, .. } = setting;
            let (default, help) = (setting.default_value(), setting.help());
            let _ = writeln!(text, "| `{key}` | {option} | {variable} | `{default}` | {restart} | {help} |");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use std::fs;

    use tempfile::TempDir;

    use super::source::Source;
    use super::*;

    fn setting(flag: &str) -> &'static Setting {
        SETTINGS.iter().find(|setting| setting.flag == flag).unwrap()
    }

    fn load(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("cputrace.toml");
        fs::write(&path, file).unwrap();
        let rows = |pairs: &[(&str, &str)]| {
            let rows = pairs.iter().map(|(flag, text)| (setting(flag), (*text).to_owned()));
            rows.collect::<Vec<_>>()
        };
        let source = Source { file: Some(path), variables: rows(variables), flags: rows(flags) };
        let folder = format!("{}/", directory.path().display());
        source.load().map_err(|error| error.to_string().replace(&folder, ""))
    }

    /// Options before variables before the file before the defaults.
    #[test]
    fn order() {
        let file = "[sampling]\nfrequency = 49\nwindow = '5s'\n[web]\nlisten = '127.0.0.1:1'\n[store]\nsize = 100";
        let config = load(file, &[("frequency", "99"), ("window", "7")], &[("frequency", "199")]).unwrap();
        assert_eq!(config.sampling.frequency.0, 199);
        assert_eq!(config.sampling.window.0, Duration::from_secs(7));
        assert_eq!(config.web.listen.port(), 1);
        assert_eq!(config.store.size.0, 100 << 20);
        assert_eq!(config.store.age.0, Duration::from_hours(7 * 24));
        let config = load("", &[("pmu-metrics", "base, l3")], &[("pmu", "true"), ("tier", "proc")]).unwrap();
        assert_eq!(config.counters.sets.0, ["base", "l3"]);
        assert!(config.counters.pmu);
        assert_eq!(config.settings().unwrap().session.tier, Some(crate::model::Tier::Proc));
        assert_eq!(load("", &[], &[]).unwrap(), Config::default());
    }

    /// What is shown can be read, and says the same.
    #[test]
    fn what_is_shown_can_be_read() {
        let file = "[[groups.rules]]\nname = 'db {{.Comm}} \"x\"'\ncomm = ['postgres']\n[[groups.rules]]\nname = '{{.Unit}}'\n\
                    [sampling]\nunwind_memory = '32MB'\noff_cpu = false\nwindow = 2.5\n[counters]\nstacks = ['cycles']\n\
                    [push]\npyroscope = 'https://a:b@host/x'\npyroscope_headers = ['X-Scope-OrgID: team', 'A:b: c']\n";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.groups.rules.0.len(), 2);
        assert_eq!(load(&config.to_toml(), &[], &[]).unwrap(), config);
        let changed: Vec<_> = config.changes(&Config::default()).map(|setting| setting.key).collect();
        assert_eq!(
            changed,
            ["window", "unwind_memory", "off_cpu", "stacks", "rules", "pyroscope", "pyroscope_headers"]
        );
        assert_eq!(load(&Config::default().to_toml(), &[], &[]).unwrap(), Config::default());
    }

    /// One sentence each, with the place and the fix.
    #[test]
    fn what_is_wrong_is_said() {
        let file = |text: &str, expected: &str| {
            let error = load(text, &[], &[]).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        };
        file("[web]\nlisten = ", "cputrace.toml: line 2: ");
        file("[webb]\nlisten = 1", "cputrace.toml: there is no section [webb]; known are web, sampling, counters");
        file("listen = 1", "cputrace.toml: there is no key \"listen\" outside of sections; known are web");
        file("[store]\nsizes = 1", "there is no key \"sizes\" in [store]; known are data_dir, age, fine_age, size");
        file("[store]\nsize = '1 parsec'", "cputrace.toml: store.size: \"1 parsec\" is no size");
        file("[store]\nsize = []", "cputrace.toml: store.size: it has to be text or a number");
        file("[sampling]\nfrequency = 0", "cputrace.toml: sampling.frequency: 0 is not between 1 and 10000");
        file("[sampling]\nfrequency = 'x'", "sampling.frequency: invalid type: string \"x\"");
        file("[sampling]\nwindow = '10 parsecs'", "sampling.window: \"10 parsecs\" is no time");
        file("[sampling]\ntier = 'x'", "sampling.tier: \"x\" is none of best, ebpf");
        file("[alerts]\nwebhook = 'ftp://x'", "alerts.webhook: \"ftp://x\" is no URL: it has to begin with http://");
        file("[push]\notlp_headers = ['x']", "push.otlp_headers: \"x\" is no header: give Name: value");
        file("[push]\notlp_headers = ['a b: x']", "push.otlp_headers: \"a b: x\" is no header");
        file("[counters]\nsets = ['x']", "counters.sets: there is no set \"x\"; known are");
        file("[[groups.rules]]\nname = '{{.PID}}'", "groups.rules: group \"{{.PID}}\": there is no field {{.PID}}");
        file("[[groups.rules]]\nname = 'x'\ncom = 'y'", "groups.rules: unknown field `com`");
        let text = |variables: &[(&str, &str)], flags: &[(&str, &str)], expected: &str| {
            assert_eq!(load("", variables, flags).unwrap_err(), expected);
        };
        text(&[("frequency", "x")], &[], "CPUTRACE_FREQUENCY: \"x\" is no whole number");
        text(&[], &[("pmu", "maybe")], "--pmu: \"maybe\" is neither true nor false");
        text(&[], &[("listen", "x")], "--listen: invalid socket address syntax");
    }
}
