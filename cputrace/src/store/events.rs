//! What happened at a time: anomalies, steps of the governor.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::windows::Range;
use super::{Store, StoreError, from_unix_ms, unix_ms};

/// What kind of thing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A group did what it does not do otherwise.
    Anomaly,
    /// The sampling rate was changed to keep the overhead down.
    Governor,
}

impl EventKind {
    fn name(self) -> &'static str {
        match self {
            Self::Anomaly => "anomaly",
            Self::Governor => "governor",
        }
    }
}

/// A stored event.
#[derive(Clone, PartialEq, Debug)]
pub struct EventRow {
    /// Its id.
    pub id: i64,
    /// When it was.
    pub at: SystemTime,
    /// What it was.
    pub event: serde_json::Value,
}

impl Store {
    /// Stores one; returns its id.
    pub fn add_event(&self, kind: EventKind, at: SystemTime, event: &serde_json::Value) -> Result<i64, StoreError> {
        self.write(|transaction| {
            let sql = "INSERT INTO event (kind, at_ms, event) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, params![kind.name(), unix_ms(at), event.to_string()])?;
            Ok(transaction.last_insert_rowid())
        })
    }

    /// Replaces what is said of one: an anomaly that has come to its end.
    pub fn update_event(&self, id: i64, event: &serde_json::Value) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("UPDATE event SET event = ?2 WHERE id = ?1", params![id, event.to_string()])?;
            Ok(())
        })
    }

    /// One of them by its id.
    pub fn event(&self, kind: EventKind, id: i64) -> Result<Option<EventRow>, StoreError> {
        let reader = self.reader()?;
        let mut query = reader.prepare("SELECT id, at_ms, event FROM event WHERE kind = ?1 AND id = ?2")?;
        Ok(query.query_row(params![kind.name(), id], row).optional()?)
    }

    /// Those of a range, in order of time.
    pub fn events(&self, kind: EventKind, range: Range) -> Result<Vec<EventRow>, StoreError> {
        let reader = self.reader()?;
        let mut query = reader.prepare(
            "SELECT id, at_ms, event FROM event WHERE kind = ?1 AND at_ms >= ?2 AND at_ms < ?3 ORDER BY at_ms, id",
        )?;
        let rows = query.query_map(params![kind.name(), unix_ms(range.from), unix_ms(range.to)], row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        id: row.get(0)?,
        at: from_unix_ms(row.get(1)?),
        event: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
    })
}
