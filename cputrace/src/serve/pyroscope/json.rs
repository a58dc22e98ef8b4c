//! Protobuf messages as JSON, as far as serde does not have it: 64-bit numbers are text, what is not set is left out, and a
//! reader takes more forms than a writer has.
//!
//! Format: <https://protobuf.dev/programming-guides/json/>.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::connect::Error;

/// Writes a message. All its whole numbers have 64 bits.
pub(super) fn to_vec(message: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(message).unwrap_or_default();
    serde_json::to_vec(&written(value)).unwrap_or_default()
}

fn written(value: Value) -> Value {
    match value {
        Value::Number(number) if !number.is_f64() => Value::String(number.to_string()),
        Value::Array(items) => Value::Array(items.into_iter().map(written).collect()),
        Value::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| !is_default(value));
            Value::Object(set.map(|(name, value)| (name, written(value))).collect())
        }
        other => other,
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is) => !is,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // A message that is there says something, even if it is empty.
        Value::Object(_) => false,
    }
}

/// Reads a message; nothing at all is an empty one.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let wrong = |error: serde_json::Error| Error::invalid(format!("the request is no such message: {error}"));
    if bytes.is_empty() {
        return serde_json::from_value(Value::Object(Map::new())).map_err(wrong);
    }
    let value: Value = serde_json::from_slice(bytes).map_err(wrong)?;
    if !value.is_object() {
        return Err(Error::invalid("the request is no message: a JSON object is expected"));
    }
    serde_json::from_value(read(value)).map_err(wrong)
}

/// With the names that our messages have, and without what is `null`, which is not set.
fn read(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(read).collect()),
        Value::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(set.map(|(name, value)| (camel(&name), read(value))).collect())
        }
        other => other,
    }
}

/// The name of a field as JSON has it, of that in the `.proto` file.
fn camel(name: &str) -> String {
    let mut is_after_bar = false;
    let letters = name.chars().filter_map(|letter| {
        let starts = std::mem::replace(&mut is_after_bar, letter == '_');
        (letter != '_').then_some(if starts { letter.to_ascii_uppercase() } else { letter })
    });
    letters.collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Real(f64),
    Text(String),
}

/// A 64-bit number, as a number or as text.
pub(super) fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let wrong = |what: String| serde::de::Error::custom(format!("{what} is no whole number of 64 bits"));
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => Ok(number),
        // As some clients have it: 1e3. All such that fit are exact below 2^53.
        Number::Real(number) if number.fract() == 0.0 && number.abs() < 9e15 => Ok(number as i64),
        Number::Real(number) => Err(wrong(number.to_string())),
        Number::Text(text) => text.parse().map_err(|_| wrong(format!("{text:?}"))),
    }
}

/// The same, where it may be missing.
pub(super) fn optional_int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    int64(deserializer).map(Some)
}

/// A real number, as a number or as text.
pub(super) fn double<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => Ok(number as f64),
        Number::Real(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no number"))),
    }
}

/// A value of an enumeration: by its number, or by its name with this prefix, in the order of their numbers.
pub(super) fn enumeration<'de, D: Deserializer<'de>>(
    deserializer: D,
    prefix: &str,
    names: &[&str],
) -> Result<i32, D::Error> {
    let wrong =
        |what: &str| serde::de::Error::custom(format!("there is no {what:?}: {prefix}{} are known", names.join(", ")));
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => i32::try_from(number).map_err(|_| wrong(&number.to_string())),
        Number::Real(number) => Err(wrong(&number.to_string())),
        Number::Text(text) => {
            let name = text.strip_prefix(prefix).and_then(|name| names.iter().position(|known| *known == name));
            name.and_then(|number| i32::try_from(number).ok()).ok_or_else(|| wrong(&text))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use super::*;
    use crate::serve::pyroscope::messages::{Point, SelectSeriesRequest, Series};

    /// All forms of a request are the same request.
    #[test]
    fn requests_in_all_forms() {
        let expected = SelectSeriesRequest {
            profile_type_id: "a:b:c:d:e".to_owned(),
            start: 1_764_000_000_000,
            end: 5,
            step: 15.0,
            aggregation: Some(1),
            limit: Some(7),
            ..SelectSeriesRequest::default()
        };
        for text in [
            r#"{"profileTypeID":"a:b:c:d:e","start":1764000000000,"end":"5","step":15,"aggregation":1,"limit":"7"}"#,
            r#"{"profile_typeID":"a:b:c:d:e","start":"1764000000000","end":5.0,"step":"15","groupBy":null,"x":{},
                "aggregation":"TIME_SERIES_AGGREGATION_TYPE_AVERAGE","limit":7}"#,
        ] {
            assert_eq!(from_slice::<SelectSeriesRequest>(text.as_bytes()).unwrap(), expected);
        }
        assert_eq!(from_slice::<SelectSeriesRequest>(b"").unwrap(), SelectSeriesRequest::default());
        for text in ["[]", "{", r#"{"start":1.5}"#, r#"{"start":"x"}"#, r#"{"aggregation":"x"}"#, r#"{"start":1e300}"#]
        {
            assert!(from_slice::<SelectSeriesRequest>(text.as_bytes()).is_err(), "{text}");
        }
    }

    /// Whole numbers are text, real ones are not, and what is not set is left out.
    #[test]
    fn answers() {
        let point = Point { value: 2.0, timestamp: 1_764_000_000_000 };
        let series = Series { labels: Vec::new(), points: vec![point] };
        let text = String::from_utf8(to_vec(&series)).unwrap();
        assert_eq!(text, r#"{"points":[{"timestamp":"1764000000000","value":2.0}]}"#);
    }
}
