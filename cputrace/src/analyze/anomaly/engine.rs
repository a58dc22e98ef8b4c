//! From values to alarms.
//!
//! A value is an alarm if it is far from what is usual both by the robust score and by the Z-score, and further than anything
//! in the last half hour. One alarm a group at a time: what else is wrong with it then belongs to it. What waits for a CPU
//! while a group takes one that it does not take otherwise is that alarm's doing. What has been reported twice in a day is
//! usual from then on, and so is what does not end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::newcomers::Newcomers;
use super::signal::Signal;
use super::track::{CALM_WINDOWS, Outcome, Track};

/// Windows without it after which a group is forgotten.
const FORGOTTEN: u32 = 60;

/// What a group's signal came to in a window.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Which group.
    pub group: &'a str,
    /// Which signal.
    pub signal: Signal,
    /// In the signal's unit.
    pub value: f64,
    /// What it came to at this time of earlier days, if that is known: what is usual is at least as much.
    pub seasonal: Option<f64>,
}

/// A signal that is not as usual.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Reading {
    /// Which.
    pub signal: Signal,
    /// What it came to.
    pub value: f64,
    /// What is usual.
    pub usual: f64,
    /// The difference, in robust deviations.
    pub score: f64,
}

/// A group that does what it does not do otherwise.
#[derive(Clone, PartialEq, Debug)]
pub struct Alarm {
    /// Which group.
    pub group: String,
    /// When the first window began in which it did.
    pub start: SystemTime,
    /// When it was over; `None`: it is not.
    pub end: Option<SystemTime>,
    /// Whether it only became usual.
    pub became_usual: bool,
    /// By which signal, as of the first window.
    pub reading: Reading,
    /// The same at its worst.
    pub worst: Reading,
    /// What else is wrong with the group.
    pub also: Vec<Reading>,
    /// Groups that have to wait for a CPU.
    pub affected: BTreeSet<String>,
}

/// What a window brought.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// An alarm began.
    Started(Alarm),
    /// There is more to say of one.
    Updated(Alarm),
    /// One is over.
    Ended(Alarm),
}

/// All groups.
#[derive(Debug, Default)]
pub struct Engine {
    tracks: BTreeMap<String, BTreeMap<Signal, Track>>,
    newcomers: Newcomers,
    alarms: BTreeMap<String, Alarm>,
}

/// What a window's values mean.
#[derive(Default)]
struct News {
    begins: BTreeMap<String, Vec<Reading>>,
    goes_on: BTreeMap<String, Vec<Reading>>,
    became_usual: BTreeSet<String>,
}

impl News {
    fn add(&mut self, group: &str, outcome: Outcome) {
        match outcome {
            Outcome::Usual => {}
            Outcome::Begins(reading) => self.begins.entry(group.to_owned()).or_default().push(reading),
            Outcome::GoesOn(reading) => self.goes_on.entry(group.to_owned()).or_default().push(reading),
            Outcome::BecameUsual => _ = self.became_usual.insert(group.to_owned()),
        }
    }
}

