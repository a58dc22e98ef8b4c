//! Samples from the eBPF program's ring buffer: [`SampleHeader`] and its addresses.

use std::borrow::BorrowMut;

use aya::maps::{MapData, RingBuf};
use cputrace_common::sample::{End, REGISTERS, SampleHeader, kind};
use cputrace_common::thread::state;

use super::{Batch, Observation, RawSample};
use crate::model::{OffCpuState, StackEnd, WaitState};
use crate::unwind::RemoteStack;

/// What the kernel puts before each record (`BPF_RINGBUF_HDR_SZ`).
const RECORD_HEADER_BYTES: usize = 8;

/// Unwinds a thread of a process from its registers, by DWARF number, and its program counter on.
pub type Unwind<'a> = &'a mut dyn FnMut(u32, [u64; 16], u64) -> RemoteStack;

/// Takes all that is there; stacks of threads that wait still are unwound by `unwind`. A record that makes no sense is counted
/// and skipped. Returns how many bytes it was.
pub fn drain<T: BorrowMut<MapData>>(ring: &mut RingBuf<T>, batch: &mut Batch, unwind: Unwind<'_>) -> usize {
    let mut bytes = 0;
    while let Some(record) = ring.next() {
        bytes += record.len() + RECORD_HEADER_BYTES;
        if read(&record, batch, unwind).is_none() {
            batch.bad_records += 1;
        }
    }
    bytes
}

fn read(record: &[u8], batch: &mut Batch, unwind: Unwind<'_>) -> Option<()> {
    let (header, frames) = record.split_first_chunk::<{ size_of::<SampleHeader>() }>()?;
    // SAFETY: any bit pattern is a valid header (integers only), and `read_unaligned` asks for no alignment.
    let header = unsafe { header.as_ptr().cast::<SampleHeader>().read_unaligned() };
    let what = observation(&header)?;
    let SampleHeader { time_ns, tgid, tid, kernel_frames, user_frames, end, guessed, comm, words, .. } = header;
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
        words: words as usize,
    };
    let (frames, _) = frames.as_chunks::<8>();
    let frames = frames.get(..sample.kernel_frames + sample.user_frames + sample.words)?;
    let addresses = |frames: &[[u8; 8]]| frames.iter().map(|frame| u64::from_ne_bytes(*frame)).collect::<Vec<_>>();
    if header.kind == kind::OPEN_WAIT && sample.user_frames == REGISTERS {
        let (kernel, registers) = frames.split_at(sample.kernel_frames);
        let registers = addresses(registers);
        let (general, pc) =
            registers.split_first_chunk().and_then(|(general, rest)| Some((*general, *rest.first()?)))?;
        let RemoteStack { frames: user, end, guessed } = unwind(tgid, general, pc);
        let sample = RawSample { user_frames: user.len(), end: stack_end(end), guessed, ..sample };
        batch.push_sample(time_ns, sample, addresses(kernel).into_iter().chain(user));
        return Some(());
    }
    batch.push_sample(time_ns, sample, frames.iter().map(|frame| u64::from_ne_bytes(*frame)));
    Some(())
}

