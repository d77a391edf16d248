//! Results per message, gathered into runs. Pure.

use std::ops::Range;

use super::command::{Span, Status};

/// Results in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<Span>);

impl Spans {
    /// The results of a range of messages without leases.
    pub(super) fn push(&mut self, range: Range<u64>, status: Status) {
        self.push_leased(range, status, 0);
    }

    /// The results of a range of messages whose leases begin with `lease`.
    pub(super) fn push_leased(&mut self, range: Range<u64>, status: Status, lease: u64) {
        if range.is_empty() {
            return;
        }
        let count = range.end - range.start;
        if let Some(last) = self.0.last_mut() {
            let next_lease = if lease == 0 {
                0
            } else {
                last.lease + last.count
            };
            let continues = last.first + last.count == range.start
                && last.status == status as i32
                && (last.lease == 0) == (lease == 0)
                && next_lease == lease;
            if continues {
                last.count += count;
                return;
            }
        }
        self.0.push(Span {
            first: range.start,
            count,
            status: status as i32,
            lease,
        });
    }

    pub(super) fn into_vec(self) -> Vec<Span> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_one_result_are_one_span() {
        let mut spans = Spans::default();
        spans.push(1..2, Status::Done);
        spans.push(2..4, Status::Done);
        spans.push(4..4, Status::Settled);
        spans.push(5..6, Status::Done);
        spans.push_leased(6..7, Status::Done, 10);
        spans.push_leased(7..8, Status::Done, 11);
        spans.push_leased(8..9, Status::Done, 13);
        let all: Vec<_> = spans
            .into_vec()
            .iter()
            .map(|s| (s.first, s.count, s.lease))
            .collect();
        assert_eq!(all, [(1, 3, 0), (5, 1, 0), (6, 2, 10), (8, 1, 13)]);
    }
}
