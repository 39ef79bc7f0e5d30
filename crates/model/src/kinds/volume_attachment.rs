//! VolumeAttachment: that a volume is to be attached to a node, and whether it is.
//! Invariant: what is to be attached where never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus};

use super::cells::or_empty;
use super::check::json;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta;
use crate::table::{Cell, Column};

impl Kind for VolumeAttachment {
    const DESCRIPTOR: Descriptor = Descriptor {
        subresources: &[Subresource::Status],
        needs_version: true,
        returns_deleted: true,
        columns: &[
            Column::NAME,
            Column::text("Attacher"),
            Column::text("PV"),
            Column::text("Node"),
            Column { name: "Attached", kind: "boolean", format: "", priority: 0 },
            Column::AGE,
        ],
        ..Descriptor::cluster(
            "storage.k8s.io",
            "v1",
            "VolumeAttachment",
            "volumeattachments",
            "volumeattachment",
            "storage.v1.VolumeAttachment",
        )
    };

    fn prepare_create(&mut self) {
        self.status = Some(VolumeAttachmentStatus::default());
    }

    fn prepare_part(&mut self, old: &Self, _part: Subresource) {
        meta::keep(&mut self.metadata, &old.metadata);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &self.spec);
        if spec.attacher.is_empty() {
            errors.required(&path.child("attacher"), "");
        }
        let source = path.child("source");
        match (&spec.source.persistent_volume_name, &spec.source.inline_volume_spec) {
            (None, None) => errors
                .required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
            (Some(_), Some(_)) => {
                errors.forbidden(
                    &source,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                );
            }
            (Some(name), None) if name.is_empty() => {
                errors.required(
                    &source.child("persistentVolumeName"),
                    "must specify non empty persistentVolumeName",
                );
            }
            _ => {}
        }
        if spec.node_name.is_empty() {
            errors.required(&path.child("nodeName"), "");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        errors.immutable(&Path::new("spec"), &self.spec, &old.spec, json(&self.spec));
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        vec![
            Cell::name(self.metadata()),
            Cell::text(self.spec.attacher.as_str()),
            or_empty(self.spec.source.persistent_volume_name.as_deref()),
            Cell::text(self.spec.node_name.as_str()),
            Cell(self.status.as_ref().is_some_and(|status| status.attached).into()),
            Cell::age(self.metadata(), now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attachment_says_what_goes_where() {
        for (source, wrong) in [(json!({"persistentVolumeName": "pv"}), 0), (json!({}), 1)] {
            let attachment: VolumeAttachment = serde_json::from_value(json!({
                "metadata": {"name": "a"},
                "spec": {"attacher": "a.example.com", "nodeName": "n", "source": source},
            }))
            .unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&attachment, &mut errors);
            assert_eq!(errors.into_vec().len(), wrong);
        }
    }
}
