//! What the unwinder's tables take: the library's own bench program, which has gimli beside it.

use std::path::Path;

use crate::system::{cargo, command, output, run};

/// Files that most machines have; the compiler's own are added.
const FILES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/bin/xz",
    "/usr/bin/python3",
    "/usr/bin/redis-server",
    "/usr/bin/node",
    "/usr/lib/chromium/chromium",
];

/// Has it measure what is there.
pub(super) fn measure() -> anyhow::Result<()> {
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    let libraries = std::fs::read_dir(Path::new(sysroot.trim()).join("lib"))?;
    let libraries = libraries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // libLLVM.so is also there as a text that names the library.
        (name.starts_with("libLLVM.so") || name.starts_with("librustc_driver")) && path.is_file()
    });
    let files = FILES.map(Into::into).into_iter().filter(|path: &std::path::PathBuf| path.is_file()).chain(libraries);
    let mut bench = cargo();
    bench.args(["bench", "--locked", "--quiet", "--package", "cputrace", "--bench", "tables", "--"]).args(files);
    run(&mut bench)
}
