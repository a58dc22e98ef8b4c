//! What AMD's registers of instruction-based sampling (IBS) say of an op: `arch/x86/include/asm/amd/ibs.h` in Linux has the bits,
//! `arch/x86/events/amd/ibs.c` which of them hold when. What a CPU is capable of comes with each sample, so that its generation
//! need not be known, but for one erratum.

use super::cpu::CpuInfo;
use super::device::Root;
use crate::model::{Access, Branch, DataSource, MemoryOp, Op, OpRegisters, Tlb};

/// `IBS_CAPS_ZEN4`: data sources have five bits.
const CAPABLE_OF_MORE_SOURCES: u32 = 1 << 11;

/// Reads the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decoder {
    /// Erratum 1293 (Zen 3 servers): of prefetches, and of misses without a buffer of their own, the source is not valid.
    pub wrong_sources: bool,
}

impl Decoder {
    /// For the CPU that this runs on.
    pub fn of_this_cpu() -> Self {
        Self::of(&CpuInfo::parse(&Root::new("/").read("proc/cpuinfo").unwrap_or_default()))
    }

    /// For a CPU.
    pub fn of(cpu: &CpuInfo) -> Self {
        Self { wrong_sources: cpu.family == 0x19 && cpu.model <= 0xf }
    }

    /// What the registers say.
    pub fn decode(self, registers: &OpRegisters) -> Op {
        let data = Bits(registers.data);
        let branch = data.is(37).then(|| Branch { mispredicted: data.is(36) });
        Op { memory: self.memory(registers), branch }
    }

    fn memory(self, registers: &OpRegisters) -> Option<MemoryOp> {
        let data3 = Bits(registers.data3);
        // Load, store, software prefetch; one that loads and stores is a load.
        let access = match (data3.is(0), data3.is(1), data3.is(21)) {
            (_, _, true) => Access::Prefetch,
            (true, ..) => Access::Load,
            (false, true, _) => Access::Store,
            (false, false, false) => return None,
        };
        let (missed_l1, uncached) = (data3.is(7), data3.is(14));
        let source = self.source(registers, access);
        let (knows_linear, knows_physical) = (data3.is(17), data3.is(18));
        let tlb = match (data3.is(2), data3.is(3)) {
            _ if !knows_linear => None,
            (false, _) => Some(Tlb::L1),
            (true, false) => Some(Tlb::L2 { cycles: data3.field(48, 16) }),
            (true, true) => Some(Tlb::Walk { cycles: data3.field(48, 16) }),
        };
        Some(MemoryOp {
            access,
            source,
            // It is kept of loads alone, and of uncached ones it is not valid.
            latency_cycles: (access == Access::Load && missed_l1 && !uncached).then(|| data3.field(32, 16)),
            tlb,
            locked: data3.is(15),
            linear: knows_linear.then_some(registers.linear),
            physical: knows_physical.then_some(registers.physical),
        })
    }

    fn source(self, registers: &OpRegisters, access: Access) -> DataSource {
        let (data2, data3) = (Bits(registers.data2), Bits(registers.data3));
        let more_sources = registers.capabilities & CAPABLE_OF_MORE_SOURCES != 0;
        let (missed_l1, uncached, without_buffer, missed_l2) = (data3.is(7), data3.is(14), data3.is(16), data3.is(20));
        let is_wrong = self.wrong_sources && (without_buffer || access == Access::Prefetch);
        let (code, is_far) =
            if is_wrong { (0, false) } else { (data2.field(0, 3) | data2.field(6, 2) << 3, data2.is(4)) };
        if uncached && code != DEVICE {
            return DataSource::Uncached;
        }
        if !missed_l1 {
            return DataSource::L1;
        }
        if !missed_l2 && !is_wrong {
            return DataSource::L2;
        }
        // Of anything but loads the source is not kept.
        let known = match (access, more_sources) {
            (Access::Load, true) => source_of_five_bits(code, is_far),
            (Access::Load, false) => source_of_three_bits(code & 7, is_far),
            (Access::Store | Access::Prefetch, _) => None,
        };
        match (known, access) {
            (Some(source), _) => source,
            (None, _) if without_buffer => DataSource::Pending,
            (None, Access::Load) => DataSource::Unknown,
            (None, Access::Store | Access::Prefetch) => DataSource::BeyondL2,
        }
    }
}

