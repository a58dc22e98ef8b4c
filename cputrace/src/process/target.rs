//! Which processes a [`Target`] means, now and later.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::model::Target;

/// Why targets cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No such process.
    #[error("there is no process {0}: `ps -e` lists those that run now")]
    NoProcess(u32),
    /// No process matches.
    #[error("no process's name or command line matches {0:?}: `ps -ef` lists those that run now")]
    NoMatch(String),
    /// Not a regular expression.
    #[error("{0:?} is not a regular expression: {1}")]
    Pattern(String, String),
    /// No such control group.
    #[error("there is no control group {0}: give a path below /sys/fs/cgroup, as in /proc/PID/cgroup")]
    NoCgroup(String),
    /// More than one way to choose.
    #[error("{0} cannot be combined with other targets")]
    Conflict(&'static str),
    /// None.
    #[error("no target: give --pid, --name, --cgroup, --all, or a command after --")]
    None,
}

/// How the kernel's side tells targets from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// Every task is one.
    All,
    /// The tasks of a control group (v2) and those below it.
    Cgroup {
        /// The inode of its directory.
        id: u64,
        /// Its depth below the root of the hierarchy.
        level: u32,
    },
    /// The threads of a set of processes.
    Processes,
}

/// What targets mean now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// How they are told from others.
    pub selection: Selection,
    /// The processes, where they are a set.
    pub pids: Vec<u32>,
    /// Of a control group, its directory.
    pub directory: Option<PathBuf>,
}

/// Finds out what targets mean now.
pub fn resolve(targets: &[Target]) -> Result<Resolved, TargetError> {
    let mut directory = None;
    let selection = match targets {
        [] => return Err(TargetError::None),
        [Target::All] => Selection::All,
        [Target::Cgroup(path)] => {
            let cgroup = cgroup(path)?;
            let selection = cgroup.selection();
            directory = Some(cgroup.directory);
            selection
        }
        _ if targets.contains(&Target::All) => return Err(TargetError::Conflict("--all")),
        _ if targets.iter().any(|target| matches!(target, Target::Cgroup(_))) => {
            return Err(TargetError::Conflict("--cgroup"));
        }
        _ => Selection::Processes,
    };
    let mut pids = Vec::new();
    if selection == Selection::Processes {
        for target in targets {
            pids.extend(processes(target)?);
        }
        pids.sort_unstable();
        pids.dedup();
    }
    Ok(Resolved { selection, pids, directory })
}

/// Whether new processes can match a target later without being anybody's child.
pub fn is_open(target: &Target) -> bool {
    matches!(target, Target::Name(_) | Target::Cgroup(_))
}

/// The processes that match such targets now.
pub fn newcomers(targets: &[Target]) -> Vec<u32> {
    let open = targets.iter().filter(|target| is_open(target));
    open.flat_map(|target| processes(target).unwrap_or_default()).collect()
}

/// Whether a process runs: not gone, and no zombie either.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name, in parentheses, may have anything in it.
    let state = stat.rfind(')').and_then(|end| stat[end..].split_ascii_whitespace().nth(1));
    !matches!(state, None | Some("Z" | "X"))
}

/// The threads of a process, each with its name; none once it is gone.
pub fn threads(pid: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = tids.filter_map(|tid| Some((tid, fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).ok()?)));
    named.map(|(tid, name)| (tid, name.trim_end().to_owned())).collect()
}

/// What is wrong is the last of the lines that regex tells it in.
fn not_a_pattern(pattern: &str, error: &regex::Error) -> TargetError {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    TargetError::Pattern(pattern.to_owned(), line.trim_start_matches("error: ").to_owned())
}

