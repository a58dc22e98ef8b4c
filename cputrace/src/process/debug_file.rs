//! Where the debug information of a program or library is, when it is in a file of its own: found as gdb finds it, by
//! build id under `/usr/lib/debug`, else by the name that the file itself has for it ("debug link"). First in the root
//! of a process that maps the file, then in ours.
//!
//! A file that is found counts only if it belongs to the other: it has the same build id or, where there is none, the
//! checksum that the link asks for. So a container's library never gets the names of the host's.
//! See "Separate Debug Files" in gdb's manual. Debug information is not fetched over the network.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::elf::{self, ElfFacts};
use super::file::open_regular;
use crate::model::BuildId;

/// The folder that distributions use.
const DEBUG_DIRECTORY: &str = "usr/lib/debug";

/// A longer link is no path.
const MAX_LINK_BYTES: u64 = 4096;

/// The file with the debug information of `file`, which `pid` maps from `path`; `None` too if it needs none.
pub fn find(file: &File, path: &Path, pid: u32, build_id: Option<&BuildId>) -> Option<File> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    find_in(file, path, &[&root, Path::new("/")], build_id)
}

fn find_in(file: &File, path: &Path, roots: &[&Path], build_id: Option<&BuildId>) -> Option<File> {
    let [debug_info, link] = elf::sections(file, [".debug_info", ".gnu_debuglink"]).ok()?;
    if debug_info.is_some() {
        return None;
    }
    let link = link.and_then(|section| Link::parse(&section.read(file, MAX_LINK_BYTES).ok()?));
    let names = candidates(path, build_id, link.as_ref());
    let mut found =
        roots.iter().flat_map(|root| names.iter().map(|name| root.join(name))).filter_map(|path| open_regular(&path));
    found.find(|candidate| belongs(candidate, build_id, link.as_ref()))
}

/// Paths to try, relative to a root.
fn candidates(path: &Path, build_id: Option<&BuildId>, link: Option<&Link>) -> Vec<PathBuf> {
    let debug = Path::new(DEBUG_DIRECTORY);
    let mut candidates = Vec::new();
    // One byte for the folder, the rest for the file.
    if let Some(build_id) = build_id
        && build_id.0.len() > 1
    {
        let text = build_id.to_string();
        let (folder, name) = text.split_at(2);
        candidates.push(debug.join(format!(".build-id/{folder}/{name}.debug")));
    }
    let folder = path.parent().and_then(|folder| folder.strip_prefix("/").ok());
    if let (Some(Link { name, .. }), Some(folder)) = (link, folder) {
        candidates.extend([folder.join(name), folder.join(".debug").join(name), debug.join(folder).join(name)]);
    }
    candidates
}

fn belongs(candidate: &File, build_id: Option<&BuildId>, link: Option<&Link>) -> bool {
    match (build_id, link) {
        (Some(build_id), _) => ElfFacts::read(candidate).is_ok_and(|facts| facts.build_id.as_ref() == Some(build_id)),
        (None, Some(link)) => checksum(candidate).is_ok_and(|sum| sum == link.checksum),
        (None, None) => false,
    }
}

/// The CRC that debug links use is gzip's.
fn checksum(mut file: &File) -> io::Result<u32> {
    let mut crc = flate2::Crc::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc.sum()),
            count => crc.update(&buffer[..count]),
        }
    }
}

/// The contents of a section `.gnu_debuglink`: a file name, its end and padding to 4 bytes, the file's checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    name: String,
    checksum: u32,
}

impl Link {
    fn parse(section: &[u8]) -> Option<Self> {
        let end = section.iter().position(|byte| *byte == 0)?;
        let name = std::str::from_utf8(&section[..end]).ok()?;
        let checksum = section.get((end + 1).next_multiple_of(4)..)?.first_chunk()?;
        // A name, not a path that could lead anywhere.
        let is_name = !name.is_empty() && !name.contains('/') && name != "..";
        is_name.then(|| Self { name: name.to_owned(), checksum: u32::from_le_bytes(*checksum) })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::process::Command;

    use super::*;

    /// Links as objcopy writes them; what is no name is refused.
    #[test]
    fn links_are_parsed() {
        let link = |name: &str| Some(Link { name: name.to_owned(), checksum: 0x0403_0201 });
        assert_eq!(Link::parse(b"abc.debug\0\0\0\x01\x02\x03\x04"), link("abc.debug"));
        assert_eq!(Link::parse(b"abc\0\x01\x02\x03\x04"), link("abc"));
        for bad in [
            &b""[..],
            b"abc",
            b"abc\0",
            b"abc\0\x01\x02\x03",
            b"\0\0\0\0\x01\x02\x03\x04",
            b"../a\0\0\0\0\x01\x02\x03\x04",
        ] {
            assert_eq!(Link::parse(bad), None, "{bad:?}");
        }
    }

    /// A stripped program in `folder`, its debug information beside it, and the program's build id.
    fn stripped(folder: &Path, build_id: &str) -> (PathBuf, PathBuf, Option<BuildId>) {
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        fs::create_dir_all(folder).unwrap();
        let (program, debug) = (folder.join("program"), folder.join("program.debug"));
        fs::write(folder.join("main.c"), "int main(void) { return 0; }\n").unwrap();
        run(Command::new("cc").current_dir(folder).args([
            "-g",
            "main.c",
            "-o",
            "program",
            &format!("-Wl,--build-id={build_id}"),
        ]));
        run(Command::new("objcopy").arg("--only-keep-debug").args([&program, &debug]));
        run(Command::new("objcopy").current_dir(folder).args([
            "--strip-all",
            "--add-gnu-debuglink=program.debug",
            "program",
        ]));
        let build_id = ElfFacts::read(&File::open(&program).unwrap()).unwrap().build_id;
        (program, debug, build_id)
    }

    /// The debug file is found at each place where gdb looks, and one that belongs to another program never.
    #[test]
    fn finds_the_file_that_belongs() {
        let lab = tempfile::tempdir().unwrap();
        for kind in ["0x0123456789abcdef", "none"] {
            let folder = lab.path().join(kind).join("opt/app");
            let (program, debug, build_id) = stripped(&folder, kind);
            assert_eq!(build_id.is_some(), kind != "none");
            let contents = fs::read(&debug).unwrap();
            fs::remove_file(&debug).unwrap();
            let root = lab.path().join(kind).join("root");
            let file = File::open(&program).unwrap();
            let find = || find_in(&file, Path::new("/opt/app/program"), &[&root], build_id.as_ref());
            assert!(find().is_none());
            let mut places =
                vec!["opt/app/program.debug", "opt/app/.debug/program.debug", "usr/lib/debug/opt/app/program.debug"];
            if build_id.is_some() {
                places.push("usr/lib/debug/.build-id/01/23456789abcdef.debug");
            }
            for place in places.into_iter().map(|place| root.join(place)) {
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(&place, &contents).unwrap();
                assert!(find().is_some(), "{}", place.display());
                fs::write(&place, fs::read("/proc/self/exe").unwrap()).unwrap();
                assert!(find().is_none(), "another program at {}", place.display());
                fs::remove_file(&place).unwrap();
            }
            // A program with its debug information in it needs no other file.
            let whole = folder.join("whole");
            assert!(
                Command::new("cc")
                    .arg("-g")
                    .arg(folder.join("main.c"))
                    .arg("-o")
                    .arg(&whole)
                    .status()
                    .unwrap()
                    .success()
            );
            assert!(find_in(&File::open(&whole).unwrap(), &whole, &[&root], None).is_none());
        }
    }
}
