//! From one frame to its caller: by a row of the file's unwind table where there is one, else by frame pointer.
//!
//! - [`table`]: how tables lie in memory.
//! - [`step`](mod@step): the step itself, generic over the [`step::Machine`] that gives it memory and tables: in the
//!   kernel that is the eBPF program, in host tests anything.
//!
//! x86-64 only. Written for the eBPF verifier: raw pointers with masked indices, no panics, no large copies.

pub mod step;
pub mod table;
