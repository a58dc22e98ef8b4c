//! Facts about the machine.

use std::fs;

use procfs::Current;

use crate::model::Host;

/// CPUs that are online, whichever of them this process may use.
pub fn online_cpus() -> u32 {
    // SAFETY: asks for a number.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(cpus).unwrap_or(1).max(1)
}

/// The machine that this runs on; what cannot be read stays empty.
pub fn host() -> Host {
    let sysctl = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let cpu = procfs::CpuInfo::current().ok();
    let model = cpu.as_ref().and_then(|cpu| cpu.model_name(0)).unwrap_or_default();
    Host {
        hostname: sysctl("hostname"),
        kernel: sysctl("osrelease"),
        arch: std::env::consts::ARCH.to_owned(),
        cpu_model: model.to_owned(),
        cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u32),
        memory_kb: procfs::Meminfo::current().map_or(0, |memory| memory.mem_total / 1024),
    }
}
