//! What becomes of an object, given what has become of its owners. Pure.

use balsa_model::strategy::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER, Propagation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::has_finalizer;

/// What has become of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// It is being deleted and waits for its dependents to go first.
    WaitsForDependents,
    /// It is gone.
    Gone,
}

/// What becomes of a dependent.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, but the references to these owners go.
    DropReferences(Vec<String>),
    /// It goes.
    Delete(Propagation),
}

/// Judges an object by its owners (UID and state).
pub(super) fn judge(owners: &[(String, OwnerState)], meta: &ObjectMeta, has_dependents: bool) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if owners.iter().any(|(_, state)| *state == OwnerState::Solid) {
        let useless: Vec<String> = owners
            .iter()
            .filter(|(_, state)| *state != OwnerState::Solid)
            .map(|(uid, _)| uid.clone())
            .collect();
        return if useless.is_empty() { Verdict::Keep } else { Verdict::DropReferences(useless) };
    }
    let waited_for = owners.iter().any(|(_, state)| *state == OwnerState::WaitsForDependents);
    if waited_for && has_dependents {
        // The owner waits for the whole tree, so that each goes after those below it.
        return Verdict::Delete(Propagation::Foreground);
    }
    Verdict::Delete(if has_finalizer(meta, ORPHAN_FINALIZER) {
        Propagation::Orphan
    } else if has_finalizer(meta, FOREGROUND_FINALIZER) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

#[cfg(test)]
mod tests {
    use super::OwnerState::{Gone, Solid, WaitsForDependents};
    use super::*;

    #[test]
    fn verdicts() {
        let owners = |states: &[OwnerState]| -> Vec<(String, OwnerState)> {
            states.iter().enumerate().map(|(i, state)| (format!("u{i}"), *state)).collect()
        };
        let drop = |uid: &str| Verdict::DropReferences(vec![uid.to_owned()]);
        for (states, has_dependents, expected) in [
            (&[][..], false, Verdict::Keep),
            (&[Solid], false, Verdict::Keep),
            (&[Gone], false, Verdict::Delete(Propagation::Background)),
            (&[Gone, Gone], true, Verdict::Delete(Propagation::Background)),
            (&[Solid, Gone], false, drop("u1")),
            (&[WaitsForDependents, Solid], true, drop("u0")),
            (&[WaitsForDependents], false, Verdict::Delete(Propagation::Background)),
            (&[WaitsForDependents, Gone], true, Verdict::Delete(Propagation::Foreground)),
        ] {
            assert_eq!(
                judge(&owners(states), &ObjectMeta::default(), has_dependents),
                expected,
                "{states:?}"
            );
        }
        let orphaning =
            ObjectMeta { finalizers: Some(vec![ORPHAN_FINALIZER.to_owned()]), ..ObjectMeta::default() };
        assert_eq!(judge(&owners(&[Gone]), &orphaning, false), Verdict::Delete(Propagation::Orphan));
    }
}
