//! Groups of processes: what a whole host's processes are added up by.
//!
//! - [`facts`]: what `/proc` says of a process.
//! - [`rule`]: which group that puts it into.
//! - [`split`]: which part of its time was in the kernel.
//! - [`window`]: what each process did in a window.
//!
//! Sums grow by what each window brought, by the account of the threads' time, which knows of processes that lived shorter
//! than a window; so they never go back when a process ends. `/proc` is asked once a window, for processes that ran in it.

pub mod facts;
pub mod rule;
mod split;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use procfs::process::{Process, Stat};
use rustc_hash::FxBuildHasher;

use crate::model::{Recording, WaitHistogram};
use facts::Facts;
use rule::{Rule, RuleError, RuleText};
use split::{Unsplit, part};
use window::{InWindow, Processes, add};

/// The group of those for which there is no other, or no room.
pub const OTHER: &str = "~other";

/// The group of the kernel's own threads.
pub const KERNEL: &str = "~kernel";

/// How processes are grouped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupOptions {
    /// The rules; the first that fits a process counts. A process that none fits is in [`OTHER`].
    pub rules: Vec<RuleText>,
    /// Groups that there may be at once; more go to [`OTHER`].
    pub max: usize,
    /// How long a group stays after its last process has ended; one whose name is in the rules as it is stays always.
    pub linger: Duration,
}

impl Default for GroupOptions {
    /// By the processes' names, as process-exporter does.
    fn default() -> Self {
        let by_name = RuleText { name: "{{.Comm}}".to_owned(), ..RuleText::default() };
        Self { rules: vec![by_name], max: 200, linger: Duration::from_mins(5) }
    }
}

/// What a process's samples are told apart by.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Labels {
    /// Its group.
    pub group: String,
    /// Its control group's path; empty where it is not known, like all that follow.
    pub cgroup: String,
    /// Its systemd unit.
    pub unit: String,
    /// Its container's id.
    pub container: String,
    /// Its Kubernetes pod's uid.
    pub pod: String,
}

/// What a group's processes came to. Times and numbers are sums since the group appeared, with those of processes that
/// have ended; those marked "now" are of its living processes, as of the last window in which they ran.
#[derive(Clone, Debug, Default)]
pub struct GroupSums {
    /// Processes, now.
    pub processes: u64,
    /// Their threads, now.
    pub threads: u64,
    /// Their resident memory, now.
    pub resident_bytes: u64,
    /// Their virtual memory, now.
    pub virtual_bytes: u64,
    /// When the oldest of them started, in clock ticks since boot.
    pub oldest_start_ticks: Option<u64>,
    /// Time on the CPU.
    pub on_cpu_ns: u64,
    /// That in the kernel: by the kernel's own account, else by samples.
    pub system_ns: u64,
    /// Time waiting for a CPU.
    pub run_queue_ns: u64,
    /// These waits, by length.
    pub run_queue_waits: WaitHistogram,
    /// Time waiting for an event, by `OffCpuState`.
    pub off_cpu_ns: [u64; 4],
    /// Switches because a thread waited.
    pub switches_voluntary: u64,
    /// Switches because another thread was to run.
    pub switches_involuntary: u64,
    /// Moves to another CPU.
    pub migrations: u64,
    /// Page faults without a disk.
    pub minor_faults: u64,
    /// Page faults with one.
    pub major_faults: u64,
    /// Processes that started.
    pub starts: u64,
    /// Processes that ended.
    pub exits: u64,
    /// Samples on the CPU in the programs' own code.
    pub samples_user: u64,
    /// Samples on the CPU in the kernel.
    pub samples_kernel: u64,
}

#[derive(Default)]
struct Group {
    sums: GroupSums,
    /// Of processes too short-lived for the kernel to say how their time is split.
    unsplit: Unsplit,
    /// When its last process ended, if there is none any more.
    empty_since: Option<Instant>,
}

/// A living process.
struct Member {
    comm: String,
    start_ticks: u64,
    labels: Labels,
    /// The last that `/proc` said of it.
    seen: Seen,
    /// User and system time when it was met.
    met_ticks: [u64; 2],
    /// Its time on the CPU since then, and the part of that in the kernel.
    on_cpu_ns: u64,
    system_ns: u64,
    last: Last,
}

impl Member {
    /// User and system time since it was met.
    fn ticks(&self) -> [u64; 2] {
        let [user, system] = self.met_ticks;
        [self.seen.user_ticks.saturating_sub(user), self.seen.system_ticks.saturating_sub(system)]
    }
}

