//! The store: what is read from it is what was written, however it was added up, and whatever happened to the file.
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "../support/windows.rs"]
mod windows;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cputrace::store::digest::{Detail, Digest};
use cputrace::store::events::EventKind;
use cputrace::store::traces::{TraceFilter, TraceRow};
use cputrace::store::windows::Range;
use cputrace::store::{Retention, Store, from_unix_ms, unix_ms};
use proptest::prelude::*;
use tempfile::TempDir;
use windows::{facts, window};

/// 2026-01-01, at a full hour.
const EPOCH_MS: i64 = 1_767_225_600_000;

fn at(seconds: i64) -> SystemTime {
    from_unix_ms(EPOCH_MS + seconds * 1000)
}

fn range(from: i64, to: i64) -> Range {
    Range { from: at(from), to: at(to) }
}

/// (group, value) of all that a range has.
fn totals(store: &Store, range: Range, detail: Detail) -> Vec<(String, u64)> {
    let merged = store.merge(range, detail, &|_, _| true).unwrap();
    let mut sums = std::collections::BTreeMap::new();
    for (_, member, sum) in merged.digest.totals() {
        *sums.entry(member.group.to_owned()).or_insert(0) += sum.value;
    }
    sums.into_iter().collect()
}

/// What comes out of a digest's stored form, merged into another one, is what went in; stacks and names too.
#[test]
fn digests_survive_storing() {
    let stored = window(&[("a", 5), ("b", 7)]).encode().unwrap();
    let mut sum = Digest::new();
    for _ in 0..2 {
        sum.merge(&Digest::decode(&stored).unwrap(), Detail::Name, &|source, member| {
            assert_eq!(source, "on-cpu");
            assert_eq!(member.unit, format!("{}.service", member.group));
            member.group == "b"
        });
    }
    let profile = sum.into_profile();
    let [sample] = profile.samples() else { panic!("{:?}", profile.samples()) };
    assert_eq!((sample.count, sample.value), (4, 28));
    let names: Vec<_> = profile.frames(sample.stack).flat_map(|location| profile.names(location)).collect();
    assert_eq!(names, ["work_b", "main"]);
    let thread = &profile.threads()[sample.thread.index()];
    assert_eq!((thread.tid, profile.processes()[thread.process.index()].pid), (0, 0));
}

