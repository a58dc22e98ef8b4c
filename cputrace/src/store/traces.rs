//! Whole recordings: what was uploaded, or recorded on demand.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, from_unix_ms, unix_ms};

/// A stored recording, without its contents.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceRow {
    /// Its id.
    pub id: String,
    /// When it was stored.
    pub added: SystemTime,
    /// What to call it.
    pub name: String,
    /// What is known of it, as JSON.
    pub facts: serde_json::Value,
    /// How large it is, compressed.
    pub bytes: u64,
}

/// Which of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TraceFilter {
    /// Those whose name or id contains this.
    pub contains: String,
    /// How many at most.
    pub limit: u32,
    /// How many of the newest to leave out.
    pub offset: u32,
}

impl Store {
    /// Stores one; of two with the same id the later stays. `trace` is a compressed trace.json.
    pub fn add_trace(&self, row: &TraceRow, trace: &[u8]) -> Result<(), StoreError> {
        let TraceRow { id, added, name, facts, bytes: _ } = row;
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO trace (id, added_ms, name, facts, trace) VALUES (?1, ?2, ?3, ?4, ?5)";
            transaction.execute(sql, params![id, unix_ms(*added), name, facts.to_string(), trace])?;
            Ok(())
        })
    }

    /// The newest first, and how many there are in all.
    pub fn traces(&self, filter: &TraceFilter) -> Result<(Vec<TraceRow>, u64), StoreError> {
        let reader = self.reader()?;
        let TraceFilter { contains, limit, offset } = filter;
        let total: i64 = reader.query_row(
            "SELECT count(*) FROM trace WHERE instr(name, ?1) OR instr(id, ?1)",
            [contains],
            |row| row.get(0),
        )?;
        let mut query = reader.prepare(
            "SELECT id, added_ms, name, facts, length(trace) FROM trace WHERE instr(name, ?1) OR instr(id, ?1)
             ORDER BY added_ms DESC, id LIMIT ?2 OFFSET ?3",
        )?;
        let rows = query.query_map(params![contains, limit, offset], trace_row)?;
        Ok((rows.collect::<Result<_, _>>()?, total.cast_unsigned()))
    }

    /// One of them, with its contents.
    pub fn trace(&self, id: &str) -> Result<Option<(TraceRow, Vec<u8>)>, StoreError> {
        let reader = self.reader()?;
        let sql = "SELECT id, added_ms, name, facts, length(trace), trace FROM trace WHERE id = ?1";
        Ok(reader.query_row(sql, [id], |row| Ok((trace_row(row)?, row.get(5)?))).optional()?)
    }

    /// Deletes one; whether it was there.
    pub fn delete_trace(&self, id: &str) -> Result<bool, StoreError> {
        self.write(|transaction| Ok(transaction.execute("DELETE FROM trace WHERE id = ?1", [id])? > 0))
    }
}

fn trace_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<TraceRow> {
    Ok(TraceRow {
        id: row.get(0)?,
        added: from_unix_ms(row.get(1)?),
        name: row.get(2)?,
        facts: serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default(),
        bytes: row.get::<_, i64>(4)?.cast_unsigned(),
    })
}
