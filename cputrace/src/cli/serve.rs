//! `cputrace serve`: from the command line to a server.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::{say, stop};
use crate::config::source::Source;
use crate::config::{SETTINGS, Setting};
use crate::process::privileges::{self, Needs};
use crate::serve::{self, Caller};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each option can be an environment variable, too (--data-dir: CPUTRACE_DATA_DIR), or a key in the \
                        configuration file; --print-config shows all of them, docs/configuration.md what they mean."
)]
pub(super) struct Args {
    /// The configuration file [default: /etc/cputrace/cputrace.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the configuration that is in effect, as such a file, and do nothing else
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: Flags,
}

/// An option for each setting that can be one.
#[derive(Debug)]
struct Flags(Vec<(&'static Setting, String)>);

fn with_flag() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| !setting.flag.is_empty())
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(with_flag().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn arg(setting: &'static Setting) -> Arg {
    let default = match setting.default_value() {
        toml::Value::String(text) if text.is_empty() => String::new(),
        toml::Value::String(text) => format!(" [default: {text}]"),
        toml::Value::Array(_) | toml::Value::Boolean(false) => String::new(),
        value => format!(" [default: {value}]"),
    };
    let arg = Arg::new(setting.flag).long(setting.flag).value_name(setting.value_name);
    let arg = arg.help(format!("{}{default}", setting.help())).action(ArgAction::Append);
    let arg = if setting.flag == "frequency" { arg.short('F') } else { arg };
    match setting.default_value() {
        // `--pmu` alone is enough.
        toml::Value::Boolean(_) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        toml::Value::Array(_) => arg,
        _ => arg.action(ArgAction::Set),
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = with_flag().filter(|setting| matches.value_source(setting.flag) == Some(ValueSource::CommandLine));
        let texts = given.map(|setting| {
            let values = matches.get_many::<String>(setting.flag).unwrap_or_default();
            (setting, values.map(String::as_str).collect::<Vec<_>>().join(","))
        });
        Ok(Self(texts.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args {
    fn source(&self) -> Source {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let variables = SETTINGS.iter().filter_map(|setting| Some((setting, variable(&setting.variable()?)?)));
        Source {
            file: self.config.clone().or_else(|| variable("CPUTRACE_CONFIG").map(PathBuf::from)),
            variables: variables.collect(),
            flags: self.flags.0.clone(),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.source();
    let config = source.load()?;
    if args.print_config {
        io::stdout().write_all(config.to_toml().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before there are other threads: they would keep what this one gives up.
    let needs = Needs { directory: &config.store.data_dir, port: config.web.listen.port() };
    if let Err(error) = privileges::give_up(needs) {
        say(&format!("cputrace: rights that are not needed cannot be given up: {error}"));
    }
    let (stop, reload) = stop::server_signals()?;
    let caller = Caller {
        on_start: &mut |url| say(&format!("cputrace: watching this host, serving {url}")),
        say: Arc::new(|line: &str| say(&format!("cputrace: {line}"))),
        stop,
        reload,
    };
    serve::serve(source, caller)?;
    Ok(ExitCode::SUCCESS)
}