/// Bytes that are no digest are refused, wherever they are wrong.
#[test]
fn damaged_digests_are_refused() {
    let stored = window(&[("a", 5)]).encode().unwrap();
    for length in 1..stored.len() {
        assert!(Digest::decode(&stored[..length]).is_err(), "{length}");
    }
    let plain = zstd::bulk::decompress(&stored, 1 << 20).unwrap();
    for position in 0..plain.len() {
        for bit in 0..8 {
            let mut damaged = plain.clone();
            damaged[position] ^= 1 << bit;
            // Any verdict, but no panic, and what was accepted can be used.
            if let Ok(digest) = Digest::decode(&zstd::bulk::compress(&damaged, 1).unwrap()) {
                let mut sum = Digest::new();
                sum.merge(&digest, Detail::Process, &|_, _| true);
                sum.into_profile();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However windows were added up, a range is the sum of the windows that start in it: at the ends of hours, across
    /// gaps, and where the finest windows are gone already.
    #[test]
    fn ranges_are_sums(
        starts in prop::collection::btree_set(0_i64..9000, 1..120),
        ranges in prop::collection::vec((-100_i64..9200, 0_i64..9000), 6),
        aligned in any::<bool>(),
    ) {
        let directory = TempDir::new().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for &start in &starts {
            let value = u64::try_from(start).unwrap() + 1;
            store.add_window(range(start, start + 1), &facts(), &window(&[("a", value), ("b", 1)])).unwrap();
        }
        let (first, last) = (*starts.first().unwrap(), *starts.last().unwrap());
        prop_assert_eq!(store.span().unwrap(), Some(range(first, last + 1)));
        for (from, length) in ranges {
            let (from, to) = if aligned { (from / 300 * 300, (from + length) / 300 * 300) } else { (from, from + length) };
            let inside = starts.range(from.min(to)..to);
            let expected: u64 = inside.clone().map(|start| 2 * (u64::try_from(*start).unwrap() + 1)).sum();
            let count = u64::try_from(inside.count()).unwrap();
            for detail in [Detail::Name, Detail::Process] {
                let found = totals(&store, range(from, to), detail);
                let expected = if count == 0 { vec![] } else { vec![("a".to_owned(), expected), ("b".to_owned(), 2 * count)] };
                prop_assert_eq!(found, expected);
            }
            let series = store.totals(range(from, to), "on-cpu", Duration::from_hours(1)).unwrap();
            prop_assert_eq!(series.iter().filter(|total| total.group == "a").map(|total| total.value).sum::<u64>(), expected);
        }
    }
}

/// A long range is read from few windows; where the finest ones are gone, the coarser ones answer, each once.
#[test]
fn coarser_windows_stand_in() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for start in (0..7500).step_by(10) {
        store.add_window(range(start, start + 10), &facts(), &window(&[("a", 1)])).unwrap();
    }
    let all = store.merge(range(0, 7500), Detail::Name, &|_, _| true).unwrap();
    assert_eq!((all.facts.windows, all.facts.covered_ms), (750, 7_500_000));
    // Two hours, and 30 windows whose five minutes are not over.
    assert_eq!(all.read, 2 + 30);
    let keep = Retention { fine_age: Duration::from_secs(1000), ..Retention::default() };
    store.retain(&keep, at(7500)).unwrap();
    assert_eq!(store.merge(range(0, 7500), Detail::Name, &|_, _| true).unwrap().facts.windows, 750);
    // Asked for ids there is still all the time: coarser ones where nothing finer is left.
    let detailed = store.merge(range(0, 7500), Detail::Process, &|_, _| true).unwrap();
    assert_eq!(detailed.facts.windows, 750);
    // Half an hour within one that is only left as five minutes.
    assert_eq!(store.merge(range(600, 2400), Detail::Name, &|_, _| true).unwrap().facts.windows, 180);
    let sources = store.sources(range(0, 7500)).unwrap().into_iter();
    let sources: Vec<(String, Vec<String>)> =
        sources.map(|(name, groups)| (name, groups.into_iter().collect())).collect();
    assert_eq!(sources, [("on-cpu".to_owned(), vec!["a".to_owned()])]);
    assert_eq!(store.span().unwrap().unwrap(), range(0, 7500));
}

/// Windows that overlap by what a clock was corrected by are each in one of two ranges that meet where one of them ends.
#[test]
fn windows_follow_one_another() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let ms = |ms: i64| from_unix_ms(1_000_000_000 + ms);
    let range = |from, to| Range { from: ms(from), to: ms(to) };
    for (from, to) in [(0, 1001), (1000, 2001), (2000, 3000)] {
        store.add_window(range(from, to), &facts(), &window(&[("a", 1)])).unwrap();
    }
    let windows = |range| store.covered(range, Duration::ZERO).unwrap();
    let stretch = |from, to| (ms(from), ms(to));
    assert_eq!(windows(range(0, 3000)), [stretch(0, 1001), stretch(1001, 2001), stretch(2001, 3000)]);
    assert_eq!(windows(range(0, 1001)).len(), 1);
    assert_eq!(windows(range(1001, 2001)).len(), 1);
}

/// A clock that is set back, or far ahead and back again, hides no window: not from a long range, and not from what is left
/// when the finest windows are gone.
#[test]
fn clocks_are_set() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut added = 0;
    let mut add = |from: i64, to: i64| {
        for start in (from..to).step_by(10) {
            store.add_window(range(start, start + 10), &facts(), &window(&[("a", 1)])).unwrap();
            added += 1;
        }
        added
    };
    add(0, 4000);
    // Over the same moments again, and where the machine was off before.
    add(2000, 3000);
    add(-5000, -4000);
    // A year ahead, and back.
    add(31_536_000, 31_536_600);
    let added = add(4000, 9000);
    let all = range(-10_000, 40_000_000);
    let check = || {
        assert_eq!(store.merge(all, Detail::Name, &|_, _| true).unwrap().facts.windows, added);
        assert_eq!(totals(&store, all, Detail::Name), [("a".to_owned(), 2 * added)]);
        let series = store.totals(all, "on-cpu", Duration::from_hours(1)).unwrap();
        assert_eq!(series.iter().map(|total| total.value).sum::<u64>(), 2 * added);
    };
    check();
    assert_eq!(totals(&store, range(2000, 3000), Detail::Process), [("a".to_owned(), 400)]);
    store.retain(&Retention { fine_age: Duration::from_secs(1000), ..Retention::default() }, at(9000)).unwrap();
    check();
    // What was replaced is gone altogether.
    let reader = rusqlite::Connection::open(directory.path().join("cputrace.db")).unwrap();
    let sql = "SELECT count(*) FROM total WHERE window NOT IN (SELECT id FROM window)";
    assert_eq!(reader.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

/// A week and more of windows, retained as they come: what is kept, the file, and what a long range is read from stay as
/// they are once the first week is over.
#[test]
fn weeks_are_bounded() {
    const WINDOW: i64 = 150;
    const DAY: i64 = 86_400;
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let digest = window(&[("a", 1), ("b", 1)]);
    let mut sizes = Vec::new();
    for start in (0..9 * DAY).step_by(WINDOW as usize) {
        store.add_window(range(start, start + WINDOW), &facts(), &digest).unwrap();
        if start % 3600 == 0 {
            store.retain(&Retention::default(), at(start)).unwrap();
        }
        if start % DAY == 0 {
            sizes.push((store.bytes(), store.windows().unwrap()));
        }
    }
    let (bytes, windows) = sizes[7];
    // A day as recorded, a week of five minutes, of hours and of six.
    let kept = 576 + 2016 + 168 + 28;
    assert!((kept..kept + 100).contains(&windows), "{windows}");
    for later in &sizes[8..] {
        assert!(later.1 < windows + 100 && later.0 < bytes + bytes / 4, "{sizes:?}");
    }
    let week = store.merge(range(2 * DAY, 9 * DAY), Detail::Name, &|_, _| true).unwrap();
    assert_eq!(week.facts.windows, 7 * 576);
    assert!(week.read <= 28 + 2 * (5 + 11), "{}", week.read);
}

/// One window that is damaged is missing, and said to be; the others are read, added up, and followed by new ones.
#[test]
fn damaged_windows_are_left_out() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let add = |from: i64, to: i64| {
        for start in (from..to).step_by(10) {
            store.add_window(range(start, start + 10), &facts(), &window(&[("a", 1)])).unwrap();
        }
    };
    add(0, 200);
    let other = rusqlite::Connection::open(directory.path().join("cputrace.db")).unwrap();
    other.execute("UPDATE window SET digest = x'00' WHERE start_ms = ?1", [unix_ms(at(50))]).unwrap();
    let merged = store.merge(range(0, 200), Detail::Name, &|_, _| true).unwrap();
    assert_eq!((merged.read, merged.damaged), (19, 1));
    add(200, 400);
    let merged = store.merge(range(0, 400), Detail::Name, &|_, _| true).unwrap();
    assert_eq!((merged.facts.windows, merged.damaged), (39, 0));
}

/// Too much goes by size, the finest of long ago first; the file gets smaller.
#[test]
fn size_is_bounded() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let groups: Vec<String> = (0..200).map(|group| format!("group-{group}")).collect();
    let groups: Vec<(&str, u64)> = groups.iter().map(|group| (group.as_str(), 1)).collect();
    let many = window(&groups);
    for start in (0..8000).step_by(20) {
        store.add_window(range(start, start + 20), &facts(), &many).unwrap();
    }
    let before = store.bytes();
    let retention = Retention { bytes: before / 3, ..Retention::default() };
    assert!(store.retain(&retention, at(8000)).unwrap() > 0);
    assert!(store.bytes() <= before / 2, "{} of {before}", store.bytes());
    // The last hour is there as it was recorded.
    assert_eq!(store.facts(range(4400, 8000)).unwrap().len(), 180);
    assert_eq!(store.merge(range(0, 7200), Detail::Name, &|_, _| true).unwrap().facts.windows, 360);
    assert_eq!(store.retain(&retention, at(8000)).unwrap(), 0);
    // Nothing is left after a week.
    assert!(store.retain(&retention, at(8000 + 8 * 86_400)).unwrap() > 0);
    assert_eq!(store.windows().unwrap(), 0);
}

