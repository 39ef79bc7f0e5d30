//! ServiceCIDR: a range from which Services get their addresses.
//! Invariant: its ranges never change.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};

use super::check::{is_cidr, json};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::table::{Cell, Column};

impl Kind for ServiceCIDR {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        subresources: &[Subresource::Status],
        columns: &[Column::NAME, Column::text("CIDRs"), Column::AGE],
        ..Descriptor::cluster(
            "networking.k8s.io",
            "v1",
            "ServiceCIDR",
            "servicecidrs",
            "servicecidr",
            "networking.v1.ServiceCIDR",
        )
    };

    fn prepare_create(&mut self) {
        self.status = Some(ServiceCIDRStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("cidrs");
        let ranges = ranges(self);
        if ranges.is_empty() {
            return errors.required(&path, "at least one CIDR required");
        }
        if ranges.len() > 2 {
            errors.invalid(&path, json(&ranges), "may only hold up to 2 values");
        }
        for (i, range) in ranges.iter().enumerate() {
            if !is_cidr(range) {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.invalid(&path.index(i), range.as_str(), detail);
            }
        }
        if let [first, second] = ranges.as_slice()
            && first.contains(':') == second.contains(':')
        {
            errors.invalid(
                &path,
                json(&ranges),
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            );
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let (path, new) = (Path::new("spec").child("cidrs"), ranges(self));
        errors.immutable(&path, &new, &ranges(old), json(&new));
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), Cell::text(ranges(self).join(",")), Cell::age(self.metadata(), now)]
    }
}

fn ranges(cidr: &ServiceCIDR) -> Vec<String> {
    cidr.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap_or_default()
}
