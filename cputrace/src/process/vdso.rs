//! The vDSO, the kernel's code page in each process, as a file: all 64-bit processes have the same.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// A copy of this process's own, in a file that is nowhere.
pub fn image() -> io::Result<File> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let range =
        maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| line.split(' ').next()?.split_once('-'));
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = range.and_then(|(start, end)| Some((hex(start)?, hex(end)?)));
    let (start, end) = range.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process has no vDSO"))?;
    let mut code = vec![0; (end - start) as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut code, start)?;
    let mut file = tempfile::tempfile()?;
    file.write_all(&code)?;
    Ok(file)
}
