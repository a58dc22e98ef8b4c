//! The wire between cputrace's eBPF program and its userspace.
#![no_std]
