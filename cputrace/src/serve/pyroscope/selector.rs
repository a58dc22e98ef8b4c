//! Label selectors, as Prometheus has them: `process_cpu:cpu:nanoseconds:cpu:nanoseconds{comm=~"a.*"}`.

use std::borrow::Cow;
use std::fmt;

use regex::{Regex, RegexBuilder};

use super::connect::Error;

/// The longest selector.
const MAX_LENGTH: usize = 16 << 10;

/// The most conditions of one.
const MAX_MATCHERS: usize = 64;

/// How large a regular expression may become, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// The label of a profile's type.
pub(super) const PROFILE_TYPE: &str = "__profile_type__";

/// The label that a selector's name, before its braces, is the value of.
const NAME: &str = "__name__";

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    IsNot(String),
    Like(Regex),
    Unlike(Regex),
}

/// A condition.
#[derive(Clone, Debug)]
struct Matcher {
    label: String,
    test: Test,
}

impl Matcher {
    fn new(label: String, operator: &str, value: String) -> Result<Self, Error> {
        let test = match operator {
            "=" => Test::Is(value),
            "!=" => Test::IsNot(value),
            "=~" => Test::Like(regex(&value)?),
            _ => Test::Unlike(regex(&value)?),
        };
        // A profile's full type as its name, as Grafana's variables have it.
        let is_type = label == NAME && matches!(&test, Test::Is(value) if value.contains(':'));
        Ok(Self { label: if is_type { PROFILE_TYPE.to_owned() } else { label }, test })
    }

    fn matches(&self, value: &str) -> bool {
        match &self.test {
            Test::Is(wanted) => wanted == value,
            Test::IsNot(unwanted) => unwanted != value,
            Test::Like(regex) => regex.is_match(value),
            Test::Unlike(regex) => !regex.is_match(value),
        }
    }
}

/// The whole value has to match.
fn regex(pattern: &str) -> Result<Regex, Error> {
    let build = |pattern: &str| {
        RegexBuilder::new(pattern).dot_matches_new_line(true).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build()
    };
    // By itself too: a bracket in it must not close the one around it.
    build(pattern)
        .and_then(|_| build(&format!("^(?:{pattern})$")))
        .map_err(|error| Error::invalid(format!("{pattern:?} cannot be used as a regular expression: {error}")))
}

/// Conditions, all of which have to hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    matchers: Vec<Matcher>,
}

