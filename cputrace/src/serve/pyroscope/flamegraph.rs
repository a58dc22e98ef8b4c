//! Flame graphs as Pyroscope has them, of a range and of two, and profiles as pprof.
//!
//! A flame graph is a list of levels, each a list of bars from left to right: where it begins, as the distance from the end of
//! the bar before it in the level; its total; its self; its name. A bar's children begin where its self ends. Readers take the
//! first bar's place as its name, so name 0 has to be the root's. A bar of two sides has the first three numbers twice.

use std::collections::HashMap;

use super::Querier;
use super::connect::Error;
use super::messages::{
    DiffRequest, DiffResponse, FlameGraph, FlameGraphDiff, Level, PprofProfile, SelectMergeProfileRequest,
    SelectMergeStacktracesRequest, SelectMergeStacktracesResponse, format,
};
use super::profile_type;
use super::query::{self, Query};
use crate::analyze::tree::{Row, Tree};
use crate::export::pprof::proto;
use crate::serve::api;
use crate::store::windows::Range;

/// Bars of a flame graph, where a request does not say how many.
const DEFAULT_NODES: usize = 8192;

/// As many as a request may ask for.
const MAX_NODES: usize = 1 << 20;

/// A flame graph that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) query: Query,
    pub(super) range: Range,
    max_nodes: usize,
}

impl Wanted {
    /// Of a request.
    pub(super) fn new(request: &SelectMergeStacktracesRequest) -> Result<Self, Error> {
        check_ids(&[&request.profile_id_selector, &request.trace_id_selector, &request.span_selector])?;
        let (id, selector) = (&request.profile_type_id, &request.label_selector);
        Ok(Self {
            query: Query::new(id, selector, request.stack_trace_selector.as_ref())?,
            range: query::range(request.start, request.end)?,
            max_nodes: max_nodes(request.max_nodes)?,
        })
    }

    /// Adds what was sampled to a side of a tree.
    fn add_to(&self, tree: &mut Tree, querier: &Querier, side: usize) -> Result<(), Error> {
        let profile = self.query.merge(querier, self.range)?.digest.into_profile();
        tree.add(&profile, &self.query.weights(&profile), side);
        Ok(())
    }

    fn pprof(&self, querier: &Querier) -> Result<proto::Profile, Error> {
        let Self { query, range, .. } = self;
        let recording = api::recording(query.merge(querier, *range)?, *range);
        Ok(profile_type::pprof(&recording, std::slice::from_ref(&query.profile_type)))
    }
}

/// Samples here have no ids of profiles, traces and spans.
fn check_ids(ids: &[&Vec<String>]) -> Result<(), Error> {
    match ids.iter().all(|ids| ids.is_empty()) {
        true => Ok(()),
        false => Err(Error::unimplemented(
            "samples of cputrace have no ids of profiles, traces or spans: leave these selectors out",
        )),
    }
}

fn max_nodes(asked: Option<i64>) -> Result<usize, Error> {
    match asked.unwrap_or(0) {
        0 => Ok(DEFAULT_NODES),
        nodes if nodes < 0 => Ok(MAX_NODES),
        nodes => match usize::try_from(nodes) {
            Ok(nodes) if nodes <= MAX_NODES => Ok(nodes),
            _ => Err(Error::invalid(format!("max_nodes is {nodes}, and may be up to {MAX_NODES}"))),
        },
    }
}

/// A range's stacks: as a flame graph, or as pprof where that is asked for.
pub(super) fn select(
    querier: &Querier,
    request: &SelectMergeStacktracesRequest,
) -> Result<SelectMergeStacktracesResponse, Error> {
    let wanted = Wanted::new(request)?;
    match request.format {
        format::UNSPECIFIED | format::FLAMEGRAPH => {
            Ok(SelectMergeStacktracesResponse { flamegraph: of_range(querier, &wanted)?, pprof: None })
        }
        format::PPROF => {
            let pprof = PprofProfile { profile: Some(wanted.pprof(querier)?) };
            Ok(SelectMergeStacktracesResponse { flamegraph: None, pprof: Some(pprof) })
        }
        other => Err(Error::unimplemented(format!(
            "format {other} is not supported: ask for PROFILE_FORMAT_FLAMEGRAPH (1) or PROFILE_FORMAT_PPROF (4)"
        ))),
    }
}

