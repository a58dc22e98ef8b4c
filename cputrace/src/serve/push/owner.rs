//! Whose profiles a window has: a profile for each group, container, pod and unit, and for each kind of samples.

use std::collections::{BTreeMap, BTreeSet};

use super::Window;
use crate::export::pprof::proto;
use crate::serve::api;
use crate::serve::pyroscope::profile_type::{self, ProfileType};
use crate::store::digest::{Detail, Digest, Member};
use crate::store::windows::{Merged, WindowFacts};

/// Whose samples: what receivers tell them apart by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Owner {
    pub(super) group: String,
    pub(super) container: String,
    pub(super) pod: String,
    pub(super) unit: String,
}

impl Owner {
    fn of(member: &Member<'_>) -> Self {
        let Member { group, container, pod, unit, .. } = member;
        let [group, container, pod, unit] = [group, container, pod, unit].map(|text| (*text).to_owned());
        Self { group, container, pod, unit }
    }
}

/// A profile of an owner's samples of one source, without their threads: stacks and their sums.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    /// The types of its columns.
    pub(super) types: Vec<ProfileType>,
    pub(super) profile: proto::Profile,
}

/// All profiles of a window, by owner.
pub(super) fn profiles(window: &Window) -> Vec<(Owner, Vec<Owned>)> {
    let mut owners: BTreeMap<Owner, BTreeSet<String>> = BTreeMap::new();
    for (source, member, _) in window.digest.totals() {
        owners.entry(Owner::of(&member)).or_default().insert(source.to_owned());
    }
    let owners = owners.into_iter().map(|(owner, sources)| {
        let profiles = sources.iter().map(|source| {
            let mut digest = Digest::new();
            let keep = |of: &str, member: &Member<'_>| of == source && Owner::of(member) == owner;
            digest.merge(&window.digest, Detail::Name, &keep);
            let recording =
                api::recording(Merged { digest, facts: WindowFacts::default(), read: 1, damaged: 0 }, window.range);
            let types = ProfileType::of_source(source);
            let mut profile = profile_type::pprof(&recording, &types);
            profile.sample = by_stack(&profile.sample);
            // It says how samples of the store were merged, which these were not.
            profile.comment.clear();
            Owned { types, profile }
        });
        let profiles = profiles.collect();
        (owner, profiles)
    });
    owners.collect()
}

/// Equal stacks added up.
fn by_stack(samples: &[proto::Sample]) -> Vec<proto::Sample> {
    let mut sums: BTreeMap<&[u64], Vec<i64>> = BTreeMap::new();
    for sample in samples {
        let sum = sums.entry(&sample.location_id).or_insert_with(|| vec![0; sample.value.len()]);
        for (sum, value) in sum.iter_mut().zip(&sample.value) {
            *sum = sum.saturating_add(*value);
        }
    }
    let samples = sums.into_iter().map(|(location_id, value)| proto::Sample {
        location_id: location_id.to_vec(),
        value,
        label: Vec::new(),
    });
    samples.collect()
}
