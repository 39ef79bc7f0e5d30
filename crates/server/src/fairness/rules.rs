//! Which requests belong together, and how much of a server is whose: FlowSchemas and
//! PriorityLevelConfigurations as a server follows them. Pure.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use balsa_model::kinds::flow_schema::{self, CATCH_ALL, EXEMPT};
use balsa_model::kinds::priority_level_configuration;
use http::{HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, ResourcePolicyRule, Subject,
};

use super::seats::Told;
use crate::authorize::Attributes;
use crate::identity::Authenticated;

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// How many requests may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// Of one flow. Kubernetes deals each flow some of the level's queues; here each has one of its own, as
    /// long as those together, and no flow is behind another one by bad luck.
    pub(super) flow: usize,
    /// Of the level.
    pub(super) all: usize,
}

/// A priority level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) name: Arc<str>,
    uid: Arc<str>,
    /// Whether its requests never wait.
    pub(super) exempt: bool,
    /// Its part of all seats.
    pub(super) shares: usize,
    /// The percentage of its seats that others may have.
    pub(super) lendable: usize,
    /// The percentage of its seats that it may have of others; `None`: any number.
    pub(super) borrowing: Option<usize>,
    /// `None`: what finds no seat is refused at once.
    pub(super) queue: Option<Queue>,
}

impl Level {
    fn new(name: &str, uid: &str, spec: &PriorityLevelConfigurationSpec) -> Self {
        let number = |number: Option<i32>| usize::try_from(number.unwrap_or_default()).unwrap_or_default();
        let level = |shares, lendable| Self {
            name: name.into(),
            uid: uid.into(),
            exempt: false,
            shares: number(shares),
            lendable: number(lendable).min(100),
            borrowing: None,
            queue: None,
        };
        let Some(limited) = spec.limited.as_ref().filter(|_| spec.type_ != "Exempt") else {
            let exempt = spec.exempt.clone().unwrap_or_default();
            return Self {
                exempt: true,
                ..level(exempt.nominal_concurrency_shares, exempt.lendable_percent)
            };
        };
        let queuing = limited.limit_response.as_ref().and_then(|response| response.queuing.as_ref());
        Self {
            borrowing: limited.borrowing_limit_percent.map(|percent| number(Some(percent))),
            queue: queuing.map(|queuing| {
                let length = number(queuing.queue_length_limit);
                let (hand, queues) = (number(queuing.hand_size), number(queuing.queues));
                Queue { flow: hand.saturating_mul(length), all: queues.saturating_mul(length) }
            }),
            ..level(limited.nominal_concurrency_shares, limited.lendable_percent)
        }
    }
}

/// A flow schema whose level is there.
#[derive(Debug)]
struct Schema {
    name: Arc<str>,
    uid: Arc<str>,
    level: Arc<Level>,
    spec: FlowSchemaSpec,
    /// Once there was a request.
    told: OnceLock<Told>,
}

impl Schema {
    fn matches(&self, user: &Authenticated, wanted: &Attributes) -> bool {
        self.spec.rules.iter().flatten().any(|rules| takes(rules, user, wanted))
    }
}

/// Where a request belongs.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    schema: Arc<Schema>,
    /// Which of the schema's flows: a user, a namespace, or empty where it has one for all.
    of: Arc<str>,
}

/// The flow of a request: what waits in one queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    schema: Arc<str>,
    of: Arc<str>,
}

impl Ticket {
    pub(super) fn level(&self) -> &Level {
        &self.schema.level
    }

    pub(super) fn schema(&self) -> &Arc<str> {
        &self.schema.name
    }

    /// What is told of its requests.
    pub(super) fn told(&self) -> &Told {
        self.schema.told.get_or_init(|| Told::of(&self.level().name, self.schema()))
    }

    pub(super) fn flow(&self) -> Flow {
        Flow { schema: self.schema.name.clone(), of: self.of.clone() }
    }

    /// Says in an answer which schema and which level the request was worked on by.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA_HEADER, &self.schema.uid), (LEVEL_HEADER, &self.schema.level.uid)] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(name, value);
            }
        }
    }
}

/// All of it, in the order in which schemas are asked.
#[derive(Debug)]
pub(super) struct Rules {
    schemas: Vec<Arc<Schema>>,
    levels: BTreeMap<Arc<str>, Arc<Level>>,
    /// What takes the rest.
    last: Arc<Schema>,
}

