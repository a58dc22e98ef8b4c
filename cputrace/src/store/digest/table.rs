//! Rows that are stored once each, and their ids: strings, frames, nodes, sums.

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

use super::Sum;

/// Ids by what they are of, which is elsewhere: a third of a map's memory.
type Ids = HashTable<u32>;

fn hash(row: impl Hash) -> u64 {
    FxBuildHasher.hash_one(row)
}

/// The id of the next row. What is decoded has fewer than 2^28 rows, for it has as many bytes; and so many that 2^32 come of adding
/// them up take 50 GB.
fn next_id(rows: usize) -> u32 {
    u32::try_from(rows).expect("a digest holds fewer than 2^32 rows of a kind")
}

/// Rows that are stored once each.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    pub(super) rows: Vec<T>,
    ids: Ids,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), ids: Ids::new() }
    }
}

impl<T: Copy + Eq + Hash> Table<T> {
    pub(super) fn id(&mut self, row: T) -> u32 {
        let rows = &self.rows;
        match self.ids.entry(hash(row), |&id| rows[id as usize] == row, |&id| hash(rows[id as usize])) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let id = next_id(rows.len());
                place.insert(id);
                self.rows.push(row);
                id
            }
        }
    }
}

/// Strings, all in one. Of those that were decoded none is looked for, so they have no ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    all: String,
    /// Where each ends.
    ends: Vec<usize>,
    ids: Ids,
}

impl Texts {
    pub(super) fn id(&mut self, text: &str) -> u32 {
        let (all, ends) = (&self.all, &self.ends);
        let known = |id: u32| part(all, ends, id);
        match self.ids.entry(hash(text), |&id| known(id) == text, |&id| hash(known(id))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let id = next_id(ends.len());
                place.insert(id);
                self.push(text);
                id
            }
        }
    }

    /// Of strings one behind the other, and their lengths in bytes; `None` where these do not fit.
    pub(super) fn new(all: String, lengths: &[u32]) -> Option<Self> {
        let mut end = 0_usize;
        let mut ends = Vec::with_capacity(lengths.len());
        for &length in lengths {
            end = end.checked_add(length as usize)?;
            all.is_char_boundary(end).then_some(())?;
            ends.push(end);
        }
        Some(Self { all, ends, ids: Ids::new() })
    }

    /// All strings, one behind the other.
    pub(super) fn all(&self) -> &str {
        &self.all
    }

    /// Bytes of each.
    pub(super) fn lengths(&self) -> impl Iterator<Item = u32> {
        (0..self.len() as u32).map(|id| self.get(id).len() as u32)
    }

    pub(super) fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len());
    }

    pub(super) fn get(&self, id: u32) -> &str {
        part(&self.all, &self.ends, id)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

fn part<'a>(all: &'a str, ends: &[usize], id: u32) -> &'a str {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &all[start..ends[id]]
}

/// Source, member, and node (0: none, else one more than its row).
pub(super) type SumKey = (u32, u32, u32);

/// A sum a key; as in [`Table`], those that were decoded are not looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) rows: Vec<(SumKey, Sum)>,
    ids: Ids,
}

impl Sums {
    pub(super) fn add(&mut self, key: SumKey, sum: Sum) {
        let rows = &self.rows;
        match self.ids.entry(hash(key), |&id| rows[id as usize].0 == key, |&id| hash(rows[id as usize].0)) {
            Entry::Occupied(known) => self.rows[*known.get() as usize].1.add(sum),
            Entry::Vacant(place) => {
                place.insert(next_id(rows.len()));
                self.rows.push((key, sum));
            }
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(SumKey) -> bool) {
        self.rows.retain(|(key, _)| keep(*key));
        self.ids.clear();
        let rows = &self.rows;
        for ((key, _), id) in rows.iter().zip(0..) {
            self.ids.insert_unique(hash(key), id, |&id| hash(rows[id as usize].0));
        }
    }

    pub(super) fn sorted(&self) -> Vec<(SumKey, Sum)> {
        let mut rows = self.rows.clone();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }
}
