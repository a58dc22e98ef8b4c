//! Which CPU it is, and what it says of its counters. Two authorities disagree on a few models; the kernel's table
//! (arch/x86/kernel/cpu/amd.c) decides, and a model that it does not know is said to be unverified.

use std::fmt;

/// A generation of AMD's Zen cores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Generation {
    /// Zen and Zen+ (Hygon too).
    Zen1 = 1,
    /// Zen 2.
    Zen2,
    /// Zen 3.
    Zen3,
    /// Zen 4.
    Zen4,
    /// Zen 5.
    Zen5,
    /// Zen 6.
    Zen6,
}

impl Generation {
    /// All of them, oldest first.
    pub const ALL: &[Self] = &[Self::Zen1, Self::Zen2, Self::Zen3, Self::Zen4, Self::Zen5, Self::Zen6];

    /// 1 to 6.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Dispatch slots a cycle, where the generation counts them.
    pub fn slots(self) -> Option<f64> {
        match self {
            Self::Zen1 | Self::Zen2 | Self::Zen3 => None,
            Self::Zen4 => Some(6.0),
            Self::Zen5 | Self::Zen6 => Some(8.0),
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zen {}", self.number())
    }
}

/// Family, models from and to, generation: the kernel's table.
const MODELS: &[(u32, u32, u32, Generation)] = &[
    (0x17, 0x00, 0x2f, Generation::Zen1),
    (0x17, 0x50, 0x5f, Generation::Zen1),
    (0x17, 0x30, 0x4f, Generation::Zen2),
    (0x17, 0x60, 0x7f, Generation::Zen2),
    (0x17, 0x90, 0x91, Generation::Zen2),
    (0x17, 0xa0, 0xaf, Generation::Zen2),
    (0x18, 0x00, 0xff, Generation::Zen1),
    (0x19, 0x00, 0x0f, Generation::Zen3),
    (0x19, 0x20, 0x5f, Generation::Zen3),
    (0x19, 0x10, 0x1f, Generation::Zen4),
    (0x19, 0x60, 0xaf, Generation::Zen4),
    (0x1a, 0x00, 0x2f, Generation::Zen5),
    (0x1a, 0x40, 0x4f, Generation::Zen5),
    (0x1a, 0x60, 0x7f, Generation::Zen5),
    (0x1a, 0xd0, 0xd7, Generation::Zen5),
    (0x1a, 0x50, 0x5f, Generation::Zen6),
    (0x1a, 0x80, 0xaf, Generation::Zen6),
    (0x1a, 0xc0, 0xcf, Generation::Zen6),
    (0x1a, 0xd8, 0xef, Generation::Zen6),
];

/// What `/proc/cpuinfo` says of the first CPU.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuInfo {
    /// `AuthenticAMD`, `HygonGenuine`, …
    pub vendor: String,
    /// CPU family.
    pub family: u32,
    /// Model in the family.
    pub model: u32,
    /// Marketing name.
    pub name: String,
    /// Feature flags.
    pub flags: Vec<String>,
}

impl CpuInfo {
    /// Reads the text of `/proc/cpuinfo`; what is not there stays empty.
    pub fn parse(cpuinfo: &str) -> Self {
        let mut info = Self::default();
        for line in cpuinfo.lines().take_while(|line| !line.trim().is_empty()) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                "vendor_id" => value.clone_into(&mut info.vendor),
                "cpu family" => info.family = value.parse().unwrap_or(0),
                "model" => info.model = value.parse().unwrap_or(0),
                "model name" => value.clone_into(&mut info.name),
                "flags" => info.flags = value.split_ascii_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
        }
        info
    }

    /// Whether a feature flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    /// The generation of an AMD or Hygon CPU since Zen.
    pub fn identify(&self) -> Identity {
        if !["AuthenticAMD", "HygonGenuine"].contains(&&*self.vendor) {
            return Identity::Other;
        }
        let of_family = || MODELS.iter().filter(|(family, ..)| *family == self.family);
        let known = of_family().find(|(_, from, to, _)| (*from..=*to).contains(&self.model));
        match (known, of_family().map(|(.., generation)| *generation).max()) {
            (Some((.., generation)), _) => Identity::Known(*generation),
            (None, Some(newest)) => Identity::Unverified(newest),
            // Families come in order; an unknown one after the last is newer than all that is known.
            (None, None) if self.family > 0x1a => Identity::Unverified(Generation::Zen6),
            (None, None) => Identity::Other,
        }
    }
}

