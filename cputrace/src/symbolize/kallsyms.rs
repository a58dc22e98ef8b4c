//! Names of kernel addresses: the kernel's own functions, its modules' and BPF programs.
//!
//! The kernel tells them one by one where it is asked by a program. Where it cannot be, they are in `/proc/kallsyms`: to read
//! that takes longer than all else that a window does, so it is read as a whole, into 3 MB, and kept for the next window. No
//! vmlinux is read: its debug information takes hundreds of megabytes.

use std::io::{self, BufRead};
use std::ops::Range;

use crate::model::UnknownReason;

/// The list has no sizes: a symbol ends where the next one begins, but no function is longer than this. What lies
/// farther behind one is memory that the list does not know, such as a module's that was unloaded since.
const MAX_FUNCTION_BYTES: u64 = 1 << 20;

/// The module that the list has eBPF programs in.
pub(super) const BPF: &str = "bpf";

/// Names of eBPF programs begin with this, and go on with a hash of their code.
const EBPF_PROGRAM: &str = "bpf_prog_";

/// A function of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KernelFunction {
    /// Name as in the symbol table.
    pub(super) symbol: String,
    /// The module that it belongs to, `bpf` for a BPF program; empty for the kernel itself.
    pub(super) module: String,
    /// Its addresses: up to the next symbol.
    pub(super) extent: Range<u64>,
}

impl KernelFunction {
    /// From what the kernel's `%pS` prints for an address: `NAME+0xOFFSET/0xSIZE [MODULE]`. `None` if it is nothing but the
    /// address: no function is there.
    pub(super) fn parse(text: &str, address: u64) -> Option<Self> {
        let (place, module) = match text.split_once(' ') {
            Some((place, module)) => (place, module.strip_prefix('[')?.strip_suffix(']')?),
            None => (text, ""),
        };
        let (symbol, numbers) = place.rsplit_once('+')?;
        let (offset, size) = numbers.split_once('/')?;
        let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        let (offset, size) = (number(offset)?, number(size)?.min(MAX_FUNCTION_BYTES));
        let start = address.checked_sub(offset)?;
        // The list says of eBPF programs what they are; here only their names do.
        let module = if module.is_empty() && is_ebpf(symbol) { BPF } else { module };
        let extent = start..start.saturating_add(size);
        extent.contains(&address).then(|| Self { symbol: symbol.to_owned(), module: module.to_owned(), extent })
    }

    /// The name as the kernel prints it in its own stack traces.
    pub(super) fn name(&self) -> String {
        let Self { symbol, module, extent: _ } = self;
        if module.is_empty() { symbol.clone() } else { format!("{symbol} [{module}]") }
    }
}

/// All functions of the kernel as they were at a moment.
#[derive(Debug)]
pub(super) struct KernelSymbols {
    /// By address.
    functions: Vec<Row>,
    /// Names, and in brackets behind them modules, each as long as its row says.
    texts: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    address: u64,
    /// No function is longer than [`MAX_FUNCTION_BYTES`].
    bytes: u32,
    text: u32,
    name_bytes: u16,
    module_bytes: u16,
}

impl KernelSymbols {
    /// The error is that the kernel does not tell.
    pub(super) fn read(mut kallsyms: impl BufRead) -> Result<Self, UnknownReason> {
        // Code and, without a name, all else: a function ends where something begins.
        let mut rows: Vec<Row> = Vec::new();
        let mut texts = Vec::new();
        let mut hidden = true;
        let mut line = Vec::new();
        while read_line(&mut kallsyms, &mut line).map_err(|_| UnknownReason::KernelRestricted)? {
            let Some(Symbol { address, is_code, name, module }) = Symbol::parse(&line) else { continue };
            hidden &= address == 0;
            let length = |text: &[u8]| if is_code { u16::try_from(text.len()).unwrap_or(0) } else { 0 };
            let (name_bytes, module_bytes) = (length(name), length(module));
            let text = u32::try_from(texts.len()).map_err(|_| UnknownReason::KernelRestricted)?;
            texts.extend_from_slice(&name[..name_bytes.into()]);
            texts.extend_from_slice(&module[..module_bytes.into()]);
            rows.push(Row { address, bytes: 0, text, name_bytes, module_bytes });
        }
        if hidden {
            return Err(UnknownReason::KernelRestricted);
        }
        // Of several at one address the first one of code counts.
        rows.sort_by_key(|row| (row.address, row.name_bytes == 0));
        rows.dedup_by_key(|row| row.address);
        for index in 0..rows.len() {
            let next = rows.get(index + 1).map_or(u64::MAX, |next| next.address);
            rows[index].bytes = (next - rows[index].address).min(MAX_FUNCTION_BYTES) as u32;
        }
        rows.retain(|row| row.name_bytes > 0);
        rows.shrink_to_fit();
        texts.shrink_to_fit();
        Ok(Self { functions: rows, texts })
    }

