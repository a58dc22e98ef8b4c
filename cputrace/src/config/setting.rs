//! One row a setting: what there is to know of it, for the file, the environment, the command line and the documents.

use serde::Serialize;

use super::Config;

/// When a changed setting has an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// As soon as the configuration is read again.
    Reload,
    /// When `serve` is started again.
    Restart,
}

/// One setting of `cputrace serve`.
#[derive(Debug)]
pub struct Setting {
    /// Its section in the file.
    pub section: &'static str,
    /// Its key there.
    pub key: &'static str,
    /// Its long option, without the dashes; empty for what only a file has room for.
    pub flag: &'static str,
    /// What the option's value is called.
    pub value_name: &'static str,
    /// When a change has an effect.
    pub takes: Takes,
    /// What it is.
    pub(super) doc: &'static str,
    pub(super) get: fn(&Config) -> toml::Value,
    pub(super) set: fn(&mut Config, toml::Value) -> Result<(), String>,
}

impl Setting {
    /// What it is.
    pub fn help(&self) -> &'static str {
        self.doc.trim()
    }

    /// Its default, as it stands in a file.
    pub fn default_value(&self) -> toml::Value {
        (self.get)(&Config::default())
    }

    /// Its environment variable, if it has one.
    pub fn variable(&self) -> Option<String> {
        (!self.flag.is_empty()).then(|| format!("CPUTRACE_{}", self.flag.to_uppercase().replace('-', "_")))
    }

    /// Takes its value from one configuration over into another one.
    pub(crate) fn copy(&self, from: &Config, to: &mut Config) {
        (self.set)(to, (self.get)(from)).expect("a value that was set can be set");
    }

    /// Sets it to what an option or a variable says; lists are separated by commas.
    pub(super) fn set_text(&self, config: &mut Config, text: &str) -> Result<(), String> {
        let value = match self.default_value() {
            toml::Value::Integer(_) => {
                toml::Value::Integer(text.parse().map_err(|_| format!("{text:?} is no whole number"))?)
            }
            toml::Value::Float(_) => toml::Value::Float(text.parse().map_err(|_| format!("{text:?} is no number"))?),
            toml::Value::Boolean(_) => {
                toml::Value::Boolean(text.parse().map_err(|_| format!("{text:?} is neither true nor false"))?)
            }
            toml::Value::Array(_) => {
                let parts = text.split(',').map(|part| toml::Value::String(part.trim().to_owned()));
                toml::Value::Array(parts.collect())
            }
            _ => toml::Value::String(text.to_owned()),
        };
        (self.set)(config, value)
    }
}

/// A value as it stands in a file.
pub(super) fn to_value(value: &impl Serialize) -> toml::Value {
    toml::Value::try_from(value).expect("settings are numbers, text, and lists and tables of these")
}

/// Makes of each section a struct, and of all settings [`Config`] and the table [`SETTINGS`](super::SETTINGS).
///
/// `key: type = default, "option" "VALUE", Takes`
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $type:ty = $default:expr, $flag:literal $value_name:literal, $takes:ident;
            )+
        }
    )+) => {
        /// All settings of `cputrace serve`.
        #[derive(Clone, PartialEq, Debug, Default)]
        pub struct Config {
            $($(#[doc = $section_doc])+ pub $section: $Section,)+
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, PartialEq, Debug)]
            pub struct $Section {
                $($(#[doc = $doc])+ pub $key: $type,)+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        /// What each section is for.
        const SECTIONS: &[(&str, &str)] = &[$((stringify!($section), concat!($($section_doc),+)),)+];

        /// All settings, in the order in which they are shown.
        pub const SETTINGS: &[Setting] = &[$($(
            Setting {
                section: stringify!($section),
                key: stringify!($key),
                flag: $flag,
                value_name: $value_name,
                takes: Takes::$takes,
                doc: concat!($($doc),+),
                get: |config| setting::to_value(&config.$section.$key),
                set: |config, value| {
                    config.$section.$key = value.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
                    Ok(())
                },
            },
        )+)+];
    };
}
pub(super) use settings;
