//! Writes the documents that are generated from the code: a test compares them, and this has it write them instead.

use crate::system::{cargo, run as run_command};

pub(crate) fn run() -> anyhow::Result<()> {
    let test = ["test", "--quiet", "--package", "cputrace", "--test", "docs"];
    run_command(cargo().args(test).env("CPUTRACE_WRITE_DOCS", "1"))
}
