//! Profiles as pods named them before there were fields: annotations for seccomp and AppArmor. What they say must
//! be a profile, and what a field says beside them must be the same.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile};

use super::containers::descending;
use super::members::members;
use crate::field::{FieldErrors, Path};

pub(crate) const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(crate) const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(crate) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// A pod that is only the image of one that its node was told of otherwise.
const MIRROR: &str = "kubernetes.io/config.mirror";
const LOCAL: &str = "localhost/";

type Annotations = BTreeMap<String, String>;

/// Checks what the annotations of a pod or a template say; `path` is theirs.
pub(crate) fn validate(all: &Annotations, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(cost) = all.get(DELETION_COST).filter(|cost| !is_cost(cost)) {
        errors.invalid(&path.key(DELETION_COST), cost.as_str(), "must be a 32bit integer");
    }
    if let Some(value) = all.get(MIRROR)
        && spec.node_name.as_deref().is_none_or(str::is_empty)
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), value.as_str(), detail);
    }
    for (key, profile) in all {
        if key == SECCOMP_OF_POD || key.starts_with(SECCOMP_OF_CONTAINER) {
            validate_seccomp(profile, &path.child(key), errors);
        }
    }
    for (key, profile) in all {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let path = path.key(key);
        if !members(spec, &path).iter().any(|member| member.name == container) {
            errors.invalid(&path, container, "container not found");
        }
        let known = matches!(profile.as_str(), "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with(LOCAL) {
            errors.invalid(&path, profile.as_str(), format!("invalid AppArmor profile name: {profile:?}"));
        }
    }
}

/// Neither signs of plus nor zeros in front.
fn is_cost(text: &str) -> bool {
    let first = text.trim_start_matches('-').as_bytes().first();
    let canonical = text == "0" || first.is_some_and(|digit| (b'1'..=b'9').contains(digit));
    canonical && text.parse::<i32>().is_ok()
}

