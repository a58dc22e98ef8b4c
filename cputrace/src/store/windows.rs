//! Windows: as they were recorded, and added up to coarser ones, so that a day is read as fast as a minute.
//!
//! A window is part of a range of time if its start is. A range is answered from the coarsest windows that lie in it whole,
//! and at its ends from finer ones.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::digest::{Detail, Digest, DigestError, Member};
use super::{Store, StoreError, from_unix_ms, unix_ms};

/// How long a window of each level is, in milliseconds; the first level is as recorded.
const LEVELS_MS: [i64; 4] = [0, 300_000, 3_600_000, 21_600_000];

/// Readers of one range at most, each in a thread of its own.
const MAX_READERS: usize = 4;

/// Windows for which a reader is worth while.
const WINDOWS_A_READER: usize = 8;

/// The last level.
const COARSEST: u32 = LEVELS_MS.len() as u32 - 1;

/// What is known of a window beside its samples. Added up where windows are.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowFacts {
    /// Windows that were added up.
    pub windows: u64,
    /// How long they were, in all: gaps between them are not in it.
    pub covered_ms: u64,
    /// Samples a second and CPU that were asked for, on average over the time.
    pub frequency_hz: f64,
    /// Samples that were to be expected.
    pub samples_expected: u64,
    /// Samples that are there.
    pub samples_kept: u64,
    /// Time in the eBPF programs.
    pub bpf_ns: u64,
    /// CPU time of cputrace itself.
    pub own_cpu_ns: u64,
}

impl WindowFacts {
    fn add(&mut self, other: &Self) {
        let Self { windows, covered_ms, frequency_hz, samples_expected, samples_kept, bpf_ns, own_cpu_ns } = other;
        self.windows += windows;
        let ticks = self.frequency_hz * self.covered_ms as f64 + frequency_hz * *covered_ms as f64;
        self.covered_ms += covered_ms;
        self.frequency_hz = if self.covered_ms == 0 { *frequency_hz } else { ticks / self.covered_ms as f64 };
        self.samples_expected += samples_expected;
        self.samples_kept += samples_kept;
        self.bpf_ns += bpf_ns;
        self.own_cpu_ns += own_cpu_ns;
    }
}

/// From a moment up to, but not with, another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first moment.
    pub from: SystemTime,
    /// The moment after the last.
    pub to: SystemTime,
}

/// What a range of time came to.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The sums.
    pub digest: Digest,
    /// What is known of the windows.
    pub facts: WindowFacts,
    /// Stored windows that were read for it.
    pub read: usize,
    /// Stored windows that cannot be read: they are missing in it.
    pub damaged: usize,
}

/// A group's sum in a stored window.
#[derive(Clone, PartialEq, Debug)]
pub struct Total {
    /// The window's start.
    pub start: SystemTime,
    /// Its length without gaps is about this.
    pub end: SystemTime,
    /// The group.
    pub group: String,
    /// How many samples or waits.
    pub count: u64,
    /// Their sum, in the source's unit.
    pub value: u64,
}

/// A row that was chosen for a range.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    id: i64,
    start: i64,
    end: i64,
}

impl Store {
    /// Stores a window, and coarser ones where that has completed them.
    pub fn add_window(&self, range: Range, facts: &WindowFacts, digest: &Digest) -> Result<(), StoreError> {
        let (start, end) = (unix_ms(range.from), unix_ms(range.to));
        let bytes = digest.encode().map_err(StoreError::Encode)?;
        self.write(|transaction| {
            // Who asks up to the end of the window before must not get this one, too: as clocks are corrected they can overlap.
            let mut start = match end_before(transaction, start)? {
                Some(before) if before < end => before.max(start),
                _ => start,
            };
            // A clock that was set back comes by the same moments again.
            while id_at(transaction, 0, start)?.is_some() {
                start += 1;
            }
            insert(transaction, 0, (start, end.max(start)), facts, (&bytes, digest))?;
            compact(transaction, start, facts, digest)
        })
    }

