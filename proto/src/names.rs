//! Names of topics: Kafka's rule, so that every topic can be reached through every door.
//!
//! A topic is called `orders`, or in full `topics/orders`. A checked name is also safe as the name
//! of a directory.

use thiserror::Error;

/// The longest name of a topic, in characters.
pub const MAX_TOPIC_LEN: usize = 249;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// No character at all.
    #[error("a topic name must not be empty")]
    Empty,
    /// More than [`MAX_TOPIC_LEN`] bytes.
    #[error("a topic name has at most {MAX_TOPIC_LEN} characters, this one has {length}")]
    TooLong {
        /// Length of the name in bytes.
        length: usize,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`.
    #[error(
        "a topic name has only letters, digits, '.', '_' and '-', not {character:?} (at byte {position})"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Where it starts, in bytes.
        position: usize,
    },
    /// `.` or `..`.
    #[error("a topic cannot be called {0:?}")]
    Dots(String),
}

/// Checks a bare topic name: `[A-Za-z0-9._-]{1,249}`, but neither `.` nor `..`.
///
/// # Errors
/// A [`NameError`] that says which character or length is wrong.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_TOPIC_LEN {
        return Err(NameError::TooLong { length: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots(name.to_owned()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name
        .char_indices()
        .find(|(_, character)| !allowed(*character))
    {
        Some((position, character)) => Err(NameError::Character {
            character,
            position,
        }),
        None => Ok(()),
    }
}

/// The bare name in `topics/orders` or `orders`, checked.
///
/// # Errors
/// As [`check_topic`] for what follows the prefix.
pub fn parse_topic(name: &str) -> Result<&str, NameError> {
    let bare = name.strip_prefix("topics/").unwrap_or(name);
    check_topic(bare)?;
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["a", "orders", "A.b_c-9", "...", "-", &"x".repeat(249)] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
            assert_eq!(parse_topic(name), Ok(name));
            assert_eq!(parse_topic(&format!("topics/{name}")), Ok(name));
        }
    }

    #[test]
    fn bad_names() {
        let wrong = |character, position| {
            Err(NameError::Character {
                character,
                position,
            })
        };
        assert_eq!(check_topic(""), Err(NameError::Empty));
        assert_eq!(parse_topic("topics/"), Err(NameError::Empty));
        assert_eq!(check_topic("."), Err(NameError::Dots(".".to_owned())));
        assert_eq!(
            parse_topic("topics/.."),
            Err(NameError::Dots("..".to_owned()))
        );
        assert_eq!(
            check_topic(&"x".repeat(250)),
            Err(NameError::TooLong { length: 250 })
        );
        assert_eq!(check_topic("../x"), wrong('/', 2));
        assert_eq!(check_topic("a\0b"), wrong('\0', 1));
        assert_eq!(check_topic("grün"), wrong('ü', 2));
        assert_eq!(check_topic("a b"), wrong(' ', 1));
        assert_eq!(parse_topic("topics/topics/x").map(drop), wrong('/', 6));
    }
}
