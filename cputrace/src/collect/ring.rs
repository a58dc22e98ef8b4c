//! Samples from the eBPF program's ring buffer: [`SampleHeader`] and its addresses.

use std::borrow::BorrowMut;

use aya::maps::{MapData, RingBuf};
use cputrace_common::sample::{End, REGISTERS, SampleHeader, kind};
use cputrace_common::thread::state;

use super::{Batch, Observation, RawSample};
use crate::model::{OffCpuState, StackEnd};
use crate::unwind::RemoteStack;

/// Unwinds a thread of a process from its registers, by DWARF number, and its program counter on.
pub type Unwind<'a> = &'a mut dyn FnMut(u32, [u64; 16], u64) -> RemoteStack;

/// Takes all that is there; stacks of threads that wait still are unwound by `unwind`. A record that makes no sense is counted
/// and skipped.
pub fn drain<T: BorrowMut<MapData>>(ring: &mut RingBuf<T>, batch: &mut Batch, unwind: Unwind<'_>) {
    while let Some(record) = ring.next() {
        if read(&record, batch, unwind).is_none() {
            batch.bad_records += 1;
        }
    }
}

fn read(record: &[u8], batch: &mut Batch, unwind: Unwind<'_>) -> Option<()> {
    let (header, frames) = record.split_first_chunk::<{ size_of::<SampleHeader>() }>()?;
    // SAFETY: any bit pattern is a valid header (integers only), and `read_unaligned` asks for no alignment.
    let header = unsafe { header.as_ptr().cast::<SampleHeader>().read_unaligned() };
    let what = observation(&header)?;
    let SampleHeader { time_ns, tgid, tid, kernel_frames, user_frames, end, guessed, comm, counters, .. } = header;
    let sample = RawSample {
        pid: tgid,
        tid,
        comm,
        end: stack_end(End::from_u32(end)?),
        guessed: guessed > 0,
        what,
        first_frame: 0,
        kernel_frames: kernel_frames.into(),
        user_frames: user_frames.into(),
        counters: counters as usize,
    };
    let (frames, _) = frames.as_chunks::<8>();
    let frames = frames.get(..sample.kernel_frames + sample.user_frames + sample.counters)?;
    let words = |frames: &[[u8; 8]]| frames.iter().map(|frame| u64::from_ne_bytes(*frame)).collect::<Vec<_>>();
    if header.kind == kind::OPEN_WAIT && sample.user_frames == REGISTERS {
        let (kernel, registers) = frames.split_at(sample.kernel_frames);
        let registers = words(registers);
        let (general, pc) =
            registers.split_first_chunk().and_then(|(general, rest)| Some((*general, *rest.first()?)))?;
        let RemoteStack { frames: user, end, guessed } = unwind(tgid, general, pc);
        let sample = RawSample { user_frames: user.len(), end: stack_end(end), guessed, ..sample };
        batch.push_sample(time_ns, sample, words(kernel).into_iter().chain(user));
        return Some(());
    }
    batch.push_sample(time_ns, sample, frames.iter().map(|frame| u64::from_ne_bytes(*frame)));
    Some(())
}

fn observation(header: &SampleHeader) -> Option<Observation> {
    let SampleHeader { kind, state, blocked_ns, queued_ns, woken_tid, .. } = *header;
    let off_cpu = || OffCpuState::ALL.get(state.checked_sub(state::BLOCKED)? as usize).copied();
    Some(match kind {
        kind::ON_CPU => Observation::OnCpu,
        kind::EVENT => Observation::Event,
        kind::WAIT | kind::OPEN_WAIT => Observation::Wait { state: off_cpu(), blocked_ns, queued_ns },
        kind::WAKE => Observation::Wake { woken_tid, blocked_ns },
        _ => return None,
    })
}

fn stack_end(end: End) -> StackEnd {
    match end {
        End::NoUserStack | End::Complete => StackEnd::Complete,
        End::Truncated => StackEnd::Truncated,
        End::NoUnwindInfo => StackEnd::NoUnwindInfo,
        End::TableNotReady => StackEnd::TableNotReady,
        End::Fault => StackEnd::Fault,
        End::NoJitInfo => StackEnd::NoJitInfo,
        End::FramePointersOnly => StackEnd::FramePointersOnly,
    }
}
