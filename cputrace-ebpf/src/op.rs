//! What the CPU noted of an op that it tagged (AMD's instruction-based sampling): the registers that the kernel hands on with
//! the sample.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_probe_read_kernel, programs::PerfEventContext};
use cputrace_common::sample::op;

use crate::{config, sample::Record};

/// `PERF_SAMPLE_RAW`.
const HAS_RAW: u64 = 1 << 10;

/// Into the record of a sample; without them it has no words.
#[inline(always)]
pub(crate) fn take(ctx: &PerfEventContext, record: &mut Record) {
    // The context is really a `struct bpf_perf_event_data_kern`: registers, data, event.
    let Some(data) = word(ctx.as_ptr() as u64 + 8) else { return };
    let has_raw = match config::sample_flags() {
        0 => true,
        offset => word(data + offset - 1).is_some_and(|flags| flags & HAS_RAW != 0),
    };
    if !has_raw {
        return;
    }
    let Some(raw) = word(data + config::sample_raw()) else { return };
    // Before `sample_flags` its being there was what said so.
    if raw == 0 {
        return;
    }
    let (Some(registers), Some(size)) = (word(raw + config::raw_data()), word(raw + config::raw_size())) else {
        return;
    };
    // A word of 4 bytes, and more than we want of it where the CPU is newer.
    if (size as u32) < op::BYTES as u32 {
        return;
    }
    let words = (&raw mut record.words).cast::<u8>();
    // SAFETY: the helper writes what `words` has from its fourth byte on, and checks the address.
    let status = unsafe { bpf_probe_read_kernel(words.add(4).cast(), op::BYTES as u32, registers as *const _) };
    if status == 0 {
        record.header.words = op::WORDS as u32;
    }
}

#[inline(always)]
fn word(address: u64) -> Option<u64> {
    let mut word = 0_u64;
    // SAFETY: the helper writes the eight bytes of `word`, and checks the address.
    let status = unsafe { bpf_probe_read_kernel((&raw mut word).cast(), 8, address as *const _) };
    if status == 0 { Some(word) } else { None }
}
