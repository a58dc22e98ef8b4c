//! A peer in the kernel: an eBPF program of a sampling clock that does nothing but have the kernel walk the user's frame
//! pointers, by `bpf_get_stack`. Written in the kernel's own instructions, for it is a dozen of them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;

use super::run_time::RunTime;

/// Frames that the kernel walks at most: its own limit (`kernel.perf_event_max_stack`).
const MAX_FRAMES: i32 = 127;

// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L915>
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_TYPE_PERCPU_ARRAY: u32 = 6;
const BPF_PROG_TYPE_PERF_EVENT: u32 = 7;
const MAP_LOOKUP_ELEM: i32 = 1;
const GET_STACK: i32 = 67;
const BPF_F_USER_STACK: i32 = 1 << 8;

// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/perf_event.h#L547>
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
/// `disabled` and `freq` of `struct perf_event_attr`'s bits.
const DISABLED_FREQ: u64 = 1 | 1 << 10;

/// The program, at work on a process until it is dropped.
pub(super) struct GetStack {
    program: OwnedFd,
    _map: OwnedFd,
    _clock: OwnedFd,
}

/// The beginning of `union bpf_attr` for a map.
#[repr(C)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The beginning of `union bpf_attr` for a program.
#[repr(C)]
struct ProgramAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// `struct perf_event_attr` as the first kernels with BPF had it.
#[repr(C)]
#[derive(Default)]
struct ClockAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_freq: u64,
    sample_type: u64,
    read_format: u64,
    bits: u64,
    rest: [u64; 2],
}

/// An instruction: opcode, registers (source in the high half), offset, immediate.
const fn instruction(opcode: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    opcode as u64
        | (registers as u64) << 8
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

impl GetStack {
    /// Samples a process `hz` times a second of its CPU time.
    pub(super) fn attach(pid: u32, hz: u32) -> anyhow::Result<Self> {
        let attr = MapAttr {
            map_type: BPF_MAP_TYPE_PERCPU_ARRAY,
            key_size: 4,
            value_size: MAX_FRAMES as u32 * 8,
            max_entries: 1,
        };
        let map = bpf(BPF_MAP_CREATE, &attr).context("the map for bpf_get_stack cannot be made")?;
        let instructions = program(map.as_raw_fd());
        let attr = ProgramAttr {
            prog_type: BPF_PROG_TYPE_PERF_EVENT,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
        };
        let program = bpf(BPF_PROG_LOAD, &attr).context("the program with bpf_get_stack cannot be loaded")?;
        let clock = clock(pid, hz).context("the clock for bpf_get_stack cannot be opened")?;
        // SAFETY: both calls take a number, no pointer.
        let attached = unsafe {
            libc::ioctl(clock.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) == 0
                && libc::ioctl(clock.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) == 0
        };
        if !attached {
            return Err(io::Error::last_os_error()).context("the program with bpf_get_stack cannot be attached");
        }
        Ok(Self { program, _map: map, _clock: clock })
    }

    /// Its run time so far.
    pub(super) fn run_time(&self) -> anyhow::Result<RunTime> {
        RunTime::of(std::process::id(), self.program.as_raw_fd())
    }
}

/// `bpf_get_stack(ctx, the CPU's value, its size, BPF_F_USER_STACK)`
fn program(map: i32) -> Vec<u64> {
    vec![
        instruction(0xbf, 0x16, 0, 0),                // r6 = r1, the context
        instruction(0x62, 0x0a, -4, 0),               // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 0xa2, 0, 0),                // r2 = r10
        instruction(0x07, 0x02, 0, -4),               // r2 += -4
        instruction(0x18, 0x11, 0, map),              // r1 = the map
        instruction(0, 0, 0, 0),                      // (its upper half)
        instruction(0x85, 0, 0, MAP_LOOKUP_ELEM),     // r0 = map_lookup_elem(r1, r2)
        instruction(0x15, 0x00, 5, 0),                // if r0 == 0, to the end
        instruction(0xbf, 0x61, 0, 0),                // r1 = r6
        instruction(0xbf, 0x02, 0, 0),                // r2 = r0
        instruction(0xb7, 0x03, 0, MAX_FRAMES * 8),   // r3 = bytes
        instruction(0xb7, 0x04, 0, BPF_F_USER_STACK), // r4 = flags
        instruction(0x85, 0, 0, GET_STACK),           // r0 = get_stack(r1, r2, r3, r4)
        instruction(0xb7, 0x00, 0, 0),                // r0 = 0
        instruction(0x95, 0, 0, 0),                   // exit
    ]
}

fn bpf<A>(command: libc::c_long, attr: &A) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is of the type and size that the command reads, and what it points to lives as long.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<A>()) };
    owned(fd)
}

fn clock(pid: u32, hz: u32) -> io::Result<OwnedFd> {
    let attr = ClockAttr {
        kind: PERF_TYPE_SOFTWARE,
        size: size_of::<ClockAttr>() as u32,
        config: PERF_COUNT_SW_CPU_CLOCK,
        sample_freq: hz.into(),
        bits: DISABLED_FREQ,
        ..ClockAttr::default()
    };
    // SAFETY: `attr` says its own size.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, std::ptr::from_ref(&attr), pid, -1, -1, PERF_FLAG_FD_CLOEXEC)
    };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
