//! Sources of storage that pods and persistent volumes share: what each needs.
//!
//! Where both have a type of their own for one source, what the two have in common is handed over as
//! plain values.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, FCVolumeSource, FlockerVolumeSource,
    GCEPersistentDiskVolumeSource, HostPathVolumeSource, NFSVolumeSource, QuobyteVolumeSource,
};

use super::containers::no_backsteps;
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, invalid_each, json, label, one_of};
use crate::meta;

const WRONG_NAME: &str = "must be valid format";
const REGISTRY_RULE: &str = "must be a host:port pair or multiple pairs separated by commas";
const LONGEST_DRIVER: usize = 63;
/// An initiator's name, its volume's and its portal's are one name of a device.
const LONGEST_DEVICE: usize = 64;

/// Refuses texts that are missing.
pub(crate) fn need(errors: &mut FieldErrors, path: &Path, fields: &[(&str, &str)]) {
    for (field, text) in fields {
        if text.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
}

/// Refuses an empty list.
pub(crate) fn need_any(errors: &mut FieldErrors, path: &Path, list: &[String]) {
    if list.is_empty() {
        errors.required(path, "");
    }
}

/// Refuses a secret that has no name.
pub(crate) fn need_secret(errors: &mut FieldErrors, path: &Path, name: Option<&str>) {
    if let Some(name) = name {
        need(errors, &path.child("secretRef"), &[("name", name)]);
    }
}

/// Checks a directory of the node.
pub(crate) fn validate_host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    no_backsteps(&source.path, &path.child("path"), errors);
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    one_of(errors, &path.child("type"), source.type_.as_deref().unwrap_or_default(), TYPES);
}

/// Checks an NFS export.
pub(crate) fn validate_nfs(source: &NFSVolumeSource, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("server", &source.server), ("path", &source.path)]);
    if !source.path.starts_with('/') {
        errors.invalid(&path.child("path"), source.path.as_str(), "must be an absolute path");
    }
}

/// Checks a disk of Google's cloud.
pub(crate) fn validate_gce(source: &GCEPersistentDiskVolumeSource, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("pdName", &source.pd_name)]);
    validate_partition(source.partition, &path.child("partition"), errors);
}

/// Checks a disk of Amazon's cloud.
pub(crate) fn validate_aws(source: &AWSElasticBlockStoreVolumeSource, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("volumeID", &source.volume_id)]);
    validate_partition(source.partition, &path.child("partition"), errors);
}

/// Zero is the whole disk; the reference server's message leaves it out.
fn validate_partition(partition: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(number) = partition.filter(|number| !(0..=255).contains(number)) {
        errors.invalid(path, number, "must be between 1 and 255, inclusive");
    }
}

/// A disk on an iSCSI target.
pub(crate) struct Iscsi<'a> {
    pub(crate) portal: &'a str,
    pub(crate) target: &'a str,
    pub(crate) lun: i32,
    pub(crate) initiator: Option<&'a str>,
    /// Whether clients prove who they are, which needs a secret.
    pub(crate) authenticates: bool,
    pub(crate) has_secret: bool,
    /// What is wrong with a name that has none of the known beginnings.
    pub(crate) wrong_beginning: &'static str,
}

impl Iscsi<'_> {
    /// Checks it.
    pub(crate) fn validate(&self, path: &Path, errors: &mut FieldErrors) {
        need(errors, path, &[("targetPortal", self.portal), ("iqn", self.target)]);
        if !self.target.is_empty() {
            self.validate_name(self.target, &path.child("iqn"), errors);
        }
        in_range(errors, &path.child("lun"), self.lun, 0, 255);
        if self.authenticates && !self.has_secret {
            errors.required(&path.child("secretRef"), "");
        }
        if let Some(initiator) = self.initiator {
            self.validate_name(initiator, &path.child("initiatorname"), errors);
        }
    }

    fn validate_name(&self, name: &str, path: &Path, errors: &mut FieldErrors) {
        let fits = match name.get(..3) {
            Some("iqn") => is_iqn(name),
            Some("eui") => is_hardware_name(name, 16),
            Some("naa") => is_hardware_name(name, 32),
            _ => return errors.invalid(path, name, self.wrong_beginning),
        };
        if !fits {
            errors.invalid(path, name, WRONG_NAME);
        }
    }

    /// Whether its device's name is too long in a volume called `volume`.
    pub(crate) fn is_too_long(&self, volume: &str) -> bool {
        self.initiator.is_some() && volume.len() + 1 + self.portal.len() > LONGEST_DEVICE
    }
}