impl Rules {
    /// Of these objects, with their uids. What every cluster must have is there even if it is missing.
    pub(super) fn new(
        schemas: impl Iterator<Item = impl Borrow<FlowSchema>>,
        levels: impl Iterator<Item = impl Borrow<PriorityLevelConfiguration>>,
    ) -> Self {
        let built_in = [EXEMPT, CATCH_ALL].map(|name| {
            let spec = priority_level_configuration::mandatory(name).unwrap_or_default();
            Level::new(name, "", &spec)
        });
        let stored = levels.map(|level| {
            let level = level.borrow();
            let (name, uid) = named(&level.metadata);
            Level::new(name, uid, &level.spec.clone().unwrap_or_default())
        });
        let levels: BTreeMap<Arc<str>, Arc<Level>> =
            built_in.into_iter().chain(stored).map(|level| (level.name.clone(), Arc::new(level))).collect();
        let of = |name: &str, uid: &str, spec: FlowSchemaSpec| {
            let level = levels.get(spec.priority_level_configuration.name.as_str())?.clone();
            Some(Arc::new(Schema { name: name.into(), uid: uid.into(), level, spec, told: OnceLock::new() }))
        };
        let mut found: BTreeMap<Arc<str>, Arc<Schema>> = BTreeMap::new();
        for name in [EXEMPT, CATCH_ALL] {
            let schema = of(name, "", flow_schema::mandatory(name).unwrap_or_default());
            found.extend(schema.map(|schema| (schema.name.clone(), schema)));
        }
        for schema in schemas {
            let schema = schema.borrow();
            let (name, uid) = named(&schema.metadata);
            let schema = of(name, uid, schema.spec.clone().unwrap_or_default());
            found.extend(schema.map(|schema| (schema.name.clone(), schema)));
        }
        let last = found.get(CATCH_ALL).cloned().unwrap_or_else(|| {
            let level = Arc::new(Level::new(CATCH_ALL, "", &PriorityLevelConfigurationSpec::default()));
            let (name, spec) = (CATCH_ALL.into(), FlowSchemaSpec::default());
            Arc::new(Schema { name, uid: "".into(), level, spec, told: OnceLock::new() })
        });
        let mut schemas: Vec<Arc<Schema>> = found.into_values().collect();
        schemas.sort_by_key(|schema| (schema.spec.matching_precedence, schema.name.clone()));
        Self { schemas, levels, last }
    }

    /// The levels there are.
    pub(super) fn levels(&self) -> impl Iterator<Item = &Level> {
        self.levels.values().map(|level| &**level)
    }

    /// Where a request belongs: to the first schema that takes it.
    pub(super) fn classify(&self, user: &Authenticated, wanted: &Attributes) -> Ticket {
        let schema = self.schemas.iter().find(|schema| schema.matches(user, wanted)).unwrap_or(&self.last);
        let of = match schema.spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
            Some("ByUser") => user.user().clone(),
            Some("ByNamespace") => wanted.namespace.as_str().into(),
            _ => Arc::default(),
        };
        Ticket { schema: schema.clone(), of }
    }
}

fn named(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (&str, &str) {
    (meta.name.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default())
}

fn takes(rules: &PolicyRulesWithSubjects, user: &Authenticated, wanted: &Attributes) -> bool {
    if !rules.subjects.iter().any(|subject| is(subject, user)) {
        return false;
    }
    if !wanted.resource.is_empty() {
        return rules.resource_rules.iter().flatten().any(|rule| takes_resource(rule, wanted));
    }
    rules.non_resource_rules.iter().flatten().any(|rule| {
        names(&rule.verbs, &wanted.verb) && rule.non_resource_urls.iter().any(|url| covers(url, &wanted.path))
    })
}

fn is(subject: &Subject, user: &Authenticated) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|of| of.name == "*" || of.name == **user.user()),
        "Group" => subject.group.as_ref().is_some_and(|of| of.name == "*" || user.is_in(&of.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|of| {
            let account = user.user().strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'));
            account.is_some_and(|(namespace, name)| {
                namespace == of.namespace && (of.name == "*" || of.name == name)
            })
        }),
        _ => false,
    }
}

fn takes_resource(rule: &ResourcePolicyRule, wanted: &Attributes) -> bool {
    let part;
    let resource = if wanted.subresource.is_empty() {
        &wanted.resource
    } else {
        part = format!("{}/{}", wanted.resource, wanted.subresource);
        &part
    };
    let place = if wanted.namespace.is_empty() {
        rule.cluster_scope == Some(true)
    } else {
        rule.namespaces.as_ref().is_some_and(|list| names(list, &wanted.namespace))
    };
    place
        && names(&rule.verbs, &wanted.verb)
        && names(&rule.api_groups, &wanted.group)
        && names(&rule.resources, resource)
}