fn processes(target: &Target) -> Result<Vec<u32>, TargetError> {
    match target {
        Target::Pid(pid) if is_alive(*pid) => Ok(vec![*pid]),
        Target::Pid(pid) => Err(TargetError::NoProcess(*pid)),
        Target::Name(pattern) => {
            let regex = Regex::new(pattern).map_err(|error| not_a_pattern(pattern, &error))?;
            let own = std::process::id();
            let matching: Vec<_> = all().filter(|&pid| pid != own && matches(pid, &regex)).collect();
            if matching.is_empty() { Err(TargetError::NoMatch(pattern.clone())) } else { Ok(matching) }
        }
        Target::Cgroup(path) => Ok(cgroup(path)?.members()),
        Target::All => Ok(all().collect()),
        // The session knows it already.
        Target::Command(_) => Ok(Vec::new()),
    }
}

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// By name, or by command line with spaces between the arguments.
fn matches(pid: u32, regex: &Regex) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if regex.is_match(comm.trim_end_matches('\n')) {
        return true;
    }
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
    regex.is_match(command_line.trim_end())
}

/// A control group's directory.
#[derive(Debug)]
struct Cgroup {
    directory: PathBuf,
    /// Depth below the mount, for the hierarchy of version 2.
    level: Option<u32>,
}

impl Cgroup {
    fn selection(&self) -> Selection {
        let id = self.directory.metadata().map(|metadata| metadata.ino());
        match (self.level, id) {
            (Some(level), Ok(id)) => Selection::Cgroup { id, level },
            // Version 1: the kernel's side knows no ids of it, so its processes are listed.
            _ => Selection::Processes,
        }
    }

    /// The processes in it and below it.
    fn members(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            directories.extend(
                entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
            );
        }
        pids
    }
}

/// A control group by its absolute path, or by its path within any of the mounted hierarchies.
fn cgroup(path: &str) -> Result<Cgroup, TargetError> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| (PathBuf::from(mount), kind == "cgroup2"))
    });
    // The unified hierarchy first: there, the kernel's side filters by itself.
    let mut mounts: Vec<_> = mounts.collect();
    mounts.sort_by_key(|(_, unified)| !unified);
    for (mount, unified) in mounts {
        let within = Path::new(path).strip_prefix(&mount).map(Path::to_owned);
        let within = within.unwrap_or_else(|_| PathBuf::from(path.trim_start_matches('/')));
        let directory = mount.join(&within);
        if directory.join("cgroup.procs").exists() {
            let level = unified.then(|| within.components().count() as u32);
            return Ok(Cgroup { directory, level });
        }
    }
    Err(TargetError::NoCgroup(path.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A real process is found by its id and by its command line, and is gone after its end even as a zombie.
    #[test]
    fn finds_processes() {
        // Of this run's own: another one may be at work at the same time.
        let seconds = format!("98.{}", std::process::id());
        let name = || Target::Name(format!("^sleep {seconds}$"));
        let mut sleep = std::process::Command::new("sleep").arg(&seconds).spawn().unwrap();
        // It has its command line a moment after it is there.
        let command_line = format!("/proc/{}/cmdline", sleep.id());
        while !std::fs::read_to_string(&command_line).unwrap().contains(&seconds) {
            std::thread::yield_now();
        }
        let by = |target| resolve(&[target]).map(|resolved| resolved.pids);
        assert_eq!(by(Target::Pid(sleep.id())).unwrap(), [sleep.id()]);
        assert_eq!(by(name()).unwrap(), [sleep.id()]);
        sleep.kill().unwrap();
        while is_alive(sleep.id()) {
            std::thread::yield_now();
        }
        assert!(matches!(by(Target::Pid(sleep.id())), Err(TargetError::NoProcess(_))));
        sleep.wait().unwrap();
        assert!(matches!(by(name()), Err(TargetError::NoMatch(_))));
    }

    /// Targets that exclude each other, and none at all, are refused.
    #[test]
    fn refuses_contradictions() {
        assert!(matches!(resolve(&[]), Err(TargetError::None)));
        assert!(matches!(resolve(&[Target::All, Target::Pid(1)]), Err(TargetError::Conflict("--all"))));
        assert!(matches!(resolve(&[Target::Name("(".to_owned())]), Err(TargetError::Pattern(..))));
        assert!(matches!(resolve(&[Target::Cgroup("/no/such".to_owned())]), Err(TargetError::NoCgroup(_))));
    }
}