/// Recordings and events are found again.
#[test]
fn traces_and_events() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for number in 0..5 {
        let id = format!("trace-{number}");
        let name = if number == 3 { "postgres".to_owned() } else { "x%_".to_owned() };
        let facts = serde_json::json!({ "samples": number });
        store.add_trace(&TraceRow { id, added: at(number), name, facts, bytes: 0 }, b"contents").unwrap();
    }
    let ids = |filter: &TraceFilter| {
        let (rows, total) = store.traces(filter).unwrap();
        (rows.into_iter().map(|row| row.id).collect::<Vec<_>>(), total)
    };
    let filter = |contains: &str, limit, offset| TraceFilter { contains: contains.to_owned(), limit, offset };
    assert_eq!(ids(&filter("", 2, 1)), (vec!["trace-3".to_owned(), "trace-2".to_owned()], 5));
    assert_eq!(ids(&filter("greS", 10, 0)).1, 0);
    assert_eq!(ids(&filter("gres", 10, 0)), (vec!["trace-3".to_owned()], 1));
    assert_eq!(ids(&filter("%_", 10, 0)).1, 4);
    let (row, contents) = store.trace("trace-4").unwrap().unwrap();
    assert_eq!((row.added, row.bytes, &*contents), (at(4), 8, &b"contents"[..]));
    assert!(store.delete_trace("trace-4").unwrap() && !store.delete_trace("trace-4").unwrap());
    assert!(store.trace("trace-4").unwrap().is_none());
    let id = store.add_event(EventKind::Anomaly, at(1), &serde_json::json!({ "group": "a" })).unwrap();
    store.add_event(EventKind::Governor, at(1), &serde_json::json!({})).unwrap();
    store.update_event(id, &serde_json::json!({ "group": "b" })).unwrap();
    let events = store.events(EventKind::Anomaly, range(0, 2)).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event["group"], "b");
    assert!(store.events(EventKind::Anomaly, range(2, 9)).unwrap().is_empty());
}

