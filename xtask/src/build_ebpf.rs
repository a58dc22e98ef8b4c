//! Builds the eBPF object, and keeps the stamp of what it was built from.
//!
//! Two compilers will do: rustup's nightly with its `rust-src`, or Debian's own rustc for the web with its sources.
//! Whichever is there and has the LLVM of bpf-linker is taken; the object of one compiler is the same wherever it is
//! built. Nothing is installed unless `--install` asks for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::system::{self, cargo, command, find_program, has, install, output, root, target};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only check that the committed object was built from the sources as they are
    #[arg(long)]
    check: bool,
    /// With --check: also build the object afresh, beside the committed one, and say where it is
    #[arg(long, requires = "check")]
    rebuild: bool,
    /// First install what is missing
    #[arg(long)]
    install: bool,
}

const OBJECT: &str = "cputrace/bpf/cputrace.bpf.o";
const STAMP: &str = "cputrace/bpf/cputrace.bpf.stamp";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let &Args { check: only_check, rebuild, install } = args;
    if install {
        install_toolchain()?;
    }
    if only_check {
        check()?;
        if rebuild {
            println!("{}", build()?.display());
        }
        return Ok(());
    }
    let built = build()?;
    let toolchain = Toolchain::find()?;
    std::fs::create_dir_all(root().join("cputrace/bpf"))?;
    std::fs::copy(&built, root().join(OBJECT)).with_context(|| format!("{OBJECT} cannot be written"))?;
    let (sources, object, version) = (sources_hash()?, object_hash()?, toolchain.version()?);
    std::fs::write(root().join(STAMP), format!("sources {sources}\nobject {object}\n{version}\n"))?;
    println!("xtask: wrote {OBJECT} and {STAMP}");
    Ok(())
}

/// The committed object's stamp names the sources as they are, and the object. The compiler may be another one.
pub(crate) fn check() -> anyhow::Result<()> {
    let stamp = std::fs::read_to_string(root().join(STAMP)).with_context(|| format!("{STAMP} cannot be read"))?;
    let stamped = |what: &str| stamp.lines().find_map(|line| line.strip_prefix(what));
    if stamped("sources ") != Some(&*sources_hash()?) || stamped("object ") != Some(&*object_hash()?) {
        bail!(
            "{OBJECT} was not built from the sources as they are: run cargo xtask build-ebpf, and commit what it wrote"
        );
    }
    println!("xtask: {OBJECT} was built from the sources as they are");
    Ok(())
}

fn object_hash() -> anyhow::Result<String> {
    let object = std::fs::read(root().join(OBJECT)).with_context(|| format!("{OBJECT} cannot be read"))?;
    Ok(hex(&Sha256::digest(object)))
}

/// Builds the object afresh; where it is.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    if !has("bpf-linker") {
        bail!("there is no bpf-linker: run cargo xtask build-ebpf --install");
    }
    // A folder of its own: the compiler is not the one that builds the rest.
    let folder = target().join("ebpf");
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // The object is the same wherever it was built.
        format!("--remap-path-prefix={}=/cputrace", root().display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home().display()),
        format!("--remap-path-prefix={}=/rust", toolchain.sources()?.display()),
    ];
    // And wherever its crates came from: the later of two that fit counts.
    let registries = std::fs::read_dir(cargo_home().join("registry/src")).into_iter().flatten().flatten();
    flags.extend(registries.map(|registry| format!("--remap-path-prefix={}=/crates", registry.path().display())));
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--locked", "--release", "--package", "cputrace-ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    system::run(&mut cargo).context("the eBPF object was not built")?;
    Ok(folder.join("bpfel-unknown-none/release/cputrace"))
}

