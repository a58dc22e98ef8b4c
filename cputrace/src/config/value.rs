//! The kinds of values that settings have: what is of the kind is right.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue};

use crate::client::Address;
use crate::duration;
use crate::group::rule::{Rule, RuleText};
use crate::model::Tier;
use crate::pmu::counting::DEFAULT_SETS;
use crate::pmu::metric;

/// What can stand for a value with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it has to be text or a number")]
enum Scalar {
    Text(String),
    Whole(i64),
    Number(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Whole(number) => number.fmt(formatter),
            Self::Number(number) => number.fmt(formatter),
        }
    }
}

/// A length of time: seconds, or text with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Scalar", into = "String")]
pub struct Time(pub Duration);

impl TryFrom<Scalar> for Time {
    type Error = String;

    fn try_from(text: Scalar) -> Result<Self, String> {
        let text = text.to_string();
        duration::seconds(&text).map(Self).map_err(|problem| format!("{text:?} is no time: {problem}"))
    }
}

impl From<Time> for String {
    fn from(Time(time): Time) -> Self {
        duration::text(time)
    }
}

/// A short length of time, as `record` takes it: milliseconds, or text with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Scalar", into = "String")]
pub struct ShortTime(pub Duration);

impl TryFrom<Scalar> for ShortTime {
    type Error = String;

    fn try_from(text: Scalar) -> Result<Self, String> {
        let text = text.to_string();
        duration::milliseconds(&text).map(Self).map_err(|problem| format!("{text:?} is no time: {problem}"))
    }
}

impl From<ShortTime> for String {
    fn from(ShortTime(time): ShortTime) -> Self {
        duration::text(time)
    }
}

/// A size in megabytes, or text with a unit; units are powers of 1024, as Prometheus has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Scalar", into = "String")]
pub struct Bytes(pub u64);

const UNITS: &[(&str, u32)] = &[("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size: give megabytes, or a number with KB, MB, GB or TB");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let shift = match unit {
            "" => 20,
            unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
        };
        let number: u64 = digits.trim_end().parse().map_err(|_| wrong())?;
        number.checked_mul(1 << shift).filter(|&bytes| bytes > 0).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<Scalar> for Bytes {
    type Error = String;

    fn try_from(text: Scalar) -> Result<Self, String> {
        text.to_string().parse()
    }
}

impl From<Bytes> for String {
    fn from(Bytes(bytes): Bytes) -> Self {
        let whole = |(_, shift): &&(&str, u32)| bytes.trailing_zeros() >= *shift;
        let (unit, shift) = UNITS.iter().find(whole).expect("every number is a whole number of bytes");
        format!("{}{unit}", bytes >> shift)
    }
}

/// Samples a second and CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "i64", into = "u32")]
pub struct Frequency(pub u32);

impl TryFrom<i64> for Frequency {
    type Error = String;

    fn try_from(hz: i64) -> Result<Self, String> {
        let allowed = u32::try_from(hz).ok().filter(|hz| (1..=10_000).contains(hz));
        allowed.map(Self).ok_or_else(|| format!("{hz} is not between 1 and 10000"))
    }
}

impl From<Frequency> for u32 {
    fn from(Frequency(hz): Frequency) -> Self {
        hz
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "i64", into = "u32")]
pub struct Connections(pub u32);

impl Default for Connections {
    fn default() -> Self {
        Self(512)
    }
}

impl TryFrom<i64> for Connections {
    type Error = String;

    fn try_from(count: i64) -> Result<Self, String> {
        let allowed = u32::try_from(count).ok().filter(|count| (1..=100_000).contains(count));
        allowed.map(Self).ok_or_else(|| format!("{count} is not between 1 and 100000"))
    }
}

impl From<Connections> for u32 {
    fn from(Connections(count): Connections) -> Self {
        count
    }
}

/// A share of the CPU time of all of the host's CPUs; `None`: all of it.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Scalar", into = "String")]
pub struct Share(pub Option<f64>);

impl TryFrom<Scalar> for Share {
    type Error = String;

    fn try_from(text: Scalar) -> Result<Self, String> {
        let text = text.to_string();
        if text == "off" {
            return Ok(Self(None));
        }
        let percent = text.strip_suffix('%').unwrap_or(&text).trim().parse::<f64>().ok();
        let percent = percent.filter(|percent| (0.001..=100.0).contains(percent));
        let wrong = || format!("{text:?} is neither a percentage between 0.001% and 100% nor \"off\"");
        percent.map(|percent| Self(Some(percent / 100.0))).ok_or_else(wrong)
    }
}

impl From<Share> for String {
    fn from(Share(share): Share) -> Self {
        // Hundredths of what a file says come back as that.
        share.map_or_else(|| "off".to_owned(), |share| format!("{}%", (share * 1e8).round() / 1e6))
    }
}

/// Where something is sent; `None`: nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url(pub Option<String>);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match &*text {
            "" => Ok(Self(None)),
            _ if Address::parse(&text).is_some() => Ok(Self(Some(text))),
            _ => Err(format!("{text:?} is no URL: it has to begin with http:// or https://, and to have a host")),
        }
    }
}

