//! Running commands, and installing what they need through the system's package manager.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(target)
}

/// A command in the workspace's folder.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// cargo, as it runs us.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end; an error if it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("{shown} cannot be started"))?;
    if status.success() { Ok(()) } else { bail!("{shown} failed ({status})") }
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = show(command);
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{shown} cannot be started"))?;
    if !status.success() {
        bail!("{shown} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let words = std::iter::once(program.file_name().unwrap_or(program.as_os_str())).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where a program is, by the path.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    find_program(program).is_some()
}

pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// What to put before a program so that it runs as root with our path; nothing where we are root.
pub(crate) fn root_prefix() -> Vec<String> {
    if is_root() {
        return Vec::new();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    ["sudo", "--preserve-env=CI,CPUTRACE_REQUIRE_ALL", "env", &format!("PATH={path}")].map(str::to_owned).to_vec()
}

/// A command as root: by sudo, after saying so, where we are not.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    let prefix = root_prefix();
    let [sudo, arguments @ ..] = &*prefix else { return command(program) };
    println!("xtask: root is needed for {}; asking sudo", program.as_ref().to_string_lossy());
    let mut sudo = command(sudo);
    sudo.args(arguments).arg(program);
    sudo
}

/// Installs the packages whose program or file is not there. `wanted`: (what has to exist, its package).
pub(crate) fn install(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let exists = |what: &str| if what.starts_with('/') { Path::new(what).exists() } else { has(what) };
    let mut packages: Vec<_> = wanted.iter().filter(|(what, _)| !exists(what)).map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let packages_text = packages.join(" ");
    if !has("apt-get") {
        bail!("install these first (their Debian names): {packages_text}");
    }
    println!("xtask: installing {packages_text}");
    let quiet = |command: &mut Command| run(command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()));
    quiet(as_root("apt-get").args(["update", "-qq"]))?;
    quiet(as_root("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages))
}
