//! ServiceAccount: who pods are to the API.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::ServiceAccount;

use crate::kind::{Descriptor, Kind, Subresource};
use crate::table::{Cell, Column};

impl Kind for ServiceAccount {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["sa"],
        subresources: &[Subresource::Token],
        columns: &[Column::NAME, Column::text("Secrets"), Column::AGE],
        ..Descriptor::namespaced(
            "",
            "v1",
            "ServiceAccount",
            "serviceaccounts",
            "serviceaccount",
            "core.v1.ServiceAccount",
        )
    };

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let count = self.secrets.as_ref().map_or(0, Vec::len);
        vec![
            Cell::name(self.metadata()),
            Cell::number(i64::try_from(count).unwrap_or(i64::MAX)),
            Cell::age(self.metadata(), now),
        ]
    }
}
