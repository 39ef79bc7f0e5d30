//! Volumes that show several sources in one directory.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, KeyToPath, ProjectedVolumeSource, ServiceAccountTokenProjection,
    VolumeProjection,
};

use super::scheduling::validate_label_selector;
use super::sources::need;
use super::volumes::{validate_file_path, validate_files, validate_items, validate_mode};
use crate::field::{FieldErrors, Path};
use crate::kinds::certificate_signing_request::validate_signer;
use crate::kinds::check::json;
use crate::meta;

/// Shortest and longest time for which a token is asked, in seconds.
const SHORTEST_TOKEN: i64 = 10 * 60;
const LONGEST_TOKEN: i64 = 1 << 32;

/// The files of a volume so far: each belongs to one source.
struct Files<'a> {
    path: &'a Path,
    taken: HashSet<&'a str>,
}

impl<'a> Files<'a> {
    /// `who` is what the refusal shows.
    fn take(&mut self, file: &'a str, who: &str, errors: &mut FieldErrors) {
        if !self.taken.insert(file) {
            errors.invalid(self.path, who, "conflicting duplicate paths");
        }
    }

    fn take_items(&mut self, items: Option<&'a Vec<KeyToPath>>, who: &str, errors: &mut FieldErrors) {
        for item in items.into_iter().flatten().filter(|item| !item.path.is_empty()) {
            self.take(&item.path, who, errors);
        }
    }
}

/// Checks a projected volume.
pub(super) fn validate(source: &ProjectedVolumeSource, path: &Path, errors: &mut FieldErrors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    let mut files = Files { path, taken: HashSet::new() };
    for (i, projection) in source.sources.iter().flatten().enumerate() {
        validate_projection(projection, &mut files, &path.child("sources").index(i), errors);
    }
}

fn validate_projection<'a>(
    projection: &'a VolumeProjection,
    files: &mut Files<'a>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut count = 0;
    if let Some(secret) = &projection.secret {
        count += 1;
        validate_named(&secret.name, secret.items.as_ref(), &path.child("secret"), errors);
        files.take_items(secret.items.as_ref(), &secret.name, errors);
    }
    if let Some(config_map) = &projection.config_map {
        count += 1;
        validate_named(&config_map.name, config_map.items.as_ref(), &path.child("configMap"), errors);
        files.take_items(config_map.items.as_ref(), &config_map.name, errors);
    }
    if let Some(downward) = &projection.downward_api {
        count += 1;
        validate_files(downward.items.as_ref(), &path.child("downwardAPI"), errors);
        for file in downward.items.iter().flatten().filter(|file| !file.path.is_empty()) {
            files.take(&file.path, &file.path, errors);
        }
    }
    if let Some(token) = &projection.service_account_token {
        count += 1;
        validate_token(token, files.path, &path.child("serviceAccountToken"), errors);
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        count += 1;
        validate_bundle(bundle, &path.child("clusterTrustBundle"), errors);
        files.take(&bundle.path, &bundle.path, errors);
    }
    if count > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type per source");
    }
}

fn validate_named(name: &str, items: Option<&Vec<KeyToPath>>, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("name", name)]);
    validate_items(items, &path.child("items"), errors);
}

/// The reference server says of a token's file that it is the volume's.
fn validate_token(
    token: &ServiceAccountTokenProjection,
    volume: &Path,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let seconds = token.expiration_seconds.unwrap_or(0);
    let seconds_path = path.child("expirationSeconds");
    if seconds < SHORTEST_TOKEN {
        errors.invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST_TOKEN {
        errors.invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    validate_file_path(&token.path, &volume.child("path"), errors);
}

fn validate_bundle(bundle: &ClusterTrustBundleProjection, path: &Path, errors: &mut FieldErrors) {
    match (bundle.name.as_deref(), bundle.signer_name.as_deref()) {
        (Some(_), Some(_)) => {
            errors.invalid(path, json(bundle), "only one of name and signerName may be used")
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            // Those of a signer are named `domain:signer:name`.
            let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
            for wrong in meta::dns1123_subdomain(own) {
                let detail = format!("not a valid clustertrustbundlename: {wrong}");
                errors.invalid(&path.child("name"), name, detail);
            }
            if let Some(selector) = &bundle.label_selector {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), json(selector), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            validate_signer(signer, &path.child("signerName"), errors);
            if let Some(selector) = &bundle.label_selector {
                validate_label_selector(selector, &path.child("labelSelector"), errors);
            }
        }
    }
    validate_file_path(&bundle.path, &path.child("path"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(sources: Value) -> Vec<String> {
        let source: ProjectedVolumeSource = serde_json::from_value(json!({"sources": sources})).unwrap();
        let mut errors = FieldErrors::new();
        validate(&source, &Path::new("p"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_belongs_to_one_source() {
        let items = json!([{"key": "k", "path": "a"}]);
        assert_eq!(
            wrong(json!([
                {"secret": {"name": "s", "items": items}},
                {"configMap": {"name": "c", "items": items}},
                {"downwardAPI": {"items": [{"path": "a", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}},
            ])),
            [
                "p: Invalid value: \"c\": conflicting duplicate paths",
                "p: Invalid value: \"a\": conflicting duplicate paths",
            ]
        );
    }

    #[test]
    fn a_source_is_of_one_kind() {
        assert_eq!(
            wrong(json!([{"secret": {"name": "s"}, "configMap": {}}])),
            [
                "p.sources[0].configMap.name: Required value",
                "p.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            ]
        );
    }

    #[test]
    fn tokens_last_some_minutes() {
        let of = |seconds: i64, path: &str| {
            wrong(json!([{"serviceAccountToken": {"expirationSeconds": seconds, "path": path}}]))
        };
        assert!(of(600, "token").is_empty());
        assert_eq!(
            of(599, ""),
            [
                "p.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
                "p.path: Required value",
            ]
        );
        assert_eq!(
            of((1 << 32) + 1, "../x"),
            [
                "p.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                "p.path: Invalid value: \"../x\": must not contain '..'",
            ]
        );
    }

    #[test]
    fn bundles_are_named_or_signed() {
        assert_eq!(
            wrong(json!([{"clusterTrustBundle": {"path": "x"}}])),
            ["p.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"]
        );
        for good in [
            json!({"name": "roots", "path": "x"}),
            json!({"name": "a.io:me:roots", "path": "x"}),
            json!({"signerName": "a.io/me", "path": "x"}),
        ] {
            assert!(wrong(json!([{"clusterTrustBundle": good}])).is_empty(), "{good}");
        }
        let path = "p.sources[0].clusterTrustBundle";
        let found = wrong(json!([{"clusterTrustBundle": {"name": "a.io:me:", "path": "x"}}]));
        let beginning =
            format!("{path}.name: Invalid value: \"a.io:me:\": not a valid clustertrustbundlename: ");
        assert!(found.len() == 1 && found[0].starts_with(&beginning), "{found:?}");
        let found = wrong(json!([{"clusterTrustBundle": {"signerName": "me", "path": "x"}}]));
        assert!(
            found.len() == 1 && found[0].starts_with(&format!("{path}.signerName: Invalid value: \"me\""))
        );
    }
}
