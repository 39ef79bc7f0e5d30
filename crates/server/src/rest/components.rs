//! `v1/componentstatuses`: how the control plane is, for those who still ask that way. Nothing of it is stored.
//!
//! Scheduler and controllers run in the server that leads, and are as well as that there is one; what Kubernetes
//! has in etcd is in the log, which every server has: one `etcd-<n>` a server.

use std::sync::Arc;

use axum::response::Response;
use balsa_model::kind::{kind_of, to_value};
use balsa_model::kinds::component_status::component;
use balsa_model::{Failure, Object, Reason, Revision};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::ComponentStatus;

use super::path::ResourcePath;
use super::respond::Shown;
use super::{Call, accept, attributes, respond};
use crate::engine::Listed;
use crate::members::MemberHealth;

/// Whether a path is of the parts of the control plane.
pub(super) fn is_asked(path: &ResourcePath) -> bool {
    path.group.is_empty()
        && path.version == "v1"
        && path.plural == "componentstatuses"
        && path.namespace.is_empty()
        && path.subresource.is_empty()
}

/// Answers with one part, or with all.
pub(super) async fn serve(call: &Call, path: &ResourcePath) -> Result<Response, Failure> {
    call.front.authorize(&call.user, &attributes(call, path))?;
    if !matches!(call.method, Method::GET | Method::HEAD) || call.query.flag("watch") {
        return Err(Failure::generic(Reason::MethodNotAllowed));
    }
    let descriptor = kind_of::<ComponentStatus>().descriptor();
    let filter = call.query.filter(descriptor, "", &path.name)?;
    let mut items = Vec::new();
    for part in parts(&call.front.members.health().await) {
        let object = object(&part)?;
        if filter.matches(&object) {
            items.push(object);
        }
    }
    let (now, include) = (call.front.engine.clock().now(), call.query.get("includeObject"));
    let mut response = if path.name.is_empty() {
        let shown = Shown::new(accept::negotiate_list(&call.headers, descriptor)?, include)?;
        let listed = Listed { items, revision: Revision(0), continue_token: String::new(), remaining: None };
        respond::list(kind_of::<ComponentStatus>(), listed, &shown, now)
    } else {
        let shown = Shown::new(accept::negotiate(&call.headers)?, include)?;
        let found = items.pop().ok_or_else(|| Failure::not_found(descriptor, &path.name))?;
        respond::object(StatusCode::OK, &found, &shown, now)
    };
    respond::warn_deprecated(&mut response, descriptor);
    Ok(response)
}

/// The parts by name, by what the servers say of themselves.
fn parts(servers: &[MemberHealth]) -> Vec<ComponentStatus> {
    let leads = servers.iter().any(|server| server.said.as_ref().is_some_and(|said| said.role == "leader"));
    let leaderless = (!leads).then_some("no server leads");
    let stores = servers.iter().enumerate();
    let stores = stores.map(|(n, server)| component(&format!("etcd-{n}"), server.problem.as_deref()));
    let mut parts = vec![component("controller-manager", leaderless)];
    parts.extend(stores);
    parts.push(component("scheduler", leaderless));
    parts
}

fn object(part: &ComponentStatus) -> Result<Arc<Object>, Failure> {
    let kind = kind_of::<ComponentStatus>();
    let bytes = Object::canonical(kind, &to_value(part));
    // Without a revision: it has none.
    Object::stored(kind, bytes.into(), Revision(0)).map(Arc::new).map_err(Failure::internal)
}

#[cfg(test)]
mod tests {
    use balsa_proto::peer;

    use super::*;

    fn server(name: &str, role: &str, problem: Option<&str>) -> MemberHealth {
        MemberHealth {
            name: name.to_owned(),
            said: Some(peer::InspectResponse { role: role.to_owned(), ..Default::default() }),
            problem: problem.map(str::to_owned),
            ..MemberHealth::default()
        }
    }

    #[test]
    fn parts_are_as_well_as_the_servers() {
        let told = |servers: &[MemberHealth]| -> Vec<String> {
            let told = |part: ComponentStatus| {
                let healthy = part.conditions.unwrap().remove(0);
                let message = healthy.message.unwrap_or_default();
                format!("{} {} {message}", part.metadata.name.unwrap_or_default(), healthy.status)
            };
            parts(servers).into_iter().map(told).collect()
        };
        let well = [server("a", "leader", None), server("b", "follower", Some("it is 9 entries behind"))];
        assert_eq!(
            told(&well),
            [
                "controller-manager True ok",
                "etcd-0 True ok",
                "etcd-1 False it is 9 entries behind",
                "scheduler True ok"
            ]
        );
        let lost = [server("a", "candidate", Some("no server leads"))];
        assert_eq!(told(&lost)[0], "controller-manager False no server leads");
        let object = object(&parts(&well)[0]).unwrap();
        assert_eq!(object.value()["metadata"], serde_json::json!({"name": "controller-manager"}));
    }
}
