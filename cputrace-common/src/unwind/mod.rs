//! The step from one frame to its caller: the same source in the kernel and in host tests. x86-64 only.
//!
//! - [`table`]: what userspace compiles of an ELF file's `.eh_frame`: rules by address.
//! - [`range`]: which table holds for which addresses of a process.
//! - [`step`]: one frame further, by a table's rule or by the frame pointer.
//!
//! Knows nothing of maps, helpers or files: [`step::Machine`] is what it needs of the place it runs in. Written for the
//! eBPF verifier: indices are masked, searches have constant bounds, nothing can panic.

pub mod range;
pub mod step;
pub mod table;
