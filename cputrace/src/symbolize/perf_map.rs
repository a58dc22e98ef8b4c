//! Names of code that a JIT compiler made, from the map that it keeps for perf: `perf-PID.map`, lines of
//! `START SIZE NAME` in hexadecimal (the kernel's `tools/perf/Documentation/jit-interface.txt`).

use std::fs::File;
use std::io::{self, Read};

/// The largest map that is read.
const MAX_BYTES: u64 = 256 << 20;

/// The functions of a map, by address.
pub(super) struct PerfMap {
    text: String,
    /// First address, length, and where the name is in `text`.
    functions: Vec<(u64, u64, std::ops::Range<usize>)>,
}

impl PerfMap {
    /// Reads a map; lines that make no sense are left out.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Self::parse(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn parse(text: String) -> Self {
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let mut functions = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let start_of_line = at;
            at += line.len();
            let line = line.trim_end();
            let mut words = line.splitn(3, ' ');
            if let (Some(start), Some(size), Some(name)) =
                (words.next().and_then(hex), words.next().and_then(hex), words.next())
            {
                let end = start_of_line + line.len();
                functions.push((start, size, end - name.len()..end));
            }
        }
        // Code is thrown away and its place used again: of two functions at one address the later one counts.
        functions.sort_by_key(|(start, ..)| *start);
        Self { text, functions }
    }

    /// The function at an address.
    pub(super) fn name(&self, address: u64) -> Option<&str> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        (address - start < *size).then(|| &self.text[name.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses within functions have their names, others none; the later of two functions at one place counts.
    #[test]
    fn finds_names() {
        let map = PerfMap::parse(
            "1000 20 LazyCompile:*f app.js:1\nnonsense\n3000 10 old\n2000 8 Interpreter\n3000 10 new\n".to_owned(),
        );
        assert_eq!(map.name(0x1000), Some("LazyCompile:*f app.js:1"));
        assert_eq!(map.name(0x101f), Some("LazyCompile:*f app.js:1"));
        assert_eq!(map.name(0x1020), None);
        assert_eq!(map.name(0x2007), Some("Interpreter"));
        assert_eq!(map.name(0x3001), Some("new"));
        assert_eq!(map.name(0xfff), None);
    }
}