fn validate_seccomp(profile: &str, path: &Path, errors: &mut FieldErrors) {
    match profile.strip_prefix(LOCAL) {
        Some(file) => descending(file, path, errors),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

/// Refuses fields for seccomp that say something else than the annotation; `path` is that of the spec.
pub(crate) fn match_seccomp(all: &Annotations, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let of_pod = of_pod.map(|field| (SECCOMP_OF_POD.to_owned(), field, path.child("securityContext")));
    let of_members = members(spec, path).into_iter().filter_map(|member| {
        let field = member.context?.seccomp_profile.as_ref()?;
        Some((format!("{SECCOMP_OF_CONTAINER}{}", member.name), field, member.path.child("securityContext")))
    });
    for (key, SeccompProfile { type_, localhost_profile }, path) in of_pod.into_iter().chain(of_members) {
        let Some(annotation) = all.get(&key) else { continue };
        let default = ["runtime/default", "docker/default"];
        let wrong = disagrees(annotation, type_, localhost_profile.as_deref(), &default);
        refuse(wrong, "seccomp", &path.child("seccompProfile"), errors);
    }
}

/// Refuses fields for AppArmor that say something else than the annotation; `path` is that of the spec.
pub(crate) fn match_app_armor(all: &Annotations, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return;
    }
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    for member in members(spec, path) {
        let own = member.context.and_then(|context| context.app_armor_profile.as_ref());
        let annotation = all.get(&format!("{APP_ARMOR}{}", member.name));
        let (Some(AppArmorProfile { type_, localhost_profile }), Some(annotation)) =
            (own.or(of_pod), annotation)
        else {
            continue;
        };
        let wrong = disagrees(annotation, type_, localhost_profile.as_deref(), &["runtime/default"]);
        let path = member.path.child("securityContext").child("appArmorProfile");
        refuse(wrong, "apparmor", &path, errors);
    }
}

/// The field that says something else than the annotation, and what that is.
type Disagreement = Option<(&'static str, &'static str)>;

fn disagrees(annotation: &str, type_: &str, local: Option<&str>, default: &[&str]) -> Disagreement {
    let same_type = match type_ {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => default.contains(&annotation),
        "Localhost" => annotation.starts_with(LOCAL),
        // What no type is has been told already.
        _ => true,
    };
    let same_file = type_ != "Localhost" || annotation.strip_prefix(LOCAL) == local;
    match (same_type, same_file) {
        (false, _) => Some(("type", "type")),
        (true, false) => Some(("localhostProfile", "profile")),
        (true, true) => None,
    }
}

fn refuse(wrong: Disagreement, of: &str, path: &Path, errors: &mut FieldErrors) {
    if let Some((field, what)) = wrong {
        errors.forbidden(&path.child(field), format!("{of} {what} in annotation and field must match"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    type Check = fn(&Annotations, &PodSpec, &Path, &mut FieldErrors);

    fn wrong(check: Check, root: &str, annotations: &Value, spec: Value) -> Vec<String> {
        let annotations: Annotations = serde_json::from_value(annotations.clone()).unwrap();
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = FieldErrors::new();
        check(&annotations, &spec, &Path::new(root), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn annotations_name_profiles_and_containers() {
        let spec = || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "b"}]});
        let good = json!({
            "seccomp.security.alpha.kubernetes.io/pod": "runtime/default",
            "container.seccomp.security.alpha.kubernetes.io/a": "localhost/profiles/mine",
            "container.apparmor.security.beta.kubernetes.io/a": "localhost/mine",
            "container.apparmor.security.beta.kubernetes.io/b": "unconfined",
            "controller.kubernetes.io/pod-deletion-cost": "-100",
        });
        assert!(wrong(validate, "a", &good, spec()).is_empty());
        let bad = json!({
            "seccomp.security.alpha.kubernetes.io/pod": "strict",
            "container.seccomp.security.alpha.kubernetes.io/a": "localhost/../mine",
            "container.apparmor.security.beta.kubernetes.io/a": "mine",
            "container.apparmor.security.beta.kubernetes.io/c": "",
            "controller.kubernetes.io/pod-deletion-cost": "+1",
        });
        assert_eq!(
            wrong(validate, "a", &bad, spec()),
            [
                "a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
                "a.container.seccomp.security.alpha.kubernetes.io/a: Invalid value: \"../mine\": must not contain '..'",
                "a.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"strict\": must be a valid seccomp profile",
                "a[container.apparmor.security.beta.kubernetes.io/a]: Invalid value: \"mine\": invalid AppArmor profile name: \"mine\"",
                "a[container.apparmor.security.beta.kubernetes.io/c]: Invalid value: \"c\": container not found",
            ]
        );
        for cost in ["008", "", "x", "2147483648", "-0"] {
            let annotations = json!({"controller.kubernetes.io/pod-deletion-cost": cost});
            assert_eq!(wrong(validate, "a", &annotations, spec()).len(), 1, "{cost}");
        }
    }

    #[test]
    fn fields_say_the_same_as_annotations() {
        let spec = |pod: Value, container: Value| json!({"securityContext": pod, "containers": [{"name": "a", "securityContext": container}]});
        let seccomp = |type_: &str, file: Option<&str>| json!({"seccompProfile": {"type": type_, "localhostProfile": file}});
        let annotations = json!({
            "seccomp.security.alpha.kubernetes.io/pod": "docker/default",
            "container.seccomp.security.alpha.kubernetes.io/a": "localhost/mine",
        });
        let same = spec(seccomp("RuntimeDefault", None), seccomp("Localhost", Some("mine")));
        assert!(wrong(match_seccomp, "spec", &annotations, same).is_empty());
        let other = spec(seccomp("Unconfined", None), seccomp("Localhost", Some("yours")));
        assert_eq!(
            wrong(match_seccomp, "spec", &annotations, other),
            [
                "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match",
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation and field must match",
            ]
        );
        let armor = |type_: &str| json!({"appArmorProfile": {"type": type_}});
        let annotations = json!({"container.apparmor.security.beta.kubernetes.io/a": "runtime/default"});
        assert!(
            wrong(match_app_armor, "spec", &annotations, spec(armor("RuntimeDefault"), json!({}))).is_empty()
        );
        let mut other = spec(armor("RuntimeDefault"), armor("Unconfined"));
        assert_eq!(
            wrong(match_app_armor, "spec", &annotations, other.clone()),
            [
                "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match"
            ]
        );
        other["os"] = json!({"name": "windows"});
        assert!(wrong(match_app_armor, "spec", &annotations, other).is_empty());
    }
}
