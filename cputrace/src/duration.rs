//! Times as users type them: `10`, `10s`, `100ms`, `2m`, `1h`, `7d`, `1.5s`.

use std::time::Duration;

/// A bare number is seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    parse(text, 1.0)
}

/// A bare number is milliseconds.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    parse(text, 0.001)
}

/// As users type it: a whole number of the largest unit that it is one of, or seconds.
pub fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, length) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ] {
        if nanos.is_multiple_of(length) {
            return format!("{}{unit}", nanos / length);
        }
    }
    format!("{}s", duration.as_secs_f64())
}

fn parse(text: &str, bare_unit: f64) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => bare_unit,
        "us" => 0.000_001,
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        other => return Err(format!("there is no unit {other:?}: ms, s, m, h and d are known")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number"))?;
    let duration = Duration::try_from_secs_f64(number * unit).map_err(|_| "it is negative or too long".to_owned())?;
    if duration.is_zero() { Err("it has to be more than 0".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every unit, and what is refused.
    #[test]
    fn units() {
        let check = |text, millis| assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        check("10", 10_000);
        check("10s", 10_000);
        check("100ms", 100);
        check("1.5s", 1_500);
        check("2m", 120_000);
        check("1h", 3_600_000);
        check("2d", 172_800_000);
        for same in ["1us", "10ms", "1500ms", "10s", "2m", "90m", "7d"] {
            assert_eq!(seconds(same).map(text).as_deref(), Ok(same));
        }
        assert_eq!(milliseconds("100"), Ok(Duration::from_millis(100)));
        for wrong in ["", "s", "10x", "-1", "0", "1e30", "nan"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
