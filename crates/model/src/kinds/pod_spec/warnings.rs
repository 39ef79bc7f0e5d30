//! What is taken of pods and templates, and likely not meant: fields that do nothing any more, definitions that hide
//! others, selectors that select nothing.
//!
//! Wordings are those of `k8s.io/kubernetes` `pkg/api/pod`. Its warnings of Ceph's and Gluster's volumes are left out:
//! they tell of Kubernetes' own plugins.

mod ports;

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, NodeSelectorTerm, PersistentVolumeClaimSpec, PodAffinityTerm, PodSpec, Volume,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::annotations::{APP_ARMOR, SECCOMP_OF_CONTAINER, SECCOMP_OF_POD};
use super::members::members;
use crate::field::Path;
use crate::kind::Pods;
use crate::meta::label_value;
use crate::quantity::Quantity;
use ports::Ports;

/// Labels of nodes that have got other names.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Annotations that do nothing.
const DEAD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const DEAD_SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// What whoever makes these pods should be told.
pub(crate) fn of(pods: &Pods<'_>) -> Vec<String> {
    let (spec, path) = (pods.spec, pods.path.child("spec"));
    let mut told = Vec::new();
    scheduling(spec, &path, &mut told);
    annotations(pods, &mut told);
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        dead_volume(volume, &path.child("volumes").index(i), &mut told);
    }
    token_paths(spec, &path.child("volumes"), &mut told);
    doubles(spec, &path, &mut told);
    fractions(spec.overhead.as_ref(), &path.child("overhead"), &mut told);
    let mut ports = Ports::default();
    for container in members(spec, &path) {
        for (field, list) in [
            ("limits", container.resources.and_then(|resources| resources.limits.as_ref())),
            ("requests", container.resources.and_then(|resources| resources.requests.as_ref())),
        ] {
            fractions(list, &container.path.child("resources").child(field), &mut told);
        }
        hidden_variables(container.env, &container.path.child("env"), &mut told);
        ports.add(container.ports, &container.path.child("ports"));
    }
    told.extend(ports.into_told());
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        told.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    if let Some(affinity) = &spec.affinity {
        selects_nothing(affinity, &path.child("affinity"), &mut told);
    }
    told
}

/// Why a label of nodes should not be used any more.
pub(crate) fn old_label(label: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == label).map(|(_, why)| *why)
}

fn scheduling(spec: &PodSpec, path: &Path, told: &mut Vec<String>) {
    for label in spec.node_selector.iter().flat_map(BTreeMap::keys) {
        if let Some(why) = old_label(label) {
            told.push(format!("{}: {why}", path.child("nodeSelector").key(label)));
        }
    }
    if let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
        let path = path.child("affinity").child("nodeAffinity");
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let terms = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        for (i, term) in required.into_iter().flat_map(|required| &required.node_selector_terms).enumerate() {
            old_labels(term, &terms.index(i), told);
        }
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        let terms = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in preferred.enumerate() {
            let path = terms.index(i).child("preference");
            old_labels(&term.preference, &path, told);
            bad_values(&term.preference, &path, told);
        }
    }
    for (i, spread) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        if let Some(why) = old_label(&spread.topology_key) {
            told.push(format!("{}: {} is {why}", path.child("topologyKey"), spread.topology_key));
        }
        if spread.label_selector.is_none() {
            told.push(null_selector(&path.child("labelSelector")));
        }
    }
}

/// Old labels in the expressions of a term.
pub(crate) fn old_labels(term: &NodeSelectorTerm, path: &Path, told: &mut Vec<String>) {
    for (i, expression) in term.match_expressions.iter().flatten().enumerate() {
        if let Some(why) = old_label(&expression.key) {
            let path = path.child("matchExpressions").index(i).child("key");
            told.push(format!("{path}: {} is {why}", expression.key));
        }
    }
}

/// Values that no label can have: a preference for them is never met.
fn bad_values(term: &NodeSelectorTerm, path: &Path, told: &mut Vec<String>) {
    for (i, expression) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i).child("values");
        for (j, value) in expression.values.iter().flatten().enumerate() {
            let wrong = label_value(value);
            told.extend(wrong.iter().map(|why| format!("{}: {value} is invalid, {why}", path.index(j))));
        }
    }
}

