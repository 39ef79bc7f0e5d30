//! What drivers of container storage tell the cluster: the driver itself, and the drivers of a node.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSINodeDriver};

use super::check::{default_to, invalid_each, one_of, optional_non_negative, subdomain};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::meta::qualified_name;
use crate::table::{Cell, Column};

const fn flag(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0 }
}

impl Kind for CSIDriver {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        needs_version: true,
        returns_deleted: true,
        columns: &[
            Column::NAME,
            flag("AttachRequired"),
            flag("PodInfoOnMount"),
            flag("StorageCapacity"),
            Column::text("TokenRequests"),
            flag("RequiresRepublish"),
            Column::text("Modes"),
            Column::AGE,
        ],
        ..Descriptor::cluster(
            "storage.k8s.io",
            "v1",
            "CSIDriver",
            "csidrivers",
            "csidriver",
            "storage.v1.CSIDriver",
        )
    };

    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        default_to(&mut spec.attach_required, true);
        default_to(&mut spec.pod_info_on_mount, false);
        default_to(&mut spec.storage_capacity, false);
        default_to(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType");
        default_to(&mut spec.requires_republish, false);
        default_to(&mut spec.se_linux_mount, false);
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        if let Some(policy) = &self.spec.fs_group_policy {
            let known = ["ReadWriteOnceWithFSType", "File", "None"];
            one_of(errors, &path.child("fsGroupPolicy"), policy, &known);
        }
        for mode in self.spec.volume_lifecycle_modes.iter().flatten() {
            one_of(errors, &path.child("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"]);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (path, new, old) = (Path::new("spec"), &self.spec, &old.spec);
        let attach = path.child("attachRequired");
        errors.immutable(&attach, &new.attach_required, &old.attach_required, new.attach_required);
        let (modes, old_modes) = (&new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
        errors.immutable(&path.child("volumeLifecycleModes"), modes, old_modes, modes.clone());
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = &self.spec;
        let flag = |value: Option<bool>| Cell(value.unwrap_or(false).into());
        let audiences: Vec<&str> =
            spec.token_requests.iter().flatten().map(|request| request.audience.as_str()).collect();
        let audiences = if audiences.is_empty() { "<unset>".to_owned() } else { audiences.join(",") };
        vec![
            Cell::name(self.metadata()),
            flag(spec.attach_required),
            flag(spec.pod_info_on_mount),
            flag(spec.storage_capacity),
            Cell::text(audiences),
            flag(spec.requires_republish),
            Cell::text(spec.volume_lifecycle_modes.clone().unwrap_or_default().join(",")),
            Cell::age(self.metadata(), now),
        ]
    }
}

impl Kind for CSINode {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        returns_deleted: true,
        columns: &[Column::NAME, Column::number("Drivers"), Column::AGE],
        ..Descriptor::cluster("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", "storage.v1.CSINode")
    };

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("drivers");
        let mut names = HashSet::new();
        for (i, driver) in self.spec.drivers.iter().enumerate() {
            let path = path.index(i);
            if driver.name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                subdomain(errors, &path.child("name"), &driver.name.to_lowercase());
            }
            if driver.node_id.is_empty() {
                errors.required(&path.child("nodeID"), "");
            }
            let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
            optional_non_negative(errors, &path.child("allocatable").child("count"), count);
            if !names.insert(driver.name.as_str()) {
                errors.duplicate(&path.child("name"), driver.name.as_str());
            }
            validate_topology_keys(driver, &path, errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let drivers = i64::try_from(self.spec.drivers.len()).unwrap_or(i64::MAX);
        vec![Cell::name(self.metadata()), Cell::number(drivers), Cell::age(self.metadata(), now)]
    }
}

/// What is wrong with a key is said of its driver.
fn validate_topology_keys(driver: &CSINodeDriver, path: &Path, errors: &mut FieldErrors) {
    let mut keys = HashSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !keys.insert(key) {
            errors.duplicate(path, key.as_str());
        }
        invalid_each(errors, path, key, qualified_name(key));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_driver_says_what_it_left_open() {
        let mut driver: CSIDriver =
            serde_json::from_value(json!({"metadata": {"name": "d.example.com"}, "spec": {}})).unwrap();
        Kind::set_defaults(&mut driver);
        assert_eq!(driver.spec.attach_required, Some(true));
        assert_eq!(driver.spec.volume_lifecycle_modes, Some(vec!["Persistent".to_owned()]));
        let mut errors = FieldErrors::new();
        Kind::validate(&driver, &mut errors);
        assert!(errors.is_empty());
    }

    #[test]
    fn drivers_of_a_node_have_names_of_their_own() {
        let node: CSINode = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"drivers": [
                {"name": "a.b", "nodeID": "1", "topologyKeys": ["zone", "zone", "a b"]},
                {"name": "a.b", "nodeID": "", "allocatable": {"count": -1}},
            ]},
        }))
        .unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&node, &mut errors);
        let fields: Vec<String> = errors.into_vec().into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "spec.drivers[0]",
                "spec.drivers[0]",
                "spec.drivers[1].nodeID",
                "spec.drivers[1].allocatable.count",
                "spec.drivers[1].name",
            ]
        );
    }
}
