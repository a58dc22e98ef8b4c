//! What ops did that the CPU tagged (AMD's instruction-based sampling): loads by where their data came from, and how long they
//! waited for it; stores; branches.

use std::collections::BTreeMap;

/// What the CPU noted of an op, in its own registers: `pmu::ibs` knows what they mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpRegisters {
    /// What its sampling is capable of.
    pub capabilities: u32,
    /// `IBS_OP_DATA`.
    pub data: u64,
    /// `IBS_OP_DATA2`.
    pub data2: u64,
    /// `IBS_OP_DATA3`.
    pub data3: u64,
    /// `IBS_DC_LIN_AD`.
    pub linear: u64,
    /// `IBS_DC_PHYS_AD`.
    pub physical: u64,
}

/// Where the data of a load or store was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DataSource {
    /// The core's first cache.
    L1,
    /// Its second.
    L2,
    /// The core complex's L3, or the cache of another of its cores.
    L3,
    /// A cache of another core complex, of this node.
    NearCache,
    /// A cache of another node.
    FarCache,
    /// Memory of this node.
    Memory,
    /// Memory of another node.
    FarMemory,
    /// Memory that keeps its data.
    PersistentMemory,
    /// Memory behind CXL.
    ExtensionMemory,
    /// Memory of a device.
    PeerMemory,
    /// A device's registers.
    Device,
    /// Memory that no cache may keep.
    Uncached,
    /// It was on its way already, for another load or store.
    Pending,
    /// Of a store or prefetch: not in the core's caches.
    BeyondL2,
    /// The CPU does not say.
    Unknown,
}

impl DataSource {
    /// All of them, the nearest first.
    pub const ALL: &[Self] = &[
        Self::L1,
        Self::L2,
        Self::L3,
        Self::NearCache,
        Self::FarCache,
        Self::Memory,
        Self::FarMemory,
        Self::PersistentMemory,
        Self::ExtensionMemory,
        Self::PeerMemory,
        Self::Device,
        Self::Uncached,
        Self::Pending,
        Self::BeyondL2,
        Self::Unknown,
    ];

    /// Its name, in trace.json too.
    pub fn name(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
            Self::NearCache => "near cache",
            Self::FarCache => "far cache",
            Self::Memory => "memory",
            Self::FarMemory => "far memory",
            Self::PersistentMemory => "persistent memory",
            Self::ExtensionMemory => "CXL memory",
            Self::PeerMemory => "peer memory",
            Self::Device => "device",
            Self::Uncached => "uncached",
            Self::Pending => "pending",
            Self::BeyondL2 => "beyond L2",
            Self::Unknown => "unknown",
        }
    }
}

/// What a tagged op did with memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// It loaded; one that stores too is a load.
    Load,
    /// It stored.
    Store,
    /// A prefetch that the program asked for.
    Prefetch,
}

/// A load, store or prefetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOp {
    /// Which.
    pub access: Access,
    /// Where the data was.
    pub source: DataSource,
    /// Of a load that missed the L1: how long it took, in cycles.
    pub latency_cycles: Option<u32>,
    /// How it found the page; `None` where the CPU does not say.
    pub tlb: Option<Tlb>,
    /// It locked the memory.
    pub locked: bool,
    /// The address, where it is known.
    pub linear: Option<u64>,
    /// The same in physical memory.
    pub physical: Option<u64>,
}

/// How an address was translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tlb {
    /// By the first TLB.
    L1,
    /// By the second, after so many cycles.
    L2 {
        /// How long it took.
        cycles: u32,
    },
    /// By a walk of the page tables, of so many cycles.
    Walk {
        /// How long it took.
        cycles: u32,
    },
}

/// A tagged op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What it did with memory.
    pub memory: Option<MemoryOp>,
    /// Whether it is a branch, and was mispredicted.
    pub branch: Option<Branch>,
}

/// A branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The CPU thought it would go elsewhere.
    pub mispredicted: bool,
}

impl Op {
    /// What it did, in brackets: the leaf of its stack.
    pub fn label(&self) -> String {
        match (self.memory, self.branch) {
            (_, Some(Branch { mispredicted: true })) => "[mispredicted branch]".to_owned(),
            (Some(MemoryOp { access, source, .. }), _) => {
                let access = match access {
                    Access::Load => "load",
                    Access::Store => "store",
                    Access::Prefetch => "prefetch",
                };
                format!("[{access}: {}]", source.name())
            }
            (None, Some(_)) => "[branch]".to_owned(),
            (None, None) => "[other op]".to_owned(),
        }
    }
}

/// Loads from one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loads {
    /// How many.
    pub count: u64,
    /// Of these, those of which the CPU says how long they took.
    pub timed: u64,
    /// How long these took, in all.
    pub cycles: u64,
    /// How long the longest took.
    pub most_cycles: u64,
}

/// All tagged ops of a recording.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ops {
    /// Those of which the kernel handed on nothing.
    pub unread: u64,
    /// Loads, by where the data was.
    pub loads: BTreeMap<DataSource, Loads>,
    /// Stores, likewise.
    pub stores: BTreeMap<DataSource, u64>,
    /// Prefetches that programs asked for, likewise.
    pub prefetches: BTreeMap<DataSource, u64>,
    /// Of all these, those that locked the memory.
    pub locked: u64,
    /// Of all these, those of which the CPU says how the page was found.
    pub translated: u64,
    /// Of these, those that the first TLB missed and the second had.
    pub second_tlb: u64,
    /// Those that the page tables were walked for.
    pub walks: u64,
    /// How long these walks took, in cycles.
    pub walk_cycles: u64,
    /// Branches.
    pub branches: u64,
    /// Of these, the mispredicted ones.
    pub mispredicted: u64,
    /// Neither of all these.
    pub others: u64,
}

impl Ops {
    /// Adds one; `None`: nothing is known of it.
    pub fn add(&mut self, op: Option<&Op>) {
        let Some(Op { memory, branch }) = op else {
            self.unread += 1;
            return;
        };
        if let Some(Branch { mispredicted }) = branch {
            self.branches += 1;
            self.mispredicted += u64::from(*mispredicted);
        }
        let Some(MemoryOp { access, source, latency_cycles, tlb, locked, .. }) = memory else {
            self.others += u64::from(branch.is_none());
            return;
        };
        match access {
            Access::Load => {
                let loads = self.loads.entry(*source).or_default();
                loads.count += 1;
                if let Some(cycles) = latency_cycles.map(u64::from) {
                    loads.timed += 1;
                    loads.cycles += cycles;
                    loads.most_cycles = loads.most_cycles.max(cycles);
                }
            }
            Access::Store => *self.stores.entry(*source).or_default() += 1,
            Access::Prefetch => *self.prefetches.entry(*source).or_default() += 1,
        }
        self.locked += u64::from(*locked);
        self.translated += u64::from(tlb.is_some());
        match tlb {
            Some(Tlb::L2 { .. }) => self.second_tlb += 1,
            Some(Tlb::Walk { cycles }) => {
                self.walks += 1;
                self.walk_cycles += u64::from(*cycles);
            }
            Some(Tlb::L1) | None => {}
        }
    }
}
