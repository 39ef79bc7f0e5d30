//! PodTemplate: a template on its own, for whoever makes pods by other means than a workload.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::PodTemplate;

use super::cells;
use super::pod_spec::template;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods};
use crate::table::{Cell, Column};

impl Kind for PodTemplate {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        returns_deleted: true,
        columns: &[
            Column::NAME,
            Column::text("Containers"),
            Column::text("Images"),
            Column::text("Pod Labels"),
        ],
        ..Descriptor::namespaced(
            "",
            "v1",
            "PodTemplate",
            "podtemplates",
            "podtemplate",
            "core.v1.PodTemplate",
        )
    };

    fn set_defaults(&mut self) {
        template::set_defaults(self.template.get_or_insert_default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let pods = self.template.clone().unwrap_or_default();
        template::validate(&pods, &Path::new("template"), errors);
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_template(self.template.as_ref()?, Path::new("template"))
    }

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        let [names, images] = cells::containers(self.template.as_ref());
        let labels = self.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
        vec![Cell::name(self.metadata()), names, images, cells::labels(labels)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_get_the_defaults_of_pods_and_show_their_containers() {
        let mut template: PodTemplate = serde_json::from_value(json!({
            "metadata": {"name": "t"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }))
        .unwrap();
        Kind::set_defaults(&mut template);
        let spec = template.template.as_ref().unwrap().spec.as_ref().unwrap();
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        let cells: Vec<_> = Kind::row(&template, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(cells, [json!("t"), json!("c"), json!("i"), json!("a=b")]);
    }
}
