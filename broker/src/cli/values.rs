//! Values of arguments: sizes, durations, times, positions, pairs.
//!
//! Pure parsing. Each function says in its error what would have been right.

use std::time::Duration;

pub(crate) use aqueduct_broker::config::{duration, show_duration, size};
use aqueduct_client::{From, StartPolicy, Until};
use bytesize::ByteSize;
use jiff::{Timestamp, civil, tz::TimeZone};

const TIME_FORMS: &str = "@1h (an hour ago), @2026-11-01, @2026-11-01T10:00Z or @MILLISECONDS";

/// A size that fits memory.
pub(crate) fn memory_size(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("{text} is more than this machine addresses"))
}

/// A duration, or `forever` as zero.
pub(crate) fn retention(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        return Ok(Duration::ZERO);
    }
    duration(text).map_err(|error| format!("{error}, or forever"))
}

/// A point in time in milliseconds since 1970, behind an `@`.
pub(crate) fn time_ms(text: &str) -> Result<i64, String> {
    time_ms_at(text, Timestamp::now())
}

fn time_ms_at(text: &str, now: Timestamp) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a time: {TIME_FORMS}");
    let time = text.strip_prefix('@').ok_or_else(wrong)?;
    if let Ok(ago) = duration(time)
        && time != "0"
    {
        let ago = i64::try_from(ago.as_millis()).map_err(|_| wrong())?;
        return Ok(now.as_millisecond().saturating_sub(ago));
    }
    absolute_ms(time).ok_or_else(wrong)
}

/// A point in time in milliseconds since 1970: RFC 3339, a local date or date and time, or
/// the number itself.
pub(crate) fn absolute_ms(text: &str) -> Option<i64> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return Some(milliseconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let local: civil::DateTime = text.parse().ok()?;
    Some(
        local
            .to_zoned(TimeZone::system())
            .ok()?
            .timestamp()
            .as_millisecond(),
    )
}

/// A point in time to come, in milliseconds since 1970.
pub(crate) fn deliver_at(text: &str) -> Result<i64, String> {
    absolute_ms(text.strip_prefix('@').unwrap_or(text))
        .ok_or_else(|| format!("{text:?} is not a time, such as 2026-12-01T08:00:00Z"))
}

/// Where to begin reading: `start`, `end`, an offset, `-N`, `@TIME`.
pub(crate) fn from(text: &str) -> Result<From, String> {
    let wrong = || format!("{text:?} is none of start, end, OFFSET, -N (the last N), {TIME_FORMS}");
    match text {
        "start" => Ok(From::Start),
        "end" => Ok(From::End),
        _ if text.starts_with('@') => time_ms(text).map(From::Time),
        _ => match text.strip_prefix('-') {
            Some(count) => count.parse().map(From::Last).map_err(|_| wrong()),
            None => text.parse().map(From::Offset).map_err(|_| wrong()),
        },
    }
}

/// Where a new group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    By(StartPolicy),
    At(From),
}

/// A policy's name, or a place as [`from`] reads it; a time may do without its `@`.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => return Ok(Start::By(StartPolicy::Earliest)),
        "latest" => return Ok(Start::By(StartPolicy::Latest)),
        "error" => return Ok(Start::By(StartPolicy::Error)),
        _ => {}
    }
    let is_number = text.parse::<i64>().is_ok();
    match absolute_ms(text).filter(|_| !is_number) {
        Some(time_ms) => Ok(Start::At(From::Time(time_ms))),
        None => from(text).map(Start::At).map_err(|_| {
            format!(
                "{text:?} is none of earliest, latest, error, OFFSET, -N (the last N), {TIME_FORMS}"
            )
        }),
    }
}

/// Where to stop reading: `now`, an offset, `@TIME`. Exclusive.
pub(crate) fn until(text: &str) -> Result<Until, String> {
    match text {
        "now" | "end" => Ok(Until::Now),
        _ if text.starts_with('@') => time_ms(text).map(Until::Time),
        _ => text
            .parse()
            .map(Until::Offset)
            .map_err(|_| format!("{text:?} is none of now, OFFSET, {TIME_FORMS}")),
    }
}

/// One message's place: `PARTITION:OFFSET`.
pub(crate) fn place(text: &str) -> Result<(u32, u64), String> {
    let parse =
        |(partition, offset): (&str, &str)| Some((partition.parse().ok()?, offset.parse().ok()?));
    text.split_once(':')
        .and_then(parse)
        .ok_or_else(|| format!("{text:?} is not PARTITION:OFFSET, such as 3:1042"))
}

/// `name=value`, where the value may contain more of them.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

/// Messages per second: `500`, `50k`, `1.5M/s`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let (number, factor) = match number.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => number
            .strip_suffix('M')
            .map_or((number, 1.0), |number| (number, 1e6)),
    };
    match number.parse::<f64>().map(|number| number * factor) {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("{text:?} is not a rate like 500, 50k or 1M/s")),
    }
}

