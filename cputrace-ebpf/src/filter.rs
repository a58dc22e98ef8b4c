//! Is the current task a target?

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use cputrace_common::config::filter;

use crate::{config, maps::TARGETS};

/// Whether the current task, of the process `tgid`, is a target.
#[inline(always)]
pub(crate) fn is_target(tgid: u32) -> bool {
    match config::filter() {
        filter::PROCESSES => is_target_process(tgid),
        // SAFETY: a helper without pointers. Linux 5.6.
        filter::CGROUP => unsafe {
            bpf_get_current_ancestor_cgroup_id(config::cgroup_level().cast_signed()) == config::cgroup_id()
        },
        _ => true,
    }
}

/// Whether the process is in the set of targets.
#[inline(always)]
pub(crate) fn is_target_process(tgid: u32) -> bool {
    TARGETS.get_ptr(tgid).is_some()
}