/// The flame graph, unless there is nothing.
pub(super) fn of_range(querier: &Querier, wanted: &Wanted) -> Result<Option<FlameGraph>, Error> {
    let mut tree = Tree::new();
    wanted.add_to(&mut tree, querier, 0)?;
    let [total, _] = tree.total();
    if total == 0 {
        return Ok(None);
    }
    let Bars { names, levels, max_self } = bars(&mut tree, wanted.max_nodes, 1);
    Ok(Some(FlameGraph { names, levels, total: signed(total), max_self }))
}

/// Two ranges in one.
pub(super) fn diff(querier: &Querier, request: &DiffRequest) -> Result<DiffResponse, Error> {
    let side = |side: &Option<SelectMergeStacktracesRequest>, name| match side {
        Some(request) => Wanted::new(request),
        None => Err(Error::invalid(format!("there is no {name} side"))),
    };
    let (left, right) = (side(&request.left, "left")?, side(&request.right, "right")?);
    Ok(DiffResponse { flamegraph: Some(of_two(querier, [&left, &right])?) })
}

/// The flame graph of two sides.
pub(super) fn of_two(querier: &Querier, sides: [&Wanted; 2]) -> Result<FlameGraphDiff, Error> {
    let [left, right] = sides.map(|side| &side.query.profile_type.id);
    if left != right {
        return Err(Error::invalid(format!("{left} and {right} cannot be compared: give both sides one profile type")));
    }
    let mut tree = Tree::new();
    for (side, wanted) in sides.into_iter().enumerate() {
        wanted.add_to(&mut tree, querier, side)?;
    }
    let [left_ticks, right_ticks] = tree.total().map(signed);
    let Bars { names, levels, max_self } = bars(&mut tree, sides[0].max_nodes.max(sides[1].max_nodes), 2);
    let total = left_ticks.saturating_add(right_ticks);
    Ok(FlameGraphDiff { names, levels, total, max_self, left_ticks, right_ticks })
}

/// A tree, level by level.
struct Bars {
    names: Vec<String>,
    levels: Vec<Level>,
    max_self: i64,
}

