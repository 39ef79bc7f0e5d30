//! The objects that a cluster has from the start (WIRE-CONTRACT section 15). Written by the leader at
//! every start, where they are missing; what a user changed stays changed.

pub(crate) mod flow_control;
mod rbac;

use std::net::IpAddr;

use balsa_client::Client;
use balsa_model::kind::{from_slice, kind_of};
use balsa_model::kinds::priority_class::SYSTEM_CLASSES;
use balsa_model::{Failure, Key, Kind, Reason};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

/// What of a cluster's configuration its first objects show.
#[derive(Clone, Debug)]
pub(crate) struct Seed {
    /// First address of the Service range: `default/kubernetes`.
    pub api_ip: IpAddr,
    /// The Service range.
    pub service_cidr: String,
    /// The port of the servers, to which that Service leads.
    pub port: u16,
    /// Tenth address of the Service range: DNS.
    pub dns_ip: IpAddr,
    /// The CA, PEM.
    pub ca: String,
}

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing.
///
/// # Errors
/// What the engine says, but for `AlreadyExists`.
pub(crate) async fn seed(client: &Client, seed: &Seed) -> Result<(), Failure> {
    for name in NAMESPACES {
        create::<Namespace>(client, json!({"metadata": {"name": name}})).await?;
    }
    rbac::seed(client).await?;
    for class in SYSTEM_CLASSES {
        create::<PriorityClass>(client, priority_class(class)).await?;
    }
    create::<StorageClass>(client, local_path()).await?;
    create::<ConfigMap>(client, authentication(&seed.ca)).await?;
    create::<ServiceCIDR>(
        client,
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [seed.service_cidr]}}),
    )
    .await?;
    services(client, seed).await
}

/// Creates the Services without which pods find neither the API nor names, if they are missing.
///
/// # Errors
/// As [`seed`].
pub(crate) async fn services(client: &Client, seed: &Seed) -> Result<(), Failure> {
    create::<Service>(client, kubernetes_service(seed)).await?;
    create::<Service>(client, dns_service(seed)).await
}

async fn create<K: Kind>(client: &Client, value: Value) -> Result<(), Failure> {
    let object: K = from_slice(value.to_string().as_bytes()).map_err(Failure::internal)?;
    // Looked for first, so that a restart costs no entries.
    let meta = object.metadata();
    let key =
        Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    if client.api::<K>().find(&key).await?.is_some() {
        return Ok(());
    }
    match client.api::<K>().create(&object).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.reason == Reason::AlreadyExists => Ok(()),
        Err(failure) => {
            let kind = kind_of::<K>().descriptor().kind;
            tracing::error!(kind, %key, %failure, "cannot create an object that every cluster has");
            Err(failure)
        }
    }
}

fn kubernetes_service(seed: &Seed) -> Value {
    json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": seed.api_ip.to_string(), "clusterIPs": [seed.api_ip.to_string()],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": seed.port}],
        },
    })
}

/// DNS answers on every node itself; the Service has an address and no pods behind it.
fn dns_service(seed: &Seed) -> Value {
    json!({
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": seed.dns_ip.to_string(), "clusterIPs": [seed.dns_ip.to_string()],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        },
    })
}

fn local_path() -> Value {
    json!({
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "balsa.dev/local-path",
        "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    })
}

fn authentication(ca: &str) -> Value {
    json!({
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca},
    })
}

fn priority_class((name, value): &(&str, i32)) -> Value {
    let description = if *name == "system-node-critical" {
        "Used for system critical pods that must not be moved from their current node."
    } else {
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
    };
    json!({"metadata": {"name": name}, "value": value, "description": description})
}
