//! The tables, and how older ones become these.

use rusqlite::{Connection, Transaction};

use super::StoreError;

/// One step a version: each is applied once, in a transaction of its own, and never changed again.
const MIGRATIONS: &[&str] = &[
    // 1: windows, who has how much in them, uploaded traces, events.
    "CREATE TABLE window (
         id INTEGER PRIMARY KEY,
         -- 0: as recorded, then coarser ones.
         level INTEGER NOT NULL,
         -- Milliseconds since 1970. A window is part of a range of time if its start is.
         start_ms INTEGER NOT NULL,
         end_ms INTEGER NOT NULL,
         facts TEXT NOT NULL,
         digest BLOB NOT NULL
     );
     CREATE UNIQUE INDEX window_by_time ON window (level, start_ms);
     CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
     CREATE TABLE total (
         window INTEGER NOT NULL REFERENCES window (id) ON DELETE CASCADE,
         source INTEGER NOT NULL,
         grp INTEGER NOT NULL,
         count INTEGER NOT NULL,
         value INTEGER NOT NULL,
         PRIMARY KEY (window, source, grp)
     ) WITHOUT ROWID;
     CREATE TABLE trace (
         id TEXT PRIMARY KEY,
         added_ms INTEGER NOT NULL,
         name TEXT NOT NULL,
         facts TEXT NOT NULL,
         trace BLOB NOT NULL
     ) WITHOUT ROWID;
     CREATE INDEX trace_by_time ON trace (added_ms);
     CREATE TABLE event (
         id INTEGER PRIMARY KEY,
         kind TEXT NOT NULL,
         at_ms INTEGER NOT NULL,
         event TEXT NOT NULL
     );
     CREATE INDEX event_by_time ON event (kind, at_ms);",
];

/// Brings the tables up to date.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len() as u32;
    if version > known {
        return Err(StoreError::Newer { version, known });
    }
    for (step, sql) in (1..=known).zip(MIGRATIONS).skip(version as usize) {
        let transaction: Transaction<'_> = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", step)?;
        transaction.commit()?;
    }
    Ok(())
}
