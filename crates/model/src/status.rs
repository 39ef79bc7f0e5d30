//! How refusals look: Kubernetes' `Status`, with reason, code, causes and details.
//!
//! The constructors carry the wordings that users and scripts search for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};

use crate::field::FieldErrors;
use crate::kind::Descriptor;

/// Why a request was refused, as `metav1.StatusReason` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    AlreadyExists,
    Conflict,
    Expired,
    RequestEntityTooLarge,
    Invalid,
    TooManyRequests,
    InternalError,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
    /// Balsa's own: the cluster's storage quota is exceeded.
    InsufficientStorage,
}

impl Reason {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServerTimeout => "ServerTimeout",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::InsufficientStorage => "InsufficientStorage",
        }
    }

    /// The reason of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The HTTP code that goes with it.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError | Self::ServerTimeout => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }

    const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::UnsupportedMediaType,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Expired,
        Self::RequestEntityTooLarge,
        Self::Invalid,
        Self::TooManyRequests,
        Self::InternalError,
        Self::ServerTimeout,
        Self::ServiceUnavailable,
        Self::Timeout,
        Self::InsufficientStorage,
    ];
}

/// One cause of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldManagerConflict`, …
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field, `spec.replicas`, or empty.
    pub field: String,
}

/// A refused request. It becomes a `Status` over REST and a `tonic::Status` with details over gRPC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// For people; scripts read it too.
    pub message: String,
    /// The object's name, or empty.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its kind or resource, as Kubernetes fills it in for that reason.
    pub kind: String,
    /// Its UID, when known.
    pub uid: String,
    /// The causes.
    pub causes: Vec<Cause>,
    /// Seconds after which to try again; 0: not said.
    pub retry_after_seconds: u32,
    /// Of a list that cannot go on as it was: a token to see the rest as it is now. Empty elsewhere.
    pub continue_token: String,
    /// Of a conflict: the revision that the object has now; 0 when it is not known. Told over gRPC alone.
    pub conflicting_revision: u64,
}

