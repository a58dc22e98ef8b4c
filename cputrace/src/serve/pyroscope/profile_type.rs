//! Profile types: what a source of samples, and the number of it that is looked at, is called here.

use super::Querier;
use super::connect::Error;
use super::messages::{self, ProfileTypesRequest, ProfileTypesResponse};
use super::query;
use crate::export::pprof::{self, proto};
use crate::model::{Aspect, Recording};
use crate::pmu::event::describe;
use crate::store::digest::Sum;

/// Types of the sources that are always there, the one that Grafana chooses first. Units are what Grafana goes by:
/// nanoseconds of `process_cpu` become cores.
const KNOWN: &[(&str, Number, Aspect)] = &[
    ("process_cpu:cpu:nanoseconds:cpu:nanoseconds", Number::Value, Aspect::OnCpu),
    ("process_cpu:samples:count:cpu:nanoseconds", Number::Count, Aspect::OnCpu),
    ("off_cpu:off_cpu:nanoseconds::", Number::Value, Aspect::OffCpu),
    ("runqueue:delay:nanoseconds::", Number::Value, Aspect::RunQueue),
    ("wakers:off_cpu:nanoseconds::", Number::Value, Aspect::Wakers),
];

/// Which number of a sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::serve) enum Number {
    /// How many were added up.
    Count,
    /// Their sum.
    Value,
}

impl Number {
    /// Whether it is how many there were.
    pub(in crate::serve) fn is_count(self) -> bool {
        self == Self::Count
    }

    /// It, of a sum.
    pub(super) fn of(self, sum: Sum) -> u64 {
        match self {
            Self::Count => sum.count,
            Self::Value => sum.value,
        }
    }
}

/// A profile type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::serve) struct ProfileType {
    /// `name:sample type:sample unit:period type:period unit`.
    pub(in crate::serve) id: String,
    /// The store's name for the source.
    pub(in crate::serve) source: String,
    /// What is added up.
    pub(in crate::serve) number: Number,
}

impl ProfileType {
    /// The type with this id; that of a source which is not stored, too.
    pub(super) fn parse(id: &str) -> Result<Self, Error> {
        // Grafana may ask for what it calls deltas: all of ours are.
        let plain = id.strip_suffix(":delta").unwrap_or(id);
        let found = KNOWN.iter().find(|(known, ..)| *known == plain);
        if let Some(&(id, number, aspect)) = found {
            return Ok(Self { id: id.to_owned(), source: aspect.name().to_owned(), number });
        }
        let event = plain.strip_prefix("pmu:").and_then(|rest| rest.split_once(':'));
        let source = event.map(|(event, _)| event.replace('~', ":")).unwrap_or_default();
        let of_event = Self::of_source(&source).into_iter().find(|of_event| of_event.id == plain);
        of_event.ok_or_else(|| Error::invalid(format!("there is no profile type {id:?}; ProfileTypes lists all")))
    }

    /// The types of a source.
    pub(in crate::serve) fn of_source(source: &str) -> Vec<Self> {
        let known = KNOWN.iter().filter(|(.., aspect)| aspect.name() == source);
        let known: Vec<_> =
            known.map(|&(id, number, _)| Self { id: id.to_owned(), source: source.to_owned(), number }).collect();
        if !known.is_empty() {
            return known;
        }
        // An event; colons of its own (`sched:sched_switch`) would be taken for those between the parts.
        let unit = if describe(source).1 == "ns" { "nanoseconds" } else { "count" };
        let id = format!("pmu:{}:{unit}::", source.replace(':', "~"));
        vec![Self { id, source: source.to_owned(), number: Number::Value }]
    }

    /// A part of the id.
    pub(in crate::serve) fn part(&self, part: Part) -> &str {
        self.id.split(':').nth(part as usize).unwrap_or_default()
    }
}

/// The parts of a profile type's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::serve) enum Part {
    Name,
    SampleType,
    SampleUnit,
    PeriodType,
    PeriodUnit,
}

