//! One of several replicas leads, by a Lease: whoever holds it renews it; whoever sees it not renewed for its
//! duration takes it. Times are one's own: nobody's clock is compared with another's.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

const NAME: &str = "sites";
/// Not renewed for so long, it is anybody's.
const DURATION: Duration = Duration::from_secs(4);
/// Who could not renew for so long stops working: earlier than anybody else can begin.
const DEADLINE: Duration = Duration::from_millis(2500);
const RENEWAL: Duration = Duration::from_millis(500);

pub(super) struct Election {
    leases: Api<Lease>,
    me: String,
    /// The version of the Lease that was seen last, and when it was first seen.
    seen: Option<(String, Instant)>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, me: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), me: me.to_owned(), seen: None }
    }

    /// Waits until this replica leads; its term.
    pub(super) async fn win(&mut self) -> i32 {
        loop {
            if let Ok(Some(term)) = self.try_hold().await {
                return term;
            }
            tokio::time::sleep(RENEWAL).await;
        }
    }

    /// Renews until that fails for too long, or somebody else leads.
    pub(super) async fn keep(&mut self) {
        let mut deadline = Instant::now() + DEADLINE;
        loop {
            tokio::time::sleep(RENEWAL).await;
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.try_hold()).await {
                Ok(Ok(Some(_))) => deadline = asked + DEADLINE,
                Ok(Err(_)) if Instant::now() < deadline => {}
                _ => return,
            }
        }
    }

    /// Takes or renews the Lease if that is allowed; the term, if it is this replica's then.
    async fn try_hold(&mut self) -> kube::Result<Option<i32>> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let spec = self.spec(0, None);
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return taken(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let mine = spec.holder_identity.as_ref() == Some(&self.me);
        let expired = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > DURATION);
        if !mine && !expired {
            return Ok(None);
        }
        let term = spec.lease_transitions.unwrap_or_default() + i32::from(!mine);
        // With the version that was read: of two who try, one is refused.
        let next =
            Lease { spec: Some(self.spec(term, mine.then_some(spec.acquire_time).flatten())), ..lease };
        taken(self.leases.replace(NAME, &PostParams::default(), &next).await)
    }

    fn spec(&self, term: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(term),
            ..LeaseSpec::default()
        }
    }
}

/// The term of the Lease that was written; none where somebody else was quicker.
fn taken(answer: kube::Result<Lease>) -> kube::Result<Option<i32>> {
    match answer {
        Ok(lease) => Ok(lease.spec.and_then(|spec| spec.lease_transitions)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}
