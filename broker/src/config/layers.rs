//! Flags over environment over file over defaults, and where each value came from.
//!
//! Every problem is collected with its place, so that one start shows them all. A value that a
//! higher layer covers is checked all the same: it is wrong now and would be used tomorrow.
//! Reads no file and no environment itself: texts come in.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::{Config, KEYS, Key, OTHER_VARIABLES, PREFIX, variables::is_service_link};
use crate::slips::closest;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The command or the service manager sets it, unless told otherwise.
    Preset(String),
    /// A file: its name and the line.
    File(String, usize),
    /// A variable.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}:{line}"),
            Self::Preset(text) | Self::Env(text) | Self::Flag(text) => f.write_str(text),
        }
    }
}

/// Something that is wrong, where, and what was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `aqueduct.toml:3`, `AQUEDUCT_LISTEN`, `--listen`; empty for the whole.
    pub place: String,
    /// Line of the file, if it is in a file.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A configuration and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What the node is started with.
    pub config: Config,
    /// In the order of [`KEYS`].
    pub origins: Vec<Origin>,
}

/// A configuration that is being put together, lowest layer first.
#[derive(Debug)]
pub struct Layers {
    config: Config,
    origins: Vec<Origin>,
    problems: Vec<Problem>,
}

impl Default for Layers {
    fn default() -> Self {
        Self {
            config: Config::defaults(),
            origins: vec![Origin::Default; KEYS.len()],
            problems: Vec::new(),
        }
    }
}

impl Layers {
    /// Sets a value that a command has of its own.
    pub fn preset(&mut self, name: &str, text: &str, by: &str) {
        self.named(name, text, Origin::Preset(by.to_owned()));
    }

    /// Reads a TOML file: its name for messages, and its text.
    pub fn file(&mut self, name: &str, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            self.problem(Origin::File(name.to_owned(), line), error.message(), None);
        }
        for (key, value) in table.get_ref() {
            let origin = Origin::File(name.to_owned(), line_of(text, key.span().start));
            match find(key.get_ref()) {
                None => self.unknown_key(key.get_ref(), origin),
                Some((_, known)) => match as_text(value.get_ref(), known) {
                    Ok(text) => self.named(known.name, &text, origin),
                    Err(why) => self.problem(origin, &format!("{}: {why}", known.name), None),
                },
            }
        }
    }

    /// Reads the variables that begin with our prefix; all others are left alone.
    pub fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let mut ours: Vec<_> = variables
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        ours.sort();
        for (name, text) in ours {
            let origin = Origin::Env(name.clone());
            let other = OTHER_VARIABLES.iter().any(|(other, ..)| *other == name);
            match KEYS.iter().find(|key| key.env() == name) {
                Some(key) => self.named(key.name, &text, origin),
                None if other || is_service_link(&name) => {}
                None => self.unknown_variable(&name, origin),
            }
        }
    }

    /// Sets a value from a flag.
    pub fn flag(&mut self, name: &str, text: &str, flag: String) {
        self.named(name, text, Origin::Flag(flag));
    }

    /// What was put together.
    ///
    /// # Errors
    /// Everything that is wrong with it, relations between values included.
    pub fn settle(mut self) -> Result<Settled, Vec<Problem>> {
        if self.problems.is_empty()
            && let Err(error) = self.config.validate()
        {
            self.problems.push(Problem {
                place: String::new(),
                line: None,
                message: error.to_string(),
                hint: None,
            });
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        Ok(Settled {
            config: self.config,
            origins: self.origins,
        })
    }

    /// What is wrong so far, without relations between values: for a file on its own.
    pub fn problems(self) -> Vec<Problem> {
        self.problems
    }

    fn named(&mut self, name: &str, text: &str, origin: Origin) {
        let Some((place, key)) = find(name) else {
            return self.unknown_key(name, origin);
        };
        let before = self.config.clone();
        match key.set(&mut self.config, text) {
            Ok(()) => self.origins[place] = origin,
            Err(why) => {
                self.config = before;
                let named = why.starts_with(key.name);
                let message = if named {
                    why
                } else {
                    format!("{}: {why}", key.name)
                };
                self.problem(origin, &message, None);
            }
        }
    }

    fn unknown_key(&mut self, name: &str, origin: Origin) {
        let names: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        let hint = match closest(&name.to_lowercase(), names.iter()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "`aqueduct config env` lists every key".to_owned(),
        };
        self.problem(origin, &format!("unknown key {name:?}"), Some(hint));
    }

    fn unknown_variable(&mut self, name: &str, origin: Origin) {
        let mut names: Vec<String> = KEYS.iter().map(Key::env).collect();
        names.extend(OTHER_VARIABLES.iter().map(|(name, ..)| (*name).to_owned()));
        let hint = match closest(name, names.iter()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "`aqueduct config env` lists every variable".to_owned(),
        };
        self.problem(origin, "unknown variable", Some(hint));
    }

    fn problem(&mut self, origin: Origin, message: &str, hint: Option<String>) {
        let line = match &origin {
            Origin::File(_, line) => Some(*line),
            _ => None,
        };
        self.problems.push(Problem {
            place: origin.to_string(),
            line,
            message: message.trim_end().to_owned(),
            hint,
        });
    }
}

fn find(name: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.name == name)
}

fn line_of(text: &str, position: usize) -> usize {
    let before = &text.as_bytes()[..position.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A TOML value as the text that a variable would hold.
fn as_text(value: &DeValue<'_>, key: &Key) -> Result<String, String> {
    let wanted = |found: &str| {
        let form = key.placeholder;
        Err(format!("{form} is wanted here, not {found}"))
    };
    match value {
        DeValue::Boolean(value) if key.switch => Ok(value.to_string()),
        DeValue::String(text) if !key.switch => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if !key.switch && number.radix() == 10 => {
            Ok(number.as_str().to_owned())
        }
        DeValue::Boolean(value) => wanted(&value.to_string()),
        DeValue::String(text) => wanted(&format!("the text {text:?}")),
        DeValue::Integer(number) => wanted(&format!("the number {}", number.as_str())),
        other => wanted(&format!(
            "{} {}",
            article(other.type_str()),
            other.type_str()
        )),
    }
}

fn article(word: &str) -> &'static str {
    match word.as_bytes().first() {
        Some(b'a' | b'e' | b'i' | b'o' | b'u') => "an",
        _ => "a",
    }
}

#[cfg(test)]
mod tests;