    /// The function at an address.
    pub(super) fn find(&self, address: u64) -> Option<KernelFunction> {
        let behind = self.functions.partition_point(|row| row.address <= address);
        let Row { address: start, bytes, text, name_bytes, module_bytes } =
            *self.functions.get(behind.checked_sub(1)?)?;
        let extent = start..start.saturating_add(bytes.into());
        let (name, rest) = self.texts.get(text as usize..)?.split_at_checked(name_bytes.into())?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (symbol, module) = (text(name), text(rest.get(..module_bytes.into())?));
        extent.contains(&address).then_some(KernelFunction { symbol, module, extent })
    }
}

/// Whether a symbol is an eBPF program's, or the kernel's way to one: `bpf_prog_HASH_NAME`, `bpf_trampoline_NUMBER`.
fn is_ebpf(symbol: &str) -> bool {
    let hash = symbol.strip_prefix(EBPF_PROGRAM).and_then(|rest| rest.get(..16));
    let number = symbol.strip_prefix("bpf_trampoline_");
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hash.is_some_and(digits) || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn read_line(kallsyms: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(kallsyms.read_until(b'\n', line)? > 0)
}

/// A line: `ADDRESS TYPE NAME`, then a tab and `[MODULE]` where there is one.
struct Symbol<'a> {
    address: u64,
    is_code: bool,
    name: &'a [u8],
    module: &'a [u8],
}

