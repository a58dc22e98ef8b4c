//! What cputrace costs.
use crate::system::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run_bench(_: &Args) -> anyhow::Result<()> {
    println!("{}", root().display());
    Ok(())
}