impl Engine {
    /// Takes a window's values. A group that is not among them did nothing.
    pub fn window(&mut self, start: SystemTime, end: SystemTime, observations: &[Observation<'_>]) -> Vec<Change> {
        let mut news = News::default();
        for track in self.tracks.values_mut().flat_map(BTreeMap::values_mut) {
            track.absent += 1;
        }
        let mut is_new = Vec::with_capacity(observations.len());
        for observation in observations {
            let signals = match self.tracks.get_mut(observation.group) {
                Some(signals) => signals,
                None => self.tracks.entry(observation.group.to_owned()).or_default(),
            };
            let track = signals.entry(observation.signal).or_default();
            track.absent = 0;
            is_new.push(track.is_new());
            news.add(observation.group, track.step(observation, observation.signal.scale(), end));
        }
        for arrival in self.newcomers.window(observations, &is_new, end) {
            let signals = self.tracks.get_mut(arrival.group);
            if let Some(track) = signals.and_then(|signals| signals.get_mut(&arrival.reading.signal)) {
                track.deviates(arrival.windows);
                news.add(arrival.group, Outcome::Begins(arrival.reading));
            }
        }
        // What is not there takes nothing. That ends an alarm, but says nothing of what is usual while it is there: a job that comes
        // now and then is no anomaly each time.
        for (group, signals) in &mut self.tracks {
            for (&signal, track) in signals.iter_mut().filter(|(_, track)| track.absent > 0) {
                if track.is_deviant() && matches!(signal, Signal::Cpu | Signal::OffCpu) {
                    let nothing = Observation { group, signal, value: 0.0, seasonal: None };
                    news.add(group, track.step(&nothing, signal.scale(), end));
                } else {
                    track.not_observed();
                }
            }
            signals.retain(|_, track| track.absent < FORGOTTEN);
        }
        self.tracks.retain(|_, signals| !signals.is_empty());
        self.changes(start, end, news)
    }

    fn changes(&mut self, start: SystemTime, end: SystemTime, news: News) -> Vec<Change> {
        let News { begins, goes_on, became_usual } = news;
        let window = end.duration_since(start).unwrap_or_default();
        let mut changes = Vec::new();
        let mut updated = BTreeSet::new();
        for (group, readings) in &goes_on {
            let Some(alarm) = self.alarms.get_mut(group) else { continue };
            for reading in readings.iter().filter(|reading| reading.signal == alarm.reading.signal) {
                if reading.score > alarm.worst.score {
                    alarm.worst = *reading;
                }
            }
        }
        // Who takes CPUs comes before those who wait for them.
        let takes_cpu = |readings: &[Reading]| readings.iter().any(|reading| reading.signal == Signal::Cpu);
        let mut begins: Vec<_> = begins.into_iter().collect();
        begins.sort_by_key(|(_, readings)| !takes_cpu(readings));
        for (group, mut readings) in begins {
            readings.sort_by(|a, b| b.score.total_cmp(&a.score));
            if let Some(alarm) = self.alarms.get_mut(&group) {
                let known: Vec<_> = alarm.also.iter().chain([&alarm.reading]).map(|reading| reading.signal).collect();
                let new = readings.into_iter().filter(|reading| !known.contains(&reading.signal));
                let before = alarm.also.len();
                alarm.also.extend(new);
                if alarm.also.len() > before {
                    updated.insert(group);
                }
                continue;
            }
            let only_waits = readings.iter().all(|reading| reading.signal == Signal::RunQueue);
            let taker = |alarm: &&mut Alarm| {
                alarm.also.iter().chain([&alarm.reading]).any(|reading| reading.signal == Signal::Cpu)
            };
            if only_waits && let Some(taker) = self.alarms.values_mut().find(taker) {
                taker.affected.insert(group);
                updated.insert(taker.group.clone());
                continue;
            }
            let mut readings = readings.into_iter();
            let Some(reading) = readings.next() else { continue };
            let track = self.tracks.get(&group).and_then(|signals| signals.get(&reading.signal));
            let before = window * track.map_or(0, |track| track.deviant_windows().saturating_sub(1));
            let alarm = Alarm {
                group: group.clone(),
                start: start.checked_sub(before).unwrap_or(start),
                end: None,
                became_usual: false,
                reading,
                worst: reading,
                also: readings.collect(),
                affected: BTreeSet::new(),
            };
            self.report(&alarm, end);
            changes.push(group.clone());
            self.alarms.insert(group, alarm);
        }
        let started = |group: &String| changes.contains(group);
        let mut news: Vec<Change> =
            changes.iter().filter_map(|group| self.alarms.get(group)).cloned().map(Change::Started).collect();
        let updated = updated.iter().filter(|group| !started(group));
        news.extend(updated.filter_map(|group| self.alarms.get(group)).cloned().map(Change::Updated));
        let tracks = &self.tracks;
        let is_deviant =
            |group: &String| tracks.get(group).is_some_and(|signals| signals.values().any(Track::is_deviant));
        let over: Vec<_> = self.alarms.keys().filter(|group| !is_deviant(group)).cloned().collect();
        for mut alarm in over.iter().filter_map(|group| self.alarms.remove(group)) {
            // It was over before the windows that showed it.
            let calm = if became_usual.contains(&alarm.group) { Duration::ZERO } else { window * CALM_WINDOWS };
            let over = end.checked_sub(calm).unwrap_or(end).max(alarm.start);
            (alarm.end, alarm.became_usual) = (Some(over), became_usual.contains(&alarm.group));
            news.push(Change::Ended(alarm));
        }
        news
    }

    /// Remembers that an alarm is reported, with all signals of it.
    fn report(&mut self, alarm: &Alarm, at: SystemTime) {
        let Some(signals) = self.tracks.get_mut(&alarm.group) else { return };
        for reading in alarm.also.iter().chain([&alarm.reading]) {
            let Some(track) = signals.get_mut(&reading.signal) else { continue };
            let scale = reading.signal.scale();
            let excess = scale.compared(reading.value) - scale.compared(reading.usual);
            track.report(at, excess);
        }
    }

    /// The last scores, of what was observed in the last window.
    pub fn scores(&self) -> impl Iterator<Item = (&str, Signal, f64)> {
        self.tracks.iter().flat_map(|(group, signals)| {
            let observed = signals.iter().filter(|(_, track)| track.absent == 0);
            observed.filter_map(|(signal, track)| Some((group.as_str(), *signal, track.score?)))
        })
    }

    /// The alarms that are not over.
    pub fn open(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    /// xorshift: the same numbers each time.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn between(&mut self, low: f64, high: f64) -> f64 {
            low + (high - low) * self.next()
        }
    }

