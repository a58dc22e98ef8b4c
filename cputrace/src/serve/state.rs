//! What the window's thread writes and requests read.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::Recording;

/// Shared by all threads of the server.
#[derive(Debug, Default)]
pub struct State {
    is_ready: AtomicBool,
}

impl State {
    /// Of a server that watches nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// From here on samples are taken.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Whether samples are taken.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Takes what a window brought.
    pub fn add(&self, _window: &Recording) {}
}