/// A topic's name, with or without `topics/`.
pub(crate) fn topic(text: &str) -> Result<String, String> {
    let name = aqueduct_proto::names::parse_topic(text);
    name.map(str::to_owned).map_err(|error| error.to_string())
}

/// A group and its topic: `TOPIC/GROUP`, or `topics/TOPIC/groups/GROUP`.
pub(crate) fn group(text: &str) -> Result<GroupName, String> {
    let parts = match text.strip_prefix("topics/") {
        Some(rest) => rest.split_once("/groups/").or_else(|| rest.split_once('/')),
        None => text.split_once('/'),
    };
    let (of, name) = parts.ok_or_else(|| format!("{text:?} is not TOPIC/GROUP"))?;
    Ok(GroupName {
        topic: topic(of)?,
        name: topic(name)?,
    })
}

/// A group and its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupName {
    pub(crate) topic: String,
    pub(crate) name: String,
}

/// A time as people read it, in UTC.
pub(crate) fn show_time(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => milliseconds.to_string(),
    }
}

/// A duration as people write it; zero is `forever`.
pub(crate) fn show_retention(duration: Duration) -> String {
    if duration.as_millis() == 0 {
        return "forever".to_owned();
    }
    show_duration(duration)
}

/// A duration at a glance: its two greatest units.
pub(crate) fn show_long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{:.1} s", duration.as_secs_f64()),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A size as people read it.
pub(crate) fn show_size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(duration(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5x",
            "-1s",
            "1.5s",
            "99999999999999999999d",
            "1h 5m",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(retention("forever"), Ok(Duration::ZERO));
        assert_eq!(show_retention(duration("36h").unwrap()), "36h");
        assert_eq!(show_retention(duration("7d").unwrap()), "7d");
        assert_eq!(show_retention(Duration::ZERO), "forever");
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert!(size("much").is_err());
        assert_eq!(rate("50k"), Ok(50_000.0));
        assert_eq!(rate("1.5M/s"), Ok(1_500_000.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        for text in ["0", "-5", "x", "inf", ""] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(time_ms_at("@1h", now), Ok(1_799_996_400_000));
        assert_eq!(time_ms_at("@2026-11-01T10:00Z", now), Ok(1_793_527_200_000));
        assert_eq!(
            time_ms_at("@2026-11-01T10:00:00.5Z", now),
            Ok(1_793_527_200_500)
        );
        assert_eq!(time_ms_at("@1700000000000", now), Ok(1_700_000_000_000));
        assert!(time_ms_at("@2026-11-01", now).is_ok());
        assert!(time_ms_at("@2026-11-01T10:00", now).is_ok());
        for text in ["@", "1h", "@yesterday", "@2026-13-01T00:00Z"] {
            assert!(time_ms_at(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn positions() {
        assert_eq!(from("start"), Ok(From::Start));
        assert_eq!(from("end"), Ok(From::End));
        assert_eq!(from("17"), Ok(From::Offset(17)));
        assert_eq!(from("-10"), Ok(From::Last(10)));
        assert_eq!(from("@5"), Ok(From::Time(5)));
        assert!(from("--1").is_err());
        assert_eq!(start("latest"), Ok(Start::By(StartPolicy::Latest)));
        assert_eq!(start("17"), Ok(Start::At(From::Offset(17))));
        assert_eq!(start("-3"), Ok(Start::At(From::Last(3))));
        let time = Start::At(From::Time(1_793_527_200_000));
        assert_eq!(start("2026-11-01T10:00:00Z"), Ok(time));
        assert_eq!(start("@2026-11-01T10:00:00Z"), Ok(time));
        assert!(matches!(start("@2h"), Ok(Start::At(From::Time(_)))));
        assert!(start("newest").is_err());
        assert!(from("now").is_err());
        assert_eq!(until("now"), Ok(Until::Now));
        assert_eq!(until("5"), Ok(Until::Offset(5)));
        assert!(until("-5").is_err());
        assert_eq!(place("3:1042"), Ok((3, 1042)));
        assert!(place("3").is_err());
        assert!(place("3:").is_err());
        assert!(place("-1:0").is_err());
    }

    #[test]
    fn pairs_and_names() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("=b").is_err());
        assert!(pair("a").is_err());
        assert_eq!(topic("topics/orders").unwrap(), "orders");
        assert!(topic("../x").is_err());
        let billing = group("orders/billing").unwrap();
        assert_eq!(billing.topic, "orders");
        assert_eq!(billing.name, "billing");
        assert_eq!(group("topics/orders/groups/billing"), Ok(billing));
        for wrong in [
            "", "orders", "/", "orders/", "/billing", "a/b/c", "topics/a",
        ] {
            assert!(group(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_time(1_793_527_200_500), "2026-11-01T10:00:00.500Z");
    }
}
