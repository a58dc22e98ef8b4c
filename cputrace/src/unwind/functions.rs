//! Where the functions of a file begin and end, by its unwind information: that is there in a stripped file too.
//!
//! A compiler's cold part of a function, or one that was split otherwise, counts as a function of its own. No names.

use std::fs::File;
use std::ops::Range;

use object::ReadCache;

use super::build::{BuildError, Headers};
use super::call_frame::Functions;

/// The functions of a file, as addresses in it.
#[derive(Debug)]
pub struct FunctionRanges {
    /// Sorted by start.
    ranges: Vec<Range<u64>>,
}

impl FunctionRanges {
    /// Reads a file's unwind information, by `pread`. What cannot be understood of it is left out.
    pub fn read(file: &File) -> Result<Self, BuildError> {
        let cache = ReadCache::new(file);
        let headers = Headers::read(&cache, file.metadata()?.len())?;
        let mut ranges: Vec<_> = headers
            .frames()
            .flat_map(|section| Functions::read(section).functions)
            .map(|function| function.start..function.end)
            .collect();
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        Ok(Self { ranges })
    }

    /// The first address of the function that `address` lies in.
    pub fn start_of(&self, address: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges[..after].last()?;
        range.contains(&address).then_some(range.start)
    }
}
