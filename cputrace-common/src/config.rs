//! The program's frozen globals: set before it is loaded, so that the verifier drops what they switch off.

/// Values of the global `FILTER`: which tasks are targets.
pub mod filter {
    /// All of them.
    pub const ALL: u32 = 0;
    /// Those whose process is in the map `TARGETS`.
    pub const PROCESSES: u32 = 1;
    /// Those in the control group (v2) `CGROUP_ID`, which is at level `CGROUP_LEVEL`, and below it.
    pub const CGROUP: u32 = 2;
}

/// Entries of the map `TARGETS`.
pub const MAX_TARGETS: u32 = 65_536;