/// What is wrong with a device whose name is too long.
pub(crate) const DEVICE_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// Whether `name` is like `iqn.2001-04.com.example:disk`.
fn is_iqn(name: &str) -> bool {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let parts = || {
        let (date, rest) = name.strip_prefix("iqn.")?.split_once('.')?;
        let (year, month) = date.split_once('-')?;
        let (authority, disk) = rest.split_once(':')?;
        Some((year, month, authority, disk))
    };
    parts().is_some_and(|(year, month, authority, disk)| {
        let in_authority = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let in_disk = |c: char| !",;*&$|".contains(c) && !c.is_ascii_whitespace();
        digits(year, 4)
            && digits(month, 2)
            && !authority.is_empty()
            && authority.bytes().all(in_authority)
            && !disk.is_empty()
            && disk.chars().all(in_disk)
    })
}

/// Whether `name` is one of three letters, a separator and `count` letters and digits.
fn is_hardware_name(name: &str, count: usize) -> bool {
    let rest: Vec<char> = name.chars().skip(4).collect();
    rest.len() == count && rest.iter().all(char::is_ascii_alphanumeric)
}

/// Checks a disk on a fibre channel.
pub(crate) fn validate_fc(source: &FCVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let (targets, lun) = (path.child("targetWWNs"), path.child("lun"));
    match (has(&source.target_wwns), has(&source.wwids)) {
        (false, false) => {
            errors.required(&targets, "must specify either targetWWNs or wwids, but not both");
        }
        (true, true) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&targets, json(&source.target_wwns), detail);
        }
        _ => {}
    }
    match source.lun {
        _ if !has(&source.target_wwns) => {}
        None => errors.required(&lun, "lun is required if targetWWNs is specified"),
        Some(number) => in_range(errors, &lun, number, 0, 255),
    }
}

/// Checks a volume of a Quobyte registry.
pub(crate) fn validate_quobyte(source: &QuobyteVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if source.registry.is_empty() {
        errors.required(&path.child("registry"), REGISTRY_RULE);
    } else if source.tenant.as_ref().is_some_and(|tenant| tenant.len() > 64) {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for _ in source.registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.invalid(&path.child("registry"), source.registry.as_str(), REGISTRY_RULE);
        }
    }
    need(errors, path, &[("volume", &source.volume)]);
}

/// Whether `text` is `host:port` or `[address]:port`; neither part is looked at.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_plain = |text: &str| !text.contains(['[', ']']);
    is_plain(port) && bare.map_or(is_plain(host) && !host.contains(':'), is_plain)
}

