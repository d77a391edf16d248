//! From stdin or arguments to messages, on a thread of its own.
//!
//! Lines are slices of large pieces of input, not copies; a JSON line is parsed. Promises: line
//! numbers count from 1 through all repetitions; memory is bounded by a few pieces, by one line,
//! and with `--repeat` by the input itself ([`MAX_REPEATED`]).

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use aqueduct_client::Message;
use bytes::{Buf as _, Bytes, BytesMut};
use regex::bytes::{CaptureLocations, Regex};
use tokio::sync::mpsc;

use super::{
    output::Failure,
    publish_json::{Described, describe},
    values,
};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Messages handed over at once, and bytes of them.
const CHUNK: usize = 1000;
const CHUNK_BYTES: usize = 1 << 20;
/// Longest line.
const MAX_LINE: usize = 64 << 20;
/// Longest input that can be repeated.
const MAX_REPEATED: u64 = 1 << 30;

/// Where messages come from.
pub(super) enum Source {
    /// Lines of stdin, the whole of it `repeat` times.
    Stdin { repeat: u64 },
    /// These, `repeat` times.
    Values { values: Vec<Bytes>, repeat: u64 },
}

/// What a line is.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// The value of a message.
    Value,
    /// A JSON object that describes a message.
    Json,
}

/// Where keys come from.
pub(super) enum Key {
    /// Nowhere, or from the JSON line.
    None,
    /// One for all.
    Fixed(Bytes),
    /// The first group of an expression that is matched with the value.
    Matched(Regex),
}

/// Where dedup ids come from.
pub(super) enum Dedup {
    /// Nowhere, or from the JSON line's `dedup_id`.
    None,
    /// The one message's.
    Id(String),
    /// A field of the JSON line.
    Field(String),
}

/// How a line becomes a message.
pub(super) struct Rules {
    pub(super) shape: Shape,
    pub(super) key: Key,
    pub(super) headers: Vec<(String, Bytes)>,
    pub(super) partition: Option<u32>,
    pub(super) asked: Asked,
    pub(super) dedup: Dedup,
}

/// What every message asks of queue groups.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) delay: Option<Duration>,
    pub(super) deliver_at_ms: Option<i64>,
    pub(super) ttl: Option<Duration>,
    pub(super) priority: Option<u8>,
}

impl Asked {
    fn of(&self, mut message: Message) -> Message {
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(time_ms) = self.deliver_at_ms {
            message = message.deliver_at_ms(time_ms);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        message
    }
}

/// A message and where it was in the input.
pub(super) struct Numbered {
    /// From 1, through all repetitions.
    pub(super) line: u64,
    /// It has a key or a partition of its own.
    pub(super) keyed: bool,
    pub(super) message: Message,
}

/// How many messages had no key, so far.
pub(super) struct Keyless(Arc<AtomicU64>);

impl Keyless {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Chunks = mpsc::Sender<anyhow::Result<Vec<Numbered>>>;

/// Starts the thread. It ends with the input, at the first bad line (which is the last thing it
/// sends), or when nobody listens any more.
pub(super) fn start(source: Source, rules: Rules, chunks: Chunks) -> Keyless {
    let keyless = Arc::new(AtomicU64::new(0));
    let locations = match &rules.key {
        Key::Matched(expression) => Some(expression.capture_locations()),
        Key::None | Key::Fixed(_) => None,
    };
    let mut maker = Maker {
        rules,
        locations,
        keyless: keyless.clone(),
        line: 0,
        chunk: Vec::new(),
        chunk_bytes: 0,
        chunks,
    };
    std::thread::spawn(move || {
        let result = match source {
            Source::Stdin { repeat: 1 } => maker.stream(std::io::stdin().lock()),
            Source::Stdin { repeat } => maker.repeat_stdin(repeat),
            Source::Values { values, repeat } => maker.repeat_values(&values, repeat),
        };
        let result = result.and_then(|()| maker.hand_over());
        if let Err(Stop::Bad(error)) = result {
            // What came before the bad line is still to be published.
            if maker.hand_over().is_ok() {
                let _ = maker.chunks.blocking_send(Err(error));
            }
        }
    });
    Keyless(keyless)
}

/// Why the thread ends early.
enum Stop {
    /// Nobody listens.
    Unheard,
    /// The input is bad.
    Bad(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Bad(error)
    }
}

/// Makes messages of lines and hands them over in chunks.
struct Maker {
    rules: Rules,
    locations: Option<CaptureLocations>,
    keyless: Arc<AtomicU64>,
    line: u64,
    chunk: Vec<Numbered>,
    chunk_bytes: usize,
    chunks: Chunks,
}

impl Maker {
    fn repeat_values(&mut self, values: &[Bytes], repeat: u64) -> Result<(), Stop> {
        for _ in 0..repeat {
            for value in values {
                self.add(value.clone())?;
            }
        }
        Ok(())
    }

