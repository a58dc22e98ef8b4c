//! schemathesis, which tests the REST API by its own document: in a Python environment of its own, for Debian has no package.

use std::path::PathBuf;

use crate::system::{command, run};

/// Tells the tests where it is.
pub(crate) const VARIABLE: &str = "CPUTRACE_SCHEMATHESIS";

/// What the configuration in `cputrace/tests/api` was written for.
const VERSION: &str = "4.32.5";

/// Where it is, once it is installed.
pub(crate) fn path() -> anyhow::Result<PathBuf> {
    Ok(directory()?.join("bin/schemathesis"))
}

fn directory() -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(std::path::absolute(target)?.join(format!("schemathesis-{VERSION}")))
}

/// Installs it, unless it is there.
pub(crate) fn install() -> anyhow::Result<()> {
    if path()?.exists() {
        return Ok(());
    }
    println!("xtask: installing schemathesis {VERSION} from PyPI");
    run(command("python3").args(["-m", "venv"]).arg(directory()?))?;
    run(command(directory()?.join("bin/pip")).args(["install", "--quiet"]).arg(format!("schemathesis=={VERSION}")))
}
