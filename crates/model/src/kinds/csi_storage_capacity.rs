//! CSIStorageCapacity: how much a driver can still provide of a storage class in a part of the cluster.
//! Invariants: which class and which part never change.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;

use super::check::{json, subdomain};
use super::pod_spec::scheduling::validate_label_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::quantity::Quantity;
use crate::table::{Cell, Column};

impl Kind for CSIStorageCapacity {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        returns_deleted: true,
        columns: &[Column::NAME, Column::text("StorageClassName"), Column::text("Capacity")],
        ..Descriptor::namespaced(
            "storage.k8s.io",
            "v1",
            "CSIStorageCapacity",
            "csistoragecapacities",
            "csistoragecapacity",
            "storage.v1.CSIStorageCapacity",
        )
    };

    fn validate(&self, errors: &mut FieldErrors) {
        let class = Path::new("storageClassName");
        if self.storage_class_name.is_empty() {
            errors.required(&class, "");
        } else {
            subdomain(errors, &class, &self.storage_class_name);
        }
        if let Some(topology) = &self.node_topology {
            validate_label_selector(topology, &Path::new("nodeTopology"), errors);
        }
        for (field, amount) in
            [("capacity", &self.capacity), ("maximumVolumeSize", &self.maximum_volume_size)]
        {
            let negative = amount.as_ref().and_then(Quantity::of).is_some_and(|a| a < Quantity::default());
            if negative {
                errors.invalid(&Path::new(field), json(amount), "must be greater than or equal to 0");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let topology = json(&self.node_topology);
        errors.immutable(&Path::new("nodeTopology"), &self.node_topology, &old.node_topology, topology);
        let class = self.storage_class_name.clone();
        errors.immutable(&Path::new("storageClassName"), &class, &old.storage_class_name, class.clone());
    }

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        let capacity = self.capacity.as_ref().map_or_else(String::new, |capacity| capacity.0.clone());
        vec![Cell::name(self.metadata()), Cell::text(self.storage_class_name.as_str()), Cell::text(capacity)]
    }
}
