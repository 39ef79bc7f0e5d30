//! One file a kind, and the one list of them.
//!
//! To add a kind: add its file and its line in [`all`]; one that is another version of a stored kind goes
//! into [`faces`].

mod cells;
pub mod certificate_signing_request;
pub mod check;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi;
mod csi_storage_capacity;
mod daemon_set;
pub mod deployment;
pub mod endpoint_slice;
mod endpoints;
mod event;
mod event_face;
mod faces;
mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_face;
mod ingress;
pub mod ingress_class;
mod ip_address;
pub mod job;
mod lease;
mod limit_range;
pub mod namespace;
mod network_policy;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
mod pod_disruption_budget;
pub mod pod_spec;
mod pod_template;
pub mod priority_class;
pub mod rbac;
pub mod replica_set;
mod replication_controller;
mod resource_quota;
mod runtime_class;
pub mod secret;
pub mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
pub mod storage_class;
mod volume_attachment;
mod workload;

use k8s_openapi::api::{
    apps, autoscaling, batch, certificates, coordination, core, discovery, events, networking,
    node as api_node, policy, rbac as api_rbac, scheduling, storage,
};

use crate::kind::{KindRef, kind_of};

/// Every kind that is stored, in the order of discovery.
pub fn all() -> &'static [KindRef] {
    static KINDS: std::sync::LazyLock<Vec<KindRef>> = std::sync::LazyLock::new(|| {
        vec![
            kind_of::<core::v1::ConfigMap>(),
            kind_of::<core::v1::Endpoints>(),
            kind_of::<core::v1::Event>(),
            kind_of::<core::v1::LimitRange>(),
            kind_of::<core::v1::Namespace>(),
            kind_of::<core::v1::Node>(),
            kind_of::<core::v1::PersistentVolumeClaim>(),
            kind_of::<core::v1::PersistentVolume>(),
            kind_of::<core::v1::Pod>(),
            kind_of::<core::v1::PodTemplate>(),
            kind_of::<core::v1::ReplicationController>(),
            kind_of::<core::v1::ResourceQuota>(),
            kind_of::<core::v1::Secret>(),
            kind_of::<core::v1::ServiceAccount>(),
            kind_of::<core::v1::Service>(),
            kind_of::<apps::v1::ControllerRevision>(),
            kind_of::<apps::v1::DaemonSet>(),
            kind_of::<apps::v1::Deployment>(),
            kind_of::<apps::v1::ReplicaSet>(),
            kind_of::<apps::v1::StatefulSet>(),
            kind_of::<autoscaling::v2::HorizontalPodAutoscaler>(),
            kind_of::<batch::v1::CronJob>(),
            kind_of::<batch::v1::Job>(),
            kind_of::<certificates::v1::CertificateSigningRequest>(),
            kind_of::<networking::v1::IPAddress>(),
            kind_of::<networking::v1::IngressClass>(),
            kind_of::<networking::v1::Ingress>(),
            kind_of::<networking::v1::NetworkPolicy>(),
            kind_of::<networking::v1::ServiceCIDR>(),
            kind_of::<policy::v1::PodDisruptionBudget>(),
            kind_of::<api_rbac::v1::ClusterRoleBinding>(),
            kind_of::<api_rbac::v1::ClusterRole>(),
            kind_of::<api_rbac::v1::RoleBinding>(),
            kind_of::<api_rbac::v1::Role>(),
            kind_of::<storage::v1::CSIDriver>(),
            kind_of::<storage::v1::CSINode>(),
            kind_of::<storage::v1::CSIStorageCapacity>(),
            kind_of::<storage::v1::StorageClass>(),
            kind_of::<storage::v1::VolumeAttachment>(),
            kind_of::<scheduling::v1::PriorityClass>(),
            kind_of::<coordination::v1::Lease>(),
            kind_of::<api_node::v1::RuntimeClass>(),
            kind_of::<discovery::v1::EndpointSlice>(),
        ]
    });
    &KINDS
}

/// Kinds that are other versions of stored ones.
pub fn faces() -> &'static [KindRef] {
    static FACES: std::sync::LazyLock<[KindRef; 2]> = std::sync::LazyLock::new(|| {
        [kind_of::<autoscaling::v1::HorizontalPodAutoscaler>(), kind_of::<events::v1::Event>()]
    });
    &*FACES
}

/// Every kind that is served: stored ones and faces.
pub fn served() -> impl Iterator<Item = KindRef> {
    all().iter().chain(faces()).copied()
}

/// The kind of a resource: its group (empty: core) and plural name; of several versions the stored one.
pub fn by_resource(group: &str, plural: &str) -> Option<KindRef> {
    served().find(|kind| kind.descriptor().plural == plural && kind.descriptor().group == group)
}

/// The kind of a resource in one version of its group.
pub fn by_version(group: &str, version: &str, plural: &str) -> Option<KindRef> {
    served().find(|kind| {
        let descriptor = kind.descriptor();
        descriptor.plural == plural && descriptor.group == group && descriptor.version == version
    })
}

/// The kind of an `apiVersion` and `kind` as they stand in manifests.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<KindRef> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    served().find(|candidate| {
        let descriptor = candidate.descriptor();
        descriptor.kind == kind && descriptor.group == group && descriptor.version == version
    })
}

/// The version of a kind's objects that `api_version` names.
pub fn sibling(kind: KindRef, api_version: &str) -> Option<KindRef> {
    let stored = kind.stored();
    served().find(|other| other.stored() == stored && other.descriptor().api_version() == api_version)
}

/// The kinds that a word names on the command line: plural, singular, short name, kind in any case,
/// with or without `.group`; or a category, which may name several.
pub fn by_word(word: &str) -> Vec<KindRef> {
    let word = word.to_lowercase();
    let (name, group) =
        word.split_once('.').map_or((word.as_str(), None), |(name, group)| (name, Some(group)));
    let matches = |kind: &&KindRef| {
        let d = kind.descriptor();
        group.is_none_or(|group| d.group == group)
            && (d.plural == name
                || d.singular == name
                || d.short_names.contains(&name)
                || d.kind.to_lowercase() == name
                || d.categories.contains(&name))
    };
    let found: Vec<KindRef> = all().iter().filter(matches).copied().collect();
    let category = found.iter().any(|kind| kind.descriptor().categories.contains(&name));
    if category { found } else { found.into_iter().take(1).collect() }
}
