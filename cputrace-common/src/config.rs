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
pub const MAX_TARGETS: u32 = 16_384;

/// Processes whose memory the unwinder knows at a time: entries of the map `PROCESSES`, places in `RANGES`.
pub const MAX_PROCESSES: u32 = 16_384;

/// Places for ranges in one inner map of `RANGES`.
pub const RANGES_GROUP: u32 = 32;

/// Places for chunks of tables, in the map `CHUNKS`: 2 GiB.
pub const MAX_CHUNKS: u32 = 32_768;

/// Places for chunks in one inner map of `CHUNKS`: a group of 1 MiB.
pub const CHUNKS_GROUP: u32 = 16;
