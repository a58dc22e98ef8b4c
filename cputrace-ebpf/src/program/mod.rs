//! Entry points, one file an area. Userspace finds them by function name.

mod on_cpu;
mod sched;
mod task;
