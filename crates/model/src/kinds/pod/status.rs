//! Statuses of pods: what only goes one way, and what is of a known form.

use k8s_openapi::api::core::v1::{ContainerStatus, LinuxContainerUser, Pod, PodSpec, PodStatus};

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, ip};
use crate::meta;

/// Conditions whose names are not looked at.
const SYSTEM: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

/// Checks a status against the one before.
pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let (nothing, no_spec) = (PodStatus::default(), PodSpec::default());
    let (status, old_status) =
        (new.status.as_ref().unwrap_or(&nothing), old.status.as_ref().unwrap_or(&nothing));
    let (spec, old_spec) = (new.spec.as_ref().unwrap_or(&no_spec), old.spec.as_ref().unwrap_or(&no_spec));
    let conditions = status.conditions.iter().flatten().enumerate();
    for (i, condition) in conditions.filter(|(_, c)| !SYSTEM.contains(&c.type_.as_str())) {
        // The reference server writes it like that.
        let path = Path::new("metadata").child("conditions").index(i).child("Type");
        for wrong in meta::qualified_name(&condition.type_) {
            errors.invalid(&path, condition.type_.as_str(), wrong);
        }
    }
    let path = Path::new("status");
    let nominated = status.nominated_node_name.as_deref().unwrap_or_default();
    if !nominated.is_empty() && status.nominated_node_name != old_status.nominated_node_name {
        for wrong in meta::dns1123_subdomain(nominated) {
            errors.invalid(&path.child("nominatedNodeName"), nominated, wrong);
        }
    }
    let policy = old_spec.restart_policy.as_deref().unwrap_or("Always");
    let sidecars = old_spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let sidecars: Vec<&str> = sidecars.map(|container| container.name.as_str()).collect();
    let (apps, init, ephemeral) =
        (&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses);
    let sorts = [
        Sort::new("containerStatuses", policy, &[], apps, &old_status.container_statuses),
        Sort::new("initContainerStatuses", policy, &sidecars, init, &old_status.init_container_statuses),
        Sort::new(
            "ephemeralContainerStatuses",
            "Never",
            &[],
            ephemeral,
            &old_status.ephemeral_container_statuses,
        ),
    ];
    sorts.iter().for_each(|sort| sort.validate_transitions(&path, errors));
    for (i, host) in status.host_ips.iter().flatten().enumerate() {
        ip(errors, &path.child("hostIPs").index(i), &host.ip);
    }
    sorts.iter().for_each(|sort| validate_users(sort.new, spec, &path.child(sort.field), errors));
}

/// The statuses of one sort of containers, new and old.
struct Sort<'a> {
    field: &'static str,
    policy: &'a str,
    /// Who starts again whatever the policy is.
    sidecars: &'a [&'a str],
    new: &'a [ContainerStatus],
    old: &'a [ContainerStatus],
}

impl<'a> Sort<'a> {
    fn new(
        field: &'static str,
        policy: &'a str,
        sidecars: &'a [&'a str],
        new: &'a Option<Vec<ContainerStatus>>,
        old: &'a Option<Vec<ContainerStatus>>,
    ) -> Self {
        let [new, old] = [new, old].map(|list| list.as_deref().unwrap_or_default());
        Self { field, policy, sidecars, new, old }
    }

    /// Who has ended and is not to start again stays ended.
    fn validate_transitions(&self, path: &Path, errors: &mut FieldErrors) {
        if self.policy == "Always" {
            return;
        }
        let end = |status: &'a ContainerStatus| status.state.as_ref()?.terminated.as_ref();
        for (i, before) in self.old.iter().enumerate() {
            let Some(ended) = end(before) else { continue };
            let failed = ended.exit_code != 0 && self.policy == "OnFailure";
            if failed || self.sidecars.contains(&before.name.as_str()) {
                continue;
            }
            for _ in self.new.iter().filter(|now| now.name == before.name && end(now).is_none()) {
                let path = path.child(self.field).index(i).child("state");
                errors.forbidden(&path, "may not be transitioned to non-terminated state");
            }
        }
    }
}