impl From<Url> for String {
    fn from(Url(url): Url) -> Self {
        url.unwrap_or_default()
    }
}

/// Headers of requests, each as `Name: value`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Headers(pub Vec<(String, String)>);

impl TryFrom<Vec<String>> for Headers {
    type Error = String;

    fn try_from(lines: Vec<String>) -> Result<Self, String> {
        let header = |line: &String| {
            let (name, value) = line.split_once(':')?;
            let (name, value) = (name.trim(), value.trim());
            let is_header = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            is_header.then(|| (name.to_owned(), value.to_owned()))
        };
        // Of an option or a variable that is empty.
        let lines = lines.into_iter().filter(|line| !line.is_empty());
        let headers = lines.map(|line| header(&line).ok_or_else(|| format!("{line:?} is no header: give Name: value")));
        headers.collect::<Result<_, _>>().map(Self)
    }
}

impl From<Headers> for Vec<String> {
    fn from(Headers(headers): Headers) -> Self {
        headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }
}

/// A way to sample, or the best that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct WantedTier(pub Option<Tier>);

impl TryFrom<String> for WantedTier {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let tiers = [Tier::Ebpf, Tier::PerfEvent, Tier::Proc];
        let wanted = tiers.into_iter().find(|tier| tier.name() == name);
        match wanted {
            None if name != "best" => Err(format!("{name:?} is none of best, ebpf, perf_event and proc")),
            wanted => Ok(Self(wanted)),
        }
    }
}

impl From<WantedTier> for &'static str {
    fn from(WantedTier(tier): WantedTier) -> Self {
        tier.map_or("best", Tier::name)
    }
}

/// Sets of metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Sets(pub Vec<String>);

impl Sets {
    /// Those that are counted where nobody says which.
    pub fn usual() -> Self {
        Self(DEFAULT_SETS.iter().map(|set| (*set).to_owned()).collect())
    }
}

impl TryFrom<Vec<String>> for Sets {
    type Error = String;

    fn try_from(sets: Vec<String>) -> Result<Self, String> {
        let known = metric::sets();
        match sets.iter().find(|set| !known.contains(&set.as_str())) {
            Some(unknown) => Err(format!("there is no set {unknown:?}; known are {}", known.join(", "))),
            None => Ok(Self(sets)),
        }
    }
}

impl From<Sets> for Vec<String> {
    fn from(Sets(sets): Sets) -> Self {
        sets
    }
}

/// Rules that name groups.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "Vec<RuleText>", into = "Vec<RuleText>")]
pub struct Rules(pub Vec<RuleText>);

impl TryFrom<Vec<RuleText>> for Rules {
    type Error = String;

    fn try_from(rules: Vec<RuleText>) -> Result<Self, String> {
        rules.iter().try_for_each(|rule| Rule::new(rule).map(drop)).map_err(|error| error.to_string())?;
        Ok(Self(rules))
    }
}

impl From<Rules> for Vec<RuleText> {
    fn from(Rules(rules): Rules) -> Self {
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares are read as they are written; what is none is said.
    #[test]
    fn shares_and_urls() {
        let read = |text: &str| Share::try_from(Scalar::Text(text.to_owned()));
        for (text, share) in [("1%", Some(0.01)), ("0.5", Some(0.005)), ("0.25 %", Some(0.0025)), ("off", None)] {
            assert_eq!(read(text), Ok(Share(share)));
            assert_eq!(read(&String::from(Share(share))), Ok(Share(share)));
        }
        assert_eq!(String::from(Share(Some(0.01))), "1%");
        for wrong in ["", "0", "101%", "1 percent", "nan"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Url::try_from("http://x/y".to_owned()), Ok(Url(Some("http://x/y".to_owned()))));
        for wrong in ["x", "ftp://x", "http://"] {
            assert!(Url::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    /// Sizes are read as they are written.
    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64, back: &str| {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
            assert_eq!(String::from(Bytes(bytes)), back);
        };
        check("64", 64 << 20, "64MB");
        check("1GB", 1 << 30, "1GB");
        check("1536 mb", 1536 << 20, "1536MB");
        check("1000B", 1000, "1000B");
        for wrong in ["", "GB", "0", "-1MB", "1.5GB", "1 PB", "99999999999TB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
    }
}
