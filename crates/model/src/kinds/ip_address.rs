//! IPAddress: an address of the Services' ranges, and whose it is.
//! Invariants: its name is the address; its owner never changes.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};

use super::check::json;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

impl Kind for IPAddress {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ip"],
        has_generation: true,
        name_rule: crate::kind::NameRule::PathSegment,
        field_labels: &[
            "spec.parentRef.group",
            "spec.parentRef.resource",
            "spec.parentRef.namespace",
            "spec.parentRef.name",
        ],
        columns: &[Column::NAME, Column::text("ParentRef"), Column::AGE],
        ..Descriptor::cluster(
            "networking.k8s.io",
            "v1",
            "IPAddress",
            "ipaddresses",
            "ipaddress",
            "networking.v1.IPAddress",
        )
    };

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let canonical = name.parse::<IpAddr>().is_ok_and(|address| address.to_string() == name);
        if !canonical {
            let detail = "must be a canonical form IP address";
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        let path = Path::new("spec").child("parentRef");
        let parent = parent(self);
        if parent == ParentReference::default() {
            return errors.required(&path, "");
        }
        for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (path, new) = (Path::new("spec").child("parentRef"), parent(self));
        errors.immutable(&path, &new, &parent(old), json(&new));
    }

    fn field(&self, label: &str) -> String {
        let parent = parent(self);
        match label {
            "spec.parentRef.group" => parent.group.unwrap_or_default(),
            "spec.parentRef.resource" => parent.resource,
            "spec.parentRef.namespace" => parent.namespace.unwrap_or_default(),
            "spec.parentRef.name" => parent.name,
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let parent = parent(self);
        let parts = [parent.group, Some(parent.resource), parent.namespace, Some(parent.name)];
        let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        vec![Cell::name(self.metadata()), Cell::text(parts.join("/")), Cell::age(self.metadata(), now)]
    }
}

fn parent(address: &IPAddress) -> ParentReference {
    address.spec.clone().unwrap_or_default().parent_ref
}
