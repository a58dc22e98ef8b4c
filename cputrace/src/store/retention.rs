//! What goes when there is too much: by age, and by size the finest first.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Transaction};

use super::{Store, StoreError, unix_ms};

/// Windows as they were recorded stay at least so long, whatever their size: whoever looks at what happens now needs them.
const FINE_AT_LEAST: Duration = Duration::from_hours(1);

/// Rows that go at a time when there is too much.
const AT_A_TIME: u32 = 50;

/// The same of windows as they were recorded, as a time.
const AT_A_TIME_MS: i64 = 3_600_000;

/// What to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// For how long.
    pub age: Duration,
    /// Windows as they were recorded; coarser ones stay.
    pub fine_age: Duration,
    /// Bytes in the file.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_hours(7 * 24), fine_age: Duration::from_hours(24), bytes: 1 << 30 }
    }
}

impl Store {
    /// Deletes what is too old or too much. Returns how many windows, traces and events.
    pub fn retain(&self, retention: &Retention, now: SystemTime) -> Result<u64, StoreError> {
        let Retention { age, fine_age, bytes } = *retention;
        let before = |age| unix_ms(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        let mut deleted = self.write(|transaction| {
            let windows = transaction.execute("DELETE FROM window WHERE start_ms < ?1", [before(age)])?;
            let fine = delete_fine(transaction, before(fine_age))?;
            let traces = transaction.execute("DELETE FROM trace WHERE added_ms < ?1", [before(age)])?;
            let events = transaction.execute("DELETE FROM event WHERE at_ms < ?1", [before(age)])?;
            Ok(windows + fine + traces + events)
        })?;
        let fine_before = before(FINE_AT_LEAST);
        while used(&self.writer())? > bytes {
            let more = self.write(|transaction| {
                // The finest of long ago, then everything by age.
                let oldest = "SELECT coalesce(min(start_ms), 0) FROM window WHERE level = 0";
                let oldest: i64 = transaction.query_row(oldest, [], |row| row.get(0))?;
                let fine = delete_fine(transaction, fine_before.min(oldest + AT_A_TIME_MS))?;
                if fine > 0 {
                    return Ok(fine);
                }
                let traces = "DELETE FROM trace WHERE id IN (SELECT id FROM trace ORDER BY added_ms LIMIT 1)";
                let traces = transaction.execute(traces, [])?;
                let windows = "DELETE FROM window WHERE id IN (SELECT id FROM window ORDER BY start_ms LIMIT ?1)";
                Ok(traces + transaction.execute(windows, [AT_A_TIME])?)
            })?;
            if more == 0 {
                break;
            }
            deleted += more;
        }
        if deleted > 0 {
            self.write(|transaction| {
                let unused = "DELETE FROM name WHERE id NOT IN (SELECT source FROM total UNION SELECT grp FROM total)";
                Ok(transaction.execute(unused, [])?)
            })?;
            let writer = self.writer();
            // Gives the room back, and the log's too.
            writer.execute_batch("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")?;
        }
        Ok(u64::try_from(deleted).unwrap_or(u64::MAX))
    }
}

/// Deletes windows as they were recorded up to a moment, but only where a coarser window has all of them.
fn delete_fine(transaction: &Transaction<'_>, before_ms: i64) -> Result<usize, StoreError> {
    let coarser = "SELECT coalesce(max(end_ms), 0) FROM window WHERE level = 1 AND end_ms <= ?1";
    let covered: i64 = transaction.query_row(coarser, [before_ms], |row| row.get(0))?;
    Ok(transaction.execute("DELETE FROM window WHERE level = 0 AND start_ms < ?1", [covered])?)
}

/// Bytes in the file that hold something.
fn used(connection: &Connection) -> Result<u64, StoreError> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok((pages * pragma("page_size")?).cast_unsigned())
}
