//! Where settings come from: options before environment variables before the file before the defaults.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::group::rule::RuleError;

use super::{Config, SECTIONS, SETTINGS, Setting};

/// The file that is read where there is one and no other is asked for.
pub const DEFAULT_FILE: &str = "/etc/cputrace/cputrace.toml";

/// Where the settings of one `serve` come from; they can be read again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file that was asked for.
    pub file: Option<PathBuf>,
    /// What the environment says.
    pub variables: Vec<(&'static Setting, String)>,
    /// What the command line says.
    pub flags: Vec<(&'static Setting, String)>,
}

/// Why there is no configuration: a sentence that names the place and the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is no TOML.
    #[error("{}: line {line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The file has a section or key that there is not.
    #[error("{}: there is no {what}; known are {known}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is unknown.
        what: String,
        /// What there is.
        known: String,
    },
    /// A value is wrong.
    #[error("{origin}: {problem}")]
    Value {
        /// The file and key, the variable or the option.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// A rule for groups is wrong.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// The rules for the reasons of waits cannot be read.
    #[error("the wait rules {} cannot be read: {error}", path.display())]
    WaitRules {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl Source {
    /// Reads all of it.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some((path, text)) = self.text()? {
            read(&mut config, path, &text)?;
        }
        for (setting, text) in &self.variables {
            let origin = || setting.variable().unwrap_or_default();
            setting.set_text(&mut config, text).map_err(|problem| ConfigError::Value { origin: origin(), problem })?;
        }
        for (setting, text) in &self.flags {
            let origin = || format!("--{}", setting.flag);
            setting.set_text(&mut config, text).map_err(|problem| ConfigError::Value { origin: origin(), problem })?;
        }
        Ok(config)
    }

    fn text(&self) -> Result<Option<(&Path, String)>, ConfigError> {
        let path = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.is_none() => Ok(None),
            Err(error) => Err(ConfigError::Read { path: path.to_owned(), error }),
        }
    }
}

fn read(config: &mut Config, path: &Path, text: &str) -> Result<(), ConfigError> {
    let sections: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, problem: error.message().to_owned() }
    })?;
    let unknown =
        |what, known: Vec<&str>| ConfigError::Unknown { path: path.to_owned(), what, known: known.join(", ") };
    for (section, keys) in sections {
        let toml::Value::Table(keys) = keys else {
            let known = SECTIONS.iter().map(|(section, _)| *section).collect();
            return Err(unknown(format!("key {section:?} outside of sections"), known));
        };
        let known: Vec<_> = SETTINGS.iter().filter(|setting| setting.section == section).collect();
        if known.is_empty() {
            return Err(unknown(
                format!("section [{section}]"),
                SECTIONS.iter().map(|(section, _)| *section).collect(),
            ));
        }
        for (key, value) in keys {
            let Some(setting) = known.iter().find(|setting| setting.key == key) else {
                let known = known.iter().map(|setting| setting.key).collect();
                return Err(unknown(format!("key {key:?} in [{section}]"), known));
            };
            let origin = || format!("{}: {section}.{key}", path.display());
            (setting.set)(config, value).map_err(|problem| ConfigError::Value { origin: origin(), problem })?;
        }
    }
    Ok(())
}
