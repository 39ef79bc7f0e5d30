//! Certificate signing requests that nobody needs any more go.
//!
//! Reads requests; deletes those that were answered an hour ago, those that nobody has answered for a day, and
//! those whose certificate has ended. One key a request; what is approved and waits for somebody else's signer stays.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, feed};
use balsa_model::kinds::certificate_signing_request::has_condition;
use balsa_model::strategy::DeleteOptions;
use balsa_model::{Failure, Key, Reason};
use balsa_rt::{Clock, Scope};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// How long a request stays that was answered.
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
/// How long a request stays that nobody answers.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

struct Cleaner {
    client: Client,
    requests: Informer,
    clock: Clock,
}

/// Starts the controller.
pub(super) fn start(client: Client, requests: Informer, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&requests, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    balsa_client::run(Arc::new(Cleaner { client, requests, clock }), queue, 1, scope);
}

/// When a request goes; `None`: it stays for as long as it is as it is.
fn ends_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let told = ["Approved", "Denied", "Failed"].iter().any(|type_| has_condition(request, type_));
    if !told {
        return created?.checked_add(PENDING).ok();
    }
    let answered = conditions
        .filter(|condition| match condition.type_.as_str() {
            // Allowed and not signed: whose signer is not ours may take its time.
            "Approved" => certificate.is_some(),
            type_ => matches!(type_, "Denied" | "Failed"),
        })
        .filter_map(|condition| {
            let at = condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref());
            at.map(|at| at.0).or(created)?.checked_add(ANSWERED).ok()
        });
    let expires = certificate.and_then(|certificate| expiry(&certificate.0));
    answered.chain(expires).min()
}

/// When the first certificate of a PEM text ends.
fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    Timestamp::from_second(pem.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

#[async_trait]
impl Reconciler for Cleaner {
    type Key = Key;

    fn name(&self) -> &'static str {
        "csr_cleaner"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.requests.get(key).filter(|object| !object.is_deleting()) else {
            return Ok(Next::Wait);
        };
        let Some(ends) = object.typed().and_then(|request| ends_at(&request)) else {
            return Ok(Next::Wait);
        };
        let left = Duration::try_from(ends.duration_since(self.clock.now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let api = self.client.api::<CertificateSigningRequest>();
        match api.delete(key, object.uid(), DeleteOptions::default()).await {
            Err(failure) if failure.reason != Reason::NotFound => Err(failure),
            _ => Ok(Next::Wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_was_answered_stays_an_hour_and_what_was_not_a_day() {
        let ends = |status: Value| {
            let request = serde_json::from_value(json!({
                "metadata": {"name": "r", "creationTimestamp": "2025-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "example.com/s"}, "status": status,
            }));
            ends_at(&request.unwrap()).map(|at| at.to_string())
        };
        let condition = |type_: &str| json!([{"type": type_, "status": "True", "lastUpdateTime": "2025-01-01T05:00:00Z"}]);
        assert_eq!(ends(json!({})).as_deref(), Some("2025-01-02T00:00:00Z"));
        for type_ in ["Denied", "Failed"] {
            assert_eq!(
                ends(json!({"conditions": condition(type_)})).as_deref(),
                Some("2025-01-01T06:00:00Z")
            );
        }
        assert_eq!(ends(json!({"conditions": condition("Approved")})), None, "it waits for its signer");
        let signed = json!({"conditions": condition("Approved"), "certificate": "eA=="});
        assert_eq!(ends(signed).as_deref(), Some("2025-01-01T06:00:00Z"));
    }

    #[test]
    fn a_certificate_that_has_ended_takes_its_request_along() {
        let directory = tempfile::tempdir().unwrap();
        let authority = crate::identity::Authority::open(directory.path()).unwrap();
        let end = expiry(authority.certificate().as_bytes()).unwrap();
        assert!(end > Timestamp::from_second(1_800_000_000).unwrap(), "{end}");
        assert_eq!(expiry(b"x"), None);
    }
}
