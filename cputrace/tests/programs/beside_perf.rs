//! `perf record --call-graph dwarf` on the same program at the same time: who copies the stack and unwinds it later, by another
//! implementation, sees the same functions.

use std::collections::{BTreeMap, HashSet};
use std::process::{Command, Stdio};

use crate::load::Load;
use crate::support::lab::Lab;
use crate::support::require;

/// Functions that are compared: perf's first ones by total time.
const TOP: usize = 20;

/// Samples a second, and seconds.
const HZ: &str = "299";
const SECONDS: &str = "6";

/// What else a program did in the moments that only one of the two saw, in percent points.
const OTHER_TIMES: f64 = 3.0;

/// Share of the samples that each function is in, in percent, and the number of samples.
struct Shares {
    of: BTreeMap<String, f64>,
    samples: f64,
    /// Share of the samples whose stacks do not go to their end, in percent: of these it is not known who called.
    cut: f64,
}

impl Shares {
    /// Three standard deviations of a share, in percent points.
    fn noise(&self, percent: f64) -> f64 {
        let percent = percent.clamp(0.0, 100.0);
        3.0 * (percent * (100.0 - percent) / self.samples.max(1.0)).sqrt()
    }
}

/// Records by both, prints the table, and returns how many of perf's first functions have the same share of ours, but for the
/// noise of samples, and for callers that perf has lost (below code of JIT compilers it always does); `None` without perf.
pub(crate) fn agreement(name: &str, load: &Load) -> Option<(usize, usize)> {
    if !require("perf") {
        return None;
    }
    let lab = Lab::new();
    let data = lab.path("perf.data");
    let pids: Vec<_> = load.pids().iter().map(u32::to_string).collect();
    // A CPU's clock: a task's own starts anew when the task comes to its CPU, and ticks too often in what comes right after that
    // (of pgbench's postgres twice as often in epoll_wait).
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", HZ, "--call-graph", "dwarf,16384", "-a", "-o"])
        .arg(&data)
        .args(["--", "sleep", SECONDS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut arguments = vec!["--frequency", HZ, "--duration", SECONDS, "--no-sched"];
    arguments.extend(pids.iter().flat_map(|pid| ["--pid", pid]));
    assert!(lab.record(&arguments).status.success());
    perf.wait().unwrap();
    let (theirs, ours) = (perf_shares(&data, &pids), our_shares(&lab));
    let mut first: Vec<_> = theirs.of.iter().collect();
    first.sort_by(|a, b| b.1.total_cmp(a.1));
    let first = &first[..first.len().min(TOP)];
    let mut agreed = 0;
    eprintln!(
        "figure: {name}: perf's first functions by total time, and their shares (perf, of whose stacks {:.0} % are cut short, cputrace)",
        theirs.cut
    );
    for (function, share) in first {
        let own = ours.of.get(*function).copied().unwrap_or(0.0);
        let noise = OTHER_TIMES + theirs.noise(**share) + ours.noise(own);
        let agrees = (*share - noise..=*share + theirs.cut + noise).contains(&own);
        agreed += usize::from(agrees);
        eprintln!("figure:   {share:5.1} % {own:5.1} %  {}{function}", if agrees { "" } else { "DIFFERS " });
    }
    Some((agreed, first.len()))
}

/// Of named functions outside the kernel, from `perf script`: a stack is a block of lines `ADDRESS NAME+OFFSET (FILE)`.
fn perf_shares(data: &std::path::Path, pids: &[String]) -> Shares {
    let script = ["script", "--no-inline", "-F", "ip,sym,dso", "--pid", &pids.join(","), "-i"];
    let output = Command::new("perf").args(script).arg(data).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stacks = text.split("\n\n").filter(|stack| !stack.trim().is_empty());
    shares(stacks.map(|stack| {
        let names = stack.lines().filter_map(|line| {
            let (_, rest) = line.trim().split_once(' ')?;
            let (name, file) = rest.rsplit_once(" (")?;
            let is_kernel = file.starts_with('[');
            (!is_kernel && name != "[unknown]").then(|| plain(name).to_owned())
        });
        (names.collect(), 1.0)
    }))
}

/// A slow machine's first samples come before the tables; perf has all of the time for its own.
fn our_shares(lab: &Lab) -> Shares {
    let stacks = lab.stacks().into_iter().map(|(stack, count)| {
        let names = stack.split(';').skip(1).filter(|name| !name.ends_with("_[k]") && !name.ends_with("_[i]"));
        (names.map(|name| plain(name).to_owned()).collect(), count)
    });
    shares(stacks.filter(|(functions, _)| is_whole(functions)))
}

/// Without a symbol's version, types of parameters and results, which perf leaves out; and one for all names that the C library
/// has for a function: `send`, `__send`, `__libc_send`.
fn plain(name: &str) -> &str {
    let name = without_types(name.split('@').next().unwrap_or(name)).trim_start_matches('_');
    let name = name.strip_prefix("libc_").or(name.strip_prefix("GI_")).unwrap_or(name).trim_start_matches('_');
    // Two names of one place.
    let name = if name.starts_with("memcpy_avx") { "memmove_avx" } else { name };
    let name = if name.starts_with("memmove_avx") { "memmove_avx" } else { name };
    name.strip_suffix("_impl").unwrap_or(name)
}

/// `void f<int>(int) const` as `f<int>`.
fn without_types(name: &str) -> &str {
    let name = name.strip_suffix(" const").unwrap_or(name);
    let (mut depth, mut start, mut end) = (0, 0, name.len());
    for (at, letter) in name.char_indices() {
        match letter {
            // `(anonymous namespace)` is a part of the name.
            '(' if depth == 0 && name.ends_with(')') && !name[at..].starts_with("(anonymous") => end = at,
            _ => {}
        }
        match letter {
            '(' | '<' => depth += 1,
            ')' | '>' => depth -= 1,
            ' ' if depth == 0 && !name[..at].ends_with("operator") && end == name.len() => start = at + 1,
            _ => {}
        }
    }
    name.get(start..end).filter(|name| !name.is_empty()).unwrap_or(name)
}

fn is_whole(functions: &HashSet<String>) -> bool {
    ["start_main", "clone3"].iter().any(|root| functions.contains(*root))
}

fn shares(stacks: impl Iterator<Item = (HashSet<String>, f64)>) -> Shares {
    let (mut of, mut samples, mut cut) = (BTreeMap::<_, f64>::new(), 0.0, 0.0);
    for (functions, count) in stacks {
        samples += count;
        cut += if is_whole(&functions) { 0.0 } else { count };
        for function in functions {
            *of.entry(function).or_default() += count;
        }
    }
    of.values_mut().for_each(|count| *count *= 100.0 / samples);
    Shares { of, samples, cut: 100.0 * cut / samples }
}
