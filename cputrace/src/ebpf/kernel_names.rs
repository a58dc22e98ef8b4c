//! Names of kernel addresses, asked of the kernel by a program that prints them.
//!
//! The list that userspace has for it, `/proc/kallsyms`, has more than 100,000 lines, and takes the kernel 30 ms to write; some
//! hundred addresses are asked for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::RawTracePoint;
use cputrace_common::kernel_name::{AT_ONCE, Answers};

use super::{EbpfError, take_map, typed};

/// Its name in the object.
const PROGRAM: &str = "kernel_names";

/// Its map.
const ANSWERS: &str = "KERNEL_NAMES";

/// The program, and where its answers are.
pub struct KernelNames {
    program: OwnedFd,
    answers: Array<MapData, Answers>,
}

impl KernelNames {
    /// Loads it. Linux 5.13.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, EbpfError> {
        let refused = |source| EbpfError::Program { program: PROGRAM, source };
        let program: &mut RawTracePoint = typed(ebpf, PROGRAM)?;
        program.load().map_err(refused)?;
        let program = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
        let program = program.map_err(|error| refused(error.into()))?;
        Ok(Self { program, answers: take_map(ebpf, ANSWERS)? })
    }

    /// What the kernel calls each address: `NAME+0xOFFSET/0xSIZE [MODULE]`, or the address where it knows none.
    pub fn ask(&self, addresses: &[u64]) -> io::Result<Vec<String>> {
        let mut names = Vec::with_capacity(addresses.len());
        for addresses in addresses.chunks(AT_ONCE) {
            self.run(addresses)?;
            let answers = self.answers.get(&0, 0).map_err(io::Error::other)?;
            names.extend(answers.iter().take(addresses.len()).map(|answer| {
                let end = answer.iter().position(|byte| *byte == 0).unwrap_or(answer.len());
                String::from_utf8_lossy(&answer[..end]).into_owned()
            }));
        }
        Ok(names)
    }

    /// Runs the program once. aya can do this too, but only for as long as the whole object is at hand.
    fn run(&self, addresses: &[u64]) -> io::Result<()> {
        /// `union bpf_attr` of a test run.
        #[repr(C)]
        #[derive(Default)]
        struct TestRun {
            program: u32,
            return_value: u32,
            data_sizes: [u32; 2],
            data: [u64; 2],
            repeat: u32,
            duration: u32,
            context_in_bytes: u32,
            context_out_bytes: u32,
            context_in: u64,
            context_out: u64,
            flags: u32,
            cpu: u32,
        }
        const BPF_PROG_TEST_RUN: libc::c_int = 10;
        // What is asked for and, where it is fewer than the program reads, zeros.
        let mut arguments = [0_u64; AT_ONCE];
        arguments.iter_mut().zip(addresses).for_each(|(argument, address)| *argument = *address);
        let mut run = TestRun {
            program: self.program.as_raw_fd().cast_unsigned(),
            context_in: (&raw const arguments).addr() as u64,
            context_in_bytes: size_of_val(&arguments) as u32,
            ..TestRun::default()
        };
        // SAFETY: the context is of the size that is said and outlives the call, as `run` does, which the kernel writes to.
        let status = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
