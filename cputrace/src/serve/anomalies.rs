//! Alarms of a running server: what groups' signals came to, what changed in their profiles, and who is told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::analyze::anomaly::signal::BLOCKED;
use crate::analyze::anomaly::{Alarm, Change, Engine, Observation, Reading, Signal};
use crate::analyze::diff::{Diff, Side, diff};
use crate::analyze::shares::wait_percentile_ns;
use crate::group::{GroupWindow, Labels};
use crate::metrics::collect::{Families, unix_seconds};
use crate::metrics::{ANOMALIES, ANOMALY_SCORE, Value as MetricValue};
use crate::model::{Aspect, Profile, Recording};
use crate::store::digest::Detail;
use crate::store::windows::Range;
use crate::store::{Digest, Store, StoreError, unix_ms};

/// What an alarm's profile is compared with: so much time before it.
const BEFORE: Duration = Duration::from_mins(5);

/// Functions of the difference that an event keeps.
const FUNCTIONS: usize = 10;

/// Fewer waits for a CPU in a window have no percentiles.
const LEAST_WAITS: u64 = 50;

/// Fewer cycles in a window have no ratio.
const LEAST_CYCLES: u64 = 100_000_000;

/// How often earlier days are looked at.
const SEASON_EVERY: Duration = Duration::from_mins(5);

/// Days that are looked at, and how many of them there must be.
const SEASON_DAYS: u32 = 7;
const LEAST_DAYS: usize = 3;

const DAY: Duration = Duration::from_hours(24);

/// The alarms, and what is counted of them.
#[derive(Debug, Default)]
pub(super) struct Anomalies {
    engine: Engine,
    /// What was said of the open ones, by group: the event's id, and itself.
    events: BTreeMap<String, (i64, Value)>,
    /// How many were reported.
    counts: BTreeMap<(String, Signal), u64>,
    season: BTreeMap<String, f64>,
    season_at: Option<SystemTime>,
}

/// An alarm that began, goes on, or is over; told in this order.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What it is about.
    pub(super) change: Change,
    /// Its event in the store.
    pub(super) id: i64,
    /// That.
    pub(super) event: Value,
}

impl Told {
    /// Whom it is about.
    pub(super) fn alarm(&self) -> &Alarm {
        let (Change::Started(alarm) | Change::Updated(alarm) | Change::Ended(alarm)) = &self.change;
        alarm
    }

    /// In a sentence.
    pub(super) fn summary(&self) -> String {
        let alarm = self.alarm();
        let Reading { signal, value, usual, score } = alarm.worst;
        let what = match signal {
            Signal::Cpu => format!("takes {value:.2} CPUs, usual are {usual:.2}"),
            Signal::RunQueue => format!("waits up to {:.0} ms for a CPU, usual are {:.0}", value * 1e3, usual * 1e3),
            Signal::OffCpu => {
                format!("has {value:.2} threads waiting for locks, disks or memory, usual are {usual:.2}")
            }
            Signal::Ipc => format!("runs {value:.2} instructions per cycle, usual are {usual:.2}"),
        };
        let group = &alarm.group;
        match &self.change {
            Change::Ended(_) if alarm.became_usual => format!("group {group} {what}: that is usual from now on"),
            Change::Ended(_) => format!("the anomaly of group {group} is over: at its worst it {what}"),
            _ => {
                let function = super::webhook::top_function(&self.event);
                let most = if function.is_empty() { String::new() } else { format!(", most of it in {function}") };
                format!("anomaly: group {group} {what} (score {score:.0}){most}")
            }
        }
    }
}

/// A window that was stored.
pub(super) struct Window<'a> {
    pub(super) recording: &'a Recording,
    pub(super) range: Range,
    pub(super) labels: &'a [Labels],
    pub(super) digest: &'a Digest,
    pub(super) groups: &'a BTreeMap<String, GroupWindow>,
}

impl Anomalies {
    /// Looks at a window. What cannot be read of the store is left out of what is said of an alarm.
    pub(super) fn look(&mut self, window: &Window<'_>, store: &Store) -> Vec<Told> {
        self.look_at_earlier_days(window.range.from, store);
        let values = values(window);
        let observations: Vec<_> = values
            .iter()
            .map(|(group, signal, value)| {
                let seasonal = (*signal == Signal::Cpu).then(|| self.season.get(group).copied()).flatten();
                Observation { group, signal: *signal, value: *value, seasonal }
            })
            .collect();
        let changes = self.engine.window(window.range.from, window.range.to, &observations);
        changes.into_iter().map(|change| self.tell(change, window, store)).collect()
    }

