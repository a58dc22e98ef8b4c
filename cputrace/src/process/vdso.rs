//! The vDSO, the kernel's code page in each process, as a file: all 64-bit processes have the same.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
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
    let mut file = memory_file()?;
    file.write_all(&code)?;
    Ok(file)
}

/// A file in memory: there may be no folder that can be written to.
fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string, which is copied.
    let fd = unsafe { libc::memfd_create(c"vdso".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}