/// Whether a list has an item, or `*`, which stands in lists alone.
fn names(list: &[String], item: &str) -> bool {
    list.iter().any(|listed| listed == "*" || listed == item)
}

/// Whether a URL of a rule is this path, or one above it.
fn covers(url: &str, path: &str) -> bool {
    if url == "*" || url == path {
        return true;
    }
    let above = url.strip_suffix('*').unwrap_or(url);
    path.strip_prefix(above).is_some_and(|rest| above.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bootstrap::flow_control;

    fn rules() -> Rules {
        let (schemas, levels) = flow_control::objects();
        let schemas: Vec<FlowSchema> =
            schemas.into_iter().map(|value| serde_json::from_value(value).unwrap()).collect();
        let levels: Vec<PriorityLevelConfiguration> =
            levels.into_iter().map(|value| serde_json::from_value(value).unwrap()).collect();
        Rules::new(schemas.iter(), levels.iter())
    }

    fn user(name: &str, groups: &[&str]) -> Authenticated {
        Authenticated::impersonated(name, groups.iter().map(|group| (*group).to_owned()).collect())
    }

    fn wanted(verb: &str, group: &str, resource: &str, part: &str, namespace: &str) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: part.to_owned(),
            namespace: namespace.to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn requests_of_a_usual_cluster_go_where_kubernetes_sends_them() {
        let rules = rules();
        let (pods, lease) = (wanted("list", "", "pods", "", "zoo"), "coordination.k8s.io");
        let (node, nodes) = ("system:node:n1", "system:nodes");
        let cases = [
            (user("root", &["system:masters"]), pods.clone(), "exempt", ""),
            (user("kim", &[]), pods.clone(), "global-default", "kim"),
            (
                user("system:anonymous", &["system:unauthenticated"]),
                pods.clone(),
                "global-default",
                "system:anonymous",
            ),
            (user(node, &[nodes]), wanted("patch", "", "nodes", "status", ""), "system-node-high", node),
            (
                user(node, &[nodes]),
                wanted("update", lease, "leases", "", "kube-node-lease"),
                "system-node-high",
                node,
            ),
            (user(node, &[nodes]), pods.clone(), "system-nodes", node),
            (user("system:kube-scheduler", &[]), pods.clone(), "kube-scheduler", "zoo"),
            (
                user("system:kube-scheduler", &[]),
                wanted("update", lease, "leases", "", "zoo"),
                "system-leader-election",
                "system:kube-scheduler",
            ),
            (
                user("system:serviceaccount:kube-system:a", &["system:serviceaccounts"]),
                pods.clone(),
                "kube-system-service-accounts",
                "zoo",
            ),
            (
                user("system:serviceaccount:zoo:a", &["system:serviceaccounts"]),
                pods,
                "service-accounts",
                "system:serviceaccount:zoo:a",
            ),
        ];
        for (user, wanted, schema, of) in cases {
            let ticket = rules.classify(&user, &wanted);
            assert_eq!((&**ticket.schema(), &*ticket.of), (schema, of), "{user:?} {wanted:?}");
        }
        let get = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        let of = |path: &str| rules.classify(&user("kim", &[]), &get(path)).schema().to_string();
        assert_eq!((of("/readyz").as_str(), of("/readyz/log").as_str()), ("probes", "probes"));
        assert_eq!(of("/metrics"), "global-default");
    }

    #[test]
    fn a_schema_without_its_level_takes_nothing_and_the_rest_is_always_caught() {
        let lost: FlowSchema = serde_json::from_value(json!({
            "metadata": {"name": "lost", "uid": "u"},
            "spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "nowhere"},
                "rules": flow_schema::all_requests(&flow_schema::groups(&["system:authenticated"]))},
        }))
        .unwrap();
        let rules = Rules::new([lost].iter(), std::iter::empty::<PriorityLevelConfiguration>());
        let ticket = rules.classify(&user("kim", &[]), &wanted("get", "", "pods", "", "zoo"));
        assert_eq!((&**ticket.schema(), &*ticket.level().name), (CATCH_ALL, CATCH_ALL));
        assert_eq!(ticket.level().queue, None);
        let root = rules.classify(&user("root", &["system:masters"]), &wanted("get", "", "pods", "", "zoo"));
        assert!(root.level().exempt);
    }

    #[test]
    fn a_flow_may_wait_in_as_many_places_as_its_hand_has() {
        let rules = rules();
        let level = rules.levels().find(|level| &*level.name == "workload-low").unwrap();
        assert_eq!((level.shares, level.lendable, level.borrowing), (100, 90, None));
        assert_eq!(level.queue, Some(Queue { flow: 300, all: 6400 }));
    }
}