    fn tell(&mut self, change: Change, window: &Window<'_>, store: &Store) -> Told {
        use crate::store::events::EventKind;
        let (id, event) = match &change {
            Change::Started(alarm) => {
                for reading in alarm.also.iter().chain([&alarm.reading]) {
                    *self.counts.entry((alarm.group.clone(), reading.signal)).or_default() += 1;
                }
                let mut event = describe(alarm);
                event["diff"] = difference(alarm, window, store);
                // One that is not stored is told all the same; that it is not is counted.
                let id = store.add_event(EventKind::Anomaly, alarm.start, &event).unwrap_or(0);
                self.events.insert(alarm.group.clone(), (id, event.clone()));
                (id, event)
            }
            Change::Updated(alarm) | Change::Ended(alarm) => {
                let (id, before) = self.events.get(&alarm.group).cloned().unwrap_or_default();
                let mut event = describe(alarm);
                event["diff"] = before["diff"].clone();
                let _ = store.update_event(id, &event);
                match change {
                    Change::Ended(_) => self.events.remove(&alarm.group),
                    _ => self.events.insert(alarm.group.clone(), (id, event.clone())),
                };
                (id, event)
            }
        };
        Told { change, id, event }
    }

    /// What each group took of the CPU at this time of earlier days: the middle one of them.
    fn look_at_earlier_days(&mut self, now: SystemTime, store: &Store) {
        let is_due = self.season_at.is_none_or(|at| now.duration_since(at).is_ok_and(|since| since >= SEASON_EVERY));
        if !is_due {
            return;
        }
        self.season_at = Some(now);
        // What cannot be read is as if it were not there.
        self.season = season(now, store).unwrap_or_default();
    }

    /// All series.
    pub(super) fn collect(&self, families: &mut Families) {
        let labels = |group: &str, signal: Signal| vec![group.to_owned(), signal.name().to_owned()];
        let scores = self.engine.scores();
        let scores = scores.map(|(group, signal, score)| (labels(group, signal), MetricValue::Number(score)));
        families.add(&ANOMALY_SCORE, scores);
        let counts = self.counts.iter();
        let counts =
            counts.map(|((group, signal), count)| (labels(group, *signal), MetricValue::Number(*count as f64)));
        families.add(&ANOMALIES, counts);
    }

    /// Forgets what was counted of groups that are gone.
    pub(super) fn retain(&mut self, is_there: &dyn Fn(&str) -> bool) {
        self.counts.retain(|(group, _), _| is_there(group));
    }
}

/// What each group's signals came to in a window.
fn values(window: &Window<'_>) -> Vec<(String, Signal, f64)> {
    let seconds = window.recording.duration.as_secs_f64().max(1e-3);
    let mut values = Vec::new();
    let blocked = blocked_seconds(window);
    for (group, sums) in window.groups {
        values.push((group.clone(), Signal::Cpu, sums.on_cpu_ns as f64 / 1e9 / seconds));
        let off_cpu = blocked.get(&**group).copied().unwrap_or(0.0);
        values.push((group.clone(), Signal::OffCpu, off_cpu / seconds));
        let waits: u64 = sums.run_queue_waits.iter().sum();
        if waits >= LEAST_WAITS
            && let Some(most) = wait_percentile_ns(&sums.run_queue_waits, 99)
        {
            values.push((group.clone(), Signal::RunQueue, most as f64 / 1e9));
        }
    }
    values.extend(ipc(window).into_iter().map(|(group, ipc)| (group.to_owned(), Signal::Ipc, ipc)));
    values
}

/// Thread-seconds that each group waited for what others hold or a device has to bring.
fn blocked_seconds<'a>(window: &Window<'a>) -> BTreeMap<&'a str, f64> {
    let profile = &window.recording.profile;
    let source = profile.source_by_name(Aspect::OffCpu.name());
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for sample in profile.samples().iter().filter(|sample| Some(sample.source) == source) {
        let process = profile.threads()[sample.thread.index()].process;
        let Some(labels) = window.labels.get(process.index()) else { continue };
        if profile.leaf_label(sample.stack).is_some_and(|label| BLOCKED.contains(&label)) {
            *seconds.entry(&labels.group).or_default() += sample.value as f64 / 1e9;
        }
    }
    seconds
}

/// Instructions per cycle of each group, where both are counted.
fn ipc<'a>(window: &Window<'a>) -> BTreeMap<&'a str, f64> {
    let recording = window.recording;
    let Some(counters) = &recording.stack_counters else { return BTreeMap::new() };
    let Some((instructions, cycles)) = counters.ipc() else { return BTreeMap::new() };
    let column = |name: &str| counters.counters.iter().position(|counter| counter.name == name);
    let (Some(instructions), Some(cycles)) = (column(instructions), column(cycles)) else { return BTreeMap::new() };
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (process, counts) in counters.by_process(&recording.profile) {
        let Some(labels) = window.labels.get(process.index()) else { continue };
        let (of_group, in_cycles) = sums.entry(&labels.group).or_default();
        *of_group += counts[instructions];
        *in_cycles += counts[cycles];
    }
    sums.retain(|_, (_, cycles)| *cycles >= LEAST_CYCLES);
    sums.into_iter().map(|(group, (instructions, cycles))| (group, instructions as f64 / cycles as f64)).collect()
}

