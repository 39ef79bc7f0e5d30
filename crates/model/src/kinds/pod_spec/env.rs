//! Environment variables: names, and where their values come from.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{label_key, one_of, subdomain};
use crate::kinds::config_map::validate_key;
use crate::meta::qualified_name;

const NAME_RULE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
/// Fields that a variable may take its value from.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file of a downward API volume may show.
pub(super) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields of pods that have names at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Checks variables.
pub(super) fn validate_env(env: Option<&Vec<EnvVar>>, path: &Path, errors: &mut FieldErrors) {
    for (i, variable) in env.into_iter().flatten().enumerate() {
        let path = path.index(i);
        if variable.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !is_variable_name(&variable.name) {
            errors.invalid(&path.child("name"), variable.name.as_str(), NAME_RULE);
        }
        if let Some(source) = &variable.value_from {
            let has_value = variable.value.as_deref().is_some_and(|v| !v.is_empty());
            validate_source(source, has_value, &path.child("valueFrom"), errors);
        }
    }
}

/// Checks where whole sets of variables come from.
pub(super) fn validate_env_from(env: Option<&Vec<EnvFromSource>>, path: &Path, errors: &mut FieldErrors) {
    for (i, source) in env.into_iter().flatten().enumerate() {
        let item = path.index(i);
        if let Some(prefix) = source.prefix.as_deref().filter(|p| !p.is_empty())
            && !is_variable_name(prefix)
        {
            errors.invalid(&item.child("prefix"), prefix, NAME_RULE);
        }
        let names = [
            ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
            ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
        ];
        for (field, name) in names {
            let path = item.child(field).child("name");
            match name.map(String::as_str) {
                Some("") => errors.required(&path, ""),
                Some(name) => subdomain(errors, &path, name),
                None => {}
            }
        }
        match names.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

fn validate_source(source: &EnvVarSource, has_value: bool, path: &Path, errors: &mut FieldErrors) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        validate_field(field, ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        validate_resource(resource, false, &path.child("resourceFieldRef"), errors);
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, key) in keys {
        let Some((name, key)) = key else { continue };
        count += 1;
        let path = path.child(field);
        subdomain(errors, &path.child("name"), name);
        if key.is_empty() {
            errors.required(&path.child("key"), "");
        } else {
            validate_data_key(&path.child("key"), key, errors);
        }
    }
    if count == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.invalid(path, "", detail);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// A reference to a key says `…key`, where the data itself says `data[…]`.
fn validate_data_key(path: &Path, key: &str, errors: &mut FieldErrors) {
    let mut found = FieldErrors::new();
    validate_key(&Path::default(), key, &mut found);
    for error in found.into_vec() {
        errors.push(error.cause, path, error.value, error.detail);
    }
}

/// Checks a reference to one of the pod's own fields.
pub(super) fn validate_field(
    field: &ObjectFieldSelector,
    allowed: &[&str],
    path: &Path,
    errors: &mut FieldErrors,
) {
    if field.api_version.as_deref().is_none_or(str::is_empty) {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let text = field.field_path.as_str();
    if text.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let (name, subscript) = match text.strip_suffix("']").and_then(|t| t.split_once("['")) {
        Some((name, subscript)) => (name, Some(subscript)),
        None => (text, None),
    };
    let field_path = path.child("fieldPath");
    let mut unknown = |why: String| {
        errors.invalid(&field_path, text, format!("error converting fieldPath: {why}"));
    };
    if let Some(version) = field.api_version.as_deref().filter(|version| *version != "v1") {
        return unknown(format!("unsupported pod version: {version}"));
    }
    match (name, subscript) {
        ("metadata.annotations", Some(key)) => {
            for wrong in qualified_name(&key.to_lowercase()) {
                errors.invalid(path, key, wrong);
            }
        }
        ("metadata.labels", Some(key)) => label_key(errors, path, key),
        (_, Some(_)) => unknown(format!("field label does not support subscript: {text}")),
        (name, None) if KNOWN_FIELDS.contains(&name) => one_of(errors, &field_path, name, allowed),
        _ => unknown(format!("field label not supported: {name}")),
    }
}

/// Checks a reference to a container's own resources.
pub(super) fn validate_resource(
    selector: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let resource = selector.resource.as_str();
    if in_volume && selector.container_name.as_deref().is_none_or(str::is_empty) {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !resource.starts_with("limits.hugepages-") && !resource.starts_with("requests.hugepages-") {
        one_of(errors, &path.child("resource"), resource, RESOURCES);
    }
    let Some(divisor) = selector.divisor.as_ref().map(|q| q.0.as_str()) else { return };
    let (known, what): (&[&str], &str) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => {
            (&["0", "1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource")
        }
        Some("memory") => (
            BYTES,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        Some("ephemeral-storage") => (
            BYTES,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource",
        ),
        _ => return,
    };
    if !known.contains(&divisor) {
        errors.invalid(&path.child("divisor"), resource, what);
    }
}

const BYTES: &[&str] =
    &["0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
