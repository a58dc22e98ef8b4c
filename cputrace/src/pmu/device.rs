//! The PMUs that the kernel offers: `/sys/bus/event_source/devices`, under any root.
//!
//! Reads and checks; what a file says is believed only when it parses. Opening events is `source`'s.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::format::{Config, Field, FormatError};

/// The largest file that is believed: `/proc/cpuinfo` of a thousand CPUs.
const MAX_BYTES: u64 = 4 << 20;

/// The highest CPU number that is believed: `NR_CPUS` is at most 8192.
const MAX_CPU: u32 = 8191;

/// A file system tree to read facts from: `/`, or a copy of another machine's.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// A tree that has `proc` and `sys` below it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The text of a file, trimmed; `None` where there is none or it is too large.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        read(&self.0.join(path))
    }

    /// Whether there is such a file.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.0.join(path).exists()
    }

    /// The PMUs, by name, and a sentence for each one that cannot be used.
    pub fn devices(&self) -> (BTreeMap<String, Device>, Vec<String>) {
        let mut devices = BTreeMap::new();
        let mut problems = Vec::new();
        let directory = self.0.join("sys/bus/event_source/devices");
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match Device::read(&entry.path(), &name) {
                Ok((device, skipped)) => {
                    problems.extend(skipped.into_iter().map(|problem| format!("{name}: {problem}")));
                    devices.insert(name, device);
                }
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        }
        problems.sort_unstable();
        (devices, problems)
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Why a PMU or an event of it cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeviceError {
    /// A file is missing or says nothing that can be used.
    #[error("its file {file} says {text:?}: it cannot be used")]
    File {
        /// Which.
        file: String,
        /// Its text, cut.
        text: String,
    },
    /// The PMU has no such term.
    #[error("the PMU {pmu} has no term {term}; it has {known}")]
    NoTerm {
        /// Which PMU.
        pmu: String,
        /// Which term.
        term: String,
        /// Those that there are.
        known: String,
    },
    /// The terms are no `name=value,…`.
    #[error("{0:?} is no list of terms such as event=0xc0,umask=0x1")]
    Terms(String),
    /// A term's layout or value.
    #[error("{0}")]
    Format(#[from] FormatError),
}

/// One PMU.
#[derive(Clone, PartialEq, Debug)]
pub struct Device {
    /// Its name, that of its directory.
    pub name: String,
    /// `perf_event_attr.type`, given at boot.
    pub kind: u32,
    /// The CPUs to open its events on; `None`: a core's PMU, on any CPU and for any task.
    pub cpus: Option<Vec<u32>>,
    /// Where its terms lie.
    pub formats: BTreeMap<String, Field>,
    /// The events that the kernel names: their terms.
    pub events: BTreeMap<String, String>,
    /// What it can do (`caps`).
    pub caps: BTreeMap<String, String>,
    /// How long a group counts before the next one does, when they do not fit, in milliseconds.
    pub mux_interval_ms: Option<u64>,
}

impl Device {
    fn read(path: &Path, name: &str) -> Result<(Self, Vec<String>), DeviceError> {
        let file = |file: &str, text: Option<String>| DeviceError::File {
            file: file.to_owned(),
            text: text.unwrap_or_default().chars().take(40).collect(),
        };
        let kind = read(&path.join("type"));
        let kind = kind.as_deref().and_then(|text| text.parse().ok()).ok_or_else(|| file("type", kind.clone()))?;
        let cpus = match read(&path.join("cpumask")) {
            None => None,
            Some(text) => Some(cpu_list(&text).ok_or_else(|| file("cpumask", Some(text)))?),
        };
        let mut problems = Vec::new();
        let mut formats = BTreeMap::new();
        for (term, text) in directory(&path.join("format")) {
            match Field::parse(&text) {
                Ok(field) => {
                    formats.insert(term, field);
                }
                Err(error) => problems.push(format!("the term {term} is left out: {error}")),
            }
        }
        let device = Self {
            name: name.to_owned(),
            kind,
            cpus,
            formats,
            events: directory(&path.join("events")),
            caps: directory(&path.join("caps")),
            mux_interval_ms: read(&path.join("perf_event_mux_interval_ms")).and_then(|text| text.parse().ok()),
        };
        Ok((device, problems))
    }

    /// The words of an event from its terms, such as `event=0xc0,umask=0x1`. A term without a value is 1.
    pub fn encode(&self, terms: &str) -> Result<Config, DeviceError> {
        let mut config = Config::default();
        for term in terms.split(',') {
            let (name, value) = term.split_once('=').unwrap_or((term, "1"));
            let value = number(value).ok_or_else(|| DeviceError::Terms(terms.chars().take(80).collect()))?;
            match (self.formats.get(name), name) {
                (Some(field), _) => field.encode(name, value, &mut config)?,
                // perf takes the words themselves too; the software PMU has no other terms.
                (None, "config") => config.words[0] = value,
                (None, "config1") => config.words[1] = value,
                (None, "config2") => config.words[2] = value,
                (None, _) => {
                    return Err(DeviceError::NoTerm {
                        pmu: self.name.clone(),
                        term: name.chars().take(40).collect(),
                        known: self.formats.keys().cloned().collect::<Vec<_>>().join(", "),
                    });
                }
            }
        }
        Ok(config)
    }

    /// What a count of one of its own events is to be multiplied by, and the unit of that.
    pub fn scale(&self, event: &str) -> Option<(f64, String)> {
        let scale = self.events.get(&format!("{event}.scale"))?.parse().ok().filter(|scale: &f64| *scale > 0.0)?;
        scale.is_finite().then(|| (scale, self.events.get(&format!("{event}.unit")).cloned().unwrap_or_default()))
    }
}

/// The files of a directory and their texts.
fn directory(path: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), read(&entry.path())?))).collect()
}

/// A number as sysfs and perf write them: decimal, or hexadecimal behind 0x.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A list of CPUs such as `0,8,16-23`; an empty one is none.
pub fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpu_list("0,8,16-18\n"), Some(vec![0, 8, 16, 17, 18]));
        assert_eq!(cpu_list("\n"), Some(vec![]));
        for text in ["3-1", "a", "1,", "0-4294967295", "-1", "1 2"] {
            assert_eq!(cpu_list(text), None, "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("0x1f"), Some(31));
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("0x"), None);
        assert_eq!(number("c0"), None);
    }
}
