//! What a message asks of queue groups: delay, time to live, priority. Pure; time is given.
//!
//! Given as options or as the reserved headers that options become; both are held to the same
//! rules, and what is given twice is refused. A delay stays a delay until the record is
//! appended, so that the broker's clock counts it from there.

use aqueduct_proto::{attributes, record::Header, v1};

use crate::{
    error::Refusal,
    limits::{MAX_DELAY, MAX_PRIORITY, MAX_TTL},
    partition::NewRecord,
};

/// The options of a message, as a door decoded them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) delay_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub(crate) deliver_at_ms: Option<i64>,
    pub(crate) ttl_ms: Option<i64>,
    pub(crate) priority: Option<u32>,
}

impl Options {
    /// What a message says, if anything; times are in milliseconds and never earlier than what was
    /// said. Their bounds are not looked at here.
    pub(crate) fn of(message: &v1::Message) -> Option<Options> {
        let v1::Message {
            delay,
            deliver_at,
            ttl,
            priority,
            ..
        } = message;
        if delay.is_none() && deliver_at.is_none() && ttl.is_none() && priority.is_none() {
            return None;
        }
        Some(Options {
            delay_ms: delay.as_ref().map(|d| whole_ms(d.seconds, d.nanos)),
            deliver_at_ms: deliver_at.as_ref().map(|t| whole_ms(t.seconds, t.nanos)),
            ttl_ms: ttl.as_ref().map(|d| whole_ms(d.seconds, d.nanos)),
            priority: *priority,
        })
    }
}

/// A part of a millisecond counts as one.
pub(crate) fn whole_ms(seconds: i64, nanos: i32) -> i64 {
    let nanos = i64::from(nanos);
    let up = nanos.div_euclid(1_000_000) + i64::from(nanos.rem_euclid(1_000_000) > 0);
    seconds.saturating_mul(1_000).saturating_add(up)
}

/// The n-th message of a request, for whoever has to be told of it.
struct Asked<'a> {
    n: usize,
    record: &'a mut NewRecord,
    now_ms: i64,
}

/// Checks what a record asks of queues, and writes it where it is kept.
///
/// # Errors
/// `InvalidArgument` that names the message's field.
pub(super) fn take(
    n: usize,
    options: Option<&Options>,
    record: &mut NewRecord,
    now_ms: impl Fn() -> i64,
) -> Result<(), Refusal> {
    let prefix = attributes::RESERVED_PREFIX.as_bytes();
    let is_reserved = |header: &Header| header.name.starts_with(prefix);
    if options.is_none() && !record.headers.iter().any(is_reserved) {
        return Ok(());
    }
    let now_ms = now_ms();
    let mut asked = Asked { n, record, now_ms };
    let options = options.copied().unwrap_or_default();
    asked.delay(&options)?;
    let ttl = asked.one("ttl", attributes::TTL, options.ttl_ms)?;
    asked.within("ttl", ttl, 1, MAX_TTL.as_millis() as i64)?;
    let priority = asked.one("priority", attributes::PRIORITY, options.priority)?;
    asked.within("priority", priority.map(i64::from), 0, MAX_PRIORITY.into())?;
    if let Some(ttl_ms) = options.ttl_ms {
        asked.add(attributes::TTL, ttl_ms);
    }
    if let Some(priority) = options.priority {
        asked.add(attributes::PRIORITY, priority);
    }
    Ok(())
}