/// Checks a Flocker data set.
pub(crate) fn validate_flocker(source: &FlockerVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let name = source.dataset_name.as_deref().unwrap_or_default();
    let has_id = source.dataset_uuid.as_ref().is_some_and(|id| !id.is_empty());
    if name.is_empty() && !has_id {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && has_id {
        errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

/// Checks a volume of a driver that is a program on the node.
pub(crate) fn validate_flex(
    driver: &str,
    options: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    need(errors, path, &[("driver", driver)]);
    for key in options.into_iter().flat_map(BTreeMap::keys) {
        let owner = key.split('/').next().unwrap_or_default().to_lowercase();
        let is_reserved = |of: &str| owner == of || owner.ends_with(&format!(".{of}"));
        if is_reserved("kubernetes.io") || is_reserved("k8s.io") {
            let path = path.child("options").key(key);
            errors.invalid(&path, key.as_str(), "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

/// Checks a disk of Microsoft's cloud.
pub(crate) fn validate_azure_disk(source: &AzureDiskVolumeSource, path: &Path, errors: &mut FieldErrors) {
    need(errors, path, &[("diskName", &source.disk_name), ("diskURI", &source.disk_uri)]);
    if let Some(mode) = &source.caching_mode {
        one_of(errors, &path.child("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    let Some(kind) = &source.kind else { return };
    one_of(errors, &path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let (beginning, known) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if !source.disk_uri.starts_with(beginning) {
        one_of(errors, &path.child("diskURI"), &source.disk_uri, &[known]);
    }
}

/// Checks a StorageOS volume by its name and namespace.
pub(crate) fn validate_storage_os(
    name: Option<&str>,
    namespace: Option<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match name {
        None | Some("") => errors.required(&path.child("volumeName"), ""),
        Some(name) => label(errors, &path.child("volumeName"), name),
    }
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        label(errors, &path.child("volumeNamespace"), namespace);
    }
}

/// Checks the name of a driver of container storage.
pub(crate) fn validate_driver(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > LONGEST_DRIVER {
        errors.too_long(path, LONGEST_DRIVER);
    }
    invalid_each(errors, path, name, meta::dns1123_subdomain(&name.to_lowercase()));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(check: impl FnOnce(&Path, &mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::new();
        check(&Path::new("v"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn iscsi_names_have_forms() {
        let of = |target, initiator| Iscsi {
            portal: "10.0.0.1",
            target,
            lun: 0,
            initiator,
            authenticates: false,
            has_secret: false,
            wrong_beginning: "no",
        };
        for name in [
            "iqn.2001-04.com.example:storage.disk1",
            "eui.0123456789abcdef",
            "naa.62004567BA64678D0123456789ABCDEF",
        ] {
            assert!(wrong(|path, errors| of(name, Some(name)).validate(path, errors)).is_empty(), "{name}");
        }
        for name in ["iqn.2001-04.com.example", "iqn.201-04.com:x", "iqn.2001-04.a:b c", "eui.1", "naa.1"] {
            assert_eq!(
                wrong(|path, errors| of(name, None).validate(path, errors)),
                [format!("v.iqn: Invalid value: \"{name}\": must be valid format")]
            );
        }
        assert_eq!(
            wrong(|path, errors| {
                let source = Iscsi { lun: 256, authenticates: true, ..of("abc", Some("x")) };
                source.validate(path, errors);
            }),
            [
                "v.iqn: Invalid value: \"abc\": no",
                "v.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "v.secretRef: Required value",
                "v.initiatorname: Invalid value: \"x\": no",
            ]
        );
        let name = "iqn.2001-04.com.example:disk";
        assert!(of(name, Some(name)).is_too_long(&"x".repeat(60)));
        assert!(!of(name, None).is_too_long(&"x".repeat(60)));
    }

    #[test]
    fn registries_are_pairs() {
        let of = |source| {
            let source: QuobyteVolumeSource = serde_json::from_value(source).unwrap();
            wrong(|path, errors| validate_quobyte(&source, path, errors))
        };
        assert!(of(json!({"registry": "a:1,[::1]:2", "volume": "v"})).is_empty());
        assert_eq!(
            of(json!({"registry": "a:1,b", "volume": ""})),
            [
                "v.registry: Invalid value: \"a:1,b\": must be a host:port pair or multiple pairs separated by commas",
                "v.volume: Required value",
            ]
        );
        assert_eq!(
            of(json!({"registry": "a:1", "volume": "v", "tenant": "x".repeat(65)})),
            ["v.tenant: Required value: must be a UUID and may not exceed a length of 64 characters"]
        );
    }

    #[test]
    fn channels_need_targets_or_names() {
        let of = |source| {
            let source: FCVolumeSource = serde_json::from_value(source).unwrap();
            wrong(|path, errors| validate_fc(&source, path, errors))
        };
        assert!(of(json!({"wwids": ["a"]})).is_empty());
        assert_eq!(
            of(json!({})),
            ["v.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"]
        );
        assert_eq!(
            of(json!({"targetWWNs": ["a"], "wwids": ["b"]})),
            [
                "v.targetWWNs: Invalid value: [\"a\"]: targetWWNs and wwids can not be specified simultaneously",
                "v.lun: Required value: lun is required if targetWWNs is specified",
            ]
        );
    }

    #[test]
    fn disks_are_where_their_kind_is() {
        let of = |source| {
            let source: AzureDiskVolumeSource = serde_json::from_value(source).unwrap();
            wrong(|path, errors| validate_azure_disk(&source, path, errors))
        };
        assert_eq!(
            of(json!({"diskName": "", "diskURI": "x", "kind": "Managed", "cachingMode": "y"})),
            [
                "v.diskName: Required value",
                "v.cachingMode: Unsupported value: \"y\": supported values: \"None\", \"ReadOnly\", \"ReadWrite\"",
                "v.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
            ]
        );
        assert!(of(json!({"diskName": "a", "diskURI": "https://x", "kind": "Shared"})).is_empty());
    }

    #[test]
    fn options_and_drivers_have_owners() {
        let options = BTreeMap::from([("a.k8s.io/x".to_owned(), String::new())]);
        assert_eq!(
            wrong(|path, errors| validate_flex("", Some(&options), path, errors)),
            [
                "v.driver: Required value",
                "v.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ]
        );
        assert!(wrong(|path, errors| validate_driver("Ebs.csi.aws.com", path, errors)).is_empty());
        let long = "x".repeat(64);
        assert!(wrong(|path, errors| validate_driver(&long, path, errors))[0].starts_with("v: Too long"));
    }
}