fn cargo_home() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from)
}

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Toolchain {
    RustupNightly,
    Debian,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

impl Toolchain {
    /// The first one that is there, with its sources, and of the linker's LLVM.
    fn find() -> anyhow::Result<Self> {
        let linker = linker_llvm();
        let mut other_llvm = None;
        for toolchain in [Self::RustupNightly, Self::Debian] {
            if !toolchain.sources().is_ok_and(|sources| sources.join("library/core").exists()) {
                continue;
            }
            let major = toolchain.llvm_major()?;
            match &linker {
                Some(linker) if *linker != major => other_llvm = Some((linker.clone(), major)),
                _ => return Ok(toolchain),
            }
        }
        match other_llvm {
            Some((linker, rustc)) => bail!(
                "bpf-linker is built with LLVM {linker} and rustc with LLVM {rustc}: \
                 run cargo xtask build-ebpf --install, which builds bpf-linker again"
            ),
            None => bail!(
                "no compiler here can build eBPF: run rustup component add rust-src --toolchain nightly, \
                 or cargo xtask build-ebpf --install"
            ),
        }
    }

    fn rustc(self) -> Command {
        let mut rustc = match self {
            Self::RustupNightly => {
                let mut rustc = command("rustc");
                rustc.arg("+nightly");
                rustc
            }
            Self::Debian => command(DEBIAN_RUSTC),
        };
        rustc.env_remove("RUSTUP_TOOLCHAIN");
        rustc
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
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        // We run below another toolchain's cargo, which tells its children which one it is.
        cargo.env_remove("RUSTUP_TOOLCHAIN");
        cargo
    }

    /// The folder of the compiler's sources.
    fn sources(self) -> anyhow::Result<PathBuf> {
        let sysroot = output(self.rustc().args(["--print", "sysroot"]))?;
        Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust"))
    }

    /// Release and LLVM of the compiler, and the linker.
    fn version(self) -> anyhow::Result<String> {
        let version = output(self.rustc().arg("-vV"))?;
        let lines: Vec<_> =
            version.lines().filter(|line| line.starts_with("release") || line.starts_with("LLVM")).collect();
        let linker = output(command("bpf-linker").arg("--version"))?;
        Ok(format!("rustc {}\n{}", lines.join("\nrustc "), linker.trim()))
    }

    fn llvm_major(self) -> anyhow::Result<String> {
        let version = output(self.rustc().arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let major = llvm.and_then(|llvm| llvm.split('.').next()).context("rustc does not say which LLVM it has")?;
        Ok(major.to_owned())
    }

    /// Installs the compiler and its sources, and bpf-linker of its LLVM.
    fn install(self) -> anyhow::Result<()> {
        match self {
            Self::RustupNightly => {
                system::run(command("rustup").args(["component", "add", "rust-src", "--toolchain", "nightly"]))?;
            }
            Self::Debian => install(&[
                ("/usr/lib/rustlib/src/rust", "rust-web-src"),
                (DEBIAN_RUSTC, "rustc-web"),
                (DEBIAN_CARGO, "cargo-web"),
            ])?,
        }
        let major = self.llvm_major()?;
        if linker_llvm().is_some_and(|linker| linker == major) {
            return Ok(());
        }
        let prefix = format!("/usr/lib/llvm-{major}");
        install(&[(&format!("{prefix}/include/llvm-c/Core.h"), &format!("llvm-{major}-dev")), ("c++", "g++")])?;
        println!("xtask: building bpf-linker for LLVM {major}, which takes a minute or two");
        let mut install = cargo();
        install.args(["install", "bpf-linker", "--no-default-features", "--features", &format!("llvm-{major}")]);
        system::run(install.env("LLVM_PREFIX", prefix).args(["--quiet", "--locked", "--force"]))
    }
}

/// Installs a compiler if none will do, and bpf-linker of its LLVM.
pub(crate) fn install_toolchain() -> anyhow::Result<()> {
    if has("bpf-linker") && Toolchain::find().is_ok() {
        return Ok(());
    }
    Toolchain::RustupNightly.install().or_else(|error| {
        println!("xtask: rustup's nightly will not do ({error:#}); taking Debian's compiler");
        Toolchain::Debian.install()
    })
}

/// The major version of the LLVM that bpf-linker is linked with, from the name of the library it asks for.
/// `None` where there is no bpf-linker or its LLVM is inside it.
fn linker_llvm() -> Option<String> {
    let program = std::fs::read(find_program("bpf-linker")?).ok()?;
    ["libLLVM.so.", "libLLVM-"].iter().find_map(|name| {
        let mut found = program.windows(name.len()).enumerate().filter(|(_, bytes)| *bytes == name.as_bytes());
        found.find_map(|(at, _)| {
            let digits = program[at + name.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let major: String = digits.map(|&byte| char::from(byte)).collect();
            (!major.is_empty()).then_some(major)
        })
    })
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
    Ok(hex(&hash.finalize()))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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