impl Selector {
    /// Reads one; empty text is that without a condition.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::too_much(format!(
                "a selector may be {MAX_LENGTH} bytes long, this one has {}",
                text.len()
            )));
        }
        let mut parser = Parser { text, rest: text };
        parser.selector()
    }

    /// Whether it holds for what `value` says of each label; a label that is not there is empty.
    pub(super) fn matches<'a>(&self, value: impl Fn(&str) -> Cow<'a, str>) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(&value(&matcher.label)))
    }

    /// Labels that it asks for.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.matchers.iter().map(|matcher| &*matcher.label)
    }

    /// Takes out the profile type, where it is asked for as such.
    pub(super) fn take_profile_type(&mut self) -> Option<String> {
        let is_type = |matcher: &Matcher| matcher.label == PROFILE_TYPE && matches!(matcher.test, Test::Is(_));
        let row = self.matchers.iter().position(is_type)?;
        match self.matchers.remove(row).test {
            Test::Is(profile_type) => Some(profile_type),
            _ => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn selector(&mut self) -> Result<Selector, Error> {
        let mut matchers = Vec::new();
        // Also what the names of events have.
        let name = self.name(|letter| [':', '-', '.', '~'].contains(&letter));
        if !name.is_empty() {
            matchers.push(Matcher::new(NAME.to_owned(), "=", name.to_owned())?);
        }
        if self.take("{") {
            while !self.take("}") {
                if matchers.len() == MAX_MATCHERS {
                    return Err(Error::too_much(format!("a selector may have {MAX_MATCHERS} conditions")));
                }
                matchers.push(self.matcher()?);
                if !self.take(",") && !self.rest.starts_with('}') {
                    return Err(self.wrong("\",\" or \"}\" is missing"));
                }
            }
        }
        if !self.rest.is_empty() {
            return Err(self.wrong("nothing was expected"));
        }
        Ok(Selector { matchers })
    }

    fn matcher(&mut self) -> Result<Matcher, Error> {
        self.skip_blanks();
        let is_quoted = self.rest.starts_with(['"', '\'', '`']);
        let label = if is_quoted { self.string()? } else { self.name(|_| false).to_owned() };
        if label.is_empty() && !is_quoted {
            return Err(self.wrong("a label's name is missing"));
        }
        self.skip_blanks();
        // The longer ones first.
        let Some(operator) = ["=~", "!~", "!=", "="].into_iter().find(|operator| self.rest.starts_with(operator))
        else {
            if is_quoted {
                // A name that needs quotes.
                return Matcher::new(NAME.to_owned(), "=", label);
            }
            return Err(self.wrong("one of =, !=, =~, !~ is missing"));
        };
        self.take(operator);
        self.skip_blanks();
        Matcher::new(label, operator, self.string()?)
    }

    fn name(&mut self, also: impl Fn(char) -> bool) -> &'a str {
        self.skip_blanks();
        let is_part = |(at, letter): (usize, char)| {
            letter == '_' || also(letter) || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
        };
        let end = self.rest.char_indices().find(|&part| !is_part(part)).map_or(self.rest.len(), |(at, _)| at);
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_blanks();
        name
    }

    /// Text in quotes, with Go's escapes.
    fn string(&mut self) -> Result<String, Error> {
        let Some(quote) = self.rest.chars().next().filter(|letter| ['"', '\'', '`'].contains(letter)) else {
            return Err(self.wrong("text in quotes is missing"));
        };
        let mut letters = self.rest[1..].char_indices();
        let mut bytes = Vec::new();
        while let Some((at, letter)) = letters.next() {
            match letter {
                letter if letter == quote => {
                    self.rest = &self.rest[at + 2..];
                    return String::from_utf8(bytes).map_err(|_| self.wrong("text that is no UTF-8 ends"));
                }
                '\\' if quote != '`' => {
                    escape(&mut letters, &mut bytes).ok_or_else(|| self.wrong("text with a wrong escape begins"))?;
                }
                letter => bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(self.wrong("text without a closing quote begins"))
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        self.skip_blanks();
        true
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn wrong(&self, what: impl fmt::Display) -> Error {
        let at = self.text.len() - self.rest.len();
        Error::invalid(format!("{:?} is no selector such as {{comm=\"nginx\"}}: at byte {at} {what}", self.text))
    }
}

/// What stands after a backslash.
fn escape(letters: &mut impl Iterator<Item = (usize, char)>, bytes: &mut Vec<u8>) -> Option<()> {
    let (_, kind) = letters.next()?;
    let letter = match kind {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' | '\'' | '"' => kind,
        'u' => char::from_u32(number(letters, 4, 16, 0)?)?,
        'U' => char::from_u32(number(letters, 8, 16, 0)?)?,
        'x' => return push_byte(number(letters, 2, 16, 0)?, bytes),
        '0'..='7' => return push_byte(number(letters, 2, 8, kind.to_digit(8)?)?, bytes),
        _ => return None,
    };
    bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

fn push_byte(byte: u32, bytes: &mut Vec<u8>) -> Option<()> {
    bytes.push(u8::try_from(byte).ok()?);
    Some(())
}

fn number(letters: &mut impl Iterator<Item = (usize, char)>, digits: u32, radix: u32, first: u32) -> Option<u32> {
    (0..digits).try_fold(first, |number, _| number.checked_mul(radix)?.checked_add(letters.next()?.1.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use proptest::prelude::*;

    use super::*;

    fn holds(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector = Selector::parse(selector).unwrap();
        selector.matches(|label| {
            Cow::Borrowed(labels.iter().find(|(name, _)| *name == label).map_or("", |(_, value)| value))
        })
    }

    /// Each form that Grafana sends; conditions on what is not there are on empty text.
    #[test]
    fn all_forms() {
        let labels = [("service_name", "nginx"), ("a.b", "c\"d"), (PROFILE_TYPE, "off_cpu:off_cpu:nanoseconds::")];
        for selector in [
            "",
            "{}",
            " { } ",
            r#"{service_name="nginx"}"#,
            r#"{ service_name = 'nginx' , }"#,
            r#"{service_name=~"ng.*",pod="",pod!="x"}"#,
            r#"{service_name!~"ngin",service_name!="n"}"#,
            r#"{service_name=~"ngin|nginx"}"#,
            r#"{"a.b"="c\"d"}"#,
            r#"{"a.b"=`c"d`}"#,
            r#"{"a\u002eb"="\x63\042d"}"#,
            r#"{__profile_type__="off_cpu:off_cpu:nanoseconds::"}"#,
            "off_cpu:off_cpu:nanoseconds::{}",
            "off_cpu:off_cpu:nanoseconds::",
            r#"{__name__="off_cpu:off_cpu:nanoseconds::"}"#,
            r#"{"off_cpu:off_cpu:nanoseconds::"}"#,
        ] {
            assert!(holds(selector, &labels), "{selector}");
        }
        for selector in [
            r#"{service_name="ngin"}"#,
            r#"{service_name=~"ngin"}"#,
            r#"{service_name=~"ginx"}"#,
            r#"{service_name!~"n.*"}"#,
            r#"{pod!=""}"#,
            r#"{pod=~".+"}"#,
            "other{}",
        ] {
            assert!(!holds(selector, &labels), "{selector}");
        }
    }

    /// What is wrong is said, with its place.
    #[test]
    fn what_is_none() {
        for selector in [
            "{",
            "}",
            "{,}",
            "{a}",
            "{a=}",
            "{a=b}",
            r#"{a="b"#,
            r#"{a="b"} c"#,
            r#"{a="b" c="d"}"#,
            r#"{1="b"}"#,
            r#"{a=="b"}"#,
            r#"{a="\q"}"#,
            r#"{a="\xff"}"#,
            r#"{a="\777"}"#,
            r#"{a=~"("}"#,
            r#"{a=~"a)|(b"}"#,
            r#"{a=~"(a{1000}){1000}"}"#,
            "a b",
        ] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
        assert!(Selector::parse(&"x".repeat(MAX_LENGTH + 1)).is_err());
        assert!(Selector::parse(&format!("{{{}}}", r#"a="",""#.repeat(MAX_MATCHERS + 1))).is_err());
    }

    proptest! {
        /// Any text gets an answer.
        #[test]
        fn never_panics(text in "[a{}=~!,\"'`\\\\xu0é: ]{0,24}") {
            let _ = Selector::parse(&text);
        }

        /// A value in quotes is the value, whatever it is, and its pattern matches it alone.
        #[test]
        fn values_come_back(value in any::<String>(), other in any::<String>()) {
            let labels = [("a", &*value)];
            let is = |text: &str| format!("{{a={}}}", serde_json::to_string(text).unwrap());
            let like = |text: &str| format!("{{a=~{}}}", serde_json::to_string(&regex::escape(text)).unwrap());
            for selector in [is(&value), like(&value)] {
                prop_assert!(holds(&selector, &labels));
            }
            if value != other {
                for selector in [is(&other), like(&other)] {
                    prop_assert!(!holds(&selector, &labels));
                }
            }
        }
    }
}
