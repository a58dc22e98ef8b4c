//! Ctrl-C and its kin.

use std::sync::mpsc::{self, Receiver};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::session::Stop;

/// The first signal ends the recording, the second the looking up of names, the third the program.
pub(super) fn signals() -> anyhow::Result<Receiver<Stop>> {
    let (sender, receiver) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be handled")?;
    std::thread::spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count >= 2 || sender.send(Stop).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(receiver)
}