    fn repeat_stdin(&mut self, repeat: u64) -> Result<(), Stop> {
        let mut input = Vec::new();
        let limited = std::io::stdin()
            .lock()
            .take(MAX_REPEATED + 1)
            .read_to_end(&mut input);
        limited.context("cannot read stdin")?;
        if input.len() as u64 > MAX_REPEATED {
            let limit = values::show_size(MAX_REPEATED);
            return Err(Stop::Bad(
                Failure::usage(format!(
                    "--repeat keeps its input in memory, {limit} at most"
                ))
                .into(),
            ));
        }
        let input = Bytes::from(input);
        for _ in 0..repeat {
            self.lines(input.clone())?;
        }
        Ok(())
    }

    /// Publishes lines as they come; what is there is handed over before the next read.
    fn stream(&mut self, mut input: impl Read) -> Result<(), Stop> {
        let mut pending = BytesMut::new();
        loop {
            let filled = pending.len();
            pending.resize(filled + READ_BYTES, 0);
            let count = match input.read(&mut pending[filled..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                result => {
                    let count = result.context("cannot read stdin")?;
                    if count == 0 {
                        pending.truncate(filled);
                        return self.lines(pending.freeze());
                    }
                    count
                }
            };
            pending.truncate(filled + count);
            let fresh = &pending[filled..];
            if let Some(end) = fresh.iter().rposition(|byte| *byte == b'\n') {
                let whole = pending.split_to(filled + end + 1);
                self.lines(whole.freeze())?;
                self.hand_over()?;
            } else if pending.len() > MAX_LINE {
                let message = format!("line {} is longer than {MAX_LINE} bytes", self.line + 1);
                return Err(Stop::Bad(Failure::new(1, message).into()));
            }
        }
    }

    /// Adds each line of `input`; the last one may lack its newline.
    fn lines(&mut self, mut input: Bytes) -> Result<(), Stop> {
        while !input.is_empty() {
            let end = input
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(input.len());
            let line = input.split_to(end);
            if !input.is_empty() {
                input.advance(1);
            }
            self.add(line)?;
        }
        Ok(())
    }

    fn add(&mut self, line: Bytes) -> Result<(), Stop> {
        self.line += 1;
        let message = match self.rules.shape {
            Shape::Value => Some(Described {
                message: Message::new(line.clone()),
                keyed: false,
                value: line,
            }),
            Shape::Json if line.iter().all(u8::is_ascii_whitespace) => None,
            Shape::Json => {
                let field = match &self.rules.dedup {
                    Dedup::Field(field) => field,
                    Dedup::None | Dedup::Id(_) => "dedup_id",
                };
                let described = describe(&line, field);
                Some(described.with_context(|| format!("line {}", self.line))?)
            }
        };
        let Some(Described {
            mut message,
            keyed,
            value,
        }) = message
        else {
            return Ok(());
        };
        let mut keyed = keyed;
        if let Some(key) = self.key(&value) {
            message = message.key(key);
            keyed = true;
        }
        if !keyed {
            self.keyless.fetch_add(1, Ordering::Relaxed);
        }
        for (name, value) in &self.rules.headers {
            message = message.header(name.clone(), value.clone());
        }
        if let Some(partition) = self.rules.partition {
            message = message.partition(partition);
            keyed = true;
        }
        message = self.rules.asked.of(message);
        if let Dedup::Id(id) = &self.rules.dedup {
            message = message.dedup_id(id.clone());
        }
        self.chunk_bytes += message.size();
        self.chunk.push(Numbered {
            line: self.line,
            keyed,
            message,
        });
        if self.chunk.len() == CHUNK || self.chunk_bytes >= CHUNK_BYTES {
            self.hand_over()
        } else {
            Ok(())
        }
    }

    fn key(&mut self, value: &Bytes) -> Option<Bytes> {
        match (&self.rules.key, &mut self.locations) {
            (Key::Fixed(key), _) => Some(key.clone()),
            (Key::Matched(expression), Some(locations)) => {
                expression.captures_read(locations, value)?;
                let (start, end) = locations.get(1)?;
                Some(value.slice(start..end))
            }
            _ => None,
        }
    }

    fn hand_over(&mut self) -> Result<(), Stop> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        self.chunk_bytes = 0;
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.chunks
            .blocking_send(Ok(chunk))
            .map_err(|_| Stop::Unheard)
    }
}

#[cfg(test)]
mod tests;