/// Which generation it is, and how sure that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// In the kernel's table.
    Known(Generation),
    /// A model that the table lacks: taken for the newest known generation of its family.
    Unverified(Generation),
    /// No AMD Zen.
    Other,
}

impl Identity {
    /// Whose event table to use.
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self::Known(generation) | Self::Unverified(generation) => Some(generation),
            Self::Other => None,
        }
    }
}

/// What the CPU itself says of its counters: CPUID 8000_0022h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerfMonV2 {
    /// Counters of a core.
    pub core: u32,
    /// Entries of the last branch record.
    pub lbr: u32,
    /// Counters of the data fabric.
    pub fabric: u32,
    /// Counters of all memory controllers together.
    pub memory: u32,
    /// Memory controllers that are in use.
    pub controllers: u32,
}

impl PerfMonV2 {
    /// From the registers; `None` where the CPU has no version 2.
    pub fn decode(eax: u32, ebx: u32, ecx: u32) -> Option<Self> {
        (eax & 1 != 0).then_some(Self {
            core: ebx & 0xf,
            lbr: ebx >> 4 & 0x3f,
            fabric: ebx >> 10 & 0x3f,
            memory: ebx >> 16 & 0x3f,
            controllers: ecx.count_ones(),
        })
    }

    /// Of the CPU that this runs on.
    #[cfg(target_arch = "x86_64")]
    pub fn of_this_cpu() -> Option<Self> {
        use std::arch::x86_64::__cpuid;
        const LEAF: u32 = 0x8000_0022;
        let vendor = __cpuid(0);
        let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        if ![&b"AuthenticAMD"[..], b"HygonGenuine"].contains(&&*amd) || __cpuid(0x8000_0000).eax < LEAF {
            return None;
        }
        let leaf = __cpuid(LEAF);
        Self::decode(leaf.eax, leaf.ebx, leaf.ecx)
    }

    /// Of the CPU that this runs on.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn of_this_cpu() -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(vendor: &str, family: u32, model: u32) -> Identity {
        CpuInfo { vendor: vendor.to_owned(), family, model, ..CpuInfo::default() }.identify()
    }

    /// Each row of the kernel's table at both its ends, the models on which perf disagrees, and those nobody knows.
    #[test]
    fn generations() {
        for (family, from, to, generation) in MODELS {
            for model in [from, to] {
                assert_eq!(cpu("AuthenticAMD", *family, *model), Identity::Known(*generation), "{family:x} {model:x}");
            }
        }
        assert_eq!(cpu("AuthenticAMD", 0x19, 0x30), Identity::Known(Generation::Zen3));
        assert_eq!(cpu("AuthenticAMD", 0x1a, 0x30), Identity::Unverified(Generation::Zen6));
        assert_eq!(cpu("AuthenticAMD", 0x1b, 0x00), Identity::Unverified(Generation::Zen6));
        assert_eq!(cpu("AuthenticAMD", 0x15, 0x02), Identity::Other);
        assert_eq!(cpu("GenuineIntel", 6, 143), Identity::Other);
    }

    /// The rows do not overlap, or else their order would decide.
    #[test]
    fn models_are_in_one_row() {
        for family in [0x17, 0x19, 0x1a] {
            for model in 0..=0xff {
                let rows = MODELS.iter().filter(|(of, from, to, _)| *of == family && (*from..=*to).contains(&model));
                assert!(rows.count() <= 1, "{family:x} {model:x}");
            }
        }
    }

    /// The value that a Zen 4 server was seen with.
    #[test]
    fn perf_mon_v2() {
        let decoded = PerfMonV2::decode(1, 0x0008_4106, 0xff);
        assert_eq!(decoded, Some(PerfMonV2 { core: 6, lbr: 16, fabric: 16, memory: 8, controllers: 8 }));
        assert_eq!(PerfMonV2::decode(0, 0x0008_4106, 0xff), None);
    }
}