fn observation(header: &SampleHeader) -> Option<Observation> {
    let SampleHeader { kind, state, blocked_ns, queued_ns, woken_tid, .. } = *header;
    let wait_state = || match state {
        state::THROTTLED => WaitState::Throttled,
        _ => {
            let off_cpu = state.checked_sub(state::BLOCKED).and_then(|place| OffCpuState::ALL.get(place as usize));
            off_cpu.map_or(WaitState::Runnable, |state| WaitState::OffCpu(*state))
        }
    };
    Some(match kind {
        kind::ON_CPU => Observation::OnCpu,
        kind::EVENT => Observation::Event,
        kind::WAIT | kind::OPEN_WAIT => Observation::Wait { state: wait_state(), blocked_ns, queued_ns },
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use cputrace_common::sample::op;

    use super::*;
    use crate::aggregate::{Aggregate, Aggregator};
    use crate::collect::Event;
    use crate::model::{DataSource, EventSampling, Loads, Ops, Profile, Source, Unit};
    use crate::pmu::cpu::CpuInfo;
    use crate::pmu::ibs::Decoder;
    use crate::process::Mappings;
    use crate::source::event;

    /// A record as the kernel's side sends it: one user frame, then the words.
    fn record(words: &[u64]) -> Vec<u8> {
        let header = SampleHeader {
            time_ns: 1000,
            tgid: 7,
            tid: 8,
            cpu: 0,
            kernel_frames: 0,
            user_frames: 1,
            end: End::Complete as u32,
            guessed: 0,
            comm: *b"app\0\0\0\0\0\0\0\0\0\0\0\0\0",
            kind: kind::EVENT,
            state: 0,
            blocked_ns: 0,
            queued_ns: 0,
            woken_tid: 0,
            words: words.len() as u32,
        };
        // SAFETY: integers only, and no padding.
        let header: [u8; size_of::<SampleHeader>()] = unsafe { std::mem::transmute(header) };
        let frames = [0x40_1000].iter().chain(words).flat_map(|word: &u64| word.to_ne_bytes());
        header.into_iter().chain(frames).collect()
    }

    fn op(capabilities: u64, data: u64, data2: u64, data3: u64) -> [u64; op::WORDS] {
        [capabilities << 32, 0, 0x40_1000, data, data2, data3, 0x7fff_0000, 0x1000]
    }

    /// Ops of a CPU that is not here, from the record to the profile: each has what it did as its leaf, loads have their
    /// latency, and what the kernel said nothing of is not made up.
    #[test]
    fn tagged_ops() {
        let zen4 = 1 << 11;
        // A load of 100 cycles from memory, twice; one from the L1; a mispredicted branch; an op without its registers.
        let load = op(zen4, 0, 3, 1 | 1 << 7 | 1 << 20 | 1 << 17 | 100 << 32);
        let records = [&load[..], &load, &op(zen4, 0, 0, 1), &op(zen4, 3 << 36, 0, 0), &[]].map(record);
        let mut batch = Batch::default();
        for record in &records {
            read(record, &mut batch, &mut |_, _, _| unreachable!()).unwrap();
        }
        assert!(read(&records[0][..records[0].len() - 8], &mut batch, &mut |_, _, _| unreachable!()).is_none());

        let mut profile = Profile::new();
        let name = profile.string("on-cpu");
        let source = profile.source(Source { name, unit: Unit::Nanoseconds, period: 1 });
        let mut aggregator = Aggregator::new(profile, source, 0, false);
        let sampling = EventSampling { name: "ibs-op".to_owned(), period: 16, ..EventSampling::default() };
        aggregator.add_event_source(|profile| event::source(profile, &sampling));
        aggregator.decode_ops(Decoder::of(&CpuInfo { family: 0x19, model: 0x11, ..CpuInfo::default() }));
        let mut mappings = Mappings::default();
        let (events, frames) = batch.in_order(u64::MAX);
        for (time_ns, event) in events {
            let Event::Sample(sample) = event else { continue };
            aggregator.add(*time_ns, sample, sample.frames(frames), &mut mappings);
        }
        let Aggregate { profile, ops, .. } = aggregator.finish();
        let values = |name: &str| {
            let source = profile.source_by_name(name).unwrap();
            let samples = profile.samples().iter().filter(|sample| sample.source == source);
            let mut values: Vec<_> =
                samples.map(|sample| (profile.leaf_label(sample.stack).unwrap(), sample.value)).collect();
            values.sort_unstable();
            values
        };
        assert_eq!(
            values("ibs-op"),
            [("[load: L1]", 16), ("[load: memory]", 32), ("[mispredicted branch]", 16), ("[unknown op]", 16)]
        );
        assert_eq!(values("load-latency"), [("[load: memory]", 2 * 16 * 100)]);
        let loads = [
            (DataSource::L1, Loads { count: 1, ..Loads::default() }),
            (DataSource::Memory, Loads { count: 2, timed: 2, cycles: 200, most_cycles: 100 }),
        ];
        let expected = Ops {
            loads: loads.into_iter().collect(),
            translated: 2,
            branches: 1,
            mispredicted: 1,
            unread: 1,
            ..Ops::default()
        };
        assert_eq!(ops, Some(expected));
    }
}
