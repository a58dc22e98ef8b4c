//! Ctrl-C and its kin.

use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::serve::Reload;
use crate::session::Stop;

/// The first signal ends the recording, the second the looking up of names, the third the program.
pub(super) fn signals() -> anyhow::Result<Receiver<Stop>> {
    let (sender, receiver) = mpsc::channel();
    handle(sender, None)?;
    Ok(receiver)
}

/// The same for a server, which reads its configuration again at SIGHUP.
pub(super) fn server_signals() -> anyhow::Result<(Receiver<Stop>, Receiver<Reload>)> {
    let (sender, receiver) = mpsc::channel();
    let (reload, reloads) = mpsc::channel();
    handle(sender, Some(reload))?;
    Ok((receiver, reloads))
}

fn handle(stop: Sender<Stop>, reload: Option<Sender<Reload>>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be handled")?;
    std::thread::spawn(move || {
        let mut count = 0;
        for signal in signals.forever() {
            if signal == SIGHUP && reload.as_ref().is_some_and(|reload| reload.send(Reload).is_ok()) {
                continue;
            }
            count += 1;
            if count > 2 || stop.send(Stop).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}
