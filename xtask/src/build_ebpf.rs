//! Builds the eBPF object, and keeps the stamp of what it was built from.
//!
//! Two compilers will do, whichever is there: rustup's nightly with its `rust-src`, or Debian's own rustc for the web
//! with its sources. bpf-linker's LLVM has to be the compiler's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::system::{cargo, command, has, install, output, root, target};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only check that the committed object was built from the sources as they are
    #[arg(long)]
    check: bool,
    /// Install what is missing
    #[arg(long)]
    install: bool,
}

const OBJECT: &str = "cputrace/bpf/cputrace.bpf.o";
const STAMP: &str = "cputrace/bpf/cputrace.bpf.stamp";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.check {
        return check();
    }
    if args.install {
        install_toolchain()?;
    }
    let built = build()?;
    std::fs::copy(&built, root().join(OBJECT))?;
    let toolchain = Toolchain::find()?;
    std::fs::write(root().join(STAMP), format!("sources {}\n{}\n", sources_hash()?, toolchain.version()?))?;
    println!("xtask: wrote {OBJECT} and {STAMP}");
    Ok(())
}

/// The committed object's stamp names the sources as they are.
pub(crate) fn check() -> anyhow::Result<()> {
    let stamp = std::fs::read_to_string(root().join(STAMP)).with_context(|| format!("{STAMP} cannot be read"))?;
    let stamped = stamp.lines().find_map(|line| line.strip_prefix("sources "));
    if stamped != Some(&*sources_hash()?) {
        bail!("{OBJECT} was not built from the sources as they are: run cargo xtask build-ebpf");
    }
    println!("xtask: {OBJECT} was built from the sources as they are");
    Ok(())
}

/// Builds the object afresh; where it is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    if !has("bpf-linker") {
        bail!("there is no bpf-linker: run cargo xtask build-ebpf --install");
    }
    // A folder of its own: the compiler is not the one that builds the rest.
    let folder = target().join("ebpf");
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // The object is the same wherever it was built.
        format!("--remap-path-prefix={}=/cputrace", root().display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home().display()),
        format!("--remap-path-prefix={}=/rust", toolchain.sources()?.display()),
    ];
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--locked", "--release", "--package", "cputrace-ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    crate::system::run(&mut cargo).context("the eBPF object was not built; bpf-linker's LLVM has to be rustc's")?;
    Ok(folder.join("bpfel-unknown-none/release/cputrace"))
}

