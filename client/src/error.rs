//! What can go wrong, as a caller sees it.
//!
//! *Failed* and *unknown* are kept apart: [`Error::Timeout`], [`Error::Unknown`] and
//! [`Error::Unavailable`] of a publish may still have been stored; everything else means
//! that it did not happen and will not. No type of the transport appears here.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::google::rpc;
use tonic_types::{ErrorDetails, StatusExt as _};

/// What the broker (or the client itself) had to say about a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// A sentence for people.
    pub message: String,
    /// A stable name for programs (`ErrorInfo.reason`), for instance `TOPIC_NOT_FOUND`;
    /// empty if none was given.
    pub reason: String,
    /// Facts beside the reason, such as `earliest` and `latest`.
    pub facts: Vec<(String, String)>,
}

impl Detail {
    fn fact(&self, name: &str) -> Option<u64> {
        let (_, value) = self.facts.iter().find(|(key, _)| key == name)?;
        value.parse().ok()
    }
}

/// Every failure of this crate. Cheap to clone: one failure may answer a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such topic, partition, message or producer.
    #[error("{}", .0.message)]
    NotFound(Arc<Detail>),
    /// The name is taken.
    #[error("{}", .0.message)]
    AlreadyExists(Arc<Detail>),
    /// The request cannot be right, whatever the state of the broker.
    #[error("{}", .0.message)]
    Invalid(Arc<Detail>),
    /// Not allowed, or not known who asks.
    #[error("{}", .0.message)]
    Denied(Arc<Detail>),
    /// The broker cannot be reached or is not serving. For a publish: outcome unknown.
    #[error("{}", .0.message)]
    Unavailable(Arc<Detail>),
    /// No answer in time. The outcome is unknown.
    #[error("{}", .0.message)]
    Timeout(Arc<Detail>),
    /// It cannot be told whether the request took effect.
    #[error("outcome unknown: {}", .0.message)]
    Unknown(Arc<Detail>),
    /// A precondition did not hold: expected offset, etag, sequence.
    #[error("{}", .0.message)]
    Conflict(Arc<Detail>),
    /// Another producer has taken over this producer's name. Final.
    #[error("{}", .0.message)]
    Fenced(Arc<Detail>),
    /// The offset is not in the log: readable is `earliest..latest`.
    #[error("{}", .detail.message)]
    OutOfRange {
        /// First readable offset.
        earliest: u64,
        /// One past the last readable offset.
        latest: u64,
        /// The broker's words.
        detail: Arc<Detail>,
    },
    /// Larger than a limit.
    #[error("{}", .0.message)]
    TooLarge(Arc<Detail>),
    /// Out of some resource (disk, memory, quota); trying again later may work.
    #[error("{}", .detail.message)]
    Exhausted {
        /// When to try again, if the broker said so.
        retry_after: Option<Duration>,
        /// The broker's words.
        detail: Arc<Detail>,
    },
    /// Stored data is damaged, or what arrived does not match its checksum.
    #[error("{}", .0.message)]
    DataLoss(Arc<Detail>),
    /// This producer or reader was closed.
    #[error("{}", .0.message)]
    Closed(Arc<Detail>),
    /// A fault of the broker or of this client.
    #[error("{}", .0.message)]
    Internal(Arc<Detail>),
}

impl Error {
    /// The details that every kind carries.
    #[must_use]
    pub fn detail(&self) -> &Detail {
        match self {
            Self::NotFound(detail)
            | Self::AlreadyExists(detail)
            | Self::Invalid(detail)
            | Self::Denied(detail)
            | Self::Unavailable(detail)
            | Self::Timeout(detail)
            | Self::Unknown(detail)
            | Self::Conflict(detail)
            | Self::Fenced(detail)
            | Self::OutOfRange { detail, .. }
            | Self::TooLarge(detail)
            | Self::Exhausted { detail, .. }
            | Self::DataLoss(detail)
            | Self::Closed(detail)
            | Self::Internal(detail) => detail,
        }
    }

