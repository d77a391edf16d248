//! What commands print, and how they end.
//!
//! | Exit code | Meaning                                                                |
//! |-----------|------------------------------------------------------------------------|
//! | 0         | done                                                                   |
//! | 1         | anything not named below                                               |
//! | 2         | usage: arguments that cannot be right                                  |
//! | 3         | not found                                                              |
//! | 4         | denied                                                                 |
//! | 5         | unavailable: no broker there, or it is out of some resource            |
//! | 6         | time-out: the outcome is unknown                                       |
//! | 7         | conflict: exists already, a precondition failed, a producer was fenced |
//!
//! Output goes through [`print()`], so that a reader who has seen enough (`aqueduct … | head`) ends
//! a command quietly.

use std::{
    error::Error as _,
    fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use aqueduct_client::Error;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

/// Exit code for arguments that cannot be right.
pub(crate) const USAGE: u8 = 2;
/// Exit code after Ctrl-C where it leaves something undone, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; may change
    #[default]
    #[value(alias = "text")]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
}

/// A failure of the command itself, not of the broker.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code,
        }
    }

    /// Arguments that cannot be right.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Adds what the user might do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints an error to stderr and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let (code, hint) = classify(error);
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(&format!(": {cause}"));
        }
    }
    complain(&text, hint.as_deref());
    ExitCode::from(code)
}

/// Prints what is wrong and what would help to stderr.
pub(crate) fn complain(message: &str, hint: Option<&str>) {
    let hint = hint.map(|hint| format!("hint: {hint}\n"));
    let text = format!("error: {message}\n{}", hint.unwrap_or_default());
    // If stderr is gone there is nobody left to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Tells on stderr what happens meanwhile.
pub(crate) fn note(text: &str) {
    // If stderr is gone there is nobody left to tell.
    let _ = io::stderr().write_all(format!("note: {text}\n").as_bytes());
}

fn classify(error: &anyhow::Error) -> (u8, Option<String>) {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return (failure.code, failure.hint.clone());
    }
    match error.downcast_ref::<Error>() {
        Some(error) => (error.exit_code(), hint_for(error)),
        None => (1, None),
    }
}

/// What helps in most cases of an error.
fn hint_for(error: &Error) -> Option<String> {
    let hint = match error {
        Error::NotFound(_) if error.reason() == "TOPIC_NOT_FOUND" => {
            "`aqueduct topic ls` shows what there is, `aqueduct topic create NAME` makes one"
        }
        Error::NotFound(_) if error.reason() == "GROUP_NOT_FOUND" => {
            "`aqueduct group ls` shows what there is, `aqueduct group create TOPIC/GROUP` makes one"
        }
        Error::AlreadyExists(_) if error.reason() == "GROUP_EXISTS" => {
            "`group create --if-not-exists` accepts what is there"
        }
        Error::AlreadyExists(_) => "`topic create --if-not-exists` accepts what is there",
        Error::Unavailable(_) => {
            "is a broker running? `aqueduct dev` starts one; --server HOST:PORT names another"
        }
        Error::Timeout(_) | Error::Unknown(_) => {
            "it may have happened or not; --timeout TIME waits longer"
        }
        Error::Fenced(_) => {
            "another producer has taken over this name; only the last one may write"
        }
        Error::OutOfRange {
            earliest, latest, ..
        } => {
            return Some(format!(
                "offsets from {earliest} to before {latest} can be read"
            ));
        }
        Error::TooLarge(_) => "`aqueduct topic alter NAME --max-message SIZE` raises the limit",
        Error::Exhausted { .. } => {
            "free space, or let go of old messages with `aqueduct topic trim`"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe && error.source().is_none())
}

/// Writes to stdout and flushes.
pub(crate) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref())?;
    stdout.flush()
}

/// One JSON document: over several lines for people, on one line for programs.
pub(crate) fn print_json(value: &Value) -> io::Result<()> {
    let pretty = io::stdout().is_terminal();
    let text = if pretty {
        format!("{value:#}\n")
    } else {
        format!("{value}\n")
    };
    print(text)
}

/// A list as `json` (an array) or `jsonl` (a line each).
pub(crate) fn print_list(format: Format, values: Vec<Value>) -> io::Result<()> {
    match format {
        Format::Jsonl => {
            let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
            print(lines)
        }
        Format::Json | Format::Table => print_json(&Value::Array(values)),
    }
}

/// A table without borders, columns set apart by two spaces.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    table
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> io::Result<()> {
    print(table_text(table))
}

/// A table without the blanks that pad its first and its last column.
pub(crate) fn table_text(table: &Table) -> String {
    let trim = |line: String| {
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        format!("{line}\n")
    };
    table.lines().map(trim).collect()
}

/// Asks before something is destroyed. Where nobody can answer, `--yes` is required.
///
/// # Errors
/// A usage failure without a terminal, or if the answer is not yes.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} needs a confirmation"))
            .hint("--yes confirms, --dry-run shows what would happen")
            .into());
    }
    write!(io::stderr(), "{question}? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(Failure::new(1, "nothing was done").into())
}