/// `IBS_DATA_SRC_IO`, the same in both tables.
const DEVICE: u32 = 7;

/// Zen 4 and newer: `IBS_DATA_SRC_EXT_*`.
fn source_of_five_bits(code: u32, is_far: bool) -> Option<DataSource> {
    Some(match code {
        1 => DataSource::L3,
        2 => DataSource::NearCache,
        3 if is_far => DataSource::FarMemory,
        3 => DataSource::Memory,
        5 => DataSource::FarCache,
        6 => DataSource::PersistentMemory,
        DEVICE => DataSource::Device,
        8 => DataSource::ExtensionMemory,
        12 => DataSource::PeerMemory,
        _ => return None,
    })
}

/// Zen 1 to 3: `IBS_DATA_SRC_*`.
fn source_of_three_bits(code: u32, is_far: bool) -> Option<DataSource> {
    Some(match code {
        2 => DataSource::L3,
        3 if is_far => DataSource::FarMemory,
        3 => DataSource::Memory,
        // Of the same node or another one.
        4 if is_far => DataSource::FarCache,
        4 => DataSource::NearCache,
        DEVICE => DataSource::Device,
        _ => return None,
    })
}

#[derive(Clone, Copy)]
struct Bits(u64);

impl Bits {
    fn is(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// At most 32 bits.
    fn field(self, first: u32, bits: u32) -> u32 {
        (self.0 >> first & ((1 << bits) - 1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: u64 = 1;
    const STORE: u64 = 1 << 1;
    const MISS: u64 = 1 << 7;
    const L2_MISS: u64 = 1 << 20;
    const NO_BUFFER: u64 = 1 << 16;
    const PREFETCH: u64 = 1 << 21;
    const UNCACHED: u64 = 1 << 14;
    const LINEAR: u64 = 1 << 17;
    const PHYSICAL: u64 = 1 << 18;
    const FAR: u64 = 1 << 4;
    const ZEN4: u32 = CAPABLE_OF_MORE_SOURCES;

    fn registers(capabilities: u32, data: u64, data2: u64, data3: u64) -> OpRegisters {
        OpRegisters { capabilities, data, data2, data3, linear: 0x7fff_0000_1234, physical: 0x1234 }
    }

    /// Of the registers, what the kernel's own decoder makes of them (`perf_ibs_get_mem_lvl`), as it stands in Linux 6.18, for
    /// each code of each generation.
    #[test]
    fn sources_by_generation() {
        use DataSource::*;
        let beyond = LOAD | MISS | L2_MISS;
        // A code's upper two bits are 6 and 7.
        let code = |code: u64| code & 7 | code >> 3 << 6;
        let cases = [
            // Zen 1 to 3: three bits.
            (0, code(0), beyond, Unknown),
            (0, code(1), beyond, Unknown),
            (0, code(2), beyond, L3),
            (0, code(3), beyond, Memory),
            (0, code(3) | FAR, beyond, FarMemory),
            (0, code(4), beyond, NearCache),
            (0, code(4) | FAR, beyond, FarCache),
            (0, code(7), beyond, Device),
            (0, code(0), beyond | NO_BUFFER, Pending),
            // Zen 4 and newer: five.
            (ZEN4, code(1), beyond, L3),
            (ZEN4, code(2), beyond, NearCache),
            (ZEN4, code(3), beyond, Memory),
            (ZEN4, code(3) | FAR, beyond, FarMemory),
            (ZEN4, code(4), beyond, Unknown),
            (ZEN4, code(5), beyond, FarCache),
            (ZEN4, code(6), beyond, PersistentMemory),
            (ZEN4, code(7), beyond, Device),
            (ZEN4, code(8), beyond, ExtensionMemory),
            (ZEN4, code(12), beyond, PeerMemory),
            (ZEN4, code(3), beyond | NO_BUFFER, Memory),
            (ZEN4, code(0), beyond | NO_BUFFER, Pending),
            (ZEN4, code(31), beyond, Unknown),
            // Nearer ones need no code, and none holds of what is not cached.
            (ZEN4, code(3), LOAD, L1),
            (ZEN4, code(3), LOAD | MISS, L2),
            (ZEN4, code(3), beyond | UNCACHED, Uncached),
            (ZEN4, code(7), beyond | UNCACHED, Device),
            // Of stores it says no more than that.
            (ZEN4, code(3), STORE, L1),
            (ZEN4, code(3), STORE | MISS, L2),
            (ZEN4, code(3), STORE | MISS | L2_MISS, BeyondL2),
        ];
        for (capabilities, data2, data3, expected) in cases {
            let op = Decoder::default().decode(&registers(capabilities, 0, data2, data3));
            assert_eq!(op.memory.map(|memory| memory.source), Some(expected), "{data2:#x} {data3:#x}");
        }
    }

    /// Zen 3 servers give a wrong source for prefetches and for misses without a buffer.
    #[test]
    fn erratum_1293() {
        let milan = Decoder::of(&CpuInfo { family: 0x19, model: 0x01, ..CpuInfo::default() });
        let vermeer = Decoder::of(&CpuInfo { family: 0x19, model: 0x21, ..CpuInfo::default() });
        let of =
            |decoder: Decoder, data3| decoder.decode(&registers(0, 0, 3, data3)).memory.map(|memory| memory.source);
        assert_eq!(of(milan, LOAD | MISS | L2_MISS | NO_BUFFER), Some(DataSource::Pending));
        assert_eq!(of(vermeer, LOAD | MISS | L2_MISS | NO_BUFFER), Some(DataSource::Memory));
        assert_eq!(of(milan, LOAD | MISS | NO_BUFFER), Some(DataSource::Pending));
        assert_eq!(of(vermeer, LOAD | MISS | NO_BUFFER), Some(DataSource::L2));
        assert_eq!(of(milan, LOAD | MISS | L2_MISS), Some(DataSource::Memory));
        assert_eq!(of(milan, LOAD | MISS | PREFETCH), Some(DataSource::BeyondL2));
    }

    /// Latencies and addresses count only where the CPU says that they hold.
    #[test]
    fn what_does_not_hold_is_left_out() {
        let memory = |data3| Decoder::default().decode(&registers(ZEN4, 0, 1, data3 | 200 << 32 | 40 << 48)).memory;
        let missed = memory(LOAD | MISS | L2_MISS | LINEAR | PHYSICAL | 1 << 2 | 1 << 3);
        let expected = MemoryOp {
            access: Access::Load,
            source: DataSource::L3,
            latency_cycles: Some(200),
            tlb: Some(Tlb::Walk { cycles: 40 }),
            locked: false,
            linear: Some(0x7fff_0000_1234),
            physical: Some(0x1234),
        };
        assert_eq!(missed, Some(expected));
        let hit = memory(LOAD | LINEAR | 1 << 15);
        let of_hit = hit.map(|hit| (hit.latency_cycles, hit.tlb, hit.physical, hit.locked));
        assert_eq!(of_hit, Some((None, Some(Tlb::L1), None, true)));
        let unknown = memory(STORE | MISS | 1 << 2);
        assert_eq!(unknown.map(|op| (op.latency_cycles, op.tlb, op.linear)), Some((None, None, None)));
        assert_eq!(memory(LOAD | MISS | UNCACHED).map(|op| op.latency_cycles), Some(None));
        assert_eq!(memory(LOAD | 1 << 2 | LINEAR).map(|op| op.tlb), Some(Some(Tlb::L2 { cycles: 40 })));
        assert_eq!(memory(0), None);
    }

    /// What a stack's leaf says.
    #[test]
    fn labels() {
        let label = |data, data3| Decoder::default().decode(&registers(0, data, 0, data3)).label();
        assert_eq!(label(1 << 37, 0), "[branch]");
        assert_eq!(label(1 << 37 | 1 << 36, LOAD), "[mispredicted branch]");
        assert_eq!(label(1 << 36, 0), "[other op]");
        assert_eq!(label(1 << 37, LOAD), "[load: L1]");
    }
}
