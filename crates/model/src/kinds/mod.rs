//! One file a kind, and the one list of them.
//!
//! To add a kind: add its file and its line in the list that [`all`] gives; one that is another version of a
//! stored kind goes into that of [`faces`].

mod cells;
pub mod certificate_signing_request;
pub mod check;
pub mod component_status;
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
pub mod flow_schema;
mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_face;
pub mod ingress;
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
pub mod priority_level_configuration;
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
    apps, autoscaling, batch, certificates, coordination, core, discovery, events, flowcontrol, networking,
    node as api_node, policy, rbac as api_rbac, scheduling, storage,
};

use crate::kind::{KindRef, Registered, define};

/// Makes a list of kinds and registers each of them.
macro_rules! register {
    ($list:ident: $($kind:ty),+ $(,)?) => {
        static $list: &[KindRef] = &[$(define::<$kind>()),+];
        $(impl Registered for $kind {
            fn registered() -> KindRef {
                // Of a static, so that a caller's crate refers to it and compiles no copy of its own.
                static KIND: KindRef = define::<$kind>();
                KIND
            }
        })+
    };
}

// In the order of discovery.
register! { STORED:
    core::v1::ConfigMap,
    core::v1::Endpoints,
    core::v1::Event,
    core::v1::LimitRange,
    core::v1::Namespace,
    core::v1::Node,
    core::v1::PersistentVolumeClaim,
    core::v1::PersistentVolume,
    core::v1::Pod,
    core::v1::PodTemplate,
    core::v1::ReplicationController,
    core::v1::ResourceQuota,
    core::v1::Secret,
    core::v1::ServiceAccount,
    core::v1::Service,
    apps::v1::ControllerRevision,
    apps::v1::DaemonSet,
    apps::v1::Deployment,
    apps::v1::ReplicaSet,
    apps::v1::StatefulSet,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::CronJob,
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    networking::v1::IPAddress,
    networking::v1::IngressClass,
    networking::v1::Ingress,
    networking::v1::NetworkPolicy,
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    api_rbac::v1::ClusterRoleBinding,
    api_rbac::v1::ClusterRole,
    api_rbac::v1::RoleBinding,
    api_rbac::v1::Role,
    storage::v1::CSIDriver,
    storage::v1::CSINode,
    storage::v1::CSIStorageCapacity,
    storage::v1::StorageClass,
    storage::v1::VolumeAttachment,
    scheduling::v1::PriorityClass,
    coordination::v1::Lease,
    api_node::v1::RuntimeClass,
    discovery::v1::EndpointSlice,
    flowcontrol::v1::FlowSchema,
    flowcontrol::v1::PriorityLevelConfiguration,
}

register! { FACES:
    autoscaling::v1::HorizontalPodAutoscaler,
    events::v1::Event,
}

// Not stored: told when somebody asks.
register! { REPORTED:
    core::v1::ComponentStatus,
}

/// Every kind that is stored, in the order of discovery.
pub fn all() -> &'static [KindRef] {
    STORED
}

/// Kinds that are other versions of stored ones.
pub fn faces() -> &'static [KindRef] {
    FACES
}

/// Kinds of which nothing is stored: their objects are made when somebody reads them.
pub fn reported() -> &'static [KindRef] {
    REPORTED
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
