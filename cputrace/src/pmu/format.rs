//! How an event's terms are laid out in `perf_event_attr`: the files in a PMU's `format` directory.
//!
//! A field can lie in several pieces (AMD: `config:0-7,32-35`); the value's low bits go to the first.

/// The words of `perf_event_attr` that terms lie in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Config {
    /// `config`, `config1`, `config2`.
    pub words: [u64; 3],
}

/// Why a format or a term is no good.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// The file's text cannot be understood.
    #[error("the format {0:?} cannot be understood")]
    Syntax(String),
    /// The field lies in a word that this program does not know.
    #[error("the format lies in {0:?}, which this version does not know")]
    UnknownWord(String),
    /// Two pieces of one field overlap, or one is reversed.
    #[error("the bits of the format {0:?} overlap or are reversed")]
    Bits(String),
    /// The value has more bits than the field.
    #[error("{name}={value:#x} needs more than the {bits} bits of its field")]
    TooLarge {
        /// The term.
        name: String,
        /// Its value.
        value: u64,
        /// What it has room for.
        bits: u32,
    },
}

/// Where the bits of one term are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    word: usize,
    /// First and last bit of each piece, lowest bits of the value first.
    pieces: Vec<(u32, u32)>,
}

impl Field {
    /// From the text of a format file, such as `config:0-7,32-35`.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let text = text.trim();
        let syntax = || FormatError::Syntax(text.chars().take(60).collect());
        let (word, ranges) = text.split_once(':').ok_or_else(syntax)?;
        let word = match word {
            "config" => 0,
            "config1" => 1,
            "config2" => 2,
            _ if word.starts_with("config") => return Err(FormatError::UnknownWord(word.chars().take(20).collect())),
            _ => return Err(syntax()),
        };
        let mut taken = 0_u64;
        let mut pieces = Vec::new();
        for range in ranges.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let bit = |text: &str| text.parse::<u32>().ok().filter(|bit| *bit < 64).ok_or_else(syntax);
            let (first, last) = (bit(first)?, bit(last)?);
            let mask = if last >= first { ones(last - first + 1) << first } else { 0 };
            if mask == 0 || taken & mask != 0 {
                return Err(FormatError::Bits(text.to_owned()));
            }
            taken |= mask;
            pieces.push((first, last));
        }
        Ok(Self { word, pieces })
    }

    /// How many bits a value can have.
    pub fn bits(&self) -> u32 {
        self.pieces.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Puts a value in its place.
    pub fn encode(&self, name: &str, value: u64, config: &mut Config) -> Result<(), FormatError> {
        let bits = self.bits();
        if value & !ones(bits) != 0 {
            return Err(FormatError::TooLarge { name: name.to_owned(), value, bits });
        }
        let mut rest = value;
        for (first, last) in &self.pieces {
            let mask = ones(last - first + 1);
            config.words[self.word] |= (rest & mask) << first;
            rest = rest.checked_shr(last - first + 1).unwrap_or(0);
        }
        Ok(())
    }

    /// Takes the value out again.
    pub fn decode(&self, config: &Config) -> u64 {
        let mut value = 0;
        let mut at = 0;
        for (first, last) in &self.pieces {
            let width = last - first + 1;
            value |= (config.words[self.word] >> first & ones(width)) << at;
            at += width;
        }
        value
    }
}

/// The lowest `count` bits, of 64.
fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test")]

    use proptest::prelude::*;

    use super::*;

    fn encode(terms: &[(&str, &str, u64)]) -> u64 {
        let mut config = Config::default();
        for (name, format, value) in terms {
            Field::parse(format).unwrap().encode(name, *value, &mut config).unwrap();
        }
        config.words[0]
    }

    /// Worked values, from the kernel's drivers.
    #[test]
    fn amd_layouts() {
        let (event, umask) = ("config:0-7,32-35", "config:8-15");
        assert_eq!(encode(&[("event", event, 0xc0)]), 0xc0);
        assert_eq!(encode(&[("event", event, 0x18e), ("umask", umask, 0x18)]), 0x1_0000_188e);
        assert_eq!(encode(&[("event", event, 0x28f), ("umask", umask, 4)]), 0x2_0000_048f);
        let fabric = [("event", "config:0-7,32-37", 0x1f), ("umask", "config:8-15,24-27", 0x7fe)];
        assert_eq!(encode(&fabric), 0x700_fe1f);
        assert_eq!(encode(&[("event", "config:0-63", u64::MAX)]), u64::MAX);
    }

    #[test]
    fn refused() {
        for text in
            ["", "config", "config:", "config:a", "config:64", "config:1-", "type:0", "config:0-7,", "config: 1"]
        {
            assert!(matches!(Field::parse(text), Err(FormatError::Syntax(_))), "{text}");
        }
        for text in ["config:7-0", "config:0-7,7-8", "config:3,3"] {
            assert!(matches!(Field::parse(text), Err(FormatError::Bits(_))), "{text}");
        }
        assert!(matches!(Field::parse("config3:0-7"), Err(FormatError::UnknownWord(_))));
        let field = Field::parse("config:0-7\n").unwrap();
        assert!(matches!(
            field.encode("event", 0x100, &mut Config::default()),
            Err(FormatError::TooLarge { bits: 8, .. })
        ));
    }

    proptest! {
        /// Whatever fits comes out again, and touches no bit of another field.
        #[test]
        fn encoding_is_reversible(value in any::<u64>(), a in 0_u32..20, b in 21_u32..40, c in 41_u32..64) {
            let field = Field::parse(&format!("config1:{a}-20,{b}-40,{c}-63")).unwrap();
            let value = value & ones(field.bits());
            let mut config = Config::default();
            field.encode("x", value, &mut config).unwrap();
            prop_assert_eq!(field.decode(&config), value);
            prop_assert_eq!((config.words[0], config.words[2]), (0, 0));
            let rest = config.words[1] & !(ones(21 - a) << a) & !(ones(41 - b) << b) & !(ones(64 - c) << c);
            prop_assert_eq!(rest, 0);
        }

        /// No text makes it panic.
        #[test]
        fn any_text_is_survived(text in "(config[0-3]?)?:?[0-9,-]{0,20}") {
            let _ = Field::parse(&text);
        }
    }
}
