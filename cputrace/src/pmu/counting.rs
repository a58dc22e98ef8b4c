//! Counting while something else goes on: groups opened for targets and the host, read now and then, added up at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::Duration;

use super::cpu::Identity;
use super::event::describe;
use super::metric::{Context, METRICS, Metric};
use super::plan::Plan;
use super::reading::{Sum, Tally};
use super::reason::Reason;
use super::source::{CounterSource, Group, Request, Scope};
use super::survey::{Place, Survey};
use crate::model::{Count, CounterScope, CounterSubject, Counters, MetricValue, MissingMetrics};

/// The sets that are counted where none are named: what takes few counters, or counters that nobody else uses.
pub const DEFAULT_SETS: &[&str] = &["software", "base", "l3", "memory", "energy"];

/// Open files that are left to the rest of the program: ring buffers, programs and files of targets.
const OTHER_FILES: usize = 512;

/// A group that counts.
struct Open {
    subject: CounterSubject,
    /// Of the plan.
    planned: usize,
    group: Box<dyn Group>,
    tally: Tally,
}

/// Counters at work.
pub struct Counting {
    survey: Survey,
    source: Box<dyn CounterSource>,
    sets: Vec<String>,
    plan: Plan,
    /// Whether children that are processes of their own count too.
    follow_children: bool,
    open: Vec<Open>,
    missing: BTreeMap<Reason, BTreeSet<&'static str>>,
    counts: bool,
    lost_groups: u64,
    /// Of the plan, groups that could not be opened everywhere.
    failed: BTreeSet<usize>,
    /// Files that counters have taken, and may take.
    files: usize,
    max_files: usize,
}

impl Counting {
    /// Plans the sets on this machine and opens what is of the whole host; nothing counts yet.
    /// `files` is how many the process may have open.
    pub fn new(
        survey: Survey,
        source: Box<dyn CounterSource>,
        sets: &[&str],
        follow_children: bool,
        files: usize,
    ) -> Self {
        let max_files = files.saturating_sub(OTHER_FILES);
        let plan = survey.plan(sets);
        let mut counting = Self {
            survey,
            source,
            sets: sets.iter().map(|set| (*set).to_owned()).collect(),
            plan: Plan::default(),
            follow_children,
            open: Vec::new(),
            missing: BTreeMap::new(),
            counts: false,
            lost_groups: 0,
            failed: BTreeSet::new(),
            files: 0,
            max_files,
        };
        for (metric, reason) in &plan.refused {
            counting.miss(metric, reason.clone());
        }
        counting.plan = plan;
        for planned in 0..counting.plan.groups.len() {
            if counting.is_of_host(planned) {
                counting.open(planned, &CounterSubject::Host, None);
            }
        }
        counting
    }

    /// Counts a process: its threads, each with its name, and what they start.
    pub fn add_process(&mut self, pid: u32, threads: &[(u32, String)]) {
        let processes = self.follow_children;
        for (tid, name) in threads {
            let subject = CounterSubject::Thread { pid, tid: *tid, name: name.clone() };
            for planned in 0..self.plan.groups.len() {
                if !self.is_of_host(planned) {
                    self.open(planned, &subject, Some(Scope::Task { tid: *tid, processes }));
                }
            }
        }
    }

    /// Counts everything that runs, on every CPU.
    pub fn add_host(&mut self) {
        for planned in 0..self.plan.groups.len() {
            if !self.is_of_host(planned) {
                let metrics = std::mem::take(&mut self.plan.groups[planned].metrics);
                let (missing, metrics) = metrics.into_iter().partition::<Vec<_>, _>(Metric::is_by_cpu_time);
                self.plan.groups[planned].metrics = metrics;
                missing.iter().for_each(|metric| self.miss(metric, Reason::IdleTime));
            }
        }
        for cpu in self.survey.online().to_vec() {
            for planned in 0..self.plan.groups.len() {
                if !self.is_of_host(planned) {
                    self.open(planned, &CounterSubject::Targets, Some(Scope::Cpu(cpu)));
                }
            }
        }
    }

    /// Counts what a control group does, on every CPU: its time is only that of its tasks.
    pub fn add_cgroup(&mut self, directory: &File) {
        for cpu in self.survey.online().to_vec() {
            for planned in 0..self.plan.groups.len() {
                if !self.is_of_host(planned) {
                    self.open(planned, &CounterSubject::Targets, Some(Scope::Cgroup { directory, cpu }));
                }
            }
        }
    }

    /// What is counted by task is missing, for this reason.
    pub fn leave_out_tasks(&mut self, reason: &Reason) {
        for planned in 0..self.plan.groups.len() {
            if !self.is_of_host(planned) {
                self.miss_group(planned, reason);
            }
        }
    }

    /// From now on everything counts.
    pub fn enable(&mut self) {
        self.counts = true;
        let failed = self.open.iter_mut().filter_map(|open| open.group.enable().err()).count();
        self.lost_groups += failed as u64;
    }

