//! Priority classes: the system's own stay, and one at most is for pods that name none.

use balsa_model::kind::kind_of;
use balsa_model::kinds::priority_class::SYSTEM_CLASSES;
use balsa_model::{AnyObject, Failure, Object};
use balsa_state::State;
use k8s_openapi::api::scheduling::v1::PriorityClass;

pub(super) fn protect(old: &Object) -> Result<(), Failure> {
    let name = &*old.key().name;
    let is_system = SYSTEM_CLASSES.iter().any(|(known, _)| *known == name);
    if old.kind() == kind_of::<PriorityClass>() && is_system {
        let why = "this is a system priority class and cannot be deleted";
        return Err(Failure::forbidden(old.kind().descriptor(), name, why));
    }
    Ok(())
}

pub(super) fn require_one_default(state: &State, object: &dyn AnyObject) -> Result<(), Failure> {
    let Some(class) = object.as_any().downcast_ref::<PriorityClass>() else { return Ok(()) };
    if class.global_default != Some(true) {
        return Ok(());
    }
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let view = state.view(kind_of::<PriorityClass>());
    let others = view.iter().filter(|other| &*other.key().name != name);
    let mut defaults = others.filter(|other| {
        other.typed::<PriorityClass>().is_some_and(|class| class.global_default == Some(true))
    });
    let Some(first) = defaults.next() else { return Ok(()) };
    let why = format!(
        "PriorityClass {} is already marked as default. Only one default can exist",
        first.key().name
    );
    Err(Failure::forbidden(object.kind().descriptor(), name, why))
}
