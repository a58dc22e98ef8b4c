//! What cputrace costs.
use crate::system::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    println!("{}", root().display());
    Ok(())
}
