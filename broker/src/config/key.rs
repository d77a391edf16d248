//! What is known of one setting, and the macro that makes settings of a list.
//!
//! A [`Key`] reads, shows and bounds its field of the configuration; it never knows where a text
//! came from.

use super::{Config, ConfigError};

/// One setting.
pub struct Key {
    /// Its name in the file; flag and variable are made of it.
    pub name: &'static str,
    /// A sentence for people.
    pub doc: &'static str,
    /// What a value looks like, such as `SIZE`.
    pub placeholder: &'static str,
    /// True for a switch: the flag alone means true.
    pub switch: bool,
    /// In words, where the default depends on the machine or there is none.
    pub default_words: Option<&'static str>,
    pub(super) bounds: Option<(u64, u64)>,
    pub(super) read: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) shown: fn(&Config) -> String,
    pub(super) number: fn(&Config) -> Option<u64>,
    pub(super) show_number: fn(u64) -> String,
}

impl Key {
    /// The variable, such as `AQUEDUCT_DISK_LIMIT`.
    pub fn env(&self) -> String {
        format!("{}{}", super::PREFIX, self.name.to_uppercase())
    }

    /// The flag without its dashes, such as `disk-limit`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The value as text that can be read back.
    pub fn show(&self, config: &Config) -> String {
        (self.shown)(config)
    }

    /// The default as people should read it.
    pub fn default_text(&self) -> String {
        match self.default_words {
            Some(words) => words.to_owned(),
            None => self.show(&Config::defaults()),
        }
    }

    /// Reads a text into the configuration and looks at its bounds.
    ///
    /// # Errors
    /// What would have been right.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        (self.read)(config, text)?;
        self.check(config).map_err(|error| error.to_string())
    }

    /// Smallest and largest value as people read them.
    pub fn limits(&self) -> Option<(String, String)> {
        let (min, max) = self.bounds?;
        Some(((self.show_number)(min), (self.show_number)(max)))
    }

    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let (Some((low, high)), Some(value)) = (self.bounds, (self.number)(config)) else {
            return Ok(());
        };
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(ConfigError::OutOfRange {
            key: self.name,
            value: (self.show_number)(value),
            min: (self.show_number)(low),
            max: (self.show_number)(high),
        })
    }
}

/// Makes `Config` and `KEYS` of a list of
/// `field("key"): Type = Kind, default [=> "default in words"] [, within min => max];`.
/// Bounds are in the unit of the kind: bytes, milliseconds, or one.
macro_rules! settings {
    ($(
        #[doc = $doc:literal]
        $field:ident($name:literal): $type:ty = $kind:ident, $default:expr
            $(=> $words:literal)? $(, within $min:expr => $max:expr)?;
    )*) => {
        /// What a node is started with.
        #[derive(Debug, Clone)]
        pub struct Config {
            $(#[doc = $doc] pub $field: $type,)*
        }

        impl Config {
            fn defaults() -> Config {
                Config { $($field: $default,)* }
            }
        }

        /// Every setting, in the order of the reference page.
        pub static KEYS: &[Key] = &[$(Key {
            name: $name,
            doc: $doc.trim_ascii(),
            placeholder: <$kind as value::Kind<$type>>::PLACEHOLDER,
            switch: <$kind as value::Kind<$type>>::SWITCH,
            default_words: settings!(@words $($words)?),
            bounds: settings!(@bounds $($min, $max)?),
            read: |config, text| {
                config.$field = <$kind as value::Kind<$type>>::read(text)?;
                Ok(())
            },
            shown: |config| <$kind as value::Kind<$type>>::show(&config.$field),
            number: |config| <$kind as value::Kind<$type>>::number(&config.$field),
            show_number: <$kind as value::Kind<$type>>::show_number,
        },)*];
    };
    (@words) => { None };
    (@words $words:literal) => { Some($words) };
    (@bounds) => { None };
    (@bounds $min:expr, $max:expr) => { Some(($min, $max)) };
}

pub(super) use settings;
