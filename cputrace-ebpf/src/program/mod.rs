//! Entry points, one file an area. Userspace finds them by function name.

mod counters;
mod kernel_names;
mod on_cpu;
mod on_event;
mod sched;
mod task;
