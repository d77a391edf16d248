//! Values of settings as text: sizes, times, counts, switches, addresses.
//!
//! Pure. Each kind reads what it shows, and says in its error what would have been right. The
//! command line reads its own sizes and times by the same functions.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;

/// How one kind of value is written, read and bounded.
pub(super) trait Kind<T> {
    /// What stands for a value in help texts.
    const PLACEHOLDER: &'static str;
    /// The flag alone means true.
    const SWITCH: bool = false;
    /// Reads a text.
    ///
    /// # Errors
    /// What would have been right.
    fn read(text: &str) -> Result<T, String>;
    /// A text that [`Kind::read`] understands.
    fn show(value: &T) -> String;
    /// What bounds are compared with: bytes, milliseconds, or the number itself.
    fn number(_value: &T) -> Option<u64> {
        None
    }
    /// A bound as people read it.
    fn show_number(number: u64) -> String {
        number.to_string()
    }
}

/// A number of bytes.
pub(super) struct Size;
/// A number of bytes, or none.
pub(super) struct DiskLimit;
/// A whole number.
pub(super) struct Count;
/// A length of time.
pub(super) struct Time;
/// True or false.
pub(super) struct Flag;
/// An address to listen on.
pub(super) struct Address;
/// A directory.
pub(super) struct Folder;
/// Which log lines are shown.
pub(super) struct Filter;
/// How log lines look.
pub(super) struct Form;
/// Where a collector of OpenTelemetry listens, or none.
pub(super) struct Collector;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Kind<T> for Size {
    const PLACEHOLDER: &'static str = "SIZE";
    fn read(text: &str) -> Result<T, String> {
        let wrong = |_| format!("{text} is more than this machine addresses");
        T::try_from(size(text)?).map_err(wrong)
    }
    fn show(value: &T) -> String {
        show_size(Self::number(value).unwrap_or(u64::MAX))
    }
    fn number(value: &T) -> Option<u64> {
        (*value).try_into().ok()
    }
    fn show_number(number: u64) -> String {
        show_size(number)
    }
}

impl Kind<Option<u64>> for DiskLimit {
    const PLACEHOLDER: &'static str = "SIZE|none";
    fn read(text: &str) -> Result<Option<u64>, String> {
        if text == "none" {
            return Ok(None);
        }
        size(text)
            .map(Some)
            .map_err(|error| format!("{error}, or none"))
    }
    fn show(value: &Option<u64>) -> String {
        value.map_or_else(|| "none".to_owned(), show_size)
    }
    fn number(value: &Option<u64>) -> Option<u64> {
        *value
    }
    fn show_number(number: u64) -> String {
        show_size(number)
    }
}

impl<T: Copy + Display + std::str::FromStr + TryInto<u64>> Kind<T> for Count {
    const PLACEHOLDER: &'static str = "N";
    fn read(text: &str) -> Result<T, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a whole number like 4"))
    }
    fn show(value: &T) -> String {
        value.to_string()
    }
    fn number(value: &T) -> Option<u64> {
        (*value).try_into().ok()
    }
}

impl Kind<Duration> for Time {
    const PLACEHOLDER: &'static str = "TIME";
    fn read(text: &str) -> Result<Duration, String> {
        duration(text)
    }
    fn show(value: &Duration) -> String {
        show_duration(*value)
    }
    fn number(value: &Duration) -> Option<u64> {
        Some(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
    fn show_number(number: u64) -> String {
        show_duration(Duration::from_millis(number))
    }
}

impl Kind<bool> for Flag {
    const PLACEHOLDER: &'static str = "true|false";
    const SWITCH: bool = true;
    fn read(text: &str) -> Result<bool, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is neither true nor false"))
    }
    fn show(value: &bool) -> String {
        value.to_string()
    }
}

impl Kind<SocketAddr> for Address {
    const PLACEHOLDER: &'static str = "HOST:PORT";
    fn read(text: &str) -> Result<SocketAddr, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not an address like 127.0.0.1:7320 or [::1]:7320"))
    }
    fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

impl Kind<PathBuf> for Folder {
    const PLACEHOLDER: &'static str = "DIR";
    fn read(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            return Err("the name of the directory is empty".to_owned());
        }
        Ok(PathBuf::from(text))
    }
    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

impl Kind<String> for Filter {
    const PLACEHOLDER: &'static str = "FILTER";
    fn read(text: &str) -> Result<String, String> {
        let read = tracing_subscriber::EnvFilter::try_new(text);
        read.map(|_| text.to_owned())
            .map_err(|error| format!("{text:?} is not a filter like info or debug: {error}"))
    }
    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Kind<LogFormat> for Form {
    const PLACEHOLDER: &'static str = "text|json";
    fn read(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
    fn show(value: &LogFormat) -> String {
        match value {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }
    }
}

impl Kind<Option<String>> for Collector {
    const PLACEHOLDER: &'static str = "URL|none";
    fn read(text: &str) -> Result<Option<String>, String> {
        if text == "none" {
            return Ok(None);
        }
        let uri: Option<http::Uri> = text.parse().ok();
        let plain = uri.filter(|uri| {
            let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
            bare && uri.scheme_str() == Some("http") && uri.port_u16().is_some()
        });
        plain.map(|_| Some(text.to_owned())).ok_or_else(|| {
            format!("{text:?} is not an address like http://127.0.0.1:4317 (gRPC, no TLS), or none")
        })
    }
    fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_else(|| "none".to_owned())
    }
}

/// A number of bytes: `4096`, `64KiB`, `1.5MB`.
///
/// # Errors
/// What would have been right.
pub fn size(text: &str) -> Result<u64, String> {
    let size: Result<ByteSize, _> = text.parse();
    size.map(|size| size.0)
        .map_err(|_| format!("{text:?} is not a size like 4096, 64KiB or 1GB"))
}

/// A size without loss: the greatest binary unit that divides it.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let unit = UNITS
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// A duration: `250ms`, `30s`, `1h30m`, `7d`, `0`.
///
/// # Errors
/// What would have been right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 250ms, 30s, 1h30m or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        let part = Duration::from_millis(number.checked_mul(unit_ms).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(total)
    }
}

/// A duration without loss (down to milliseconds): the greatest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    const UNITS: [(u128, &str); 5] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
        (1, "ms"),
    ];
    let milliseconds = duration.as_millis();
    let whole = UNITS
        .iter()
        .find(|(unit, _)| milliseconds.is_multiple_of(*unit));
    match whole {
        _ if milliseconds == 0 => "0".to_owned(),
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}