/// What a process did in the last window.
#[derive(Clone, Copy, Default)]
struct Last {
    on_cpu_ns: u64,
    run_queue_ns: u64,
    off_cpu_ns: [u64; 4],
}

#[derive(Clone, Copy, Default)]
struct Seen {
    user_ticks: u64,
    system_ticks: u64,
    minor_faults: u64,
    major_faults: u64,
    threads: u64,
    resident_bytes: u64,
    virtual_bytes: u64,
}

impl From<&Stat> for Seen {
    fn from(stat: &Stat) -> Self {
        Self {
            user_ticks: stat.utime,
            system_ticks: stat.stime,
            minor_faults: stat.minflt,
            major_faults: stat.majflt,
            threads: stat.num_threads.unsigned_abs(),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
        }
    }
}

/// A living process, and what it did in the last window.
#[derive(Clone, Copy, Debug)]
pub struct LiveProcess<'a> {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub name: &'a str,
    /// What it belongs to.
    pub labels: &'a Labels,
    /// Threads.
    pub threads: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Time on the CPU.
    pub on_cpu_ns: u64,
    /// Time waiting for a CPU.
    pub run_queue_ns: u64,
    /// Time waiting for an event, by `OffCpuState`.
    pub off_cpu_ns: [u64; 4],
}

/// What a group's processes did in the last window.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupWindow {
    /// Time on the CPU.
    pub on_cpu_ns: u64,
    /// Time waiting for a CPU.
    pub run_queue_ns: u64,
    /// These waits, by length.
    pub run_queue_waits: WaitHistogram,
    /// Time waiting for something else.
    pub off_cpu_ns: u64,
}

/// All groups of a host.
pub struct Groups {
    rules: Vec<Rule>,
    max: usize,
    linger: Duration,
    groups: BTreeMap<String, Group>,
    members: HashMap<u32, Member, FxBuildHasher>,
    overflowed: u64,
    in_window: BTreeMap<String, GroupWindow>,
    /// Whether the window is the first: all processes are new to us then, none is new to the host.
    is_first: bool,
}

impl Groups {
    /// None yet.
    pub fn new(options: &GroupOptions) -> Result<Self, RuleError> {
        let mut groups = Self {
            rules: Vec::new(),
            max: 0,
            linger: Duration::ZERO,
            groups: BTreeMap::new(),
            members: HashMap::default(),
            overflowed: 0,
            in_window: BTreeMap::new(),
            is_first: true,
        };
        groups.set_rules(options)?;
        Ok(groups)
    }

    /// Replaces the rules; processes that are in a group already stay there.
    pub fn set_rules(&mut self, options: &GroupOptions) -> Result<(), RuleError> {
        self.rules = options.rules.iter().map(Rule::new).collect::<Result<_, _>>()?;
        (self.max, self.linger) = (options.max, options.linger);
        for name in self.rules.iter().filter_map(Rule::fixed_name) {
            self.groups.entry(name.to_owned()).or_default();
        }
        Ok(())
    }

