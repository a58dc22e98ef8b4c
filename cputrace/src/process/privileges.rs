//! What this process may do beyond its user's rights. `serve` runs for months and talks to the network: it gives up what
//! watching does not take.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// What watching takes for as long as it goes on: eBPF and perf events, other processes' `/proc` and files, and the kernel's
/// symbols.
const NEEDED: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYSLOG);

/// The last port that not everybody may listen on.
const LAST_RESERVED_PORT: u16 = 1023;

/// What watching takes beyond that, because of what it was told.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// A directory to write to.
    pub directory: &'a Path,
    /// A port to listen on.
    pub port: u16,
}

/// Gives up everything else, for good. It holds for this thread and those that it starts from now on: so it comes first.
pub fn give_up(needs: Needs<'_>) -> io::Result<()> {
    let Needs { directory, port } = needs;
    let has = thread::capabilities(None)?.permitted;
    let mut keep = NEEDED;
    if (1..=LAST_RESERVED_PORT).contains(&port) {
        keep |= CapabilitySet::NET_BIND_SERVICE;
    }
    if !is_own(directory) {
        keep |= CapabilitySet::DAC_OVERRIDE;
    }
    // Where somebody gave us only the one that once was for everything, it still is.
    if !has.contains(CapabilitySet::BPF | CapabilitySet::PERFMON) {
        keep |= CapabilitySet::SYS_ADMIN;
    }
    // Before Linux 5.11 eBPF maps are locked memory.
    if !procfs::KernelVersion::current().is_ok_and(|kernel| kernel >= procfs::KernelVersion::new(5, 11, 0)) {
        keep |= CapabilitySet::SYS_RESOURCE;
    }
    for capability in has.difference(keep).iter() {
        // Only who has SETPCAP may; without it, what starts another program has `no_new_privs` in its way all the same.
        let _ = thread::remove_capability_from_bounding_set(capability);
    }
    thread::set_no_new_privs(true)?;
    let keep = has & keep;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    Ok(thread::set_capabilities(None, sets)?)
}

/// Whether a directory, or the one that it will be made in, is this user's.
fn is_own(directory: &Path) -> bool {
    let exists = directory.ancestors().find_map(|directory| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        directory.metadata().ok()
    });
    exists.is_some_and(|meta| meta.uid() == rustix::process::geteuid().as_raw())
}
