//! A pod spec as a whole.

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::containers::{self, Surroundings};
use super::{scheduling, security, volumes};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, invalid_each, ip, json, label, one_of, required_one_of, subdomain};
use crate::meta;

/// What resolvers take: name servers, domains to look in, and letters of these with spaces between them.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LIST: usize = 2048;

/// Checks the spec of a pod or of a template.
pub(crate) fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let around = Surroundings {
        volumes: spec.volumes.as_deref().unwrap_or_default(),
        grace: spec.termination_grace_period_seconds.unwrap_or(30),
        host_users: spec.host_users != Some(false),
        restart_policy: spec.restart_policy.as_deref().unwrap_or_default(),
    };
    volumes::validate(around.volumes, &path.child("volumes"), errors);
    containers::validate(&spec.containers, &around, &path.child("containers"), errors);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    containers::validate_init(init, &spec.containers, &around, &path.child("initContainers"), errors);
    validate_ephemeral(spec, &around, path, errors);
    validate_policies(spec, path, errors);
    meta::validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    validate_host(spec, path, errors);
    scheduling::validate_affinity(spec.affinity.as_ref(), &path.child("affinity"), errors);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    scheduling::validate_spread(constraints, &path.child("topologySpreadConstraints"), errors);
    validate_names(spec, path, errors);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::validate_tolerations(tolerations, &path.child("tolerations"), errors);
    security::validate_pod(spec, path, errors);
}

fn validate_ephemeral(spec: &PodSpec, around: &Surroundings<'_>, path: &Path, errors: &mut FieldErrors) {
    let Some(ephemeral) = &spec.ephemeral_containers else { return };
    let others: Vec<&str> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.name.as_str())
        .collect();
    let path = path.child("ephemeralContainers");
    containers::validate_ephemeral(ephemeral, &others, around, &path, errors);
}

fn validate_policies(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    required_one_of(
        errors,
        &path.child("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    required_one_of(
        errors,
        &path.child("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if let Some(policy) = &spec.preemption_policy {
        let known = ["PreemptLowerPriority", "Never"];
        required_one_of(errors, &path.child("preemptionPolicy"), Some(policy.as_str()), &known);
    }
    validate_dns(spec, &path.child("dnsConfig"), errors);
    if let Some(os) = &spec.os {
        if os.name.is_empty() {
            errors.required(&path.child("os").child("name"), "cannot be empty");
        } else {
            one_of(errors, &path.child("os"), &os.name, &["linux", "windows"]);
        }
    }
}

fn validate_dns(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let empty = PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&empty);
    let (servers, path_of_servers) =
        (config.nameservers.as_deref().unwrap_or_default(), path.child("nameservers"));
    for (i, server) in servers.iter().enumerate() {
        ip(errors, &path_of_servers.index(i), server);
    }
    if servers.len() > MOST_NAMESERVERS {
        let detail = format!("must not have more than {MOST_NAMESERVERS} nameservers");
        errors.invalid(&path_of_servers, json(&servers), detail);
    } else if spec.dns_config.is_none() && spec.dns_policy.as_deref() == Some("None") {
        errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
    } else if servers.is_empty() && spec.dns_policy.as_deref() == Some("None") {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&path_of_servers, detail);
    }
    let (searches, path_of_searches) =
        (config.searches.as_deref().unwrap_or_default(), path.child("searches"));
    if searches.len() > MOST_SEARCHES {
        let detail = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.invalid(&path_of_searches, json(&searches), detail);
    }
    if searches.join(" ").len() > LONGEST_SEARCH_LIST {
        let detail = format!(
            "must not have more than {LONGEST_SEARCH_LIST} characters (including spaces) in the search list"
        );
        errors.invalid(&path_of_searches, json(&searches), detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        // Services' own domains begin with an underscore, and may have more of them.
        let name = search.strip_suffix('.').unwrap_or(search).split('.');
        let name: Vec<String> =
            name.map(|part| part.strip_prefix('_').unwrap_or(part).replace('_', "-")).collect();
        let wrong = meta::dns1123_subdomain(&name.join("."));
        invalid_each(errors, &path_of_searches.index(i), search, wrong);
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn validate_host(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.host_network == Some(true) {
        containers::validate_host_network(&spec.containers, &path.child("containers"), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(i);
        ip(errors, &path.child("ip"), &alias.ip);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            subdomain(errors, &path.child("hostnames").index(j), name);
        }
    }
}

fn validate_names(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (field, name) in [
        ("serviceAccountName", &spec.service_account_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            subdomain(errors, &path.child(field), name);
        }
    }
    scheduling::validate_node_name(spec.node_name.as_deref(), &path.child("nodeName"), errors);
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            label(errors, &path.child(field), name);
        }
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        for wrong in meta::qualified_name(&gate.condition_type) {
            errors.invalid(&path, gate.condition_type.as_str(), wrong);
        }
    }
    let mut gates = std::collections::HashSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(i);
        for wrong in meta::qualified_name(&gate.name) {
            errors.invalid(&path, gate.name.as_str(), wrong);
        }
        if !gates.insert(gate.name.as_str()) {
            errors.duplicate(&path, gate.name.as_str());
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        in_range(errors, &path.child("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(more: Value) -> Vec<String> {
        let mut spec = json!({"containers": [], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = FieldErrors::new();
        validate_policies(&spec, &Path::new("spec"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolvers_are_told_what_they_can_take() {
        let good = json!({"nameservers": ["10.0.0.1", "::1"], "searches": ["a.b", "_tcp.c.", "."],
            "options": [{"name": "ndots", "value": "2"}]});
        assert!(wrong(json!({"dnsConfig": good})).is_empty());
        let addresses = json!(["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]);
        assert_eq!(
            wrong(json!({"dnsConfig": {"nameservers": addresses, "options": [{}]}})),
            [
                format!(
                    "spec.dnsConfig.nameservers: Invalid value: {addresses}: must not have more than 3 nameservers"
                ),
                "spec.dnsConfig.options[0]: Required value: must not be empty".to_owned(),
            ]
        );
        let of = |searches: Vec<String>| wrong(json!({"dnsConfig": {"searches": searches}}));
        assert!(
            of(vec!["a b".to_owned()])[0].starts_with("spec.dnsConfig.searches[0]: Invalid value: \"a b\": ")
        );
        assert!(of(vec!["a".to_owned(); 33])[0].ends_with("must not have more than 32 search paths"));
        let long = "a.".repeat(100) + "a";
        assert!(
            of(vec![long; 11])[0]
                .ends_with("must not have more than 2048 characters (including spaces) in the search list")
        );
    }

    #[test]
    fn systems_are_known_ones() {
        assert!(wrong(json!({"os": {"name": "linux"}})).is_empty());
        assert_eq!(
            wrong(json!({"os": {"name": "plan9"}})),
            ["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]
        );
    }
}