fn annotations(pods: &Pods<'_>, told: &mut Vec<String>) {
    let Some(annotations) = pods.meta.and_then(|meta| meta.annotations.as_ref()) else { return };
    let path = pods.path.child("metadata").child("annotations");
    let mut dead = |key: &str, why: &str| {
        if annotations.contains_key(key) {
            told.push(format!("{}: {why}", path.key(key)));
        }
    };
    for (key, why) in DEAD_ANNOTATIONS {
        dead(key, why);
    }
    let of_pod = pods.spec.security_context.as_ref();
    if of_pod.is_none_or(|security| security.seccomp_profile.is_none()) {
        dead(SECCOMP_OF_POD, DEAD_SECCOMP);
    }
    // Of a pod itself the annotation becomes a field.
    let is_template = !pods.path.as_str().is_empty();
    let has_apparmor = of_pod.is_some_and(|security| security.app_armor_profile.is_some());
    for container in members(pods.spec, &pods.path) {
        if container.context.is_none_or(|security| security.seccomp_profile.is_none()) {
            dead(&format!("{SECCOMP_OF_CONTAINER}{}", container.name), DEAD_SECCOMP);
        }
        let has_apparmor =
            has_apparmor || container.context.is_some_and(|security| security.app_armor_profile.is_some());
        if is_template && !has_apparmor {
            let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            dead(&format!("{APP_ARMOR}{}", container.name), why);
        }
    }
}

fn dead_volume(volume: &Volume, path: &Path, told: &mut Vec<String>) {
    let dead = [
        (
            volume.photon_persistent_disk.is_some(),
            "photonPersistentDisk: deprecated in v1.11, non-functional in v1.16+",
        ),
        (volume.git_repo.is_some(), "gitRepo: deprecated in v1.11"),
        (volume.scale_io.is_some(), "scaleIO: deprecated in v1.16, non-functional in v1.22+"),
        (volume.flocker.is_some(), "flocker: deprecated in v1.22, non-functional in v1.25+"),
        (volume.storageos.is_some(), "storageOS: deprecated in v1.22, non-functional in v1.25+"),
        (volume.quobyte.is_some(), "quobyte: deprecated in v1.22, non-functional in v1.25+"),
    ];
    told.extend(dead.iter().filter(|(is_it, _)| *is_it).map(|(_, why)| format!("{path}.{why}")));
    let template = volume.ephemeral.as_ref().and_then(|ephemeral| ephemeral.volume_claim_template.as_ref());
    if let Some(template) = template {
        let path = path.child("ephemeral").child("volumeClaimTemplate").child("spec");
        claim(&template.spec, &path, told);
    }
}

/// What is odd about a claim.
pub(crate) fn claim(spec: &PersistentVolumeClaimSpec, path: &Path, told: &mut Vec<String>) {
    let Some(resources) = &spec.resources else { return };
    let path = path.child("resources");
    for (field, list) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if let Some(amount) = list.as_ref().and_then(|list| list.get("storage")) {
            fraction(amount, &path.child(field).key("storage"), told);
        }
    }
}

/// Files of a projected volume in the place of its tokens.
fn token_paths(spec: &PodSpec, path: &Path, told: &mut Vec<String>) {
    let sources = |volume: &Volume| {
        volume.projected.as_ref().and_then(|projected| projected.sources.clone()).unwrap_or_default()
    };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let tokens: HashSet<String> = volumes
        .iter()
        .flat_map(sources)
        .filter_map(|source| source.service_account_token.map(|token| token.path))
        .collect();
    if tokens.is_empty() {
        return;
    }
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i).child("projected").child("sources");
        for source in sources(volume) {
            let of_map = source.config_map.into_iter().flat_map(|map| map.items.unwrap_or_default());
            let of_secret = source.secret.into_iter().flat_map(|secret| secret.items.unwrap_or_default());
            let of_pod = source.downward_api.into_iter().flat_map(|api| api.items.unwrap_or_default());
            let files = (of_map.enumerate().map(|(j, item)| ("configMap", j, item.path)))
                .chain(of_secret.enumerate().map(|(j, item)| ("secrets", j, item.path)))
                .chain(of_pod.enumerate().map(|(j, item)| ("downwardAPI", j, item.path)));
            for (kind, j, file) in files.filter(|(_, _, file)| tokens.contains(file)) {
                let path = path.child(kind).index(j);
                told.push(format!("{path}: has duplicated path with ServiceAccountToken {file:?}"));
            }
        }
    }
}

fn doubles(spec: &PodSpec, path: &Path, told: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            told.push(format!(
                "{}: duplicate ip {:?}",
                path.child("hostAliases").index(i).child("ip"),
                alias.ip
            ));
        }
    }
    let path = path.child("imagePullSecrets");
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let mut seen = HashSet::new();
    for (i, secret) in secrets.iter().enumerate() {
        if !seen.insert(&secret.name) {
            told.push(format!("{}: duplicate name {:?}", path.index(i).child("name"), secret.name));
        }
    }
    for (i, _) in secrets.iter().enumerate().filter(|(_, secret)| secret.name.is_empty()) {
        told.push(format!("{}: invalid empty name \"\"", path.index(i).child("name")));
    }
}

/// Parts of bytes.
fn fractions(list: Option<&BTreeMap<String, ApiQuantity>>, path: &Path, told: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(amount) = list.and_then(|list| list.get(name)) {
            fraction(amount, &path.key(name), told);
        }
    }
}

fn fraction(amount: &ApiQuantity, path: &Path, told: &mut Vec<String>) {
    if Quantity::of(amount).is_some_and(|amount| !amount.is_integer()) {
        told.push(format!("{path}: fractional byte value {:?} is invalid, must be an integer", amount.0));
    }
}

