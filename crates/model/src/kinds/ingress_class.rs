//! IngressClass: who makes ingresses work.
//! Invariant: the controller never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::networking::v1::IngressClass;

use super::cells::{NONE, or_empty};
use super::check::{default_text, one_of};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind};
use crate::table::{Cell, Column};

/// The annotation of the class that ingresses get when they name none.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const MOST_CONTROLLER: usize = 250;

impl Kind for IngressClass {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        columns: &[Column::NAME, Column::text("Controller"), Column::text("Parameters"), Column::AGE],
        ..Descriptor::cluster(
            "networking.k8s.io",
            "v1",
            "IngressClass",
            "ingressclasses",
            "ingressclass",
            "networking.v1.IngressClass",
        )
    };

    fn set_defaults(&mut self) {
        if let Some(parameters) = self.spec.get_or_insert_default().parameters.as_mut() {
            default_text(&mut parameters.scope, "Cluster");
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (Some(spec), path) = (&self.spec, Path::new("spec")) else { return };
        let controller = spec.controller.as_deref().unwrap_or_default();
        let controller_path = path.child("controller");
        if controller.len() > MOST_CONTROLLER {
            errors.too_long(&controller_path, MOST_CONTROLLER);
        }
        let prefixed = controller.split_once('/').is_some_and(|(domain, rest)| {
            crate::meta::dns1123_subdomain(domain).is_empty() && !rest.is_empty()
        });
        if controller.is_empty() {
            errors.required(&controller_path, "");
        } else if !prefixed {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid(&controller_path, controller, detail);
        }
        if let Some(parameters) = &spec.parameters {
            let path = path.child("parameters");
            for (field, text) in [("kind", &parameters.kind), ("name", &parameters.name)] {
                if text.is_empty() {
                    errors.required(&path.child(field), format!("{field} is required"));
                }
            }
            let scope = parameters.scope.as_deref().unwrap_or_default();
            one_of(errors, &path.child("scope"), scope, &["Cluster", "Namespace"]);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let of = |class: &Self| class.spec.as_ref().and_then(|s| s.controller.clone());
        let (new, path) = (of(self), Path::new("spec").child("controller"));
        errors.immutable(&path, &new, &of(old), new.clone());
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let parameters = spec.and_then(|s| s.parameters.as_ref()).map_or(NONE.to_owned(), |p| {
            let group = p.api_group.as_deref().filter(|g| !g.is_empty());
            let group = group.map(|g| format!(".{g}")).unwrap_or_default();
            format!("{}{group}/{}", p.kind, p.name)
        });
        vec![
            Cell::name(self.metadata()),
            or_empty(spec.and_then(|s| s.controller.as_deref())),
            Cell::text(parameters),
            Cell::age(self.metadata(), now),
        ]
    }
}