    /// Adds up what was sampled in a range: of those for whom `keep` is true, of source and member.
    pub fn merge(
        &self,
        range: Range,
        detail: Detail,
        keep: &(dyn Fn(&str, &Member<'_>) -> bool + Sync),
    ) -> Result<Merged, StoreError> {
        // Ids are lost where hours are added up: whoever wants them gets them from the finest windows.
        let coarsest = if detail == Detail::Process { 0 } else { COARSEST };
        let chosen = choose(&self.reader()?, unix_ms(range.from), unix_ms(range.to), coarsest)?;
        let most = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_READERS);
        let readers = (chosen.len() / WINDOWS_A_READER).clamp(1, most);
        // By turns, for the coarse ones take longer.
        let part = |number| chosen.iter().skip(number).step_by(readers).map(|row| row.id);
        let (first, others) = thread::scope(|scope| {
            let part = &part;
            let others: Vec<_> =
                (1..readers).map(|number| scope.spawn(move || self.merge_all(part(number), detail, keep))).collect();
            let first = self.merge_all(part(0), detail, keep);
            let join =
                |other: thread::ScopedJoinHandle<'_, _>| other.join().unwrap_or_else(|panic| resume_unwind(panic));
            (first, others.into_iter().map(join).collect::<Vec<_>>())
        });
        let mut merged = first?;
        for other in others {
            let Merged { digest, facts, read, damaged } = other?;
            merged.digest.merge(&digest, detail, &|_, _| true);
            merged.facts.add(&facts);
            merged.read += read;
            merged.damaged += damaged;
        }
        Ok(merged)
    }

    /// Adds up windows.
    fn merge_all(
        &self,
        windows: impl Iterator<Item = i64>,
        detail: Detail,
        keep: &dyn Fn(&str, &Member<'_>) -> bool,
    ) -> Result<Merged, StoreError> {
        let reader = self.reader()?;
        let mut merged = Merged::default();
        for id in windows {
            match read(&reader, id) {
                Ok(Some((facts, digest))) => {
                    merged.facts.add(&facts);
                    merged.digest.merge(&digest, detail, keep);
                    merged.read += 1;
                }
                // Retention was faster.
                Ok(None) => {}
                Err(error) if error.is_of_one_window() => merged.damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(merged)
    }

    /// The groups' sums of a source in a range, by window; none coarser than `resolution`, as far as finer ones are left.
    pub fn totals(&self, range: Range, source: &str, resolution: Duration) -> Result<Vec<Total>, StoreError> {
        let reader = self.reader()?;
        let coarsest = coarsest_within(resolution);
        let mut totals = Vec::new();
        let mut of_window = reader.prepare(
            "SELECT name.name, total.count, total.value FROM total JOIN name ON name.id = total.grp
             WHERE total.window = ?1 AND total.source = (SELECT id FROM name WHERE name = ?2)",
        )?;
        for Chosen { id, start, end } in choose(&reader, unix_ms(range.from), unix_ms(range.to), coarsest)? {
            let rows = of_window.query_map(params![id, source], |row| {
                Ok(Total {
                    start: from_unix_ms(start),
                    end: from_unix_ms(end),
                    group: row.get(0)?,
                    count: row.get::<_, i64>(1)?.cast_unsigned(),
                    value: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })?;
            for row in rows {
                totals.push(row?);
            }
        }
        Ok(totals)
    }

    /// Calls back with each window of a range as it is stored ([`Digest::decode`], [`StoredTotals::decode`]), and its stretch.
    /// None is coarser than `resolution`, unless these would be more than `at_most`.
    ///
    /// [`StoredTotals::decode`]: super::digest::StoredTotals::decode
    pub fn stored(
        &self,
        range: Range,
        resolution: Duration,
        at_most: usize,
        mut visit: impl FnMut(Range, &[u8]) -> Result<(), DigestError>,
    ) -> Result<(), StoreError> {
        let reader = self.reader()?;
        let (from, to) = (unix_ms(range.from), unix_ms(range.to));
        let mut chosen = Vec::new();
        for level in coarsest_within(resolution)..=COARSEST {
            chosen = choose(&reader, from, to, level)?;
            if chosen.len() <= at_most {
                break;
            }
        }
        let mut query = reader.prepare("SELECT digest FROM window WHERE id = ?1")?;
        for Chosen { id, start, end } in chosen {
            // Retention may have been faster.
            let Some(bytes) = query.query_row([id], |row| row.get::<_, Vec<u8>>(0)).optional()? else { continue };
            visit(Range { from: from_unix_ms(start), to: from_unix_ms(end) }, &bytes)?;
        }
        Ok(())
    }

    /// How many windows a range is read from, and their size.
    pub fn cost(&self, range: Range) -> Result<(u64, u64), StoreError> {
        let reader = self.reader()?;
        let chosen = choose(&reader, unix_ms(range.from), unix_ms(range.to), COARSEST)?;
        let mut query = reader.prepare("SELECT length(digest) FROM window WHERE id = ?1")?;
        let mut bytes = 0;
        for row in &chosen {
            bytes += query.query_row([row.id], |row| row.get::<_, i64>(0)).optional()?.unwrap_or(0).cast_unsigned();
        }
        Ok((chosen.len() as u64, bytes))
    }

    /// The stretches of a range that windows are there for: start and end of each; none coarser than `resolution`, as far as
    /// finer ones are left.
    pub fn covered(&self, range: Range, resolution: Duration) -> Result<Vec<(SystemTime, SystemTime)>, StoreError> {
        let chosen = choose(&self.reader()?, unix_ms(range.from), unix_ms(range.to), coarsest_within(resolution))?;
        Ok(chosen.into_iter().map(|row| (from_unix_ms(row.start), from_unix_ms(row.end))).collect())
    }

    /// The facts of each window in a range, with its start; as recorded, no coarser.
    pub fn facts(&self, range: Range) -> Result<Vec<(SystemTime, WindowFacts)>, StoreError> {
        let reader = self.reader()?;
        let mut query = reader.prepare(
            "SELECT start_ms, facts FROM window WHERE level = 0 AND start_ms >= ?1 AND start_ms < ?2 ORDER BY start_ms",
        )?;
        let rows = query.query_map([unix_ms(range.from), unix_ms(range.to)], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.map(|row| {
            let (start, facts) = row?;
            Ok((from_unix_ms(start), serde_json::from_str(&facts)?))
        })
        .collect()
    }

    /// The sources that a range has samples of, by their names, each with the groups that have them.
    pub fn sources(&self, range: Range) -> Result<BTreeMap<String, BTreeSet<String>>, StoreError> {
        let reader = self.reader()?;
        let chosen = choose(&reader, unix_ms(range.from), unix_ms(range.to), COARSEST)?;
        let mut query = reader.prepare(
            "SELECT source.name, grp.name FROM total JOIN name source ON source.id = total.source
             JOIN name grp ON grp.id = total.grp WHERE total.window = ?1",
        )?;
        let mut sources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Chosen { id, .. } in chosen {
            for row in query.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))? {
                let (source, group): (String, String) = row?;
                sources.entry(source).or_default().insert(group);
            }
        }
        Ok(sources)
    }

    /// The start of the first window and the end of the last. A coarse window may begin before what it is made of: it counts only
    /// where there is nothing finer of its time.
    pub fn span(&self) -> Result<Option<Range>, StoreError> {
        let span: (Option<i64>, Option<i64>) = self.reader()?.query_row(
            "SELECT coalesce((SELECT min(start_ms) FROM window WHERE fine.first IS NULL OR end_ms <= fine.first), fine.first),
                    coalesce(fine.last, (SELECT max(end_ms) FROM window))
             FROM (SELECT min(start_ms) AS first, max(end_ms) AS last FROM window WHERE level = 0) AS fine",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let (Some(from), Some(to)) = span else { return Ok(None) };
        Ok(Some(Range { from: from_unix_ms(from), to: from_unix_ms(to) }))
    }

    /// How many windows are stored, of all levels.
    pub fn windows(&self) -> Result<u64, StoreError> {
        let count: i64 = self.reader()?.query_row("SELECT count(*) FROM window", [], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }
}

/// The coarsest level whose windows are no longer than this.
fn coarsest_within(resolution: Duration) -> u32 {
    let resolution = i64::try_from(resolution.as_millis()).unwrap_or(i64::MAX);
    (0..=COARSEST).rev().find(|&level| LEVELS_MS[level as usize] <= resolution).unwrap_or(0)
}

fn insert(
    transaction: &Transaction<'_>,
    level: u32,
    (start, end): (i64, i64),
    facts: &WindowFacts,
    (bytes, digest): (&[u8], &Digest),
) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO window (level, start_ms, end_ms, facts, digest) VALUES (?1, ?2, ?3, ?4, ?5)";
    transaction.prepare_cached(sql)?.execute(params![level, start, end, serde_json::to_string(facts)?, bytes])?;
    let window = transaction.last_insert_rowid();
    let mut total = transaction.prepare_cached(
        "INSERT INTO total (window, source, grp, count, value) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET count = count + excluded.count, value = value + excluded.value",
    )?;
    for (source, member, sum) in digest.totals() {
        let (source, group) = (name_id(transaction, source)?, name_id(transaction, member.group)?);
        // SQLite's integers have a sign: what would not fit is far beyond any time or count.
        let [count, value] = [sum.count, sum.value].map(|sum| i64::try_from(sum).unwrap_or(i64::MAX));
        total.execute(params![window, source, group, count, value])?;
    }
    Ok(())
}

fn name_id(transaction: &Transaction<'_>, name: &str) -> Result<i64, StoreError> {
    let mut find = transaction.prepare_cached("SELECT id FROM name WHERE name = ?1")?;
    if let Some(id) = find.query_row([name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    transaction.prepare_cached("INSERT INTO name (name) VALUES (?1)")?.execute([name])?;
    Ok(transaction.last_insert_rowid())
}

/// Adds up the windows of each stretch of time that is over, now that one of `newest` is there.
fn compact(transaction: &Transaction<'_>, newest: i64, facts: &WindowFacts, digest: &Digest) -> Result<(), StoreError> {
    for (level, &length) in (0_u32..).zip(&LEVELS_MS).skip(1) {
        let done: i64 =
            transaction
                .query_row("SELECT coalesce(max(end_ms), 0) FROM window WHERE level = ?1", [level], |row| row.get(0))?;
        if newest < done {
            // The clock was set back, into a stretch that was taken to be over.
            let stretch = newest / length;
            match id_at(transaction, level, stretch * length)? {
                Some(id) => {
                    let (mut all, before) = read(transaction, id)?.unwrap_or_default();
                    all.add(facts);
                    let mut sum = Digest::new();
                    for digest in [&before, digest] {
                        sum.merge(digest, Detail::Name, &|_, _| true);
                    }
                    store(transaction, level, stretch, &all, &sum)?;
                }
                None => add_up(transaction, level, stretch)?,
            }
            continue;
        }
        let mut stretches = transaction.prepare_cached(
            "SELECT DISTINCT start_ms / ?1 FROM window WHERE level = ?2 AND start_ms >= ?3 AND start_ms < ?4",
        )?;
        let until = newest / length * length;
        let stretches = stretches.query_map(params![length, level - 1, done, until], |row| row.get::<_, i64>(0))?;
        for stretch in stretches.collect::<Result<Vec<_>, _>>()? {
            add_up(transaction, level, stretch)?;
        }
    }
    Ok(())
}

/// Stores the sum of a stretch's windows of the next finer level.
fn add_up(transaction: &Transaction<'_>, level: u32, stretch: i64) -> Result<(), StoreError> {
    let length = LEVELS_MS[level as usize];
    let mut ids =
        transaction.prepare_cached("SELECT id FROM window WHERE level = ?1 AND start_ms >= ?2 AND start_ms < ?3")?;
    let ids =
        ids.query_map(params![level - 1, stretch * length, (stretch + 1) * length], |row| row.get::<_, i64>(0))?;
    let (mut digest, mut facts) = (Digest::new(), WindowFacts::default());
    for id in ids.collect::<Result<Vec<_>, _>>()? {
        match read(transaction, id) {
            Ok(Some((of_window, window))) => {
                facts.add(&of_window);
                digest.merge(&window, Detail::Name, &|_, _| true);
            }
            Ok(None) => {}
            // One that cannot be read must not keep the others from being added up.
            Err(error) if error.is_of_one_window() => {}
            Err(error) => return Err(error),
        }
    }
    store(transaction, level, stretch, &facts, &digest)
}

/// Stores what a stretch came to, in the place of what it was before.
fn store(
    transaction: &Transaction<'_>,
    level: u32,
    stretch: i64,
    facts: &WindowFacts,
    digest: &Digest,
) -> Result<(), StoreError> {
    let length = LEVELS_MS[level as usize];
    let bytes = digest.encode().map_err(StoreError::Encode)?;
    insert(transaction, level, (stretch * length, (stretch + 1) * length), facts, (&bytes, digest))
}

/// The window of a level that starts at this moment.
fn id_at(connection: &Connection, level: u32, start: i64) -> Result<Option<i64>, StoreError> {
    let mut query = connection.prepare_cached("SELECT id FROM window WHERE level = ?1 AND start_ms = ?2")?;
    Ok(query.query_row([i64::from(level), start], |row| row.get(0)).optional()?)
}

/// The end of the last window as recorded that starts before this moment.
fn end_before(connection: &Connection, start: i64) -> Result<Option<i64>, StoreError> {
    let sql = "SELECT end_ms FROM window WHERE level = 0 AND start_ms < ?1 ORDER BY start_ms DESC LIMIT 1";
    Ok(connection.prepare_cached(sql)?.query_row([start], |row| row.get(0)).optional()?)
}

fn read(connection: &Connection, id: i64) -> Result<Option<(WindowFacts, Digest)>, StoreError> {
    let mut query = connection.prepare_cached("SELECT facts, digest FROM window WHERE id = ?1")?;
    let row = query.query_row([id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))).optional()?;
    let Some((facts, bytes)) = row else { return Ok(None) };
    Ok(Some((serde_json::from_str(&facts)?, Digest::decode(&bytes)?)))
}

/// The windows that make up a range, none of a level above `coarsest` as far as finer ones are left.
fn choose(connection: &Connection, from: i64, to: i64, coarsest: u32) -> Result<Vec<Chosen>, StoreError> {
    let mut gaps = vec![(from, to)];
    let mut all = Vec::new();
    for level in (0..=COARSEST).rev() {
        // Before this moment there is nothing finer (any more).
        let finer_from: i64 = connection.query_row(
            "SELECT coalesce(min(start_ms), ?2) FROM window WHERE level < ?1",
            params![level, i64::MAX],
            |row| row.get(0),
        )?;
        let mut query = connection.prepare_cached(
            "SELECT id, start_ms, end_ms FROM window WHERE level = ?1 AND start_ms >= ?2 AND start_ms < ?3 ORDER BY start_ms",
        )?;
        let mut left = Vec::new();
        for (mut from, to) in gaps {
            let rows = query.query_map(params![level, from, to], |row| {
                Ok(Chosen { id: row.get(0)?, start: row.get(1)?, end: row.get(2)? })
            })?;
            for row in rows {
                let row = row?;
                let is_whole = row.end <= to && level <= coarsest;
                if level == 0 || is_whole || row.end <= finer_from {
                    left.push((from, row.start));
                    from = row.end.max(from);
                    all.push(row);
                }
            }
            left.push((from, to));
        }
        gaps = left;
        gaps.retain(|(from, to)| from < to);
    }
    all.sort_unstable_by_key(|row| row.start);
    Ok(all)
}
