//! An ingress that names no class gets the default one.

use balsa_model::AnyObject;
use balsa_model::kind::kind_of;
use balsa_model::kinds::ingress::CLASS_ANNOTATION;
use balsa_model::kinds::ingress_class::DEFAULT_ANNOTATION;
use balsa_state::State;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::volumes::marked;

pub(super) fn default_class(state: &State, object: &mut dyn AnyObject) {
    let Some(ingress) = object.as_any_mut().downcast_mut::<Ingress>() else { return };
    if ingress.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CLASS_ANNOTATION)) {
        return;
    }
    let spec = ingress.spec.get_or_insert_default();
    if spec.ingress_class_name.is_none() {
        spec.ingress_class_name = marked(state, kind_of::<IngressClass>(), DEFAULT_ANNOTATION);
    }
}
