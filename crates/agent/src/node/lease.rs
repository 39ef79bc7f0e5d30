//! The node's Lease. While a session renews it on the server's side nothing is written here.

use balsa_client::Client;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Reason};
use balsa_rt::Clock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::sync::watch;

/// Where the leases of nodes are.
const NAMESPACE: &str = "kube-node-lease";
/// After so long without renewal a node counts as gone.
const SECONDS: i32 = 40;

/// Renews for ever; `in_session` says when somebody else does.
pub(crate) async fn renew(
    client: Client,
    node: String,
    every: std::time::Duration,
    clock: Clock,
    in_session: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        if *in_session.borrow() {
            continue;
        }
        if let Err(failure) = write(&client, &node, &clock).await {
            tracing::warn!(%failure, "lease not renewed; will try again");
        }
    }
}

async fn write(client: &Client, node: &str, clock: &Clock) -> Result<(), Failure> {
    let api = client.api::<Lease>();
    let spec = LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: Some(SECONDS),
        renew_time: Some(MicroTime(clock.now())),
        ..LeaseSpec::default()
    };
    let renewed = api
        .modify(&Key::new(NAMESPACE, node), Part::Main, |lease| {
            lease.spec = Some(spec.clone());
            true
        })
        .await?;
    if renewed.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta {
        name: Some(node.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        ..ObjectMeta::default()
    };
    match api.create(&Lease { metadata, spec: Some(spec) }).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.reason == Reason::AlreadyExists => Ok(()),
        Err(failure) => Err(failure),
    }
}
