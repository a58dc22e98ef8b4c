//! Where the functions of a file begin and end, by its unwind information: that is there in a stripped file too.
//!
//! A compiler's cold part of a function, or one that was split otherwise, counts as a function of its own. Where nothing
//! describes the code (most of Debian's chromium), a function begins where compilers let one begin: at a multiple of 16,
//! with a frame pointer set up or behind padding. No names.

use std::fs::File;
use std::ops::Range;

use std::os::unix::fs::FileExt;

use object::ReadCache;

use super::build::{BuildError, Headers, PROLOGUES};
use super::call_frame::Functions;

/// Functions begin at multiples of it.
const ALIGNMENT: u64 = 16;

/// Filler between functions, which nobody runs: `int3`, twice.
const PADDING: [u8; 2] = [0xcc; 2];

/// A function that nothing describes is looked for so far back.
const MAX_FUNCTION_BYTES: u64 = 64 << 10;

/// What is read of the code at once, going back.
const PIECE_BYTES: u64 = 4 << 10;

/// The functions of a file, as addresses in it.
#[derive(Debug)]
pub struct FunctionRanges<'a> {
    file: &'a File,
    headers: Headers,
    /// Sorted by start.
    ranges: Vec<Range<u64>>,
}

impl<'a> FunctionRanges<'a> {
    /// Reads a file's unwind information, by `pread`. What cannot be understood of it is left out.
    pub fn read(file: &'a File) -> Result<Self, BuildError> {
        let cache = ReadCache::new(file);
        let headers = Headers::read(&cache, file.metadata()?.len())?;
        let mut ranges: Vec<_> = headers
            .frames()
            .flat_map(|section| Functions::read(section).functions)
            .map(|function| function.start..function.end)
            .collect();
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        Ok(Self { file, headers, ranges })
    }

    /// The function that `address` lies in: from its first address up to its end, or, where nothing describes it, as far as it
    /// is known to go.
    pub fn at(&self, address: u64) -> Option<Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let before = self.ranges[..after].last();
        match before.filter(|range| range.contains(&address)) {
            Some(range) => Some(range.clone()),
            None => {
                let start = self.start_by_code(address, before.map_or(0, |range| range.end))?;
                Some(start..address.checked_add(1)?)
            }
        }
    }

    /// The same by the code itself, which goes back to `least`.
    fn start_by_code(&self, address: u64, least: u64) -> Option<u64> {
        let code = self.headers.code_around(address)?;
        let least = least.max(address.saturating_sub(MAX_FUNCTION_BYTES));
        let mut end = address.checked_add(1)?.checked_next_multiple_of(ALIGNMENT)?.min(code.end);
        loop {
            // With what lies before the first place that is looked at.
            let first = (end - 1) & !(ALIGNMENT - 1);
            let start = first.saturating_sub(PIECE_BYTES).max(code.start.checked_next_multiple_of(ALIGNMENT)?);
            if start >= first || first < least {
                return None;
            }
            let mut bytes = vec![0; (end - start) as usize];
            self.file.read_exact_at(&mut bytes, self.headers.file_range(start..end)?.start).ok()?;
            let begins = |&at: &usize| {
                let (before, from) = bytes.split_at(at);
                before.ends_with(&PADDING) || PROLOGUES.iter().any(|prologue| from.starts_with(prologue))
            };
            let mut places = (0..bytes.len()).step_by(ALIGNMENT as usize).skip(1).rev();
            if let Some(at) = places.find(begins) {
                return Some(start + at as u64).filter(|&place| place >= least);
            }
            end = start + ALIGNMENT;
        }
    }
}