/// A store has one owner; another one is told so.
#[test]
fn one_owner() {
    let directory = TempDir::new().unwrap();
    let first = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("in use by another cputrace"), "{error}");
    drop(first);
    Store::open(directory.path()).unwrap();
}

/// A damaged file is kept aside, and said; the store goes on.
#[test]
fn damaged_files_are_set_aside() {
    for damage in [
        &b"no database at all, but long enough to be looked at by SQLite, which wants a header of 100 bytes...."[..],
        &[0xff; 8192],
    ] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("cputrace.db");
        let store = Store::open(directory.path()).unwrap();
        for start in 0..200 {
            store.add_window(range(start, start + 1), &facts(), &window(&[("a", 1)])).unwrap();
        }
        drop(store);
        let mut contents = fs::read(&file).unwrap();
        // In the header, or in the middle.
        let start = if damage.len() < 200 { 0 } else { contents.len() / 2 / 4096 * 4096 };
        contents[start..start + damage.len()].copy_from_slice(damage);
        fs::write(&file, &contents).unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(store.notes()[0].contains("was damaged"), "{:?}", store.notes());
        assert_eq!(fs::metadata(file.with_extension("db.damaged")).unwrap().len(), contents.len() as u64);
        store.add_window(range(0, 1), &facts(), &window(&[("a", 1)])).unwrap();
        assert_eq!(totals(&store, range(0, 9), Detail::Name), [("a".to_owned(), 2)]);
    }
}

/// A store of a newer cputrace is left alone.
#[test]
fn newer_stores_are_left_alone() {
    let directory = TempDir::new().unwrap();
    drop(Store::open(directory.path()).unwrap());
    let file = directory.path().join("cputrace.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("newer cputrace (its version 99"), "{error}");
    assert!(file.exists());
}

/// A process that is killed while it writes loses nothing that it had been told is stored.
#[test]
fn kills_are_survived() {
    const DIRECTORY: &str = "CPUTRACE_TEST_STORE";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let store = Store::open(Path::new(&directory)).unwrap();
        let first = store.span().unwrap().map_or(0, |span| (unix_ms(span.to) - EPOCH_MS) / 1000);
        for start in first.. {
            store.add_window(range(start, start + 1), &facts(), &window(&[("a", 1)])).unwrap();
            println!("stored {start}");
        }
    }
    let directory = TempDir::new().unwrap();
    let mut stored = 0;
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kills_are_survived", "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let lines = lines.map(Result::unwrap).filter(|line| line.contains("stored "));
        let last = lines.take(400).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        stored = last.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap().max(stored);
        let store = Store::open(directory.path()).unwrap();
        assert!(store.notes().is_empty(), "{:?}", store.notes());
        let found = totals(&store, range(0, stored + 1), Detail::Name);
        assert_eq!(found, [("a".to_owned(), 2 * u64::try_from(stored + 1).unwrap())]);
    }
}

/// A full disk is an error that is counted; with room again the store goes on where it was. Needs root, for a small disk.
#[test]
fn full_disks_are_survived() {
    let directory = TempDir::new().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(directory.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("CPUTRACE_REQUIRE_ALL").is_none(),
            "a small file system is wanted and cannot be mounted"
        );
        println!("SKIPPED full_disks_are_survived: a small file system cannot be mounted here");
        return;
    }
    let store = Store::open(directory.path()).unwrap();
    let ballast = directory.path().join("ballast");
    fs::write(&ballast, vec![1; 400_000]).unwrap();
    let mut stored = 0_u64;
    let error = loop {
        let start = i64::try_from(stored).unwrap();
        match store.add_window(range(start, start + 1), &facts(), &window(&[("a", 1)])) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_full(), "{error}");
    assert_eq!(store.failed_writes(), 1);
    fs::remove_file(&ballast).unwrap();
    let start = i64::try_from(stored).unwrap();
    store.add_window(range(start, start + 1), &facts(), &window(&[("a", 1)])).unwrap();
    assert_eq!(totals(&store, range(0, start + 1), Detail::Process), [("a".to_owned(), 2 * (stored + 1))]);
    drop(store);
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
}

/// Times before 1970 or far away are no reason to panic.
#[test]
fn odd_times() {
    assert_eq!(unix_ms(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
    assert_eq!(from_unix_ms(-5), SystemTime::UNIX_EPOCH);
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert!(store.merge(Range { from: at(9), to: at(3) }, Detail::Name, &|_, _| true).unwrap().digest.is_empty());
    assert_eq!(store.span().unwrap(), None);
}
