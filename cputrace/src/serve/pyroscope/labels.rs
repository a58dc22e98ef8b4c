//! Labels: what samples are told apart by.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use super::Querier;
use super::connect::Error;
use super::messages::{
    LabelNamesRequest, LabelPair, LabelValuesRequest, Labels, NamesResponse, SeriesRequest, SeriesResponse,
};
use super::profile_type::{Part, ProfileType};
use super::query;
use super::selector::{PROFILE_TYPE, Selector};
use crate::store::digest::Member;

/// The label of the process id.
pub(super) const PID: &str = "pid";

/// Label sets of one answer.
const MAX_SERIES: usize = 20_000;

/// All labels, in order.
const NAMES: &[&str] = &[
    "__name__",
    "__period_type__",
    "__period_unit__",
    PROFILE_TYPE,
    "__type__",
    "__unit__",
    "cgroup",
    "comm",
    "container",
    "hostname",
    PID,
    "pod",
    "service_name",
    "threadname",
    "unit",
];

/// Whose samples of which type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) profile_type: &'a ProfileType,
    pub(super) hostname: &'a str,
    pub(super) member: &'a Member<'a>,
}

impl<'a> Subject<'a> {
    /// A label's value; empty where there is none.
    pub(super) fn label(&self, name: &str) -> Cow<'a, str> {
        let Self { profile_type, hostname, member } = *self;
        Cow::Borrowed(match name {
            PROFILE_TYPE => &profile_type.id,
            "__name__" => profile_type.part(Part::Name),
            "__type__" => profile_type.part(Part::SampleType),
            "__unit__" => profile_type.part(Part::SampleUnit),
            "__period_type__" => profile_type.part(Part::PeriodType),
            "__period_unit__" => profile_type.part(Part::PeriodUnit),
            "service_name" => member.group,
            "hostname" => hostname,
            "comm" => member.process,
            "threadname" => member.thread,
            "cgroup" => member.cgroup,
            "container" => member.container,
            "pod" => member.pod,
            "unit" => member.unit,
            PID if member.pid != 0 => return Cow::Owned(member.pid.to_string()),
            _ => "",
        })
    }

    /// The labels of these names that have a value.
    pub(super) fn labels<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<LabelPair> {
        let pairs = names.into_iter().map(|name| (name, self.label(name)));
        let pairs = pairs.filter(|(_, value)| !value.is_empty());
        pairs.map(|(name, value)| LabelPair { name: name.to_owned(), value: value.into_owned() }).collect()
    }
}

/// Whether the groups' sums are enough to know a label.
pub(super) fn is_of_group(label: &str) -> bool {
    // What there is not is empty for everyone.
    label.starts_with("__") || matches!(label, "service_name" | "hostname") || !NAMES.contains(&label)
}

/// A group, of which nothing else is known.
pub(super) fn of_group(group: &str) -> Member<'_> {
    Member { group, process: "", thread: "", cgroup: "", unit: "", container: "", pod: "", pid: 0 }
}

/// Calls back with everyone who has samples in a range and whom one of the selectors wants (all, if there is none); some more
/// than once. `wanted`: labels that are looked at.
fn each(
    querier: &Querier,
    (start, end): (i64, i64),
    selectors: &[String],
    wanted: &[&str],
    visit: &mut dyn FnMut(&Subject<'_>),
) -> Result<(), Error> {
    let selectors: Vec<Selector> = selectors.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>()?;
    let Some(range) = query::range_or_all(querier, start, end)? else { return Ok(()) };
    let mut visit = |profile_type: &ProfileType, member: &Member<'_>| {
        let subject = Subject { profile_type, hostname: &querier.hostname, member };
        if selectors.is_empty() || selectors.iter().any(|selector| selector.matches(|label| subject.label(label))) {
            visit(&subject);
        }
    };
    let asked = || selectors.iter().flat_map(Selector::labels).chain(wanted.iter().copied());
    if asked().all(is_of_group) {
        for (source, groups) in querier.state.store.sources(range)? {
            for profile_type in ProfileType::of_source(&source) {
                groups.iter().for_each(|group| visit(&profile_type, &of_group(group)));
            }
        }
        return Ok(());
    }
    let needs_ids = asked().any(|label| label == PID);
    if needs_ids {
        query::check_finest(querier, range)?;
    }
    let resolution = if needs_ids { Duration::ZERO } else { Duration::MAX };
    let mut types: Vec<(String, Vec<ProfileType>)> = Vec::new();
    query::each_total(querier, range, resolution, &mut |_, source, member, _| {
        let row = types.iter().position(|(known, _)| known == source).unwrap_or_else(|| {
            types.push((source.to_owned(), ProfileType::of_source(source)));
            types.len() - 1
        });
        types[row].1.iter().for_each(|profile_type| visit(profile_type, member));
    })
}

/// The labels that there are.
pub(super) fn names(querier: &Querier, request: &LabelNamesRequest) -> Result<NamesResponse, Error> {
    let LabelNamesRequest { matchers, start, end } = request;
    let mut names = BTreeSet::new();
    // Whichever there are: of the finest windows only those at the ends of the range are read, which is enough for ids.
    let wanted: Vec<_> = NAMES.iter().copied().filter(|name| *name != PID).collect();
    each(querier, (*start, *end), matchers, &wanted, &mut |subject| {
        for name in NAMES {
            if !subject.label(name).is_empty() {
                names.insert(*name);
            }
        }
    })?;
    Ok(NamesResponse { names: names.into_iter().map(str::to_owned).collect() })
}

/// The values of a label.
pub(super) fn values(querier: &Querier, request: &LabelValuesRequest) -> Result<NamesResponse, Error> {
    let LabelValuesRequest { name, matchers, start, end } = request;
    if name.is_empty() {
        return Err(Error::invalid("there is no name of a label"));
    }
    let mut values = BTreeSet::new();
    each(querier, (*start, *end), matchers, &[name], &mut |subject| {
        let value = subject.label(name);
        if !value.is_empty() && !values.contains(&*value) {
            values.insert(value.into_owned());
        }
    })?;
    Ok(NamesResponse { names: values.into_iter().collect() })
}

/// All sets of labels, of the names that are asked for.
pub(super) fn series(querier: &Querier, request: &SeriesRequest) -> Result<SeriesResponse, Error> {
    let SeriesRequest { matchers, label_names, start, end } = request;
    // Ids only where they are asked for: each process would be a set.
    let all = || NAMES.iter().copied().filter(|name| *name != PID).collect();
    let names: Vec<&str> =
        if label_names.is_empty() { all() } else { label_names.iter().map(String::as_str).collect() };
    let mut sets = BTreeSet::new();
    let mut are_too_many = false;
    each(querier, (*start, *end), matchers, &names, &mut |subject| {
        let labels = subject.labels(names.iter().copied());
        if labels.is_empty() {
            return;
        }
        if sets.len() < MAX_SERIES {
            sets.insert(Labels { labels });
        } else if !are_too_many {
            are_too_many = !sets.contains(&Labels { labels });
        }
    })?;
    if are_too_many {
        return Err(Error::too_much(format!(
            "these are more than {MAX_SERIES} sets of labels: ask for fewer label_names"
        )));
    }
    Ok(SeriesResponse { labels_set: sets.into_iter().collect() })
}
