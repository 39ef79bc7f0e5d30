//! What a user may do: superusers, nodes (only what is their own), and RBAC for everybody else.
//!
//! [`Authorized`] is the proof that a request was checked; the engine takes nothing less.

pub(crate) mod escalation;
mod node;
pub(crate) mod rbac;

use std::sync::Arc;

use balsa_model::{Descriptor, Failure, Reason};
use balsa_state::State;

use crate::identity::Authenticated;

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// What a request wants, as authorization sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `impersonate`;
    /// for other URLs the method in lower case.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural name; empty for other URLs.
    pub resource: String,
    /// Part of the object, `status`; or empty.
    pub subresource: String,
    /// Namespace; empty for cluster-scoped kinds and for all namespaces.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
    /// Field selector of a list or watch, as it was sent.
    pub field_selector: String,
    /// The path of other URLs.
    pub path: String,
}

impl Attributes {
    /// A verb on objects of a kind.
    pub(crate) fn resource(verb: &str, kind: &Descriptor, namespace: &str, name: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            group: kind.group.to_owned(),
            resource: kind.plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// The same on a part of the object.
    #[must_use]
    pub(crate) fn part(mut self, subresource: &str) -> Self {
        self.subresource = subresource.to_owned();
        self
    }
}

/// A user who may do what they asked for.
#[derive(Clone, Debug)]
pub struct Authorized {
    user: Authenticated,
    leader_term: Option<u64>,
    /// In whose name it writes, for managedFields.
    manager: Arc<str>,
}

impl Authorized {
    /// A part of this server that works only while it leads in `term`: what it proposes later is
    /// refused by construction.
    pub(crate) fn leader_part(name: &str, term: u64) -> Self {
        Self { user: Authenticated::component(name), leader_term: Some(term), manager: name.into() }
    }

    /// A part of this server, whether it leads or not.
    pub(crate) fn server_part(name: &str) -> Self {
        Self { user: Authenticated::component(name), leader_term: None, manager: name.into() }
    }

    pub(crate) fn leader_term(&self) -> Option<u64> {
        self.leader_term
    }

    /// The same, writing in the name of a field manager; an empty name changes nothing.
    #[must_use]
    pub(crate) fn with_manager(mut self, manager: &str) -> Self {
        if !manager.is_empty() && *self.manager != *manager {
            self.manager = manager.into();
        }
        self
    }

    /// The field manager in whose name it writes; empty when nobody said.
    pub(crate) fn manager(&self) -> &str {
        &self.manager
    }

    /// Who.
    pub fn user(&self) -> &Authenticated {
        &self.user
    }

    /// The name, for the log.
    pub fn name(&self) -> &Arc<str> {
        self.user.user()
    }
}

/// Decides.
#[derive(Clone)]
pub(crate) struct Authorizer {
    state: State,
}

impl Authorizer {
    /// An authorizer that reads roles, bindings and pods from `state`.
    pub(crate) fn new(state: State) -> Self {
        Self { state }
    }

    /// Whether the user may.
    pub(crate) fn allows(&self, user: &Authenticated, attributes: &Attributes) -> bool {
        self.why(user, attributes).is_some()
    }

    /// Why the user may; `None`: they may not. Where no role says so there is nothing to tell.
    pub(crate) fn why(&self, user: &Authenticated, attributes: &Attributes) -> Option<String> {
        let is_public = attributes.resource.is_empty() && is_public(attributes);
        let is_nodes = || user.node().is_some_and(|node| node::allows(&self.state, node, attributes));
        if user.is_in(MASTERS) || is_public || is_nodes() {
            return Some(String::new());
        }
        rbac::allows(&self.state, user, attributes)
    }

    /// The proof that the user may.
    ///
    /// # Errors
    /// `Forbidden`, in Kubernetes' words.
    pub(crate) fn authorize(
        &self,
        user: &Authenticated,
        attributes: &Attributes,
    ) -> Result<Authorized, Failure> {
        if self.allows(user, attributes) {
            return Ok(Authorized { user: user.clone(), leader_term: None, manager: Arc::default() });
        }
        Err(refusal(user, attributes))
    }
}

/// Health, version and discovery: for everybody with a name; health and version for anybody.
fn is_public(attributes: &Attributes) -> bool {
    const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
    attributes.verb == "get"
        && PUBLIC.iter().any(|p| attributes.path == *p || attributes.path.starts_with(&format!("{p}/")))
}

fn refusal(user: &Authenticated, attributes: &Attributes) -> Failure {
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = attributes;
    let who = user.user();
    if resource.is_empty() {
        let message = format!("forbidden: User \"{who}\" cannot {verb} path \"{path}\"");
        return Failure::new(Reason::Forbidden, message);
    }
    let part = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let scope = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
    let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
    let message = format!(
        "{qualified}{quoted} is forbidden: User \"{who}\" cannot {verb} resource \"{part}\" in API group \"{group}\" {scope}"
    );
    let mut failure = Failure::new(Reason::Forbidden, message);
    failure.name.clone_from(name);
    failure.group.clone_from(group);
    failure.kind.clone_from(resource);
    failure
}
