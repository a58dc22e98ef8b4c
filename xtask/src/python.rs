//! Python programs that tests use, each in an environment of its own, for Debian has no packages of them.

use std::fs;
use std::path::PathBuf;

use crate::system::{command, run};

/// A package from PyPI.
pub(crate) struct Package {
    name: &'static str,
    /// What the tests were written for.
    version: &'static str,
    /// What the tests run of its environment.
    program: &'static str,
    /// Tells them where it is.
    pub(crate) variable: &'static str,
}

/// All of them.
pub(crate) const PACKAGES: &[Package] = &[
    // The REST API, by its own document: `cputrace/tests/api`.
    Package { name: "schemathesis", version: "4.32.5", program: "bin/schemathesis", variable: "CPUTRACE_SCHEMATHESIS" },
    // Grafana's model of a dashboard: `cputrace/tests/grafana`.
    Package {
        name: "grafana-foundation-sdk",
        version: "0.0.21",
        program: "bin/python",
        variable: "CPUTRACE_GRAFANA_SDK",
    },
];

impl Package {
    /// Where the program is, once it is installed.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        Ok(self.environment()?.join(self.program))
    }

    fn environment(&self) -> anyhow::Result<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        Ok(std::path::absolute(target)?.join(format!("{}-{}", self.name, self.version)))
    }

    /// Installs it, unless it is there.
    fn install(&self) -> anyhow::Result<()> {
        let Self { name, version, .. } = self;
        let environment = self.environment()?;
        let installed = environment.join("installed");
        if installed.exists() {
            return Ok(());
        }
        println!("xtask: installing {name} {version} from PyPI");
        run(command("python3").args(["-m", "venv"]).arg(&environment))?;
        run(command(environment.join("bin/pip")).args(["install", "--quiet"]).arg(format!("{name}=={version}")))?;
        Ok(fs::write(installed, "")?)
    }
}

/// Installs what is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    PACKAGES.iter().try_for_each(Package::install)
}