/// The widest nodes of a tree with this many sides.
fn bars(tree: &mut Tree, max_nodes: usize, sides: usize) -> Bars {
    /// Of a level, on each side: where the next bar begins, and where the one before it ended.
    #[derive(Clone, Copy, Default)]
    struct Place {
        next: i64,
        end: i64,
    }
    let rows = tree.rows(max_nodes);
    let mut bars = Bars { names: Vec::new(), levels: Vec::new(), max_self: 0 };
    let mut name_ids: HashMap<u32, i64> = HashMap::new();
    let mut places: Vec<[Place; 2]> = vec![[Place::default(); 2]];
    for Row { level, name, total, own } in rows {
        let level = level as usize;
        if level == bars.levels.len() {
            bars.levels.push(Level::default());
            places.push([Place::default(); 2]);
        }
        let values = &mut bars.levels[level].values;
        for side in 0..sides {
            let (total, own) = (signed(total[side]), signed(own[side]));
            let Place { next, end } = places[level][side];
            values.extend([next.saturating_sub(end), total, own]);
            places[level][side] = Place { next: next.saturating_add(total), end: next.saturating_add(total) };
            places[level + 1][side].next = next.saturating_add(own);
            bars.max_self = bars.max_self.max(own);
        }
        let names = &mut bars.names;
        values.push(*name_ids.entry(name).or_insert_with(|| {
            names.push(tree.names()[name as usize].clone());
            names.len() as i64 - 1
        }));
    }
    bars
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A range's stacks as pprof.
pub(super) fn pprof(querier: &Querier, request: &SelectMergeProfileRequest) -> Result<proto::Profile, Error> {
    let SelectMergeProfileRequest { profile_type_id, label_selector, start, end, .. } = request.clone();
    let request = SelectMergeStacktracesRequest {
        profile_type_id,
        label_selector,
        start,
        end,
        stack_trace_selector: request.stack_trace_selector.clone(),
        profile_id_selector: request.profile_id_selector.clone(),
        trace_id_selector: request.trace_id_selector.clone(),
        ..SelectMergeStacktracesRequest::default()
    };
    Wanted::new(&request)?.pprof(querier)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Function, Mapping, MappingKind, Profile, StackId, Weight};

    type Stacks = Vec<(String, u64)>;

    /// A tree of stacks of letters, root first.
    fn add(tree: &mut Tree, side: usize, stacks: &[(String, u64)]) {
        let mut profile = Profile::new();
        let path = profile.string("/bin/x");
        let mapping = profile.mapping(Mapping { kind: MappingKind::File, path, build_id: None });
        let process = profile.process(1, "p");
        let thread = profile.thread(process, 1, "t");
        let weights: Vec<_> = stacks
            .iter()
            .map(|(letters, weight)| {
                let mut stack: Option<StackId> = None;
                for letter in letters.chars() {
                    let name = profile.string(&letter.to_string());
                    let function = profile.function(Function { name, system_name: name, file: path, start_line: 0 });
                    let location = profile.function_location(mapping, function);
                    stack = Some(profile.stack(stack, location));
                }
                Weight { thread, stack, count: *weight, weight: *weight }
            })
            .collect();
        tree.add(&profile, &weights, side);
    }

    /// Stacks of one side of a flame graph with their selfs, read as Grafana does: a bar's parent is that of the level above
    /// in whose stretch it begins.
    fn stacks(bars: &Bars, side: usize, sides: usize) -> std::collections::BTreeMap<String, i64> {
        struct Bar {
            from: i64,
            to: i64,
            own: i64,
            path: String,
        }
        let mut all = std::collections::BTreeMap::new();
        let mut above: Vec<Bar> = Vec::new();
        for (depth, Level { values }) in bars.levels.iter().enumerate() {
            assert!(!values.is_empty() && values.len() % (3 * sides + 1) == 0);
            let mut end = 0;
            let mut level = Vec::new();
            for bar in values.chunks(3 * sides + 1) {
                let [gap, total, own] = [bar[side * 3], bar[side * 3 + 1], bar[side * 3 + 2]];
                let name = &bars.names[usize::try_from(bar[3 * sides]).unwrap_or(usize::MAX)];
                let (from, to) = (end + gap, end + gap + total);
                assert!(gap >= 0 && own >= 0 && own <= total);
                end = to;
                if depth == 0 {
                    level.push(Bar { from, to, own, path: String::new() });
                } else if total > 0 {
                    let parent = above.iter().find(|parent| from >= parent.from && from < parent.to);
                    let parent = parent.unwrap_or_else(|| panic!("{name} has no parent"));
                    assert!(to <= parent.to && from >= parent.from + parent.own);
                    level.push(Bar { from, to, own, path: format!("{}{name}", parent.path) });
                }
            }
            for bar in &level {
                if bar.own > 0 {
                    *all.entry(bar.path.clone()).or_insert(0) += bar.own;
                }
            }
            above = level;
        }
        all
    }

    fn sums(stacks: &Stacks) -> std::collections::BTreeMap<String, i64> {
        let mut sums = std::collections::BTreeMap::new();
        for (stack, weight) in stacks {
            *sums.entry(stack.clone()).or_insert(0) += signed(*weight);
        }
        sums
    }

    proptest! {
        /// Whatever the tree, a reader finds it in the levels; with fewer nodes the sum stays.
        #[test]
        fn levels_are_the_tree(
            left in prop::collection::vec(("[abc]{0,6}", 1_u64..100), 1..40),
            right in prop::collection::vec(("[abc]{0,6}", 1_u64..100), 0..40),
            max_nodes in 1_usize..50,
        ) {
            let mut tree = Tree::new();
            add(&mut tree, 0, &left);
            let all = bars(&mut tree, 1 << 20, 1);
            prop_assert_eq!(stacks(&all, 0, 1), sums(&left));
            prop_assert_eq!(&all.names[0], "total");
            prop_assert_eq!(&all.levels[0].values[..2], &[0, signed(tree.total()[0])]);
            let few = bars(&mut tree, max_nodes, 1);
            prop_assert_eq!(stacks(&few, 0, 1).values().sum::<i64>(), signed(tree.total()[0]));
            prop_assert!(few.levels.iter().map(|level| level.values.len() / 4).sum::<usize>() <= 2 * max_nodes);
            add(&mut tree, 1, &right);
            let both = bars(&mut tree, 1 << 20, 2);
            prop_assert_eq!(stacks(&both, 0, 2), sums(&left));
            prop_assert_eq!(stacks(&both, 1, 2), sums(&right));
        }
    }
}