    /// Windows one after the other, and what they brought.
    #[derive(Default)]
    struct Run {
        engine: Engine,
        windows: u32,
        changes: Vec<(u32, Change)>,
    }

    impl Run {
        fn window(&mut self, values: &[(&str, Signal, f64)]) {
            let start = UNIX_EPOCH + WINDOW * self.windows;
            let observations: Vec<_> = values
                .iter()
                .map(|&(group, signal, value)| Observation { group, signal, value, seasonal: None })
                .collect();
            for change in self.engine.window(start, start + WINDOW, &observations) {
                self.changes.push((self.windows, change));
            }
            self.windows += 1;
        }

        fn started(&self) -> Vec<(u32, &str, Signal)> {
            let starts = self.changes.iter().filter_map(|(window, change)| match change {
                Change::Started(alarm) => Some((*window, alarm.group.as_str(), alarm.reading.signal)),
                _ => None,
            });
            starts.collect()
        }

        fn ended(&self) -> usize {
            self.changes.iter().filter(|(_, change)| matches!(change, Change::Ended(_))).count()
        }
    }

    /// The groups of an ordinary host in one window: an idle one, a steady one, a noisy job each minute and one each five
    /// minutes, compiles at a low level, bursts that come often, waits for disks, and queues.
    fn ordinary(window: u32, random: &mut Random, burst: &mut [u32; 3]) -> Vec<(&'static str, Signal, f64)> {
        let is_blip = random.next() < 0.02;
        let mut burst_of = |kind: usize, chance: f64, longest: f64, random: &mut Random| {
            if burst[kind] == 0 && random.next() < chance {
                burst[kind] = random.between(1.0, longest) as u32;
            }
            let is_on = burst[kind] > 0;
            burst[kind] = burst[kind].saturating_sub(1);
            is_on
        };
        let compile = burst_of(0, 0.03, 6.0, random);
        let bursts = burst_of(1, 0.15, 4.0, random);
        let disk = burst_of(2, 0.15, 3.0, random);
        let queue_row = random.between(19.0, 24.0) as i32;
        vec![
            ("idle", Signal::Cpu, if is_blip { random.between(0.0, 0.1) } else { 0.0 }),
            ("idle", Signal::OffCpu, 0.0),
            ("steady", Signal::Cpu, 0.8 * random.between(0.85, 1.15)),
            ("steady", Signal::RunQueue, 2_f64.powi(queue_row) / 1e9),
            ("steady", Signal::Ipc, random.between(1.0, 1.3)),
            ("minutely", Signal::Cpu, if window.is_multiple_of(6) { random.between(0.4, 1.0) } else { 0.01 }),
            ("five-minutely", Signal::Cpu, if window % 30 == 7 { 0.8 * random.between(0.75, 1.0) } else { 0.0 }),
            ("compile", Signal::Cpu, if compile { random.between(0.05, 0.25) } else { 0.0 }),
            ("bursts", Signal::Cpu, if bursts { random.between(0.2, 1.0) } else { 0.05 }),
            ("database", Signal::Cpu, random.between(0.2, 0.5)),
            ("database", Signal::OffCpu, if disk { random.between(0.2, 1.0) } else { random.between(0.0, 0.1) }),
        ]
    }