    /// Reads all counters: the more often, the better counters that take turns are scaled.
    pub fn read(&mut self) {
        for open in &mut self.open {
            match open.group.read() {
                Ok(reading) => open.tally.add(&reading),
                Err(_) => self.lost_groups += 1,
            }
        }
    }

    /// What all targets did so far.
    pub fn so_far(&self, elapsed: Duration) -> Vec<MetricValue> {
        self.metrics(&self.sums(&|_| true), elapsed)
    }

    /// All that was counted in a window of this length; the next one begins. `name_of` knows what processes are called by now;
    /// else they go by what they were called when the counting began.
    pub fn close_window(&mut self, elapsed: Duration, name_of: &dyn Fn(u32) -> Option<String>) -> Counters {
        for open in &mut self.open {
            if let CounterSubject::Thread { pid, tid, name } = &mut open.subject
                && pid == tid
                && let Some(now) = name_of(*pid)
            {
                *name = now;
            }
        }
        let of = |subject: &CounterSubject| *subject != CounterSubject::Host;
        let mut scopes = vec![self.scope(CounterSubject::Targets, &of, elapsed)];
        let mut subjects: Vec<_> = self.open.iter().map(|open| open.subject.clone()).collect();
        subjects.sort();
        subjects.dedup();
        let mut pids = BTreeSet::new();
        for subject in &subjects {
            if let CounterSubject::Thread { pid, .. } = subject
                && pids.insert(*pid)
            {
                let name = self.name_of(*pid);
                let of_process =
                    |other: &CounterSubject| matches!(other, CounterSubject::Thread { pid: of, .. } if of == pid);
                scopes.push(self.scope(CounterSubject::Process { pid: *pid, name }, &of_process, elapsed));
            }
        }
        for subject in subjects.into_iter().filter(|subject| *subject != CounterSubject::Targets) {
            scopes.push(self.scope(subject.clone(), &|other| *other == subject, elapsed));
        }
        scopes.retain(|scope| !scope.counts.is_empty());
        let missing = self.missing_in_window();
        let missing = missing.iter().map(|(reason, names)| MissingMetrics {
            code: reason.code().to_owned(),
            reason: reason.to_string(),
            metrics: METRICS.iter().map(|metric| metric.name).filter(|name| names.contains(name)).fold(
                Vec::new(),
                |mut names, name| {
                    if !names.iter().any(|known| known == name) {
                        names.push(name.to_owned());
                    }
                    names
                },
            ),
        });
        let counters = Counters {
            cpu: match self.survey.identity {
                Identity::Known(generation) => generation.to_string(),
                Identity::Unverified(generation) => format!("unknown, taken for {generation}"),
                Identity::Other => "not an AMD Zen".to_owned(),
            },
            sets: self.sets.clone(),
            user_only: self.survey.user_only(),
            scopes,
            missing: missing.collect(),
            backwards: self.open.iter().map(|open| open.tally.backwards).sum(),
            lost_groups: std::mem::take(&mut self.lost_groups),
        };
        self.open.iter_mut().for_each(|open| open.tally.start_again());
        counters
    }

    /// A process goes by its first thread.
    fn name_of(&self, pid: u32) -> String {
        let name = self.open.iter().find_map(|open| match &open.subject {
            CounterSubject::Thread { tid, name, .. } if *tid == pid => Some(name.clone()),
            _ => None,
        });
        name.unwrap_or_default()
    }

    fn is_of_host(&self, planned: usize) -> bool {
        super::event::is_of_host(self.plan.groups[planned].pmu)
    }

    fn open(&mut self, planned: usize, subject: &CounterSubject, scope: Option<Scope<'_>>) {
        if self.failed.contains(&planned) {
            return;
        }
        let group = &self.plan.groups[planned];
        let pmu = group.pmu;
        let places = self.survey.places(&group.events).and_then(|places| {
            self.files += places.len() * group.events.len();
            if self.files > self.max_files { Err(Reason::NoFiles) } else { Ok(places) }
        });
        let user_only = self.survey.state(pmu).is_ok_and(|usable| usable.user_only);
        let opened = places.and_then(|places| {
            let open_one = |Place { events, cpu }: &Place| {
                let scope = scope.or(cpu.map(Scope::Cpu)).unwrap_or(Scope::Own);
                let opened = self.source.open(Request { events, scope, user_only });
                let mut group = opened.map_err(|error| match (scope, error.errno) {
                    // Of another hierarchy, or of none that can count.
                    (Scope::Cgroup { .. }, libc::EBADF | libc::ENOENT) => Reason::NoCgroups,
                    (_, errno) => Reason::of_errno(errno, pmu, &self.survey.facts),
                })?;
                if self.counts && group.enable().is_err() {
                    return Err(Reason::TargetGone);
                }
                Ok(Open { subject: subject.clone(), planned, group, tally: Tally::default() })
            };
            places.iter().map(open_one).collect::<Result<Vec<_>, Reason>>()
        });
        match opened {
            Ok(opened) => self.open.extend(opened),
            // Threads come and go.
            Err(Reason::TargetGone) => self.lost_groups += 1,
            Err(reason) => {
                // A sum of some threads only would be wrong.
                self.open.retain(|open| open.planned != planned);
                self.failed.insert(planned);
                self.miss_group(planned, &reason);
            }
        }
    }

