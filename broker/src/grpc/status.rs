//! Refusals as google.rpc.Status: one table, for statuses of calls and results in answers.

use std::{collections::HashMap, time::Duration};

use aqueduct_proto::google::rpc;
use prost::Message as _;
use tonic::{Code as GrpcCode, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{Code, Refusal};

/// Who gives the reasons their meaning.
const DOMAIN: &str = "aqueduct.dev";

fn grpc_code(code: Code) -> GrpcCode {
    match code {
        Code::InvalidArgument => GrpcCode::InvalidArgument,
        Code::NotFound => GrpcCode::NotFound,
        Code::AlreadyExists => GrpcCode::AlreadyExists,
        Code::OutOfRange => GrpcCode::OutOfRange,
        Code::FailedPrecondition => GrpcCode::FailedPrecondition,
        Code::Aborted => GrpcCode::Aborted,
        Code::ResourceExhausted => GrpcCode::ResourceExhausted,
        Code::Unavailable => GrpcCode::Unavailable,
        Code::DataLoss => GrpcCode::DataLoss,
        Code::Unknown => GrpcCode::Internal,
    }
}

fn details(refusal: &Refusal) -> ErrorDetails {
    let (_, reason) = refusal.kind();
    let facts: HashMap<String, String> = refusal
        .facts()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, facts);
    if let Some(delay) = refusal.retry_after() {
        details.set_retry_info(Some(delay));
    }
    match refusal {
        Refusal::Invalid { field, why } => {
            details.add_bad_request_violation(field.clone(), why.clone());
        }
        Refusal::LimitReached { what, limit } => {
            details.add_quota_failure_violation(what.clone(), format!("the limit is {limit}"));
        }
        Refusal::TopicNotFound { topic, .. } => {
            details.set_resource_info("topic", format!("topics/{topic}"), "", refusal.to_string());
        }
        _ => {}
    }
    details
}

/// The status of a refused call.
pub(super) fn status(refusal: &Refusal) -> Status {
    let (code, _) = refusal.kind();
    Status::with_error_details(grpc_code(code), refusal.to_string(), details(refusal))
}

/// The same inside an answer.
pub(super) fn embedded(refusal: &Refusal) -> rpc::Status {
    let status = status(refusal);
    rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// A protobuf duration in milliseconds.
///
/// # Errors
/// If it is negative or malformed, naming the field.
pub(super) fn duration_ms(field: &str, duration: prost_types::Duration) -> Result<u64, Refusal> {
    let wrong = || Refusal::invalid(field, "it is negative or out of range");
    // The conversion negates what is negative, and the least of all seconds has no opposite.
    if duration.seconds < 0 {
        return Err(wrong());
    }
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_taken_or_refused_whatever_they_are() {
        let ms =
            |seconds, nanos| duration_ms("wait", prost_types::Duration { seconds, nanos }).ok();
        assert_eq!(ms(0, 0), Some(0));
        assert_eq!(ms(2, 500_000_000), Some(2_500));
        assert_eq!(ms(1, -500_000_000), Some(500));
        assert_eq!(ms(i64::MAX, i32::MAX), Some(u64::MAX));
        for (seconds, nanos) in [
            (i64::MIN, 0),
            (i64::MIN, i32::MIN),
            (-1, 0),
            (0, -1),
            (0, i32::MIN),
        ] {
            assert_eq!(ms(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