impl From<&ProfileType> for messages::ProfileType {
    fn from(profile_type: &ProfileType) -> Self {
        let part = |part| profile_type.part(part).to_owned();
        Self {
            id: profile_type.id.clone(),
            name: part(Part::Name),
            sample_type: part(Part::SampleType),
            sample_unit: part(Part::SampleUnit),
            period_type: part(Part::PeriodType),
            period_unit: part(Part::PeriodUnit),
        }
    }
}

/// A recording's columns of these types, which are of one source, under their names.
pub(in crate::serve) fn pprof(recording: &Recording, types: &[ProfileType]) -> proto::Profile {
    let mut profile = pprof::message(recording);
    let source = types.first().and_then(|first| recording.profile.source_by_name(&first.source));
    // Two columns a source.
    let first = source.map_or(0, |source| source.index() * 2);
    let columns: Vec<_> = types.iter().map(|each| first + usize::from(each.number == Number::Value)).collect();
    for sample in &mut profile.sample {
        sample.value = columns.iter().filter_map(|&column| sample.value.get(column).copied()).collect();
    }
    profile.sample.retain(|sample| sample.value.iter().any(|value| *value != 0));
    let strings = &mut profile.string_table;
    let mut string = |text: &str| {
        let known = strings.iter().position(|known| known == text);
        known.unwrap_or_else(|| {
            strings.push(text.to_owned());
            strings.len() - 1
        }) as i64
    };
    let mut value_type = |of: &ProfileType, r#type, unit| proto::ValueType {
        r#type: string(of.part(r#type)),
        unit: string(of.part(unit)),
    };
    profile.sample_type = types.iter().map(|each| value_type(each, Part::SampleType, Part::SampleUnit)).collect();
    profile.period_type = types.first().map(|first| value_type(first, Part::PeriodType, Part::PeriodUnit));
    profile.default_sample_type = profile.sample_type.first().map_or(0, |first| first.r#type);
    let period = source.map_or(0, |source| recording.profile.sources()[source.index()].period);
    profile.period = i64::try_from(period).unwrap_or(i64::MAX);
    profile
}

/// The types that a range has samples of.
pub(super) fn list(querier: &Querier, request: &ProfileTypesRequest) -> Result<ProfileTypesResponse, Error> {
    let Some(range) = query::range_or_all(querier, request.start, request.end)? else {
        return Ok(ProfileTypesResponse::default());
    };
    let sources = querier.state.store.sources(range)?;
    let mut types: Vec<_> = sources.keys().flat_map(|source| ProfileType::of_source(source)).collect();
    types.sort_by_key(|listed| {
        (KNOWN.iter().position(|(id, ..)| *id == listed.id).unwrap_or(KNOWN.len()), listed.id.clone())
    });
    Ok(ProfileTypesResponse { profile_types: types.iter().map(Into::into).collect() })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::serve::pyroscope::selector::Selector;

    /// Each type's id leads back to it, and has five parts.
    #[test]
    fn ids_come_back() {
        for source in
            ["on-cpu", "off-cpu", "run-queue", "wakers", "instructions", "task-clock", "sched:sched_switch", "a.b"]
        {
            for profile_type in ProfileType::of_source(source) {
                assert_eq!(ProfileType::parse(&profile_type.id).unwrap(), profile_type);
                assert_eq!(ProfileType::parse(&format!("{}:delta", profile_type.id)).unwrap(), profile_type);
                assert_eq!(profile_type.id.split(':').count(), 5, "{}", profile_type.id);
                // As the name of a selector, as Grafana's variables have it.
                let mut selector = Selector::parse(&format!("{}{{}}", profile_type.id)).unwrap();
                assert_eq!(selector.take_profile_type().as_deref(), Some(&*profile_type.id));
            }
        }
        for id in ["", "process_cpu", "memory:alloc_space:bytes:space:bytes", "pmu:x:bytes::"] {
            assert!(ProfileType::parse(id).is_err(), "{id}");
        }
    }
}
