//! Names of kernel addresses.

use aya_ebpf::{helpers::generated::bpf_snprintf, macros::raw_tracepoint, programs::RawTracePointContext};

use cputrace_common::kernel_name::{ANSWER_BYTES, AT_ONCE};

use crate::maps::KERNEL_NAMES;

/// For the kernel: function, offset, size and module of an address.
#[unsafe(no_mangle)]
static FORMAT: [u8; 4] = *b"%pS\0";

/// Run by userspace, with addresses for arguments; attached to nothing. Linux 5.13, for `bpf_snprintf`.
#[raw_tracepoint]
fn kernel_names(ctx: RawTracePointContext) -> i32 {
    let Some(answers) = KERNEL_NAMES.get_ptr_mut(0) else { return 0 };
    macro_rules! ask {
        ($($index:literal)*) => {
            const { assert!([$($index),*].len() == AT_ONCE) };
            $(
                let mut address: u64 = ctx.arg($index);
                // SAFETY: the map's element, and an argument of the size that the format asks for.
                unsafe {
                    bpf_snprintf(
                        (&raw mut (*answers)[$index]).cast(),
                        ANSWER_BYTES as u32,
                        (&raw const FORMAT).cast(),
                        &raw mut address,
                        size_of::<u64>() as u32,
                    );
                }
            )*
        };
    }
    ask!(0 1 2 3 4 5 6 7 8 9 10 11);
    0
}
