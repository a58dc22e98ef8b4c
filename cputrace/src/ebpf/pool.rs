//! The memory of all unwind tables in the kernel, in chunks: maps of their own that are made as they are needed.

use aya::maps::{Array, MapData, of_maps::ArrayOfMaps};
use cputrace_common::unwind::table::{CHUNK_WORDS, Chunk, MAX_CHUNKS};

use super::EbpfError;

/// The pool. Tables are put one behind the other.
pub struct Pool {
    outer: ArrayOfMaps<MapData, Array<MapData, Chunk>>,
    /// Where the next table begins.
    next: u32,
    /// Words that it may grow to.
    limit: u32,
    /// The chunk that `next` is in, and what is in it so far.
    open: Option<(Array<MapData, Chunk>, Box<Chunk>)>,
}

impl Pool {
    pub(super) fn new(outer: ArrayOfMaps<MapData, Array<MapData, Chunk>>) -> Self {
        Self { outer, next: 0, limit: MAX_CHUNKS * CHUNK_WORDS as u32, open: None }
    }

    /// Lets it grow to this many kilobytes at most.
    pub fn set_limit(&mut self, kilobytes: u64) {
        let words = (kilobytes * 1024 / size_of::<u32>() as u64).min(u64::from(MAX_CHUNKS) * CHUNK_WORDS as u64);
        self.limit = words as u32;
    }

    /// Kilobytes that the kernel has given it.
    pub fn kilobytes(&self) -> u64 {
        u64::from(self.next.div_ceil(CHUNK_WORDS as u32)) * size_of::<Chunk>() as u64 / 1024
    }

    /// Where the next table will begin: at an even word, for blocks are pairs.
    pub fn position(&self) -> u32 {
        self.next.next_multiple_of(2)
    }

    /// Whether `words` more are within the limit.
    pub fn has_room_for(&self, words: usize) -> bool {
        self.position() as usize + words <= self.limit as usize
    }

    /// Writes a table's words at [`Self::position`].
    pub fn write(&mut self, words: &[u32]) -> Result<(), EbpfError> {
        let error = |source| EbpfError::Map { map: "POOL", source };
        let mut rest = words;
        let mut at = self.position() as usize;
        while !rest.is_empty() {
            let (chunk, within) = (at / CHUNK_WORDS, at % CHUNK_WORDS);
            let here = rest.len().min(CHUNK_WORDS - within);
            if within == 0 || self.open.is_none() {
                self.open = None;
                let map = Array::create(1, 0).map_err(error)?;
                self.outer.set(chunk as u32, &map, 0).map_err(error)?;
                self.open = Some((map, Box::new(Chunk([0; CHUNK_WORDS]))));
            }
            if let Some((map, contents)) = &mut self.open {
                contents.0[within..within + here].copy_from_slice(&rest[..here]);
                let contents: &Chunk = contents;
                map.set(0, contents, 0).map_err(error)?;
            }
            (rest, at) = (&rest[here..], at + here);
        }
        self.next = at as u32;
        Ok(())
    }
}
