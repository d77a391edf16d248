//! What clients saw: acknowledgements and stored records, as plain values.

use serde_json::Value;

/// One acknowledgement: line `line` of the input is stored at this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Acknowledged {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Line of the input, from 1; goes on counting when the input is repeated.
    pub line: u64,
}

impl Acknowledged {
    /// Reads `partition offset line-number`.
    ///
    /// # Panics
    /// If the line is anything else.
    #[must_use]
    pub fn from_line(line: &str) -> Acknowledged {
        let numbers: Vec<u64> = line.split(' ').map(|part| part.parse().unwrap()).collect();
        let [partition, offset, line] = numbers[..] else {
            panic!("not `partition offset line-number`: {line:?}")
        };
        Acknowledged {
            partition: u32::try_from(partition).unwrap(),
            offset,
            line,
        }
    }
}

/// One record as a reader saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Key, if it is text.
    pub key: Option<String>,
    /// Value, if it is text.
    pub value: Option<String>,
}

impl Stored {
    /// Reads a line of `sub -o jsonl`.
    ///
    /// # Panics
    /// If the line is not such an object.
    #[must_use]
    pub fn from_json_line(line: &str) -> Stored {
        let object: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| object[name].as_str().map(str::to_owned);
        Stored {
            partition: u32::try_from(object["partition"].as_u64().unwrap()).unwrap(),
            offset: object["offset"].as_u64().unwrap(),
            timestamp: object["timestamp"].as_i64().unwrap(),
            key: text("key"),
            value: text("value"),
        }
    }
}