fn validate_users(statuses: &[ContainerStatus], spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let on_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (i, status) in statuses.iter().enumerate() {
        let path = path.index(i).child("linux");
        let Some(user) = status.user.as_ref().and_then(|user| user.linux.as_ref()) else { continue };
        if on_windows {
            errors.forbidden(&path, "cannot be set for a windows pod");
        } else {
            validate_user(user, &path, errors);
        }
    }
}

fn validate_user(user: &LinuxContainerUser, path: &Path, errors: &mut FieldErrors) {
    let most = i64::from(i32::MAX);
    in_range(errors, &path.child("uid"), user.uid, 0, most);
    in_range(errors, &path.child("gid"), user.gid, 0, most);
    for (i, group) in user.supplemental_groups.iter().flatten().enumerate() {
        in_range(errors, &path.child("supplementalGroups").index(i), *group, 0, most);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(policy: &str, old: &Value, new: &Value) -> Vec<String> {
        let pod = |status: &Value| -> Pod {
            serde_json::from_value(
                json!({"status": status, "spec": {"restartPolicy": policy, "containers": [],
                "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "first"}]}}),
            )
            .unwrap()
        };
        let mut errors = FieldErrors::new();
        validate(&pod(new), &pod(old), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    fn one(name: &str, state: &Value) -> Value {
        json!([{"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
    }

    #[test]
    fn who_has_ended_for_good_stays_so() {
        let (running, waiting) = (json!({"running": {}}), json!({"waiting": {"reason": "x"}}));
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let of = |field: &str, name: &str, state: &Value| json!({field: one(name, state)});
        let refused = |field: &str| {
            vec![format!(
                "status.{field}[0].state: Forbidden: may not be transitioned to non-terminated state"
            )]
        };
        let apps = "containerStatuses";
        for (policy, code, expected) in [
            ("Always", 0, vec![]),
            ("OnFailure", 1, vec![]),
            ("OnFailure", 0, refused(apps)),
            ("Never", 1, refused(apps)),
        ] {
            let old = of(apps, "a", &ended(code));
            assert_eq!(wrong(policy, &old, &of(apps, "a", &running)), expected, "{policy} {code}");
            assert_eq!(wrong(policy, &old, &of(apps, "a", &waiting)), expected, "{policy} {code}");
            assert!(wrong(policy, &old, &old).is_empty());
            assert!(wrong(policy, &old, &json!({})).is_empty(), "it may be left out");
        }
        let init = "initContainerStatuses";
        assert_eq!(
            wrong("Never", &of(init, "first", &ended(0)), &of(init, "first", &running)),
            refused(init)
        );
        assert!(wrong("Never", &of(init, "side", &ended(0)), &of(init, "side", &running)).is_empty());
        let ephemeral = "ephemeralContainerStatuses";
        let old = of(ephemeral, "look", &ended(1));
        assert_eq!(wrong("Always", &old, &of(ephemeral, "look", &running)), refused(ephemeral));
    }

    #[test]
    fn names_addresses_and_users_are_of_a_form() {
        let mut status = json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "a b", "status": "True"}],
            "nominatedNodeName": "A", "hostIPs": [{"ip": "::1"}, {"ip": "x"}],
            "containerStatuses": one("a", &json!({}))});
        status["containerStatuses"][0]["user"] =
            json!({"linux": {"uid": -1, "gid": 0, "supplementalGroups": [-2]}});
        let found = wrong("Always", &json!({}), &status);
        for (at, beginning) in [
            "metadata.conditions[1].Type: Invalid value: \"a b\": ",
            "status.nominatedNodeName: Invalid value: \"A\": ",
            "status.hostIPs[1]: Invalid value: \"x\": ",
            "status.containerStatuses[0].linux.uid: Invalid value: -1: ",
            "status.containerStatuses[0].linux.supplementalGroups[0]: Invalid value: -2: ",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(found[at].starts_with(beginning), "{found:#?}");
        }
        assert_eq!(found.len(), 5);
        // What an old release nominated does not keep new statuses from being written.
        let kept = json!({"nominatedNodeName": "A"});
        assert!(wrong("Always", &kept, &kept).is_empty());
    }
}
