//! Lease: who holds something, and until when; how programs elect leaders and nodes say they live.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::coordination::v1::Lease;

use super::cells::or_empty;
use super::check::optional_non_negative;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

impl Kind for Lease {
    const DESCRIPTOR: Descriptor = Descriptor {
        needs_version: true,
        create_on_update: true,
        columns: &[Column::NAME, Column::text("Holder"), Column::AGE],
        ..Descriptor::namespaced(
            "coordination.k8s.io",
            "v1",
            "Lease",
            "leases",
            "lease",
            "coordination.v1.Lease",
        )
    };

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (Some(spec), path) = (&self.spec, Path::new("spec")) else { return };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        optional_non_negative(errors, &path.child("leaseTransitions"), spec.lease_transitions);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let holder = self.spec.as_ref().and_then(|s| s.holder_identity.as_deref());
        vec![Cell::name(self.metadata()), or_empty(holder), Cell::age(self.metadata(), now)]
    }
}