    /// Hours of ordinary noise, of several seeds, report nothing.
    #[test]
    fn noise_is_no_anomaly() {
        for seed in 1..=20 {
            let (mut run, mut random, mut burst) =
                (Run::default(), Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)), [0; 3]);
            for window in 0..2 * 360 {
                run.window(&ordinary(window, &mut random, &mut burst));
            }
            assert_eq!(run.started(), [], "seed {seed}");
        }
    }

    /// In the same noise a spike and a lock fight are reported once each within 15 seconds, whenever in a window they begin, and
    /// come to an end.
    #[test]
    fn injected_ones_are_reported_once() {
        for seed in 1..=20 {
            let (mut run, mut random, mut burst) =
                (Run::default(), Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)), [0; 3]);
            // How much of the first window it has.
            let first = seed as f64 / 20.0;
            for window in 0..360 {
                let mut values = ordinary(window, &mut random, &mut burst);
                let part = |begins: u32| match window {
                    window if window == begins => first,
                    window if (begins + 1..begins + 6).contains(&window) => 1.0,
                    _ => 0.0,
                };
                values[0].2 += part(100);
                values[1].2 += 1.8 * part(200);
                run.window(&values);
            }
            let started = run.started();
            let known: Vec<_> = started.iter().map(|&(_, group, signal)| (group, signal)).collect();
            assert_eq!(known, [("idle", Signal::Cpu), ("idle", Signal::OffCpu)], "seed {seed}");
            for ((window, ..), begins) in started.into_iter().zip([100, 200]) {
                let after = first * 10.0 + f64::from(window - begins) * 10.0;
                assert!(after <= 15.0, "{after} s after it began, {first} of a window in the first");
            }
            assert_eq!(run.ended(), 2);
            let Some((_, Change::Ended(alarm))) =
                run.changes.iter().find(|(_, change)| matches!(change, Change::Ended(_)))
            else {
                panic!("no alarm ended");
            };
            let first_window = run.started()[0].0;
            assert_eq!((alarm.start, alarm.end), (UNIX_EPOCH + WINDOW * first_window, Some(UNIX_EPOCH + WINDOW * 106)));
            assert!(alarm.worst.score >= alarm.reading.score && alarm.worst.value > 0.9, "{alarm:?}");
        }
    }

    /// One alarm a group, with all that is wrong with it; groups that have to wait meanwhile belong to it.
    #[test]
    fn one_alarm_for_one_cause() {
        let mut run = Run::default();
        for window in 0..100 {
            let is_on = window >= 80;
            let high = |usual: f64, now: f64| if is_on { now } else { usual };
            run.window(&[
                ("hog", Signal::Cpu, high(0.1, 1.9)),
                ("hog", Signal::OffCpu, if window >= 84 { 2.0 } else { 0.0 }),
                ("hog", Signal::RunQueue, high(0.001, 0.06)),
                ("victim", Signal::Cpu, 0.2),
                ("victim", Signal::RunQueue, high(0.001, 0.13)),
            ]);
        }
        assert_eq!(run.started(), [(80, "hog", Signal::Cpu)]);
        let alarm = run.engine.open().next();
        let also: Vec<_> = alarm.iter().flat_map(|alarm| &alarm.also).map(|reading| reading.signal).collect();
        assert_eq!(also, [Signal::RunQueue, Signal::OffCpu]);
        assert!(alarm.is_some_and(|alarm| alarm.affected.contains("victim")), "{alarm:?}");
    }

    /// A queue for the CPU without anyone who takes it is an alarm of its own, and so is a fall of the IPC; of a rise nobody
    /// wants to hear.
    #[test]
    fn other_signals() {
        let mut run = Run::default();
        for window in 0..100 {
            let is_on = window >= 80;
            run.window(&[
                ("queue", Signal::RunQueue, if is_on { 0.13 } else { 0.004 }),
                ("slow", Signal::Ipc, if is_on { 0.5 } else { 1.5 }),
                ("fast", Signal::Ipc, if is_on { 1.5 } else { 0.5 }),
                ("small", Signal::RunQueue, if is_on { 0.016 } else { 0.001 }),
                ("calmer", Signal::Cpu, if is_on { 0.0 } else { 1.5 }),
            ]);
        }
        assert_eq!(run.started(), [(81, "queue", Signal::RunQueue), (81, "slow", Signal::Ipc)]);
        assert!(run.engine.open().all(|alarm| alarm.start == UNIX_EPOCH + WINDOW * 80));
    }

    /// Threads that wait for a lock for one window are what happens now and then; that they do for two is an alarm, as of the first.
    #[test]
    fn locks_are_waited_for_now_and_then() {
        let mut run = Run::default();
        for window in 0..200 {
            let waiting = if [80, 120, 121, 122].contains(&window) { 0.6 } else { 0.0 };
            let longer = if window > 120 { 2.2 * waiting } else { waiting };
            run.window(&[("database", Signal::OffCpu, waiting), ("worse", Signal::OffCpu, longer)]);
        }
        // What is not worse than what has been is none.
        assert_eq!(run.started(), [(121, "worse", Signal::OffCpu)]);
    }

    #[test]
    fn a_lock_fight_goes_on() {
        let mut run = Run::default();
        for window in 0..90 {
            run.window(&[("fight", Signal::OffCpu, if window >= 80 { 0.6 } else { 0.0 })]);
        }
        assert_eq!(run.started(), [(81, "fight", Signal::OffCpu)]);
        assert!(run.engine.open().all(|alarm| alarm.start == UNIX_EPOCH + WINDOW * 80));
    }

    /// The third time in a day it is usual; what does not end becomes usual; what was so at this time of earlier days is usual.
    #[test]
    fn what_is_usual() {
        let mut run = Run::default();
        for window in 0..1000 {
            // For a minute, each half hour and more.
            let is_on = window % 200 >= 190;
            run.window(&[("hourly", Signal::Cpu, if is_on { 1.0 } else { 0.0 })]);
        }
        let started: Vec<_> = run.started().iter().map(|(window, ..)| *window).collect();
        assert_eq!(started, [190, 390]);
        let mut run = Run::default();
        for window in 0..400 {
            run.window(&[("more", Signal::Cpu, if window < 100 { 0.1 } else { 1.0 })]);
        }
        assert_eq!((run.started().len(), run.ended()), (1, 1));
        assert!(matches!(&run.changes[1].1, Change::Ended(alarm) if alarm.became_usual), "{:?}", run.changes);
        let mut engine = Engine::default();
        for window in 0..100 {
            let (start, is_on) = (UNIX_EPOCH + WINDOW * window, window >= 80);
            let value = if is_on { 1.0 } else { 0.0 };
            let seasonal = Some(if is_on { 0.9 } else { 0.0 });
            let backup = Observation { group: "backup", signal: Signal::Cpu, value, seasonal };
            assert_eq!(engine.window(start, start + WINDOW, &[backup]), []);
        }
    }

    /// What is usual is known of the windows alone in which a group was there: a job that comes now and then is no anomaly, but one
    /// that takes more than its kind did before is; it is over when the job has gone.
    #[test]
    fn jobs_come_and_go() {
        let mut run = Run::default();
        for window in 0..1000 {
            let job = [("job", Signal::Cpu, if window == 920 { 1.9 } else { 0.8 })];
            run.window(if window % 20 < 4 { &job } else { &[] });
        }
        assert_eq!(run.started(), [(920, "job", Signal::Cpu)]);
        assert_eq!(run.ended(), 1);
    }

    /// A program that was never there before and takes a CPU is reported within two windows, whenever in a window it begins, and is
    /// over when it ends; so is a lock that its threads fight for. The next time it is known.
    #[test]
    fn new_programs_are_reported_once() {
        for tenths in 1..=10 {
            let first = f64::from(tenths) / 10.0;
            let mut run = Run::default();
            for window in 0..400_u32 {
                let part = |begins: u32| match window {
                    window if window == begins => first,
                    window if (begins + 1..begins + 20).contains(&window) => 1.0,
                    _ => 0.0,
                };
                let (spins, fights) = (part(100) + part(300), 2.0 * part(200));
                let mut values = vec![("idle", Signal::Cpu, 0.01), ("idle", Signal::OffCpu, 0.0)];
                if spins > 0.0 {
                    values.extend([("miner", Signal::Cpu, spins), ("miner", Signal::OffCpu, 0.0)]);
                }
                if fights > 0.0 {
                    values.extend([("fight", Signal::Cpu, 0.1), ("fight", Signal::OffCpu, fights)]);
                }
                run.window(&values);
            }
            let started = run.started();
            let known: Vec<_> = started.iter().map(|&(_, group, signal)| (group, signal)).collect();
            assert_eq!(known, [("miner", Signal::Cpu), ("fight", Signal::OffCpu)], "{first} of a window in the first");
            assert!(started[0].0 <= 101 && started[1].0 <= 201, "{started:?}");
            assert_eq!(run.ended(), 2);
        }
    }

    /// New programs that take less, or for a moment, are none; nor are any where new ones come all the time.
    #[test]
    fn new_jobs_are_ordinary() {
        let mut run = Run::default();
        for window in 0..400_u32 {
            let name = format!("job{window}");
            let job = match window {
                100 | 150 | 200 => Some((&*name, Signal::Cpu, 0.8)),
                250..256 => Some(("small", Signal::Cpu, 0.5)),
                _ => None,
            };
            run.window(&[Some(("idle", Signal::Cpu, 0.01)), job].into_iter().flatten().collect::<Vec<_>>());
        }
        assert_eq!(run.started(), []);
        let mut run = Run::default();
        for window in 0..400_u32 {
            run.window(&[("idle", Signal::Cpu, 0.01), (&format!("build{}", window / 8), Signal::Cpu, 1.0)]);
        }
        assert_eq!(run.started(), []);
    }

    /// Groups that have gone are forgotten.
    #[test]
    fn memory_is_bounded() {
        let mut run = Run::default();
        for window in 0..2000 {
            run.window(&[(&*format!("g{window}"), Signal::Cpu, 0.5), (&*format!("g{window}"), Signal::RunQueue, 0.1)]);
        }
        assert!(run.engine.tracks.len() <= FORGOTTEN as usize, "{}", run.engine.tracks.len());
        assert_eq!(run.started(), []);
    }
}
