//! Names of code that a JIT compiler made, from the map that it keeps for perf: `perf-PID.map`, lines of
//! `START SIZE NAME` in hexadecimal (the kernel's `tools/perf/Documentation/jit-interface.txt`).
//!
//! A map can have hundreds of megabytes: it is read once, line by line, and only what is asked for is kept.

use std::io::{self, BufRead, Read};

/// The most of a map that is read.
const MAX_BYTES: u64 = 1 << 30;

/// The longest line that is read as one.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// The names of the functions at `addresses`, which are sorted. Lines that make no sense are left out.
pub(super) fn look_up(map: impl BufRead, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let mut names: Vec<Option<String>> = vec![None; addresses.len()];
    let mut map = map.take(MAX_BYTES);
    let mut line = Vec::new();
    while map.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        if let Some((start, size, name)) = parse(line.trim_ascii_end()) {
            let first = addresses.partition_point(|&address| address < start);
            let count = addresses[first..].iter().take_while(|&&address| address - start < size).count();
            // Code is thrown away and its place used again: of two functions at one address the later one counts.
            for covered in &mut names[first..first + count] {
                *covered = Some(String::from_utf8_lossy(name).into_owned());
            }
        }
        line.clear();
    }
    Ok(names)
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let hex = |word: &[u8]| u64::from_str_radix(std::str::from_utf8(word).ok()?.trim_start_matches("0x"), 16).ok();
    let mut words = line.splitn(3, |&byte| byte == b' ');
    Some((hex(words.next()?)?, hex(words.next()?)?, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses within functions have their names, others none; the later of two functions at one place counts.
    #[test]
    fn finds_names() {
        let check = |address: u64, expected: Option<&str>| {
            let map = "1000 20 LazyCompile:*f app.js:1\nnonsense\n3000 10 old\n2000 8 Interpreter\n3004 4 new\n\
                       fffffffffffffff0 20 last\n";
            let found = look_up(map.as_bytes(), &[address]);
            assert_eq!(found.ok(), Some(vec![expected.map(str::to_owned)]), "{address:#x}");
        };
        check(0x1000, Some("LazyCompile:*f app.js:1"));
        check(0x101f, Some("LazyCompile:*f app.js:1"));
        check(0x1020, None);
        check(0x2007, Some("Interpreter"));
        check(0x3003, Some("old"));
        check(0x3004, Some("new"));
        check(0x3008, Some("old"));
        check(0xfff, None);
        check(u64::MAX, Some("last"));
    }

    /// Many at once, and a line without an end.
    #[test]
    fn finds_several() {
        let found = look_up(&b"10 8 a\n20 8 b"[..], &[0x10, 0x17, 0x18, 0x20, 0x27]);
        let names: Vec<_> = found.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect();
        assert_eq!(names, ["a", "a", "", "b", "b"]);
    }
}