fn season(now: SystemTime, store: &Store) -> Result<BTreeMap<String, f64>, StoreError> {
    let mut days: Vec<BTreeMap<String, f64>> = Vec::new();
    for day in 1..=SEASON_DAYS {
        let Some(then) = now.checked_sub(DAY * day) else { break };
        let range = Range { from: then - SEASON_EVERY, to: then + 2 * SEASON_EVERY };
        let covered = store.covered(range, SEASON_EVERY)?;
        let covered: Duration = covered.iter().filter_map(|(from, to)| to.duration_since(*from).ok()).sum();
        if covered < SEASON_EVERY {
            continue;
        }
        let mut groups: BTreeMap<String, f64> = BTreeMap::new();
        for total in store.totals(range, Aspect::OnCpu.name(), SEASON_EVERY)? {
            *groups.entry(total.group).or_default() += total.value as f64 / 1e9 / covered.as_secs_f64();
        }
        days.push(groups);
    }
    if days.len() < LEAST_DAYS {
        return Ok(BTreeMap::new());
    }
    let groups: std::collections::BTreeSet<&String> = days.iter().flat_map(BTreeMap::keys).collect();
    let middle = |group: &String| {
        let mut values: Vec<f64> = days.iter().map(|day| day.get(group).copied().unwrap_or(0.0)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(groups.into_iter().map(|group| (group.clone(), middle(group))).collect())
}

/// An alarm as the store and readers have it, without its difference.
fn describe(alarm: &Alarm) -> Value {
    let reading = |reading: &Reading| {
        let Reading { signal, value, usual, score } = reading;
        json!({ "signal": signal.name(), "unit": signal.unit(), "value": value, "usual": usual, "score": score })
    };
    json!({
        "group": alarm.group,
        "signal": alarm.reading.signal.name(),
        "start": unix_seconds(alarm.start),
        "end": alarm.end.map(unix_seconds),
        "became_usual": alarm.became_usual,
        "score": alarm.worst.score,
        "first": reading(&alarm.reading),
        "worst": reading(&alarm.worst),
        "also": alarm.also.iter().map(reading).collect::<Vec<_>>(),
        "affected": alarm.affected,
    })
}

/// What is in the alarm's profile more than before it, by function.
fn difference(alarm: &Alarm, window: &Window<'_>, store: &Store) -> Value {
    let signal = alarm.reading.signal;
    // Those who wait for a CPU have not changed: those who have it did.
    let (aspect, group) = match signal {
        Signal::Cpu | Signal::Ipc => (Aspect::OnCpu, Some(&*alarm.group)),
        Signal::OffCpu => (Aspect::OffCpu, Some(&*alarm.group)),
        Signal::RunQueue => (Aspect::OnCpu, None),
    };
    let keep = |source: &str, member: &crate::store::digest::Member<'_>| {
        source == aspect.name() && group.is_none_or(|group| group == member.group)
    };
    let before = Range { from: alarm.start.checked_sub(BEFORE).unwrap_or(SystemTime::UNIX_EPOCH), to: alarm.start };
    let base = store.merge(before, Detail::Name, &keep).unwrap_or_default();
    let covered = Duration::from_millis(base.facts.covered_ms);
    let base = base.digest.into_profile();
    let mut against = Digest::new();
    against.merge(window.digest, Detail::Name, &keep);
    let against = against.into_profile();
    let side = |profile, duration| side(profile, aspect, duration);
    let changes = diff(&side(&base, covered), &side(&against, window.recording.duration));
    let Diff { base, against, functions } = changes;
    let functions = functions.iter().take(FUNCTIONS).filter(|function| function.total_change() > 0.0).map(|function| {
        json!({
            "name": function.name,
            "file": function.file,
            "before": function.base.own,
            "after": function.against.own,
            "change": function.own_change(),
            "total_change": function.total_change(),
            "certain": function.is_certain(),
        })
    });
    let functions: Vec<_> = functions.collect();
    let milliseconds = |range: Range| format!("{}..{}", unix_ms(range.from), unix_ms(range.to));
    let (before, after) = (milliseconds(before), milliseconds(window.range));
    let of_group = group.map_or_else(String::new, |group| format!("&group={}", in_url(group)));
    json!({
        "source": aspect.name(),
        "base": before,
        "against": after,
        "before": base,
        "after": against,
        "functions": functions,
        "url": format!("/api/diff?base={before}&against={after}&source={}{of_group}", aspect.name()),
    })
}

fn side(profile: &Profile, aspect: Aspect, duration: Duration) -> Side<'_> {
    match aspect {
        Aspect::OffCpu => Side::of_waits(profile, BLOCKED, duration),
        aspect => Side::of_source(profile, aspect.name(), duration),
    }
}

/// As a query has it.
fn in_url(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encoded =
        text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    encoded.collect()
}
