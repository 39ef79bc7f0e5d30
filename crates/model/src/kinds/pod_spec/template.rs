//! Pod templates: what workloads make pods from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{annotations, defaults, validation};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::one_of;
use crate::meta;

/// The template of a JSON tree.
///
/// # Errors
/// When it does not decode.
pub fn from_value(value: Value) -> Result<PodTemplateSpec, serde_json::Error> {
    serde_json::from_value(value)
}

/// The JSON tree of a template.
pub fn to_value(template: &PodTemplateSpec) -> Value {
    // Typed objects hold nothing that JSON cannot: no maps with keys other than text.
    serde_json::to_value(template).unwrap_or_default()
}

/// Sets what the client left open.
pub(crate) fn set_defaults(template: &mut PodTemplateSpec) {
    if template.metadata.is_none() {
        template.metadata = Some(ObjectMeta::default());
    }
    defaults::set(template.spec.get_or_insert_default());
}

/// Checks a template by itself.
pub(crate) fn validate(template: &PodTemplateSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(metadata) = &template.metadata {
        // Kubernetes leaves `metadata` out of these paths.
        meta::validate_labels(metadata.labels.as_ref(), &path.child("labels"), errors);
        meta::validate_annotations(metadata.annotations.as_ref(), &path.child("annotations"), errors);
    }
    let (empty, nothing) = (PodSpec::default(), BTreeMap::new());
    let spec = template.spec.as_ref().unwrap_or(&empty);
    let all = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let all = all.unwrap_or(&nothing);
    annotations::validate(all, spec, &path.child("annotations"), errors);
    validation::validate(spec, &path.child("spec"), errors);
    annotations::match_seccomp(all, spec, &path.child("spec"), errors);
}

/// Checks what workloads that keep pods running ask of a template, beside [`validate`].
pub(crate) fn validate_runs_forever(
    template: &PodTemplateSpec,
    owner: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(spec) = &template.spec else { return };
    let path = path.child("spec");
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    one_of(errors, &path.child("restartPolicy"), policy, &["Always"]);
    if spec.active_deadline_seconds.is_some() {
        errors.forbidden(
            &path.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {owner} is not Supported"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_are_checked_where_the_template_has_them() {
        let mut template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "-"}, "annotations": {
                "b/": "",
                "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
                "container.apparmor.security.beta.kubernetes.io/nobody": "runtime/default"}},
            "spec": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "main", "image": "a:1"}]},
        }))
        .unwrap();
        set_defaults(&mut template);
        let mut errors = FieldErrors::new();
        validate(&template, &Path::new("template"), &mut errors);
        let told: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("template.labels: Invalid value: \"-\": "), "{told:?}");
        assert!(told[1].starts_with("template.annotations: Invalid value: \"b/\": "), "{told:?}");
        assert_eq!(
            told[told.len() - 2..],
            [
                "template.annotations[container.apparmor.security.beta.kubernetes.io/nobody]: Invalid value: \"nobody\": container not found",
                "template.spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match",
            ]
        );
    }
}
