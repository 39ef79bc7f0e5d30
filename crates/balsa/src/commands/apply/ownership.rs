//! From client-side to server-side apply: fields that were applied by the client become the applier's own, so that
//! what leaves the manifest leaves the object then, too.
//!
//! After a server-side apply such fields would have two owners, and the one that never applies again would keep them
//! for ever. The annotation in which the client kept what it applied last goes with its owner.

use balsa_client::remote::WriteDetails;
use balsa_model::fields::{Element, Entry, Managed, Operation, Set};
use balsa_model::{Key, Object};
use balsa_proto::v1;
use serde_json::{Value, json};

use super::LAST_APPLIED;
use crate::connect::Session;
use crate::output;

/// Managers of clients that apply: ours and kubectl's.
const CLIENTS: [&str; 2] = ["balsa-client-side-apply", "kubectl-client-side-apply"];

/// Makes `manager`, who has just applied `object`, the owner of what was applied by a client before. True when there
/// was anything: then the manifest is to be applied once more, so that what it no longer names goes.
///
/// # Errors
/// What the server says; a conflict when somebody else has written in the meantime.
pub(super) async fn take_over(
    session: &Session,
    key: &Key,
    object: &Object,
    details: &WriteDetails,
) -> anyhow::Result<bool> {
    let Some(managed) = merged(object.managed_fields(), &details.field_manager) else { return Ok(false) };
    let patch = json!({"metadata": {
        "resourceVersion": object.meta().resource_version, "managedFields": managed}});
    let patch = (v1::PatchType::Merge, &patch);
    let written = session.remote.patch(object.kind(), key, v1::Part::Main, patch, details).await?;
    output::warn(&written.warnings);
    Ok(true)
}

/// The managedFields in which `manager` has what clients applied; `None` when they applied nothing.
fn merged(text: &str, manager: &str) -> Option<Value> {
    let mut managed = Managed::stored(text);
    let annotation = ["metadata", "annotations", LAST_APPLIED].map(Element::field);
    let is_clients = |entry: &Entry| {
        entry.operation == Operation::Update
            && entry.subresource.is_empty()
            && (CLIENTS.contains(&entry.manager.as_str()) || entry.set().has(&annotation))
    };
    let (clients, mut rest): (Vec<Entry>, Vec<Entry>) = managed.entries.into_iter().partition(is_clients);
    if clients.is_empty() {
        return None;
    }
    let own = rest.iter_mut().find(|entry| {
        entry.operation == Operation::Apply && entry.subresource.is_empty() && entry.manager == manager
    })?;
    let all = clients.iter().fold(own.set().into_owned(), |all: Set, client| all.union(&client.set()));
    own.own(all);
    managed = Managed { entries: rest };
    serde_json::from_str(&managed.write()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": "2026-11-28T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn what_a_client_applied_is_the_appliers() {
        let applied = json!({"f:data": {"f:b": {}}, "f:metadata": {"f:annotations": {
            "f:kubectl.kubernetes.io/last-applied-configuration": {}}}});
        let text = |client: &str| {
            json!([
                entry("balsa", "Apply", &json!({"f:data": {"f:a": {}}})),
                entry(client, "Update", &applied),
                entry("guest", "Update", &json!({"f:data": {"f:c": {}}})),
            ])
            .to_string()
        };
        // Others too, when it is they who keep the annotation.
        for client in ["balsa-client-side-apply", "kubectl-client-side-apply", "helm"] {
            let merged = merged(&text(client), "balsa").unwrap();
            let managers: Vec<_> = merged.as_array().unwrap().iter().map(|entry| &entry["manager"]).collect();
            assert_eq!(managers, ["balsa", "guest"]);
            let fields = &merged[0]["fieldsV1"];
            assert_eq!(fields["f:data"], json!({"f:a": {}, "f:b": {}}), "{client}");
            assert_eq!(fields["f:metadata"], applied["f:metadata"]);
        }
    }

    #[test]
    fn where_no_client_applied_nothing_changes() {
        let text = json!([
            entry("balsa", "Apply", &json!({"f:data": {"f:a": {}}})),
            entry("guest", "Update", &json!({"f:data": {"f:c": {}}})),
        ]);
        assert_eq!(merged(&text.to_string(), "balsa"), None);
        assert_eq!(merged("", "balsa"), None);
    }
}
