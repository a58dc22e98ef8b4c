//! Where the debug information of a program or library is, when it is in a file of its own: found as gdb finds it, by
//! build id under `/usr/lib/debug`, else by the name that the file itself has for it ("debug link"). First in the root
//! of a process that maps the file, then in ours.
//!
//! A file that is found counts only if it belongs to the other: it has the same build id or, where there is none, the
//! checksum that the link asks for. So a container's library never gets the names of the host's.
//! See "Separate Debug Files" in gdb's manual. `debuginfod` has what is fetched over the network.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::ReadCache;

use super::file::open_regular;
use crate::model::BuildId;
use crate::sections::Sections;

/// The folder that distributions use.
const DEBUG_DIRECTORY: &str = "usr/lib/debug";

/// Where the debug information of a file is.
#[derive(Debug)]
pub enum DebugFile {
    /// In itself.
    Inside,
    /// In a file of its own.
    Separate(File),
    /// Not on this machine.
    Missing,
}

/// Finds the debug information of `file`, which `pid` maps from `path`.
pub fn find(file: &File, path: &Path, pid: u32, build_id: Option<&BuildId>) -> DebugFile {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    find_in(file, path, &[&root, Path::new("/")], build_id)
}

/// Finds the package with what compilers split off of the debug information (`-gsplit-dwarf`, then `dwp`): it lies beside
/// the file. Whether the two belong together each unit in it says itself.
pub fn find_package(path: &Path, pid: u32) -> Option<File> {
    let mut name = path.strip_prefix("/").ok()?.as_os_str().to_owned();
    name.push(".dwp");
    let roots = [PathBuf::from(format!("/proc/{pid}/root")), PathBuf::from("/")];
    roots.iter().find_map(|root| open_regular(&root.join(&name)))
}

fn find_in(file: &File, path: &Path, roots: &[&Path], build_id: Option<&BuildId>) -> DebugFile {
    let cache = ReadCache::new(file);
    let Some(sections) = Sections::read(&cache) else { return DebugFile::Missing };
    // The second one is packed, in the manner of old compilers.
    if [".debug_info", ".zdebug_info"].iter().any(|name| sections.by_name(name).is_some()) {
        return DebugFile::Inside;
    }
    let link = Link::of(&sections);
    let names = candidates(path, build_id, link.as_ref());
    let paths = roots.iter().flat_map(|root| names.iter().map(|name| root.join(name)));
    let found = paths.filter_map(|path| open_regular(&path)).find(|file| belongs(file, build_id, link.as_ref()));
    found.map_or(DebugFile::Missing, DebugFile::Separate)
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
        let name = OsStr::from_bytes(name);
        candidates.extend([folder.join(name), folder.join(".debug").join(name), debug.join(folder).join(name)]);
    }
    candidates
}

fn belongs(candidate: &File, build_id: Option<&BuildId>, link: Option<&Link>) -> bool {
    match (build_id, link) {
        (Some(build_id), _) => has_build_id(candidate, build_id),
        (None, Some(link)) => checksum(candidate).is_ok_and(|sum| sum == link.checksum),
        (None, None) => false,
    }
}

/// Whether a file is of the program with this build id.
pub(super) fn has_build_id(file: &File, build_id: &BuildId) -> bool {
    let cache = ReadCache::new(file);
    Sections::read(&cache).is_some_and(|sections| sections.build_id() == Some(&build_id.0))
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

/// What a file says about the one with its debug information.
struct Link {
    name: Vec<u8>,
    checksum: u32,
}

impl Link {
    fn of(sections: &Sections<'_>) -> Option<Self> {
        let (name, checksum) = sections.debug_link()?;
        // A name, not a path that could lead anywhere.
        let is_name = !name.is_empty() && !name.contains(&b'/') && name != b"..";
        is_name.then(|| Self { name: name.to_owned(), checksum })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::process::Command;

    use super::*;

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
        let build_id = super::super::elf::ElfFacts::read(&File::open(&program).unwrap()).unwrap().build_id;
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
            assert!(matches!(find(), DebugFile::Missing));
            let mut places =
                vec!["opt/app/program.debug", "opt/app/.debug/program.debug", "usr/lib/debug/opt/app/program.debug"];
            if build_id.is_some() {
                places.push("usr/lib/debug/.build-id/01/23456789abcdef.debug");
            }
            for place in places.into_iter().map(|place| root.join(place)) {
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(&place, &contents).unwrap();
                assert!(matches!(find(), DebugFile::Separate(_)), "{}", place.display());
                fs::write(&place, fs::read("/proc/self/exe").unwrap()).unwrap();
                assert!(matches!(find(), DebugFile::Missing), "another program at {}", place.display());
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
            let found = find_in(&File::open(&whole).unwrap(), &whole, &[&root], None);
            assert!(matches!(found, DebugFile::Inside));
        }
    }
}