/// clippy on the eBPF crate; `None` where the compiler has no clippy.
pub(crate) fn clippy() -> anyhow::Result<Option<Command>> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo();
    if output(toolchain.cargo().args(["clippy", "--version"])).is_err() {
        return Ok(None);
    }
    cargo
        .args(["clippy", "--locked", "--release", "--package", "cputrace-ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(target().join("ebpf-clippy"))
        .args(["--", "-D", "warnings"]);
    Ok(Some(cargo))
}

fn cargo_home() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from)
}

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Toolchain {
    RustupNightly,
    Debian,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

impl Toolchain {
    fn find() -> anyhow::Result<Self> {
        let usable = |toolchain: &Self| toolchain.sources().is_ok_and(|sources| sources.join("library/core").exists());
        let found = [Self::RustupNightly, Self::Debian].into_iter().find(usable);
        found.context(
            "no compiler can build eBPF: run cargo xtask build-ebpf --install, \
             or rustup component add rust-src --toolchain nightly",
        )
    }

    fn rustc(self) -> Command {
        match self {
            Self::RustupNightly => {
                let mut rustc = command("rustc");
                rustc.arg("+nightly");
                rustc
            }
            Self::Debian => command(DEBIAN_RUSTC),
        }
    }

    fn cargo(self) -> Command {
        let mut cargo = match self {
            Self::RustupNightly => {
                let mut cargo = command("cargo");
                cargo.arg("+nightly");
                cargo
            }
            Self::Debian => {
                let mut cargo = command(DEBIAN_CARGO);
                // cargo finds its clippy on the path, where rustup's would come first.
                let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").env("PATH", path);
                cargo
            }
        };
        // We run below another toolchain's cargo, which tells its children which one it is.
        cargo.env_remove("RUSTUP_TOOLCHAIN");
        cargo
    }

    /// The folder of the compiler's sources.
    fn sources(self) -> anyhow::Result<PathBuf> {
        let sysroot = output(self.rustc().env_remove("RUSTUP_TOOLCHAIN").args(["--print", "sysroot"]))?;
        Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
    }

    /// Release and LLVM of the compiler, and the linker.
    fn version(self) -> anyhow::Result<String> {
        let version = output(self.rustc().env_remove("RUSTUP_TOOLCHAIN").arg("-vV"))?;
        let lines: Vec<_> =
            version.lines().filter(|line| line.starts_with("release") || line.starts_with("LLVM")).collect();
        let linker = output(command("bpf-linker").arg("--version"))?;
        Ok(format!("rustc {}\n{}", lines.join("\nrustc "), linker.trim()))
    }

    fn llvm_major(self) -> anyhow::Result<String> {
        let version = output(self.rustc().env_remove("RUSTUP_TOOLCHAIN").arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = llvm.and_then(|llvm| llvm.split('.').next()).context("rustc does not say which LLVM it has")?;
        Ok(major.to_owned())
    }
}

/// Installs a compiler if none will do, and bpf-linker of its LLVM.
pub(crate) fn install_toolchain() -> anyhow::Result<()> {
    if Toolchain::find().is_err() {
        // The usual way first, where there is a nightly: a few seconds.
        let mut rustup = command("rustup");
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
        let usual = has("rustup") && output(&mut rustup).is_ok();
        if !usual || Toolchain::find().is_err() {
            install(&[
                ("/usr/lib/rustlib/src/rust", "rust-web-src"),
                (DEBIAN_RUSTC, "rustc-web"),
                (DEBIAN_CARGO, "cargo-web"),
                ("/usr/bin/clippy-driver", "rust-web-clippy"),
            ])?;
        }
    }
    if has("bpf-linker") {
        return Ok(());
    }
    let major = Toolchain::find()?.llvm_major()?;
    let prefix = format!("/usr/lib/llvm-{major}");
    install(&[(&format!("{prefix}/include/llvm-c/Core.h"), &format!("llvm-{major}-dev")), ("c++", "g++")])?;
    println!("xtask: building bpf-linker for LLVM {major}, which takes a minute or two");
    let mut install = cargo();
    install.args(["install", "bpf-linker", "--no-default-features", "--features", &format!("llvm-{major}")]);
    crate::system::run(install.env("LLVM_PREFIX", prefix).args(["--quiet", "--locked"]))
}

/// Of everything that the object is made of, in the order of the paths.
fn sources_hash() -> anyhow::Result<String> {
    let mut files = vec![root().join("Cargo.toml"), root().join(".cargo/config.toml")];
    for folder in ["cputrace-ebpf", "cputrace-common"] {
        collect(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        // Of the workspace's manifest only the profile and the versions of what the kernel's side is made of.
        let text = if file == root().join("Cargo.toml") { relevant(&text) } else { text };
        hash.update(file.strip_prefix(root())?.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn relevant(manifest: &str) -> String {
    let profile = manifest.split("[profile.release.package.cputrace-ebpf]").nth(1).unwrap_or_default();
    let versions = manifest.lines().filter(|line| line.starts_with("aya-ebpf"));
    versions.map(|line| format!("{line}\n")).chain([profile.to_owned()]).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let built = path.extension().is_some_and(|ending| ending == "rs" || ending == "toml");
        if path.is_dir() {
            collect(&path, files)?;
        } else if built {
            files.push(path);
        }
    }
    Ok(())
}
