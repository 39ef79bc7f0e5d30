//! ControllerRevision: a remembered version of what a workload was told.
//! Invariant: what it remembers never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::apps::v1::ControllerRevision;

use super::cells::NONE;
use super::check::{json, non_negative};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

impl Kind for ControllerRevision {
    const DESCRIPTOR: Descriptor = Descriptor {
        columns: &[Column::NAME, Column::text("Controller"), Column::text("Revision"), Column::AGE],
        ..Descriptor::namespaced(
            "apps",
            "v1",
            "ControllerRevision",
            "controllerrevisions",
            "controllerrevision",
            "apps.v1.ControllerRevision",
        )
    };

    fn validate(&self, errors: &mut FieldErrors) {
        if self.data.is_none() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        non_negative(errors, &Path::new("revision"), self.revision);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        errors.immutable(&Path::new("data"), &self.data, &old.data, json(&self.data));
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::name(self.metadata()),
            Cell::text(controller(self)),
            Cell::number(self.revision),
            Cell::age(self.metadata(), now),
        ]
    }
}

/// `statefulset.apps/web`
fn controller(revision: &ControllerRevision) -> String {
    let owners = revision.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|o| o.controller == Some(true)) else {
        return NONE.to_owned();
    };
    let kind = owner.kind.to_lowercase();
    match owner.api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
        None => format!("{kind}/{}", owner.name),
    }
}
