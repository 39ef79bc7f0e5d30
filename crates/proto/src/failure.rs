//! Refusals over gRPC: the same reason and causes as a Kubernetes `Status`, in the status details.

use balsa_model::status::Cause;
use balsa_model::{Failure, Reason};
use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};

use crate::v1::{ErrorDetails, error_details};

/// Names [`ErrorDetails`] among the details of a status.
const TYPE: &str = "type.googleapis.com/balsa.v1.ErrorDetails";

/// A refusal as a gRPC status with [`ErrorDetails`], in the form that gRPC libraries expect: a `google.rpc.Status`.
pub fn to_status(failure: &Failure) -> Status {
    let (code, message) = (code(failure.reason), failure.message.clone());
    let details = Any { type_url: TYPE.to_owned(), value: ErrorDetails::from(failure).encode_to_vec() };
    let status = tonic_types::Status { code: code.into(), message: message.clone(), details: vec![details] };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// What a status says beside its code and message, if it does.
pub fn details_of(status: &Status) -> Option<ErrorDetails> {
    let status = tonic_types::Status::decode(status.details()).ok()?;
    let details = status.details.iter().find(|details| details.type_url == TYPE)?;
    ErrorDetails::decode(details.value.as_slice()).ok()
}

/// A gRPC status as a refusal; one without details keeps the sense of its code.
pub fn from_status(status: &Status) -> Failure {
    details_of(status).map_or_else(|| Failure::new(reason(status.code()), status.message()), Failure::from)
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::BadRequest | Reason::Invalid | Reason::UnsupportedMediaType | Reason::NotAcceptable => {
            Code::InvalidArgument
        }
        Reason::Unauthorized => Code::Unauthenticated,
        Reason::Forbidden => Code::PermissionDenied,
        Reason::NotFound => Code::NotFound,
        Reason::MethodNotAllowed => Code::Unimplemented,
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::Conflict => Code::Aborted,
        Reason::Expired => Code::OutOfRange,
        Reason::RequestEntityTooLarge | Reason::TooManyRequests | Reason::InsufficientStorage => {
            Code::ResourceExhausted
        }
        Reason::InternalError => Code::Internal,
        Reason::ServerTimeout | Reason::ServiceUnavailable => Code::Unavailable,
        Reason::Timeout => Code::DeadlineExceeded,
    }
}

fn reason(code: Code) -> Reason {
    match code {
        Code::InvalidArgument => Reason::BadRequest,
        Code::Unauthenticated => Reason::Unauthorized,
        Code::PermissionDenied => Reason::Forbidden,
        Code::NotFound => Reason::NotFound,
        Code::Unimplemented => Reason::MethodNotAllowed,
        Code::AlreadyExists => Reason::AlreadyExists,
        Code::Aborted => Reason::Conflict,
        Code::OutOfRange => Reason::Expired,
        Code::ResourceExhausted => Reason::TooManyRequests,
        Code::Unavailable | Code::Cancelled | Code::Unknown => Reason::ServiceUnavailable,
        Code::DeadlineExceeded => Reason::Timeout,
        _ => Reason::InternalError,
    }
}

impl From<&Failure> for ErrorDetails {
    fn from(failure: &Failure) -> Self {
        let causes = failure.causes.iter().map(|cause| error_details::Cause {
            reason: cause.reason.clone(),
            message: cause.message.clone(),
            field: cause.field.clone(),
        });
        Self {
            code: u32::from(failure.reason.code()),
            reason: failure.reason.as_str().to_owned(),
            message: failure.message.clone(),
            name: failure.name.clone(),
            kind: failure.kind.clone(),
            group: failure.group.clone(),
            uid: failure.uid.clone(),
            causes: causes.collect(),
            retry_after_seconds: failure.retry_after_seconds,
            conflicting_revision: failure.conflicting_revision,
        }
    }
}

impl From<ErrorDetails> for Failure {
    fn from(details: ErrorDetails) -> Self {
        let reason = Reason::parse(&details.reason).unwrap_or(Reason::InternalError);
        let causes = details.causes.into_iter().map(|cause| Cause {
            reason: cause.reason,
            message: cause.message,
            field: cause.field,
        });
        let mut failure = Self::new(reason, details.message);
        failure.name = details.name;
        failure.kind = details.kind;
        failure.group = details.group;
        failure.uid = details.uid;
        failure.causes = causes.collect();
        failure.retry_after_seconds = details.retry_after_seconds;
        failure.conflicting_revision = details.conflicting_revision;
        failure
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_refusal_survives_the_way_over_grpc() {
        let failure = Failure::new(Reason::Invalid, "spec.replicas: Invalid value: -1")
            .cause("FieldValueInvalid", "Invalid value: -1", "spec.replicas")
            .retry_after(3)
            .at_revision(7);
        let status = to_status(&failure);
        assert_eq!(from_status(&status), failure);
        // What other libraries read.
        let read = tonic_types::Status::decode(status.details()).unwrap();
        assert_eq!((read.code, read.message.as_str()), (status.code().into(), failure.message.as_str()));
        assert_eq!(read.details[0].type_url, TYPE);
    }

    #[test]
    fn a_status_without_details_keeps_its_sense() {
        let failure = from_status(&Status::not_found("gone"));
        assert_eq!((failure.reason, failure.message.as_str()), (Reason::NotFound, "gone"));
    }
}