    /// A sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.detail().message
    }

    /// The stable reason (`ErrorInfo.reason`), or an empty string.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.detail().reason
    }

    /// The exit code of the command line: 3 not found (also an offset that is not there),
    /// 4 denied, 5 unavailable, 6 time-out or unknown, 7 conflict, 1 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) | Self::OutOfRange { .. } => 3,
            Self::Denied(_) => 4,
            Self::Unavailable(_) | Self::Exhausted { .. } => 5,
            Self::Timeout(_) | Self::Unknown(_) => 6,
            Self::AlreadyExists(_) | Self::Conflict(_) | Self::Fenced(_) => 7,
            _ => 1,
        }
    }

    /// True if the request may have taken effect all the same.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Timeout(_) | Self::Unknown(_) | Self::Internal(_)
        )
    }

    /// True if the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.is_unknown() || matches!(self, Self::Exhausted { .. })
    }

    /// True if a verdict came too late: the lease was over, and nothing was changed.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.reason() == "LEASE_LOST"
    }

    pub(crate) fn lease_lost((partition, lease): (u32, u64)) -> Self {
        Self::Conflict(Arc::new(Detail {
            message: format!("lease {lease} of partition {partition} is over"),
            reason: "LEASE_LOST".to_owned(),
            facts: Vec::new(),
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(plain(message))
    }

    pub(crate) fn partition_not_found(message: impl Into<String>) -> Self {
        let reason = "PARTITION_NOT_FOUND".to_owned();
        Self::NotFound(Arc::new(Detail {
            message: message.into(),
            reason,
            facts: Vec::new(),
        }))
    }

    pub(crate) fn commit_fenced(partition: u32) -> Self {
        let message = format!("partition {partition} is not assigned to this member any more");
        Self::Fenced(Arc::new(Detail {
            message,
            reason: "COMMIT_FENCED".to_owned(),
            facts: Vec::new(),
        }))
    }

    pub(crate) fn overrun(partitions: &[u32]) -> Self {
        let message = format!(
            "retention has overtaken the group in partitions {partitions:?}: seek the group to go on"
        );
        Self::Conflict(Arc::new(Detail {
            message,
            reason: "OVERRUN".to_owned(),
            facts: Vec::new(),
        }))
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::TooLarge(plain(message))
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict(plain(message))
    }

    pub(crate) fn fenced(message: impl Into<String>) -> Self {
        Self::Fenced(plain(message))
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable(plain(message))
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::Timeout(plain(message))
    }

    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::Unknown(plain(message))
    }

    pub(crate) fn closed(message: impl Into<String>) -> Self {
        Self::Closed(plain(message))
    }

    pub(crate) fn data_loss(message: impl Into<String>) -> Self {
        Self::DataLoss(plain(message))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Internal(plain(message))
    }

    /// True for the broker's answer to a sequence that does not follow the last one.
    pub(crate) fn is_sequence_gap(&self) -> bool {
        self.reason() == "SEQUENCE_GAP"
    }

    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        if let Some(own) = std::error::Error::source(status).and_then(|it| it.downcast_ref()) {
            return Self::clone(own);
        }
        let transport = status.details().is_empty() && std::error::Error::source(status).is_some();
        // Without this the user would read "h2 protocol error" and nothing of the reason.
        let message = match std::error::Error::source(status) {
            Some(source) if transport => chain(source),
            _ => status.message().to_owned(),
        };
        let code = if transport {
            tonic::Code::Unavailable
        } else {
            status.code()
        };
        Self::from_parts(code, message, &status.get_error_details())
    }

    /// From the status of one result inside an answer.
    pub(crate) fn from_rpc(status: rpc::Status) -> Self {
        let code = tonic::Code::from_i32(status.code);
        let details = tonic_types::Status {
            code: status.code,
            message: status.message.clone(),
            details: status.details,
        };
        let bytes = prost::Message::encode_to_vec(&details).into();
        let full = tonic::Status::with_details(code, status.message.clone(), bytes);
        Self::from_parts(code, status.message, &full.get_error_details())
    }

    fn from_parts(code: tonic::Code, message: String, details: &ErrorDetails) -> Self {
        use tonic::Code;
        // A method that the broker does not have is answered without words.
        let message = match message.is_empty() {
            true => code.description().to_owned(),
            false => message,
        };
        let mut detail = Detail {
            message,
            ..Detail::default()
        };
        if let Some(info) = details.error_info() {
            detail.reason.clone_from(&info.reason);
            detail.facts = info
                .metadata
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            detail.facts.sort();
        }
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let reason = detail.reason.clone();
        let detail = Arc::new(detail);
        match code {
            _ if reason.contains("FENCED") => Self::Fenced(detail),
            _ if reason.contains("TOO_LARGE") => Self::TooLarge(detail),
            _ if reason.contains("DAMAGED") => Self::DataLoss(detail),
            Code::NotFound => Self::NotFound(detail),
            Code::AlreadyExists => Self::AlreadyExists(detail),
            Code::InvalidArgument => Self::Invalid(detail),
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(detail),
            Code::Unavailable | Code::Cancelled => Self::Unavailable(detail),
            Code::DeadlineExceeded => Self::Timeout(detail),
            Code::Aborted | Code::FailedPrecondition => Self::Conflict(detail),
            Code::OutOfRange => match (detail.fact("earliest"), detail.fact("latest")) {
                (Some(earliest), Some(latest)) => Self::OutOfRange {
                    earliest,
                    latest,
                    detail,
                },
                // Also what the transport says of a message above its size limit.
                _ => Self::TooLarge(detail),
            },
            Code::ResourceExhausted => Self::Exhausted {
                retry_after,
                detail,
            },
            Code::DataLoss => Self::DataLoss(detail),
            Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal => {
                Self::Internal(detail)
            }
        }
    }
}

