//! How long a client is willing to wait: `grpc-timeout`, or `x-aqueduct-timeout` for people.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::status::Problem;

/// `x-aqueduct-timeout: 1500ms`, `2.5s` or `1m`.
const PLAIN: &str = "x-aqueduct-timeout";
/// `grpc-timeout: 1500m`: at most eight digits and a unit.
const GRPC: &str = "grpc-timeout";

/// When the client stops waiting, if it said so.
///
/// # Errors
/// If a header cannot be read, naming it.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Problem> {
    for name in [PLAIN, GRPC] {
        let Some(value) = headers.get(name) else {
            continue;
        };
        let read = if name == PLAIN { plain } else { grpc };
        let timeout = value.to_str().ok().and_then(read);
        let timeout = timeout.ok_or_else(|| {
            let forms = if name == PLAIN {
                "such as 500ms, 2.5s or 1m"
            } else {
                "at most eight digits and one of H M S m u n"
            };
            Problem::invalid(name, &format!("{value:?} is no time, {forms}"))
        })?;
        return Ok(Instant::now().checked_add(timeout));
    }
    Ok(None)
}

fn plain(text: &str) -> Option<Duration> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

fn grpc(text: &str) -> Option<Duration> {
    let at = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(at)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(plain("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(plain("2.5s"), Some(Duration::from_millis(2_500)));
        assert_eq!(plain("1m"), Some(Duration::from_secs(60)));
        assert_eq!(grpc("100m"), Some(Duration::from_millis(100)));
        assert_eq!(grpc("3S"), Some(Duration::from_secs(3)));
        for bad in ["", "5", "s", "-1s", "NaNs", "infs", "1 week", "1e400s"] {
            assert_eq!(plain(bad), None, "{bad}");
        }
        for bad in ["", "S", "123456789S", "1s", "-1S", "1é"] {
            assert_eq!(grpc(bad), None, "{bad}");
        }
    }
}