    /// All groups, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &GroupSums)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), &group.sums))
    }

    /// All living processes, with what they did in the last window.
    pub fn processes(&self) -> impl Iterator<Item = LiveProcess<'_>> {
        self.members.iter().map(|(&pid, member)| LiveProcess {
            pid,
            name: &member.comm,
            labels: &member.labels,
            threads: member.seen.threads,
            resident_bytes: member.seen.resident_bytes,
            on_cpu_ns: member.last.on_cpu_ns,
            run_queue_ns: member.last.run_queue_ns,
            off_cpu_ns: member.last.off_cpu_ns,
        })
    }

    /// What each group did in the last window.
    pub fn in_window(&self) -> &BTreeMap<String, GroupWindow> {
        &self.in_window
    }

    /// Groups that there may be.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Processes that were put into [`OTHER`] because there were too many groups.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Adds what a window brought. Returns the labels of each process of its profile.
    pub fn add(&mut self, window: &Recording) -> Vec<Labels> {
        let processes = Processes::of(window);
        self.in_window.clear();
        for (&pid, process) in &processes.by_pid {
            self.meet(pid, process);
            self.account(pid, process);
        }
        for group in self.groups.values_mut() {
            group.sums.system_ns += group.unsplit.settle();
        }
        let profile = &window.profile;
        let labels = profile.processes().iter().map(|process| {
            // A process of which only a stray sample is known has been met, too: all of the profile's are in `processes`.
            self.members.get(&process.pid).map(|member| member.labels.clone()).unwrap_or_default()
        });
        let labels: Vec<_> = labels.collect();
        self.part_with(&processes);
        self.count_the_living();
        // Only now it is known which are empty: one may have got a member in this window, after a long time without.
        self.forget_empty_groups();
        self.is_first = false;
        labels
    }

    /// Finds the group of a process that is new, or has become another program.
    fn meet(&mut self, pid: u32, process: &InWindow) {
        // What did not run has not changed.
        if self.members.contains_key(&pid) && process.on_cpu_ns == 0 && process.samples() == 0 {
            return;
        }
        // What has ended is gone from /proc, or about to be; in a storm of processes to look for each would cost more than all else.
        let living = i32::try_from(pid).ok().filter(|_| !process.has_ended);
        let stat = living.and_then(|pid| Process::new(pid).ok()?.stat().ok());
        let known = self.members.get(&pid);
        let is_same = known.is_some_and(|member| match &stat {
            Some(stat) => member.start_ticks == stat.starttime && member.comm == stat.comm,
            None => true,
        });
        let started = known.is_none() && !self.is_first;
        if !is_same {
            let facts = living.map_or_else(|| Facts::of_ended(&process.name), |pid| Facts::read(pid, &process.name));
            let before = self.members.remove(&pid);
            let renamed = before.filter(|member| member.start_ticks == facts.start_ticks);
            let labels = self.labels(&facts);
            let seen = renamed.as_ref().map(|member| member.seen);
            // What a process did before it was met is not this window's; of one that started in it, it is.
            let seen = seen.unwrap_or_else(|| match (&stat, started) {
                (Some(stat), false) => Seen {
                    minor_faults: stat.minflt,
                    major_faults: stat.majflt,
                    user_ticks: stat.utime,
                    system_ticks: stat.stime,
                    ..Seen::default()
                },
                _ => Seen::default(),
            });
            self.group(&labels.group).sums.starts += u64::from(started && renamed.is_none());
            let Facts { comm, start_ticks, .. } = facts;
            let member = Member {
                comm,
                start_ticks,
                labels,
                seen,
                met_ticks: [seen.user_ticks, seen.system_ticks],
                on_cpu_ns: 0,
                system_ns: 0,
                last: Last::default(),
            };
            self.members.insert(pid, member);
        }
        let Some(member) = self.members.get_mut(&pid) else { return };
        if let Some(stat) = &stat
            && let Some(Group { sums, .. }) = self.groups.get_mut(&member.labels.group)
        {
            let now = Seen::from(stat);
            sums.minor_faults += now.minor_faults.saturating_sub(member.seen.minor_faults);
            sums.major_faults += now.major_faults.saturating_sub(member.seen.major_faults);
            member.seen = now;
        }
    }

    /// Adds what a process did in the window.
    fn account(&mut self, pid: u32, process: &InWindow) {
        let Some(member) = self.members.get_mut(&pid) else { return };
        let Some(group) = self.groups.get_mut(&member.labels.group) else { return };
        let sums = &mut group.sums;
        // The kernel's split of the time since the process was met; what was added so far is not taken back.
        let [user_ticks, system_ticks] = member.ticks();
        match user_ticks + system_ticks {
            0 => group.unsplit.add(process),
            ticks => {
                member.on_cpu_ns += process.on_cpu_ns;
                let system_ns = part(member.on_cpu_ns, system_ticks, ticks);
                let more = system_ns.saturating_sub(member.system_ns).min(process.on_cpu_ns);
                member.system_ns += more;
                sums.system_ns += more;
            }
        }
        let InWindow {
            name: _,
            on_cpu_ns,
            run_queue_ns,
            run_queue_waits,
            off_cpu_ns,
            switches_voluntary,
            switches_involuntary,
            migrations,
            samples_user,
            samples_kernel,
            has_ended: _,
        } = process;
        let in_window = self.in_window.entry(member.labels.group.clone()).or_default();
        in_window.on_cpu_ns += on_cpu_ns;
        in_window.run_queue_ns += run_queue_ns;
        add(&mut in_window.run_queue_waits, run_queue_waits);
        in_window.off_cpu_ns += off_cpu_ns.iter().sum::<u64>();
        member.last = Last { on_cpu_ns: *on_cpu_ns, run_queue_ns: *run_queue_ns, off_cpu_ns: *off_cpu_ns };
        sums.on_cpu_ns += on_cpu_ns;
        sums.run_queue_ns += run_queue_ns;
        add(&mut sums.run_queue_waits, run_queue_waits);
        add(&mut sums.off_cpu_ns, off_cpu_ns);
        sums.switches_voluntary += switches_voluntary;
        sums.switches_involuntary += switches_involuntary;
        sums.migrations += migrations;
        sums.samples_user += samples_user;
        sums.samples_kernel += samples_kernel;
    }

    /// Forgets processes that have ended.
    fn part_with(&mut self, processes: &Processes) {
        let groups = &mut self.groups;
        self.members.retain(|pid, member| {
            let process = processes.by_pid.get(pid);
            // What has ended by the account has, even if it is gone from /proc before: else the next window would meet it anew.
            // One that the account lacks altogether is looked for: its end may have got lost.
            let is_there = match process {
                Some(process) => !process.has_ended,
                None => std::path::Path::new(&format!("/proc/{pid}")).exists(),
            };
            if !is_there && let Some(group) = groups.get_mut(&member.labels.group) {
                group.sums.exits += 1;
            }
            is_there
        });
    }

    /// Forgets groups that have been empty for long.
    fn forget_empty_groups(&mut self) {
        let (linger, rules) = (self.linger, &self.rules);
        self.groups.retain(|name, group| {
            group.empty_since.is_none_or(|since| since.elapsed() < linger)
                || rules.iter().any(|rule| rule.fixed_name() == Some(name))
        });
    }

    fn count_the_living(&mut self) {
        for group in self.groups.values_mut() {
            let sums = &mut group.sums;
            (sums.processes, sums.threads, sums.resident_bytes, sums.virtual_bytes) = (0, 0, 0, 0);
            sums.oldest_start_ticks = None;
        }
        for member in self.members.values() {
            let Some(group) = self.groups.get_mut(&member.labels.group) else { continue };
            let sums = &mut group.sums;
            sums.processes += 1;
            sums.threads += member.seen.threads;
            sums.resident_bytes += member.seen.resident_bytes;
            sums.virtual_bytes += member.seen.virtual_bytes;
            let oldest = sums.oldest_start_ticks.unwrap_or(u64::MAX).min(member.start_ticks);
            sums.oldest_start_ticks = Some(oldest).filter(|&ticks| ticks > 0);
        }
        for (name, group) in &mut self.groups {
            group.empty_since = match group.sums.processes {
                // What came and went in this window is to be seen for a while, too.
                0 if self.in_window.contains_key(name) => Some(Instant::now()),
                0 => group.empty_since.or_else(|| Some(Instant::now())),
                _ => None,
            };
        }
    }

    fn labels(&mut self, facts: &Facts) -> Labels {
        let by_rule = || self.rules.iter().find_map(|rule| rule.apply(facts));
        let name = if facts.is_kernel { Some(KERNEL.to_owned()) } else { by_rule() };
        let mut group = name.unwrap_or_else(|| OTHER.to_owned());
        if !self.groups.contains_key(&group) && self.groups.len() >= self.max && group != OTHER {
            self.overflowed += 1;
            group = OTHER.to_owned();
        }
        Labels {
            group,
            cgroup: facts.cgroup.clone(),
            unit: facts.unit().to_owned(),
            container: facts.container().to_owned(),
            pod: facts.pod(),
        }
    }

    fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::import;
    use crate::model::{ElfAddr, Mapping, MappingKind, Profile, Source, ThreadTime, Unit};

    /// More than the kernel gives out: such a process has always ended.
    const NO_PID: u32 = 4_200_000;

    fn options(rules: &[&str], max: usize, linger: Duration) -> GroupOptions {
        let rules = rules.iter().map(|rule| toml::from_str(rule).unwrap()).collect();
        GroupOptions { rules, max, linger }
    }

    /// A process that a window's end falls into is one, though it is gone when the window is looked at.
    #[test]
    fn a_windows_end_falls_into_a_process() {
        let mut groups = Groups::new(&options(&["name = '{{.Comm}}'"], 9, Duration::from_secs(60))).unwrap();
        groups.add(&window(&[]));
        let mut begun = window(&[("a", 1, 0, 0)]);
        begun.threads[0].ended = false;
        groups.add(&begun);
        groups.add(&window(&[("a", 1, 0, 0)]));
        let sums = groups.all().next().unwrap().1;
        assert_eq!((sums.starts, sums.exits, sums.processes), (1, 1, 0));
    }

    /// A window of processes that have ended: name, seconds on the CPU, samples in user code and in the kernel.
    fn window(processes: &[(&str, u64, u64, u64)]) -> Recording {
        let mut profile = Profile::new();
        let name = profile.string("on-cpu");
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 1 });
        let stacks = [MappingKind::File, MappingKind::Kernel].map(|kind| {
            let path = profile.string("x");
            let mapping = profile.mapping(Mapping { kind, path, build_id: None });
            let location = profile.location(mapping, ElfAddr(1));
            profile.stack(None, location)
        });
        let mut threads = Vec::new();
        for (pid, &(name, seconds, user, kernel)) in (NO_PID..).zip(processes) {
            let process = profile.process(pid, name);
            let thread = profile.thread(process, pid, name);
            for (stack, count) in stacks.into_iter().zip([user, kernel]) {
                profile.add((thread, source, Some(stack)), count, count, None);
            }
            let on_cpu_ns = seconds * 1_000_000_000;
            let time =
                ThreadTime { pid, tid: pid, name: name.to_owned(), on_cpu_ns, ended: true, ..ThreadTime::default() };
            threads.push(time);
        }
        Recording { profile, threads, ..import::read(b"a 1", 9).unwrap() }
    }

    /// Group, processes, seconds on the CPU and the part of them in the kernel, exits.
    fn shown(groups: &Groups) -> Vec<(&str, u64, u64, u64, u64)> {
        let seconds = |ns: u64| ns / 1_000_000_000;
        let rows = groups
            .all()
            .map(|(name, sums)| (name, sums.processes, seconds(sums.on_cpu_ns), seconds(sums.system_ns), sums.exits));
        rows.collect()
    }

    /// What has ended stays in the sums, which never go back; groups without a process go, unless the rules name them.
    #[test]
    fn groups_come_and_go() {
        let rules = ["name = 'web'\ncomm = ['nginx']", "name = '{{.Comm}}'"];
        let mut groups = Groups::new(&options(&rules, 9, Duration::from_secs(60))).unwrap();
        assert_eq!(shown(&groups), [("web", 0, 0, 0, 0)]);
        groups.add(&window(&[("nginx", 3, 0, 0), ("a", 5, 0, 0), ("a", 1, 0, 0)]));
        assert_eq!(shown(&groups), [("a", 0, 6, 0, 2), ("web", 0, 3, 0, 1)]);
        groups.add(&window(&[("a", 2, 0, 0)]));
        assert_eq!(shown(&groups), [("a", 0, 8, 0, 3), ("web", 0, 3, 0, 1)]);
        groups.set_rules(&options(&rules, 9, Duration::ZERO)).unwrap();
        groups.add(&window(&[]));
        assert_eq!(shown(&groups), [("web", 0, 3, 0, 1)]);
    }

    /// A group that gets a process as its time without one is over stays, with what it had.
    #[test]
    fn a_group_comes_back() {
        let linger = Duration::from_millis(20);
        let mut groups = Groups::new(&options(&["name = '{{.Comm}}'"], 9, linger)).unwrap();
        groups.add(&window(&[("a", 5, 0, 0)]));
        std::thread::sleep(2 * linger);
        let mut lives = window(&[("a", 1, 0, 0)]);
        lives.threads[0].ended = false;
        groups.add(&lives);
        groups.add(&lives);
        assert_eq!(shown(&groups), [("a", 1, 7, 0, 1)]);
    }

    /// Over the limit is another group's; those that are there go on.
    #[test]
    fn too_many_groups_are_one() {
        let mut groups = Groups::new(&options(&["name = '{{.Comm}}'"], 2, Duration::from_secs(60))).unwrap();
        for _ in 0..2 {
            groups.add(&window(&[("a", 1, 0, 0), ("b", 1, 0, 0), ("c", 1, 0, 0), ("d", 1, 0, 0)]));
        }
        assert_eq!(shown(&groups), [("a", 0, 2, 0, 2), ("b", 0, 2, 0, 2), (OTHER, 0, 4, 0, 4)]);
        assert_eq!(groups.overflowed(), 4);
    }

    /// Of processes that the kernel gives no split of, each with hardly a sample, all samples of the group say what it is; it
    /// never goes back.
    #[test]
    fn short_lives_are_split_by_samples() {
        let mut groups = Groups::new(&options(&["name = '{{.Comm}}'"], 9, Duration::from_secs(60))).unwrap();
        groups.add(&window(&[("a", 10, 0, 0), ("a", 10, 3, 0), ("a", 10, 0, 1)]));
        assert_eq!(shown(&groups), [("a", 0, 30, 7, 3)]);
        groups.add(&window(&[("a", 10, 4, 0)]));
        assert_eq!(shown(&groups), [("a", 0, 40, 7, 4)]);
        groups.add(&window(&[("a", 40, 0, 4)]));
        assert_eq!(shown(&groups), [("a", 0, 80, 33, 5)]);
    }
}
