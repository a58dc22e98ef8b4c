//! Rows and rules laid out as the words that `cputrace_common::unwind::table` describes.

use cputrace_common::unwind::table::{
    BLOCK_SHIFT, CHUNK_WORDS, Chunk, LOW_BITS, LOW_MASK, MAX_TABLE_WORDS, Rule, TABLE_TEXT, index_word, row_word,
    search,
};
use rustc_hash::FxHashMap;

/// From an address on, a rule holds.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// From the first address of the code.
    offset: u32,
    rule: u32,
}

/// Rows in order of address, equal neighbours merged.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    rules: Vec<Rule>,
    numbers: FxHashMap<Rule, u32>,
    last: Option<Rule>,
    /// How many were pushed.
    pub(super) pushed: u64,
}

impl Rows {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self { rows: Vec::with_capacity(rows), ..Self::default() }
    }

    /// From `offset` on `rule` holds. Offsets do not fall.
    #[inline]
    pub(super) fn push(&mut self, offset: u32, rule: Rule) {
        self.pushed += 1;
        if self.last == Some(rule) {
            return;
        }
        let next = self.rules.len() as u32;
        let number = *self.numbers.entry(rule).or_insert(next);
        if number == next {
            self.rules.push(rule);
        }
        self.last = Some(rule);
        match self.rows.last_mut() {
            // What held for no byte at all.
            Some(row) if row.offset == offset => row.rule = number,
            _ => self.rows.push(Row { offset, rule: number }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Lays out the tables for `length` bytes of code.
    pub(super) fn pack(&self, length: u32) -> Vec<Table> {
        let mut tables = Vec::new();
        let mut first = 0;
        let mut local = vec![0; self.rules.len()];
        for start in (0..u64::from(length)).step_by(TABLE_TEXT as usize) {
            let end = (start + TABLE_TEXT).min(length.into());
            let count = self.rows[first..].partition_point(|row| u64::from(row.offset) < end);
            // The row in force at the start is the last one before it.
            let begin = if first > 0 && self.rows.get(first).is_none_or(|row| u64::from(row.offset) > start) {
                first - 1
            } else {
                first
            };
            tables.push(self.table(&self.rows[begin..first + count], start as u32, (end - start) as u32, &mut local));
            first += count;
        }
        tables
    }

    /// The table of the `length` bytes from `start` on; `local` numbers the rules in it and is scratch.
    fn table(&self, rows: &[Row], start: u32, length: u32, local: &mut [u32]) -> Table {
        const NONE: u32 = u32::MAX;
        local.fill(NONE);
        let blocks = length.div_ceil(1 << BLOCK_SHIFT) as usize;
        let mut words = Vec::with_capacity((blocks + rows.len() + rows.len() / 8 + 1024).next_multiple_of(CHUNK_WORDS));
        words.resize(blocks.next_multiple_of(2), 0);
        for number in
            std::iter::once(self.numbers.get(&Rule::UNKNOWN).copied()).flatten().chain(rows.iter().map(|row| row.rule))
        {
            let pair = &mut local[number as usize];
            if *pair == NONE {
                *pair = (words.len() / 2) as u32;
                let Rule(rule) = self.rules[number as usize];
                words.extend([rule as u32, (rule >> 32) as u32]);
            }
        }
        let mut at = 0;
        // The pair of the last block that has one row only, and the word of that row.
        let mut single = (NONE, 0);
        let mut too_large = false;
        for block in 0..blocks {
            let begins = start + ((block as u32) << BLOCK_SHIFT);
            // The row in force where the block begins.
            while rows.get(at + 1).is_some_and(|row| row.offset <= begins) {
                at += 1;
            }
            let Some(row) = rows.get(at) else { break };
            let pair = local[row.rule as usize];
            let within = rows[at + 1..].iter().take_while(|row| row.offset - begins <= LOW_MASK).count();
            if within == 0 && single.0 == pair {
                words[block] = index_word(single.1, 1);
                continue;
            }
            let count = (within + 1).min(LOW_MASK as usize);
            let room = CHUNK_WORDS - words.len() % CHUNK_WORDS;
            if room < count {
                words.resize(words.len() + room, 0);
            }
            if words.len() + count > MAX_TABLE_WORDS {
                too_large = true;
                break;
            }
            let first = words.len() as u32;
            words[block] = index_word(first, count as u32);
            words.push(row_word(pair, 0));
            for row in &rows[at + 1..at + count] {
                words.push(row_word(local[row.rule as usize], row.offset - begins));
            }
            single = if within == 0 { (pair, first) } else { (NONE, 0) };
        }
        if too_large {
            words.truncate(0);
        }
        let used = words.len();
        words.resize(used.next_multiple_of(CHUNK_WORDS), 0);
        Table { words, used }
    }
}

/// A table: whole chunks of words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    words: Vec<u32>,
    used: usize,
}

impl Table {
    /// Its chunks, in order; none if there is nothing to know, or more than a table can hold.
    pub fn chunks(&self) -> &[Chunk] {
        self.words.as_chunks().0
    }

    /// Bytes that are used.
    pub fn used_bytes(&self) -> usize {
        self.used * 4
    }

    /// The words that are used, little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words[..self.used].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A table of such bytes; `None` if they are none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks();
        let used = words.len();
        if !rest.is_empty() || used > MAX_TABLE_WORDS {
            return None;
        }
        let mut words: Vec<_> = words.iter().copied().map(u32::from_le_bytes).collect();
        words.resize(used.next_multiple_of(CHUNK_WORDS), 0);
        Some(Self { words, used })
    }

    /// The rule at an offset of its code, found as the kernel side finds it.
    pub fn rule(&self, offset: u32) -> Option<Rule> {
        const WORDS: u32 = CHUNK_WORDS as u32;
        let chunks = self.chunks();
        let block = *chunks.first()?.get((offset >> BLOCK_SHIFT) as usize)?;
        let first = block >> LOW_BITS;
        let row = search(chunks.get((first / WORDS) as usize)?, first % WORDS, block & LOW_MASK, offset & LOW_MASK);
        let at = (row >> LOW_BITS) * 2;
        let rules = chunks.get((at / WORDS) as usize)?;
        Some(Rule::from_words(rules[(at % WORDS) as usize], rules[(at % WORDS) as usize + 1]))
    }
}

/// The tables of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// The first address of its code, as linked.
    pub base: u64,
    /// Bytes of code.
    pub length: u32,
    /// One for each [`TABLE_TEXT`] bytes of code.
    pub tables: Vec<Table>,
}

impl Tables {
    /// The rule at an address, as linked.
    pub fn rule(&self, address: u64) -> Option<Rule> {
        let offset = address.checked_sub(self.base).filter(|&offset| offset < self.length.into())?;
        self.tables.get((offset / TABLE_TEXT) as usize)?.rule((offset % TABLE_TEXT) as u32)
    }

    /// Bytes that they take, in whole chunks.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|table| size_of_val(table.chunks())).sum()
    }
}
