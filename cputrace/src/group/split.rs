//! User and system time, where the kernel does not say how a process's time is split.

use super::window::InWindow;

/// Time on the CPU that the kernel does not split: each such process has hardly a sample, all of a group have many.
#[derive(Default)]
pub(super) struct Unsplit {
    on_cpu_ns: u64,
    /// The part of that which is not split yet.
    open_ns: u64,
    system_ns: u64,
    samples: u64,
    samples_kernel: u64,
}

impl Unsplit {
    /// Adds what a process did in the window.
    pub(super) fn add(&mut self, process: &InWindow) {
        self.on_cpu_ns += process.on_cpu_ns;
        self.open_ns += process.on_cpu_ns;
        self.samples += process.samples();
        self.samples_kernel += process.samples_kernel;
    }

    /// How much more of the time was in the kernel, now that the window's processes are in it; never less.
    pub(super) fn settle(&mut self) -> u64 {
        let system_ns = part(self.on_cpu_ns, self.samples_kernel, self.samples);
        let more = system_ns.saturating_sub(self.system_ns).min(std::mem::take(&mut self.open_ns));
        self.system_ns += more;
        more
    }
}

/// `part` of `whole` of a time; nothing of nothing.
pub(super) fn part(ns: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (ns as f64 * (part as f64 / whole as f64)) as u64 }
}
