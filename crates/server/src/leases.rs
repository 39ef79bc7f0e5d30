//! Leases of the nodes whose agents are connected here, renewed together.
//!
//! A heartbeat costs no entry of the log: it rides on the agent's session. What clients and the node
//! lifecycle look at, the Lease, is renewed for all nodes that were heard of in one go.

use std::time::Duration;

use balsa_client::Client;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Clock;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::sessions::Sessions;

/// The namespace of the nodes' Leases.
const NAMESPACE: &str = "kube-node-lease";
/// How often Leases are renewed.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);
/// How long a Lease says that it is good, in seconds.
const DURATION_SECONDS: i32 = 40;
/// How many Leases are written at a time.
const AT_ONCE: usize = 16;

/// Renews Leases for ever.
pub(crate) async fn run(client: Client, sessions: Sessions, clock: Clock) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let nodes = sessions.alive(PERIOD * 2);
        let renewals = nodes.into_iter().map(|node| {
            let (client, clock) = (client.clone(), clock.clone());
            async move { renew(&client, &clock, &node).await }
        });
        let mut outcomes = futures::stream::iter(renewals).buffer_unordered(AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            if let Err(failure) = outcome {
                tracing::warn!(%failure, "a node's lease was not renewed");
            }
        }
    }
}

/// Renews the Lease of one node, or makes it.
pub(crate) async fn renew(client: &Client, clock: &Clock, node: &str) -> Result<(), Failure> {
    let api = client.api::<Lease>();
    let now = clock.now();
    let set = |lease: &mut Lease| {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(now));
        spec.holder_identity = Some(node.to_owned());
        spec.lease_duration_seconds = Some(DURATION_SECONDS);
        true
    };
    if api.modify(&Key::new(NAMESPACE, node), Part::Main, set).await?.is_some() {
        return Ok(());
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    match api.create(&lease).await {
        Err(failure) if failure.reason != balsa_model::Reason::AlreadyExists => Err(failure),
        _ => Ok(()),
    }
}
