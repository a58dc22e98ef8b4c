//! What requests to `cputrace serve` take: the library's own bench program, which has rows of JSON beside it.

use crate::system::{cargo, run};

/// Has it measure.
pub(super) fn measure() -> anyhow::Result<()> {
    run(cargo().args(["bench", "--locked", "--quiet", "--package", "cputrace", "--bench", "serve"]))
}
