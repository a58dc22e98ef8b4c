//! What a request asks for, parsed: whose samples of which type, and when.

use std::time::Duration;

use super::Querier;
use super::connect::Error;
use super::labels::{self, Subject};
use super::messages::{Empty, StackTraceSelector};
use super::profile_type::ProfileType;
use super::selector::Selector;
use crate::model::{Profile, Weight};
use crate::store::digest::{Detail, Member, StoredTotals, Sum};
use crate::store::from_unix_ms;
use crate::store::windows::{Merged, Range};

/// Windows with process ids that one request reads: they are kept in the finest ones alone.
const MAX_FINEST: usize = 2_000;

/// Windows whose sums by member one request looks at; where there are more, coarser ones are.
const MAX_WINDOWS: usize = 2_000;

/// Of a request that has to say when.
pub(super) fn range(start: i64, end: i64) -> Result<Range, Error> {
    if start == 0 && end == 0 {
        return Err(Error::invalid("there is no range of time: give start and end, in milliseconds since 1970"));
    }
    if start < 0 || end < start {
        return Err(Error::invalid(format!("the range of time from {start} to {end} ms ends before it begins")));
    }
    Ok(Range { from: from_unix_ms(start), to: from_unix_ms(end) })
}

/// Of a request that may leave it open: all that is stored; `None` where that is nothing.
pub(super) fn range_or_all(querier: &Querier, start: i64, end: i64) -> Result<Option<Range>, Error> {
    if start == 0 && end == 0 {
        return Ok(querier.state.store.span()?);
    }
    range(start, end).map(Some)
}

/// Whether the finest windows of a range can be read.
pub(super) fn check_finest(querier: &Querier, range: Range) -> Result<(), Error> {
    let windows = querier.state.store.covered(range, Duration::ZERO)?.len();
    if windows > MAX_FINEST {
        return Err(Error::too_much(format!(
            "process ids are in the windows as they were recorded, of which this range has {windows}; up to {MAX_FINEST} are \
             read at once: choose a shorter range, or a label other than pid"
        )));
    }
    Ok(())
}

/// Whose samples of a type.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) profile_type: ProfileType,
    pub(super) selector: Selector,
    call_site: Vec<String>,
}

impl Query {
    /// Of a request's parts.
    pub(super) fn new(id: &str, selector: &str, stacks: Option<&StackTraceSelector>) -> Result<Self, Error> {
        let query =
            Self { profile_type: ProfileType::parse(id)?, selector: Selector::parse(selector)?, call_site: Vec::new() };
        let Some(StackTraceSelector { call_site, go_pgo, frame_filter }) = stacks else { return Ok(query) };
        if let (Some(Empty {}), _) | (_, Some(Empty {})) = (go_pgo, frame_filter) {
            return Err(Error::unimplemented("of stacks, only those below a call site can be selected"));
        }
        let call_site = call_site.iter().map(|location| location.name.clone());
        // What we and others call the root is no function of any stack.
        let call_site = call_site.skip_while(|name| name == "total").collect();
        Ok(Self { call_site, ..query })
    }

    /// Functions that stacks have to begin with, root first.
    pub(super) fn call_site(&self) -> &[String] {
        &self.call_site
    }

    /// Whether somebody's samples are asked for.
    pub(super) fn keeps(&self, hostname: &str, member: &Member<'_>) -> bool {
        let subject = Subject { profile_type: &self.profile_type, hostname, member };
        self.selector.matches(|label| subject.label(label))
    }

    /// Adds up a range.
    pub(super) fn merge(&self, querier: &Querier, range: Range) -> Result<Merged, Error> {
        let detail =
            if self.selector.labels().any(|label| label == labels::PID) { Detail::Process } else { Detail::Name };
        if detail == Detail::Process {
            check_finest(querier, range)?;
        }
        let keep = |source: &str, member: &Member<'_>| {
            source == self.profile_type.source && self.keeps(&querier.hostname, member)
        };
        let mut merged = querier.state.store.merge(range, detail, &keep)?;
        if !self.call_site.is_empty() {
            merged.digest.retain_below(&self.call_site);
        }
        Ok(merged)
    }

    /// The weights of a merged profile's stacks.
    pub(super) fn weights(&self, profile: &Profile) -> Vec<Weight> {
        let samples = profile.samples().iter().map(|sample| {
            let weight = self.profile_type.number.of(Sum { count: sample.count, value: sample.value });
            Weight { thread: sample.thread, stack: sample.stack, weight, count: sample.count }
        });
        samples.filter(|weight| weight.weight > 0).collect()
    }
}

/// Calls back with the sums of a range by source and whose, and with the window of each; from windows no coarser than
/// `resolution`, unless they would be very many.
pub(super) fn each_total(
    querier: &Querier,
    range: Range,
    resolution: Duration,
    visit: &mut dyn FnMut(Range, &str, &Member<'_>, Sum),
) -> Result<(), Error> {
    Ok(querier.state.store.stored(range, resolution, MAX_WINDOWS, |window, bytes| {
        StoredTotals::decode(bytes)?.each(&mut |source, member, sum| visit(window, source, member, sum))
    })?)
}
