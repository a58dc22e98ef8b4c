//! Times, ranges and filters as requests have them.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::Problem;
use crate::duration;
use crate::model::{Aspect, View};
use crate::store::digest::Member;
use crate::store::windows::Range;

/// How far back a range goes that says nothing else.
const DEFAULT_RANGE: Duration = Duration::from_mins(15);

/// Query parameters; what is wrong with them is a [`Problem`].
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::try_from_uri(&parts.uri);
        query.map(|Query(params)| Self(params)).map_err(|error| Problem::bad(error.body_text()))
    }
}

/// The variable part of a path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|error| Problem::bad(error.body_text()))
    }
}

/// A moment: RFC 3339, seconds or milliseconds since 1970, `now`, `now-15m`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::serve) struct Moment(pub(in crate::serve) SystemTime);

/// Numbers from here on are milliseconds: as seconds they would be in the year 5138.
const FIRST_MILLISECOND: u64 = 100_000_000_000;

/// The year 9999, in seconds: what is later is no time of ours, and no format has room for it.
const LAST_SECOND: u64 = 253_402_300_799;

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no time: give RFC 3339 (2026-01-31T12:00:00Z), seconds since 1970, \"now\" or \"now-15m\""
            )
        };
        if let Some(ago) = text.strip_prefix("now") {
            let ago = match ago {
                "" => Duration::ZERO,
                ago => duration::seconds(ago.strip_prefix('-').ok_or_else(wrong)?).map_err(|_| wrong())?,
            };
            let moment = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
            return Ok(Self(moment.max(SystemTime::UNIX_EPOCH)));
        }
        if let Ok(number) = text.parse::<u64>() {
            let since = match number {
                number if number < FIRST_MILLISECOND => Duration::from_secs(number),
                number => Duration::from_millis(number),
            };
            return if since.as_secs() <= LAST_SECOND {
                Ok(Self(SystemTime::UNIX_EPOCH + since))
            } else {
                Err(wrong())
            };
        }
        // A `+` of the offset comes as a blank where it was not encoded.
        let time = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).map_err(|_| wrong())?;
        let since = u64::try_from(time.unix_timestamp()).map_err(|_| wrong())?;
        Ok(Self(SystemTime::UNIX_EPOCH + Duration::new(since, time.nanosecond())))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the document says of a moment: the forms that need no knowledge of calendars.
struct MomentText;

/// What the document says of a range or a trace.
pub(super) struct RangeText;

impl PartialSchema for MomentText {
    fn schema() -> RefOr<Schema> {
        text(
            "^(now(-[1-9][0-9]{0,4}(s|m|h|d))?|[0-9]{1,12}|\
             20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?Z)$",
        )
    }
}

impl PartialSchema for RangeText {
    fn schema() -> RefOr<Schema> {
        let moment = "(now(-[1-9][0-9]{0,4}(s|m|h|d))?|[0-9]{1,12})";
        text(&format!("^({moment}\\.\\.{moment}|trace-[0-9a-zA-Z_-]+)$"))
    }
}

impl ToSchema for MomentText {}
impl ToSchema for RangeText {}

fn text(pattern: &str) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build().into()
}

/// A range of time.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RangeParams {
    /// From this moment; without it, 15 minutes before the other one.
    #[param(value_type = Option<MomentText>, inline, example = "now-15m")]
    from: Option<Moment>,
    /// Up to this moment; without it, now.
    #[param(value_type = Option<MomentText>, inline, example = "now")]
    to: Option<Moment>,
}

impl RangeParams {
    pub(super) fn range(&self) -> Result<Range, Problem> {
        let to = self.to.map_or_else(SystemTime::now, |to| to.0);
        let from =
            self.from.map_or_else(|| to.checked_sub(DEFAULT_RANGE).unwrap_or(SystemTime::UNIX_EPOCH), |from| from.0);
        if from > to {
            return Err(Problem::unprocessable("the range ends before it begins: \"from\" has to be before \"to\""));
        }
        Ok(Range { from, to })
    }
}

/// `FROM..TO`, each a moment.
pub(super) fn parse_range(text: &str) -> Result<Range, Problem> {
    let (from, to) = text.split_once("..").ok_or_else(|| {
        Problem::bad(format!("{text:?} is no range of time: give FROM..TO, for example now-1h..now-30m"))
    })?;
    let moment = |text: &str| text.parse::<Moment>().map_err(Problem::bad);
    let (from, to) = (moment(from)?, moment(to)?);
    RangeParams { from: Some(from), to: Some(to) }.range()
}

/// Kinds of samples that are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// Where time on the CPU went.
    #[default]
    OnCpu,
    /// What was waited for.
    OffCpu,
    /// Where threads waited for a CPU.
    RunQueue,
    /// Who ended the waits.
    Wakers,
}

/// A number that all readers of the document have room for.
pub(super) fn small<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(deserializer)?;
    match number {
        Some(number) if i32::try_from(number).is_err() => Err(serde::de::Error::custom("the number is too large")),
        number => Ok(number),
    }
}

/// Whose samples, of which kind.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// What kind of samples.
    #[serde(default)]
    #[param(inline, required = false)]
    source: Source,
    /// Only this group of processes.
    group: Option<String>,
    /// Only processes of this name.
    process: Option<String>,
    /// Only the process with this id; ids are kept as long as windows are as they were recorded (a day).
    #[serde(default, deserialize_with = "small")]
    #[param(minimum = 0, maximum = 2_147_483_647)]
    pid: Option<u32>,
    /// Only this container (the first 12 digits of its id).
    container: Option<String>,
    /// Leave out waits in which a thread has nothing to do.
    #[serde(default)]
    hide_idle: bool,
}

impl Filter {
    /// What to look at.
    pub(super) fn view(&self) -> View {
        let aspect = match self.source {
            Source::OnCpu => Aspect::OnCpu,
            Source::OffCpu => Aspect::OffCpu,
            Source::RunQueue => Aspect::RunQueue,
            Source::Wakers => Aspect::Wakers,
        };
        View { aspect, hide_idle: self.hide_idle }
    }

    /// Whether ids of processes are asked for.
    pub(super) fn needs_ids(&self) -> bool {
        self.pid.is_some()
    }

    /// The group that is asked for.
    pub(super) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    pub(super) fn keeps(&self, member: &Member<'_>) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|wanted| wanted == value);
        is(&self.group, member.group)
            && is(&self.process, member.process)
            && is(&self.container, member.container)
            && self.pid.is_none_or(|pid| pid == member.pid)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;

    /// All forms of one moment are the same moment, and what is none is said.
    #[test]
    fn moments() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31T13:00:00 01:00",
            "1769860800",
            "1769860800000",
        ] {
            assert_eq!(text.parse::<Moment>().unwrap().0, noon, "{text}");
        }
        let ago = SystemTime::now().duration_since("now-15m".parse::<Moment>().unwrap().0).unwrap();
        assert!((899..910).contains(&ago.as_secs()), "{ago:?}");
        for text in ["", "x", "now+1h", "now-", "now-1y", "-5", "1969-12-31T00:00:00Z", "99999999999999999", "1e9"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    /// Ranges go forward.
    #[test]
    fn ranges() {
        assert!(parse_range("now-1h..now").is_ok());
        for text in ["now", "now..now-1h", "..", "x..now"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
