//! What tagged ops did, for people: loads by where their data was, the functions that waited for it, branches.

use std::collections::{BTreeMap, HashMap};

use super::counters::{grouped, write_wrapped};
use super::summary::{cut, samples_of};
use crate::model::{DataSource, Loads, MappingKind, Ops, Profile};

/// Functions that are listed.
const TOP: usize = 5;

/// The source of the profile that has how long loads took.
const LATENCY: &str = "load-latency";

/// The part of the summary.
pub(super) fn write(out: &mut String, ops: &Ops, profile: &Profile, width: usize) -> std::fmt::Result {
    let Ops { loads, stores, prefetches, branches, mispredicted, others, unread, .. } = ops;
    let mut parts = Vec::new();
    let all_loads: u64 = loads.values().map(|loads| loads.count).sum();
    if all_loads > 0 {
        let places = loads.iter().map(|(source, loads)| place(*source, loads, all_loads));
        parts.push(format!("{} loads ({})", grouped(all_loads), places.collect::<Vec<_>>().join(", ")));
    }
    for (counts, what) in [(stores, "stores"), (prefetches, "prefetches")] {
        parts.extend(places(counts, what));
    }
    if *branches > 0 {
        let percent = percent(*mispredicted, *branches);
        parts.push(format!("{} branches ({percent} mispredicted)", grouped(*branches)));
    }
    for (count, what) in [(others, "other ops"), (unread, "of which the kernel handed on nothing")] {
        if *count > 0 {
            parts.push(format!("{} {what}", grouped(*count)));
        }
    }
    if !parts.is_empty() {
        write_wrapped(out, "ops      ", "", &parts, width)?;
    }
    if ops.translated > 0 {
        let mut parts = vec![
            format!(
                "{} of {} addresses not in the first TLB but the second",
                percent(ops.second_tlb, ops.translated),
                grouped(ops.translated)
            ),
            format!("{} in neither", percent(ops.walks, ops.translated)),
        ];
        if ops.walks > 0 {
            parts[1] += &format!(" (walks of {:.0} cycles)", ops.walk_cycles as f64 / ops.walks as f64);
        }
        write_wrapped(out, "tlb      ", "", &parts, width)?;
    }
    write_latency(out, profile, width)
}

/// The functions whose loads took the longest, all together.
fn write_latency(out: &mut String, profile: &Profile, width: usize) -> std::fmt::Result {
    let mut functions: HashMap<String, u64> = HashMap::new();
    let mut all = 0_u64;
    for sample in samples_of(profile, LATENCY) {
        let leaf = profile.frames(sample.stack).find(|location| {
            let mapping = profile.locations()[location.index()].mapping;
            profile.mappings()[mapping.index()].kind != MappingKind::Label
        });
        let name = leaf.and_then(|location| profile.function_names(location).into_iter().next());
        let cycles = functions.entry(name.unwrap_or_else(|| "[no stack]".to_owned())).or_default();
        *cycles = cycles.saturating_add(sample.value);
        all = all.saturating_add(sample.value);
    }
    let mut rows: Vec<_> = functions.into_iter().collect();
    rows.sort_by(|(a_name, a), (b_name, b)| (b, a_name).cmp(&(a, b_name)));
    let parts = rows.iter().take(TOP).map(|(name, cycles)| format!("{} in {}", percent(*cycles, all), cut(name, 40)));
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { Ok(()) } else { write_wrapped(out, "loads    ", "waited for:", &parts, width) }
}

fn places(counts: &BTreeMap<DataSource, u64>, what: &str) -> Option<String> {
    let all: u64 = counts.values().sum();
    let places = counts.iter().map(|(source, count)| format!("{} {}", percent(*count, all), source.name()));
    (all > 0).then(|| format!("{} {what} ({})", grouped(all), places.collect::<Vec<_>>().join(", ")))
}

fn place(source: DataSource, loads: &Loads, all: u64) -> String {
    let Loads { count, timed, cycles, .. } = *loads;
    let share = format!("{} {}", percent(count, all), source.name());
    if timed == 0 { share } else { format!("{share} after {:.0} cycles", cycles as f64 / timed as f64) }
}

fn percent(part: u64, all: u64) -> String {
    let percent = 100.0 * part as f64 / all.max(1) as f64;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Branch, MemoryOp, Op, Tlb};

    /// Every kind of op once, and one of which nothing is known.
    #[test]
    fn one_of_each() {
        let memory = |access, source, latency_cycles, tlb| MemoryOp {
            access,
            source,
            latency_cycles,
            tlb,
            locked: false,
            linear: None,
            physical: None,
        };
        let mut ops = Ops::default();
        for memory in [
            memory(Access::Load, DataSource::L1, None, Some(Tlb::L1)),
            memory(Access::Load, DataSource::L3, Some(60), Some(Tlb::L2 { cycles: 9 })),
            memory(Access::Load, DataSource::L3, Some(40), None),
            memory(Access::Load, DataSource::Memory, Some(400), Some(Tlb::Walk { cycles: 30 })),
            memory(Access::Store, DataSource::L2, None, Some(Tlb::L1)),
        ] {
            ops.add(Some(&Op { memory: Some(memory), branch: None }));
        }
        ops.add(Some(&Op { memory: None, branch: Some(Branch { mispredicted: true }) }));
        ops.add(Some(&Op { memory: None, branch: None }));
        ops.add(None);
        let mut out = String::new();
        assert!(write(&mut out, &ops, &Profile::new(), 200).is_ok());
        let expected = "ops       4 loads (25 % L1, 50 % L3 after 50 cycles, 25 % memory after 400 cycles), 1 stores (100 % \
                        L2), 1 branches (100 % mispredicted), 1 other ops, 1 of which the kernel handed on nothing\n\
                        tlb       25 % of 4 addresses not in the first TLB but the second, 25 % in neither (walks of 30 \
                        cycles)\n";
        assert_eq!(out, expected);
    }
}