impl Asked<'_> {
    fn delay(&mut self, options: &Options) -> Result<(), Refusal> {
        if options.delay_ms.is_some() && options.deliver_at_ms.is_some() {
            return Err(self.refused("delay", "there is a deliver_at as well; give one of them"));
        }
        let until = self.one("deliver_at", attributes::DELAY_UNTIL, options.deliver_at_ms)?;
        if until.is_some() && options.delay_ms.is_some() {
            let why = format!("there is a header {} as well", attributes::DELAY_UNTIL);
            return Err(self.refused("delay", &why));
        }
        let most = MAX_DELAY.as_millis() as i64;
        self.within("deliver_at", until, 0, self.now_ms.saturating_add(most))?;
        self.within("delay", options.delay_ms, 0, most)?;
        self.record.delay_ms = options.delay_ms;
        if let Some(until_ms) = options.deliver_at_ms {
            self.add(attributes::DELAY_UNTIL, until_ms);
        }
        Ok(())
    }

    /// The value of an option that may also be given as a header.
    fn one<T: std::str::FromStr>(
        &self,
        field: &str,
        name: &str,
        option: Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let is_named = |header: &&Header| header.name.as_ref() == name.as_bytes();
        let mut headers = self.record.headers.iter().filter(is_named);
        let Some(header) = headers.next() else {
            return Ok(option);
        };
        if option.is_some() || headers.next().is_some() {
            let why = format!("it is given more than once: there is a header {name}");
            return Err(self.refused(field, &why));
        }
        let text = std::str::from_utf8(header.value.as_deref().unwrap_or_default());
        match text.ok().and_then(|text| text.parse().ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refused(field, &format!("the header {name} is no such number"))),
        }
    }

    fn within(&self, field: &str, value: Option<i64>, min: i64, max: i64) -> Result<(), Refusal> {
        match value {
            Some(value) if !(min..=max).contains(&value) => {
                let unit = if field == "priority" { "" } else { " ms" };
                let why = format!("{value}{unit} is not between {min} and {max}");
                Err(self.refused(field, &why))
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, name: &str, value: impl ToString) {
        let header = Header::new(name, value.to_string());
        self.record.headers.push(header);
    }

    fn refused(&self, field: &str, why: &str) -> Refusal {
        Refusal::invalid(format!("messages[{}].{field}", self.n), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;
    const TEN_YEARS_MS: i64 = 3_650 * 86_400_000;

    fn taken(options: Options, headers: &[(&str, &str)]) -> Result<NewRecord, String> {
        let header = |(name, value): &(&str, &str)| Header::new(*name, (*value).to_owned());
        let mut record = NewRecord {
            headers: headers.iter().map(header).collect(),
            ..NewRecord::default()
        };
        let taken = take(3, Some(&options), &mut record, || NOW_MS);
        taken
            .map(|()| record)
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn options_become_headers_and_a_delay_waits_for_the_append() {
        let record = taken(
            Options {
                deliver_at_ms: Some(NOW_MS - 5),
                ttl_ms: Some(1),
                priority: Some(9),
                ..Options::default()
            },
            &[("a", "b")],
        );
        let record = record.unwrap();
        assert_eq!(
            attributes::delay_until_ms(&record.headers),
            Some(NOW_MS - 5)
        );
        assert_eq!(attributes::ttl_ms(&record.headers), Some(1));
        assert_eq!(attributes::priority(&record.headers), Some(9));
        assert_eq!((record.headers.len(), record.delay_ms), (4, None));
        let delay = Options {
            delay_ms: Some(TEN_YEARS_MS),
            ..Options::default()
        };
        let record = taken(delay, &[]).unwrap();
        assert_eq!((record.headers.len(), record.delay_ms), (0, delay.delay_ms));
    }

    #[test]
    #[expect(clippy::too_many_lines, clippy::type_complexity, reason = "a table")]
    fn what_cannot_be_is_refused_by_its_field() {
        let none = Options::default();
        let cases: &[(Options, &[(&str, &str)], &str)] = &[
            (
                Options {
                    delay_ms: Some(-1),
                    ..none
                },
                &[],
                "delay",
            ),
            (
                Options {
                    delay_ms: Some(TEN_YEARS_MS + 1),
                    ..none
                },
                &[],
                "delay",
            ),
            (
                Options {
                    delay_ms: Some(1),
                    deliver_at_ms: Some(1),
                    ..none
                },
                &[],
                "delay",
            ),
            (
                Options {
                    delay_ms: Some(1),
                    ..none
                },
                &[("aq-delay-until", "5")],
                "delay",
            ),
            (
                Options {
                    deliver_at_ms: Some(-1),
                    ..none
                },
                &[],
                "deliver_at",
            ),
            (
                Options {
                    deliver_at_ms: Some(NOW_MS + TEN_YEARS_MS + 1),
                    ..none
                },
                &[],
                "deliver_at",
            ),
            (
                Options {
                    deliver_at_ms: Some(1),
                    ..none
                },
                &[("aq-delay-until", "1")],
                "deliver_at",
            ),
            (
                Options {
                    ttl_ms: Some(0),
                    ..none
                },
                &[],
                "ttl",
            ),
            (
                Options {
                    ttl_ms: Some(TEN_YEARS_MS + 1),
                    ..none
                },
                &[],
                "ttl",
            ),
            (
                Options {
                    priority: Some(10),
                    ..none
                },
                &[],
                "priority",
            ),
            (none, &[("aq-delay-until", "soon")], "deliver_at"),
            (
                none,
                &[("aq-delay-until", "99999999999999999999")],
                "deliver_at",
            ),
            (none, &[("aq-ttl", "-1")], "ttl"),
            (none, &[("aq-ttl", "")], "ttl"),
            (none, &[("aq-priority", "10")], "priority"),
            (
                none,
                &[("aq-priority", "1"), ("aq-priority", "1")],
                "priority",
            ),
        ];
        for (options, headers, field) in cases {
            let refused = taken(*options, headers).expect_err(field);
            let words = format!("messages[3].{field}");
            assert!(
                refused.contains(&words),
                "{refused}: {options:?} {headers:?}"
            );
        }
        let same = taken(
            none,
            &[("aq-ttl", "60000"), ("aq-priority", "0"), ("aq-mine", "?")],
        );
        assert_eq!(same.unwrap().headers.len(), 3);
    }

    #[test]
    fn parts_of_a_millisecond_are_rounded_up() {
        assert_eq!(whole_ms(1, 500_000_000), 1_500);
        assert_eq!(whole_ms(0, 1), 1);
        assert_eq!(whole_ms(-1, 0), -1_000);
        assert_eq!(whole_ms(i64::MAX, i32::MAX), i64::MAX);
        assert_eq!(Options::of(&v1::Message::default()), None);
    }

    #[test]
    fn the_clock_is_not_asked_for_plain_messages() {
        let mut record = NewRecord {
            headers: vec![Header::new("a", "b")],
            ..NewRecord::default()
        };
        assert_eq!(take(0, None, &mut record, || unreachable!()), Ok(()));
    }
}