    fn miss_group(&mut self, planned: usize, reason: &Reason) {
        for metric in self.plan.groups[planned].metrics.clone() {
            self.miss(&metric, reason.clone());
        }
    }

    fn miss(&mut self, metric: &Metric, reason: Reason) {
        let reason = self.one_fact(reason);
        self.missing.entry(reason).or_default().insert(metric.name);
    }

    fn one_fact(&self, reason: Reason) -> Reason {
        // A virtual machine without a core's PMU has none of the others: that is one fact.
        let facts = &self.survey.facts;
        let one_fact = facts.hypervisor && !facts.core_pmu;
        match reason {
            Reason::PmuAbsent { .. } | Reason::NotOnGeneration { .. } if one_fact => Reason::NoPmuVirtual,
            reason => reason,
        }
    }

    /// What is missing, with the groups of which no member ever ran in the window: what they count did, or did not either.
    fn missing_in_window(&self) -> BTreeMap<Reason, BTreeSet<&'static str>> {
        let mut missing = self.missing.clone();
        for planned in 0..self.plan.groups.len() {
            let tallies: Vec<_> =
                self.open.iter().filter(|open| open.planned == planned).map(|open| &open.tally).collect();
            if tallies.is_empty() || tallies.iter().any(|tally| tally.counts.is_some()) {
                continue;
            }
            let ran = tallies.iter().any(|tally| tally.waiting_ns > 0);
            let reason = if ran { Reason::never_scheduled(&self.survey.facts) } else { Reason::NeverRan };
            let metrics = self.plan.groups[planned].metrics.iter().map(|metric| metric.name);
            missing.entry(self.one_fact(reason)).or_default().extend(metrics);
        }
        missing
    }

    /// By planned group: what it counted of these subjects.
    fn sums(&self, of: &dyn Fn(&CounterSubject) -> bool) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.plan.groups.len()];
        for open in self.open.iter().filter(|open| of(&open.subject)) {
            let names: Vec<_> = self.plan.groups[open.planned].events.iter().map(|event| event.name).collect();
            sums[open.planned].add(&names, &open.tally);
        }
        sums
    }

    fn scope(&self, subject: CounterSubject, of: &dyn Fn(&CounterSubject) -> bool, elapsed: Duration) -> CounterScope {
        let sums = self.sums(of);
        let mut counts: Vec<Count> = Vec::new();
        for sum in &sums {
            let Some(coverage) = sum.coverage() else { continue };
            for (event, value) in &sum.counts {
                // Where the kernel gives a unit and a scale, the raw count says nothing.
                if self.scale(event) != 1.0 {
                    continue;
                }
                let (_, unit) = describe(event);
                let count = Count { event: event.clone(), unit: unit.to_owned(), value: *value, coverage };
                match counts.iter_mut().find(|known| known.event == *event) {
                    // The same event in two groups: the one that counted more of the time.
                    Some(known) if known.coverage < coverage => *known = count,
                    Some(_) => {}
                    None => counts.push(count),
                }
            }
        }
        CounterScope { subject, counts, metrics: self.metrics(&sums, elapsed) }
    }

    fn metrics(&self, sums: &[Sum], elapsed: Duration) -> Vec<MetricValue> {
        let value = |metric: &Metric| {
            let planned = self.plan.groups.iter().position(|group| group.metrics.contains(metric))?;
            let sum = &sums[planned];
            let coverage = sum.coverage()?;
            let counts =
                sum.counts.iter().map(|(event, count)| (event.clone(), *count as f64 * self.scale(event))).collect();
            let context = Context {
                generation: self.survey.generation(),
                seconds: elapsed.as_secs_f64(),
                cpu_seconds: sum.enabled_ns as f64 / 1e9,
            };
            let value = metric.value(&counts, context)?;
            Some(MetricValue { name: metric.name.to_owned(), unit: metric.unit.clone(), value, coverage })
        };
        METRICS.iter().filter_map(value).collect()
    }

    /// What a count of an event is to be multiplied by, where the kernel says so.
    fn scale(&self, event: &str) -> f64 {
        let event = self.survey.catalog.find(event);
        let scale = event.and_then(|event| {
            let device = super::event::instances(&self.survey.devices, event.pmu).into_iter().next()?;
            device.scale(event.vendor_name)
        });
        scale.map_or(1.0, |(scale, _)| scale)
    }
}