/// Variables that take the place of others, unless they build on them.
fn hidden_variables(env: &[EnvVar], path: &Path, told: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, variable) in env.iter().enumerate() {
        if seen.insert(&variable.name) {
            continue;
        }
        let reference = format!("$({})", variable.name);
        let value = variable.value.as_deref().unwrap_or_default();
        let builds_on_it = variable.value_from.is_none() && value != reference && value.contains(&reference);
        if !builds_on_it {
            told.push(format!(
                "{}: hides previous definition of {:?}, which may be dropped when using apply",
                path.index(i),
                variable.name
            ));
        }
    }
}

fn selects_nothing(affinity: &Affinity, path: &Path, told: &mut Vec<String>) {
    let required = |terms: Option<&Vec<PodAffinityTerm>>, path: &Path, told: &mut Vec<String>| {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (i, _) in terms.into_iter().flatten().enumerate().filter(|(_, t)| t.label_selector.is_none()) {
            told.push(null_selector(&path.index(i).child("labelSelector")));
        }
    };
    let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>, path: &Path, told: &mut Vec<String>| {
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        let terms = terms.into_iter().flatten().enumerate();
        for (i, _) in terms.filter(|(_, t)| t.pod_affinity_term.label_selector.is_none()) {
            told.push(null_selector(&path.index(i).child("podAffinityTerm").child("labelSelector")));
        }
    };
    if let Some(near) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        required(near.required_during_scheduling_ignored_during_execution.as_ref(), &path, told);
        preferred(near.preferred_during_scheduling_ignored_during_execution.as_ref(), &path, told);
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        required(far.required_during_scheduling_ignored_during_execution.as_ref(), &path, told);
        preferred(far.preferred_during_scheduling_ignored_during_execution.as_ref(), &path, told);
    }
}

fn null_selector(path: &Path) -> String {
    format!("{path}: a null labelSelector results in matching no pod")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
    use serde_json::{Value, json};

    use super::*;

    fn of_pod(pod: Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        of(&Pods::of_pod(&pod).unwrap())
    }

    fn of_container(container: Value) -> Vec<String> {
        of_pod(json!({"spec": {"containers": [container]}}))
    }

    #[test]
    fn a_usual_pod_is_not_spoken_of() {
        let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]);
        let ports =
            json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]);
        let container = json!({"name": "c", "image": "i", "env": env, "ports": ports,
            "resources": {"limits": {"memory": "1Gi", "cpu": "100m"}}});
        assert!(of_container(container).is_empty());
    }

    #[test]
    fn definitions_that_hide_others_are_told() {
        let env =
            json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "A", "value": "$(A)"}]);
        let hides = "hides previous definition of \"A\", which may be dropped when using apply";
        assert_eq!(
            of_container(json!({"name": "c", "env": env})),
            [format!("spec.containers[0].env[1]: {hides}"), format!("spec.containers[0].env[2]: {hides}")]
        );
    }

    #[test]
    fn parts_of_bytes_are_told() {
        let resources =
            json!({"limits": {"memory": "100m", "cpu": "100m"}, "requests": {"ephemeral-storage": "1500m"}});
        let wrong = "is invalid, must be an integer";
        assert_eq!(
            of_container(json!({"name": "c", "resources": resources})),
            [
                format!(
                    "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" {wrong}"
                ),
                format!(
                    "spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value \"1500m\" {wrong}"
                ),
            ]
        );
    }

    #[test]
    fn old_names_and_selectors_of_nothing_are_told_where_a_template_has_them() {
        let spec = json!({"containers": [{"name": "c"}],
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}],
            "hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
            "volumes": [{"name": "v", "gitRepo": {"repository": "r"}}],
            "terminationGracePeriodSeconds": -1,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "t"}]}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "t", "whenUnsatisfiable": "DoNotSchedule"}]});
        let meta = json!({"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": "",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined"}});
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let pods = Pods::of_template(&template, Path::new("spec").child("template")).unwrap();
        assert_eq!(
            of(&pods),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.template.metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                "spec.template.spec.volumes[0].gitRepo: deprecated in v1.11",
                "spec.template.spec.hostAliases[1].ip: duplicate ip \"1.1.1.1\"",
                "spec.template.spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.template.spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.template.spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
            ]
        );
    }

    #[test]
    fn a_file_in_the_place_of_a_token_is_told() {
        let sources = json!([{"serviceAccountToken": {"path": "t"}},
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "t"}]}}]);
        let volumes = json!([{"name": "v", "projected": {"sources": sources}}]);
        assert_eq!(
            of_pod(json!({"spec": {"containers": [], "volumes": volumes}})),
            [
                "spec.volumes[0].projected.sources.configMap[1]: has duplicated path with ServiceAccountToken \"t\""
            ]
        );
    }
}