fn plain(message: impl Into<String>) -> Arc<Detail> {
    Arc::new(Detail {
        message: message.into(),
        ..Detail::default()
    })
}

/// The messages of an error and its causes, joined.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn status(code: tonic::Code, reason: &str, facts: &[(&str, &str)]) -> tonic::Status {
        let facts: HashMap<String, String> = facts
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, "aqueduct", facts);
        details.set_retry_info(Some(Duration::from_millis(250)));
        tonic::Status::with_error_details(code, "words", details)
    }

    #[test]
    fn kinds_reasons_and_exit_codes_follow_the_status() {
        use tonic::Code;
        let cases = [
            (Code::NotFound, "TOPIC_NOT_FOUND", 3),
            (Code::PermissionDenied, "", 4),
            (Code::Unavailable, "", 5),
            (Code::ResourceExhausted, "DISK_FULL", 5),
            (Code::DeadlineExceeded, "", 6),
            (Code::Aborted, "ETAG_MISMATCH", 7),
            (Code::FailedPrecondition, "PRODUCER_FENCED", 7),
            (Code::InvalidArgument, "MESSAGE_TOO_LARGE", 1),
            (Code::Internal, "", 1),
        ];
        for (code, reason, exit) in cases {
            let error = Error::from_status(&status(code, reason, &[]));
            assert_eq!(
                (error.exit_code(), error.reason()),
                (exit, reason),
                "{error:?}"
            );
            assert_eq!(error.message(), "words");
        }
    }

    #[test]
    fn details_carry_the_range_and_the_delay() {
        let facts = [("earliest", "5"), ("latest", "9")];
        let error = Error::from_status(&status(tonic::Code::OutOfRange, "OFFSET", &facts));
        assert!(matches!(
            error,
            Error::OutOfRange {
                earliest: 5,
                latest: 9,
                ..
            }
        ));
        let error = Error::from_status(&status(tonic::Code::ResourceExhausted, "DISK_FULL", &[]));
        let Error::Exhausted { retry_after, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(retry_after, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_status_inside_an_answer_reads_the_same() {
        let outer = status(tonic::Code::FailedPrecondition, "PRODUCER_FENCED", &[]);
        let decoded: tonic_types::Status = prost::Message::decode(outer.details()).unwrap();
        let inner = rpc::Status {
            code: 9,
            message: decoded.message,
            details: decoded.details,
        };
        assert!(matches!(Error::from_rpc(inner), Error::Fenced(_)));
    }
}
