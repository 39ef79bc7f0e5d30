//! What every pod gets: its service account with a token, tolerations of short outages, a priority, what its
//! RuntimeClass says.

use balsa_model::kind::kind_of;
use balsa_model::kinds::priority_class::SYSTEM_CLASSES;
use balsa_model::{AnyObject, Failure, Key};
use balsa_state::State;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Toleration, Volume,
    VolumeMount, VolumeProjection,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::runtime_classes;

/// Where containers find the token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a pod stays bound to a node that is not ready, in seconds.
const OUTAGE_SECONDS: i64 = 300;
/// Life of a pod's token in seconds, before the agent renews it: an hour, and a little for clocks.
const TOKEN_SECONDS: i64 = 3607;

pub(super) fn complete(state: &State, object: &mut dyn AnyObject) -> Result<(), Failure> {
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    tolerate_outages(spec);
    set_priority(state, &name, spec)?;
    runtime_classes::complete(state, &name, spec)?;
    let account_name = spec.service_account_name.get_or_insert_with(|| "default".to_owned()).clone();
    spec.service_account = Some(account_name.clone());
    let view = state.view(kind_of::<ServiceAccount>());
    let Some(account) = view.get(&Key::new(namespace.as_str(), account_name.as_str())) else {
        let why = format!(
            "error looking up service account {namespace}/{account_name}: serviceaccount \"{account_name}\" not found"
        );
        return Err(Failure::forbidden(kind_of::<Pod>().descriptor(), &name, why));
    };
    let account = account.typed::<ServiceAccount>();
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.as_ref().and_then(|a| a.image_pull_secrets.clone());
    }
    let wanted = spec
        .automount_service_account_token
        .or(account.and_then(|a| a.automount_service_account_token))
        .unwrap_or(true);
    if wanted {
        mount_token(spec);
    }
    Ok(())
}

/// A pod whose tolerations were changed still tolerates short outages.
pub(super) fn keep_tolerating(object: &mut dyn AnyObject) {
    if let Some(spec) = object.as_any_mut().downcast_mut::<Pod>().and_then(|pod| pod.spec.as_mut()) {
        tolerate_outages(spec);
    }
}

fn tolerate_outages(spec: &mut PodSpec) {
    let tolerations = spec.tolerations.get_or_insert_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|t| {
            t.key.as_deref().is_none_or(|k| k.is_empty() || k == key)
                && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
        });
        if !tolerated {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(OUTAGE_SECONDS),
                value: None,
            });
        }
    }
}

/// Sets the priority of the class that the pod names, else of the default class, else none. The
/// system's own classes are known without being stored.
fn set_priority(state: &State, name: &str, spec: &mut PodSpec) -> Result<(), Failure> {
    let refused = |why: String| Err(Failure::forbidden(kind_of::<Pod>().descriptor(), name, why));
    let view = state.view(kind_of::<PriorityClass>());
    let wanted = spec.priority_class_name.clone().unwrap_or_default();
    let class = if wanted.is_empty() {
        let classes = view.iter().filter_map(|object| object.typed::<PriorityClass>());
        classes.filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
    } else {
        view.get(&Key::new("", wanted.as_str())).and_then(|object| object.typed())
    };
    let system = SYSTEM_CLASSES.iter().find(|(known, _)| *known == wanted);
    let (priority, policy) = match (&class, system) {
        (Some(class), _) => (class.value, class.preemption_policy.clone()),
        (None, Some((_, value))) => (*value, None),
        (None, None) if wanted.is_empty() => (0, None),
        (None, None) => return refused(format!("no PriorityClass with name {wanted} was found")),
    };
    if let Some(given) = spec.priority.filter(|given| *given != priority) {
        return refused(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        ));
    }
    if wanted.is_empty() {
        spec.priority_class_name = class.and_then(|class| class.metadata.name.clone());
    }
    spec.priority = Some(priority);
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    spec.preemption_policy.get_or_insert(policy);
    Ok(())
}

/// Projects token, CA and namespace into every container that mounts nothing at that path itself.
fn mount_token(spec: &mut PodSpec) {
    let volume = format!("kube-api-access-{}", balsa_rt::random_suffix(5));
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    let mut mounted = false;
    for container in containers {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|mount| mount.mount_path == TOKEN_PATH) {
            continue;
        }
        mounted = true;
        mounts.push(VolumeMount {
            name: volume.clone(),
            mount_path: TOKEN_PATH.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    if mounted {
        spec.volumes.get_or_insert_default().push(token_volume(volume));
    }
}

fn token_volume(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(TOKEN_SECONDS),
            audience: None,
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.namespace".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
        ..VolumeProjection::default()
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o644),
            sources: Some(vec![token, ca, namespace]),
        }),
        ..Volume::default()
    }
}