impl<'a> Symbol<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let address = u64::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok()?;
        let is_code = matches!(words.next()?, b"t" | b"T" | b"w" | b"W");
        let name = words.next()?;
        let module = words.next().and_then(|word| word.strip_prefix(b"[")?.strip_suffix(b"]"));
        Some(Self { address, is_code, name, module: module.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs::File;
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    const LIST: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 R not_code
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000100 t helper
ffffffff82000000 D jiffies
ffffffffc0201000 t nft_do_chain\t[nf_tables]
ffffffffc0201800 t bpf_prog_6deef7357e7b4530_tick\t[bpf]
nonsense
";

    fn look_up(list: impl BufRead, addresses: &[u64]) -> Result<Vec<Option<KernelFunction>>, UnknownReason> {
        let symbols = KernelSymbols::read(list)?;
        Ok(addresses.iter().map(|address| symbols.find(*address)).collect())
    }

    fn names(list: &str, addresses: &[u64]) -> Result<Vec<Option<String>>, UnknownReason> {
        Ok(look_up(list.as_bytes(), addresses)?.into_iter().map(|found| Some(found?.name())).collect())
    }

    /// Addresses have the name of the code before them; what lies behind data or far from everything has none.
    #[test]
    fn finds_names() {
        let check = |address: u64, expected: &str| {
            let found = names(LIST, &[address]).unwrap().remove(0);
            assert_eq!(found.as_deref().unwrap_or("?"), expected, "{address:#x}");
        };
        check(0x1000, "?");
        check(0xffff_ffff_8100_0000, "_text");
        check(0xffff_ffff_8100_00ff, "_text");
        check(0xffff_ffff_8100_0100, "helper");
        check(0xffff_ffff_8120_0100, "?");
        check(0xffff_ffff_8200_0004, "?");
        check(0xffff_ffff_c020_1001, "nft_do_chain [nf_tables]");
        check(0xffff_ffff_c020_1801, "bpf_prog_6deef7357e7b4530_tick [bpf]");
        check(0xffff_ffff_c060_0000, "?");
    }

    /// What the kernel prints, and what it means for an address.
    #[test]
    fn reads_what_the_kernel_prints() {
        let check = |text: &str, address: u64, expected: Option<(&str, Range<u64>)>| {
            let found = KernelFunction::parse(text, address).map(|function| (function.name(), function.extent));
            assert_eq!(found, expected.map(|(name, extent)| (name.to_owned(), extent)), "{text}");
        };
        check("vfs_read+0x1a/0x60", 0x101a, Some(("vfs_read", 0x1000..0x1060)));
        check("nft_do_chain+0x0/0x20 [nf_tables]", 0x1000, Some(("nft_do_chain [nf_tables]", 0x1000..0x1020)));
        check(
            "bpf_prog_6deef7357e7b4530_tick+0x1/0x8",
            0x1001,
            Some(("bpf_prog_6deef7357e7b4530_tick [bpf]", 0x1000..0x1008)),
        );
        check("bpf_trampoline_6442523+0x1/0x8", 0x1001, Some(("bpf_trampoline_6442523 [bpf]", 0x1000..0x1008)));
        check("bpf_prog_get_type_dev+0x1/0x8", 0x1001, Some(("bpf_prog_get_type_dev", 0x1000..0x1008)));
        check("huge+0x0/0x4000000", 0x1000, Some(("huge", 0x1000..0x1000 + MAX_FUNCTION_BYTES)));
        check("huge+0x3000000/0x4000000", 0x3001000, None);
        for nothing in ["0xffffffffc0201000", "", "+0x/0x", "a+0x2000/0x3000", "a+0x0/0x0", "a+1/2", "a+0x0/0x9 b"] {
            check(nothing, 0x1000, None);
        }
    }

    /// With `kptr_restrict` all addresses are 0: that is the reason, whatever is asked for.
    #[test]
    fn hidden_addresses_are_said() {
        let hidden = "0000000000000000 T _text\n0000000000000000 t helper\n";
        assert_eq!(names(hidden, &[0xffff_ffff_8100_0000]), Err(UnknownReason::KernelRestricted));
        assert_eq!(names("", &[1]), Err(UnknownReason::KernelRestricted));
    }

    proptest! {
        /// Many at once, from a list in any order, are found as one by one from a sorted list.
        #[test]
        fn order_does_not_matter(
            mut starts in proptest::collection::vec((1_u64..5000, 0..3_usize), 1..40),
            mut addresses in proptest::collection::vec(0_u64..6000, 1..40),
        ) {
            addresses.sort_unstable();
            let line = |&(start, kind): &(u64, usize)| format!("{start:016x} {} s{start}_{kind}\n", ["t", "T", "d"][kind]);
            let list: String = starts.iter().map(line).collect();
            let found = names(&list, &addresses).unwrap();
            // A stable sort: of several at one address the first stays the first, but code comes before data.
            starts.sort_by_key(|&(start, kind)| (start, kind == 2));
            let extents = look_up(list.as_bytes(), &addresses).unwrap();
            for ((address, found), function) in addresses.iter().zip(found).zip(extents) {
                let next = starts.iter().map(|(start, _)| *start).find(|start| start > address);
                if let Some(KernelFunction { extent, .. }) = function {
                    prop_assert!(extent.contains(address));
                    prop_assert!(next.is_none_or(|next| extent.end == next));
                }
                let closest = starts.iter().rev().find(|(start, _)| start <= address).map(|(start, _)| *start);
                let expected = closest.and_then(|closest| starts.iter().find(|(start, _)| *start == closest));
                let expected = expected.filter(|(_, kind)| *kind != 2).map(|(start, kind)| format!("s{start}_{kind}"));
                prop_assert_eq!(found, expected);
            }
        }
    }

    /// This kernel's own list: each of its functions is found at its address and in its middle.
    #[test]
    fn finds_this_kernels_functions() {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap();
        let mut code: Vec<(u64, &str)> = Vec::new();
        let mut all = Vec::new();
        for symbol in text.lines().filter_map(|line| Symbol::parse(line.as_bytes())) {
            all.push(symbol.address);
            if symbol.is_code {
                code.push((symbol.address, std::str::from_utf8(symbol.name).unwrap()));
            }
        }
        if all.iter().all(|address| *address == 0) {
            eprintln!("SKIPPED: the kernel hides its symbols here");
            return;
        }
        all.sort_unstable();
        code.sort_unstable();
        let middles: Vec<(u64, u64)> = code
            .iter()
            .step_by(50)
            .filter_map(|&(start, _)| {
                let next = all[all.partition_point(|address| *address <= start)..].first()?;
                (*next < start + MAX_FUNCTION_BYTES).then(|| (start, start + (next - start) / 2))
            })
            .collect();
        let addresses: Vec<u64> = middles.iter().map(|(_, middle)| *middle).collect();
        let found = look_up(BufReader::new(File::open("/proc/kallsyms").unwrap()), &addresses).unwrap();
        assert!(addresses.len() > 1000);
        for ((start, middle), found) in middles.into_iter().zip(found) {
            let found = found.unwrap();
            assert!(code.binary_search(&(start, &*found.symbol)).is_ok(), "{middle:#x}: {found:?}");
        }
    }
}