impl Failure {
    /// A refusal without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_token: String::new(),
            conflicting_revision: 0,
        }
    }

    /// A refusal that knows of no object, in the words that Kubernetes has for its reason.
    pub fn generic(reason: Reason) -> Self {
        Self::new(reason, generic_message(reason))
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// A fault of the server's.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// There is no such object.
    pub fn not_found(kind: &Descriptor, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{} \"{name}\" not found", kind.resource())).about(kind, name)
    }

    /// There is one already.
    pub fn already_exists(kind: &Descriptor, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{} \"{name}\" already exists", kind.resource()))
            .about(kind, name)
    }

    /// The same of one that is about to go: whoever waits for that may try again.
    pub fn being_deleted(kind: &Descriptor, name: &str) -> Self {
        let mut failure = Self::already_exists(kind, name);
        failure.message.insert_str(0, "object is being deleted: ");
        failure
    }

    /// Somebody else was faster.
    pub fn conflict(kind: &Descriptor, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource());
        Self::new(Reason::Conflict, message).about(kind, name)
    }

    /// The object is newer than the one that the client changed.
    pub fn modified(kind: &Descriptor, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// The same, with the revision that the object has now.
    pub fn at_revision(mut self, current: u64) -> Self {
        self.conflicting_revision = current;
        self
    }

    /// Fields are wrong. `None` when `errors` holds none.
    pub fn invalid(kind: &Descriptor, name: &str, errors: FieldErrors) -> Option<Self> {
        let list = errors.into_vec();
        if list.is_empty() {
            return None;
        }
        // An error that was found twice is one in the message and two among the causes.
        let mut texts: Vec<String> = Vec::with_capacity(list.len());
        for text in list.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
        let mut failure =
            Self::new(Reason::Invalid, format!("{} \"{name}\" is invalid: {joined}", kind.qualified_kind()));
        failure.name = name.to_owned();
        failure.group = kind.group.to_owned();
        failure.kind = kind.kind.to_owned();
        failure.causes = list
            .into_iter()
            .map(|error| Cause {
                reason: error.cause.as_str().to_owned(),
                message: error.body(),
                field: error.field,
            })
            .collect();
        Some(failure)
    }

    /// The revision is older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// A policy forbids it.
    pub fn forbidden(kind: &Descriptor, name: &str, why: impl std::fmt::Display) -> Self {
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(Reason::Forbidden, format!("{}{quoted} is forbidden: {why}", kind.resource()))
            .about(kind, name)
    }

    /// The same, about an object of `kind` (its resource name goes into the details).
    #[must_use]
    pub fn about(mut self, kind: &Descriptor, name: &str) -> Self {
        self.name = name.to_owned();
        self.group = kind.group.to_owned();
        self.kind = kind.plural.to_owned();
        self
    }

    /// The same, with one more cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: impl Into<String>, field: impl Into<String>) -> Self {
        self.causes.push(Cause { reason: reason.to_owned(), message: message.into(), field: field.into() });
        self
    }

    /// The same, with advice when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = seconds;
        self
    }

    /// Some refusals that know of no object carry details all the same, with nothing in them.
    fn has_details(&self) -> bool {
        match self.reason {
            Reason::Forbidden => true,
            Reason::Unauthorized => false,
            _ => self.message == generic_message(self.reason),
        }
    }

    /// As a `Status` object.
    pub fn to_status(&self) -> Status {
        let causes = self.causes.iter().map(|cause| StatusCause {
            reason: not_empty(&cause.reason),
            message: not_empty(&cause.message),
            field: not_empty(&cause.field),
        });
        let details = StatusDetails {
            name: not_empty(&self.name),
            group: not_empty(&self.group),
            kind: not_empty(&self.kind),
            uid: not_empty(&self.uid),
            causes: (!self.causes.is_empty()).then(|| causes.collect()),
            retry_after_seconds: i32::try_from(self.retry_after_seconds).ok().filter(|s| *s > 0),
        };
        Status {
            status: Some("Failure".to_owned()),
            message: Some(self.message.clone()),
            reason: Some(self.reason.as_str().to_owned()),
            code: Some(i32::from(self.reason.code())),
            details: (self.has_details() || details != StatusDetails::default()).then_some(details),
            metadata: ListMeta { continue_: not_empty(&self.continue_token), ..ListMeta::default() },
        }
    }

    /// Back from a `Status` object; an unknown reason is an internal error.
    pub fn from_status(status: &Status) -> Self {
        let reason = status.reason.as_deref().and_then(Reason::parse).unwrap_or(Reason::InternalError);
        let details = status.details.clone().unwrap_or_default();
        let causes = details.causes.unwrap_or_default().into_iter().map(|cause| Cause {
            reason: cause.reason.unwrap_or_default(),
            message: cause.message.unwrap_or_default(),
            field: cause.field.unwrap_or_default(),
        });
        Self {
            reason,
            message: status.message.clone().unwrap_or_default(),
            name: details.name.unwrap_or_default(),
            group: details.group.unwrap_or_default(),
            kind: details.kind.unwrap_or_default(),
            uid: details.uid.unwrap_or_default(),
            causes: causes.collect(),
            retry_after_seconds: details.retry_after_seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or(0),
            continue_token: status.metadata.continue_.clone().unwrap_or_default(),
            conflicting_revision: 0,
        }
    }
}

/// What a refusal says that knows of no object.
fn generic_message(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => "the server could not find the requested resource",
        Reason::MethodNotAllowed => "the server does not allow this method on the requested resource",
        Reason::NotAcceptable => "406: Not Acceptable",
        Reason::UnsupportedMediaType => "415: Unsupported Media Type",
        Reason::Invalid => "the server rejected our request due to an error in our request",
        other => other.as_str(),
    }
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;
    use crate::kind::{Descriptor, Kind};

    const KIND: &Descriptor = &<k8s_openapi::api::core::v1::ConfigMap as Kind>::DESCRIPTOR;

    #[test]
    fn generic_refusals_have_empty_details() {
        let status = Failure::generic(Reason::NotFound).to_status();
        assert_eq!(status.details, Some(StatusDetails::default()));
        assert_eq!(Failure::bad_request("x").to_status().details, None);
        assert_eq!(Failure::generic(Reason::Unauthorized).to_status().details, None);
        let forbidden =
            Failure::new(Reason::Forbidden, "forbidden: User \"kim\" cannot get path \"/metrics\"");
        assert_eq!(forbidden.to_status().details, Some(StatusDetails::default()));
    }

    #[test]
    fn an_error_found_twice_is_told_once() {
        let mut errors = FieldErrors::new();
        for _ in 0..2 {
            errors.forbidden(&Path::new("data"), "no");
        }
        let failure = Failure::invalid(KIND, "c", errors).unwrap();
        assert_eq!(failure.message, "ConfigMap \"c\" is invalid: data: Forbidden: no");
        assert_eq!(failure.causes.len(), 2);
    }
}
