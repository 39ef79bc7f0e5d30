//! Discovery: what is served, as clients ask for it before anything else.
//!
//! One list of group versions, in the order in which clients shall prefer them, and its forms: the
//! old one, document by document, and the aggregated one. Custom resources are added to the list by
//! whoever knows them; everything here is a function of that list.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::kind::{Descriptor, KindRef, Subresource};
use crate::kinds;

/// What one can do with an object of a stored kind.
const STORED_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The same for kinds that nobody shall delete all at once.
const NO_COLLECTION_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// Groups in the order of preference; groups that are not named follow by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// A group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, `v1`.
    pub version: String,
    /// Kind, `Pod`.
    pub kind: String,
}

impl GroupVersionKind {
    /// From its parts.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    fn to_json(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// A part of a resource with a URL of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubresourceInfo {
    /// `status`
    pub name: String,
    /// What is read from it or written to it.
    pub kind: GroupVersionKind,
    /// What one can do with it.
    pub verbs: Vec<String>,
}

/// A resource that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// `pods`
    pub plural: String,
    /// `pod`
    pub singular: String,
    /// Its kind.
    pub kind: GroupVersionKind,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What one can do with it.
    pub verbs: Vec<String>,
    /// `po`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
    /// Its parts, by name.
    pub subresources: Vec<SubresourceInfo>,
    /// As what its objects are stored; `None`: they are not.
    pub stored: Option<GroupVersionKind>,
}

/// A version of a group, with its resources by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, `v1`.
    pub version: String,
    /// What it has.
    pub resources: Vec<ResourceInfo>,
}

impl GroupVersion {
    /// `v1`, or `apps/v1`.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl ResourceInfo {
    /// A built-in kind.
    pub fn of_kind(kind: KindRef) -> Self {
        let Descriptor { group, version, kind: name, .. } = kind.stored().descriptor();
        Self { stored: Some(GroupVersionKind::new(group, version, name)), ..Self::of(kind.descriptor()) }
    }

    /// A kind that is stored as it is.
    pub fn of(descriptor: &Descriptor) -> Self {
        let verbs = if descriptor.deletes_collections() { STORED_VERBS } else { NO_COLLECTION_VERBS };
        let mut subresources: Vec<SubresourceInfo> =
            descriptor.subresources.iter().map(|part| subresource(descriptor, *part)).collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        let kind = GroupVersionKind::new(descriptor.group, descriptor.version, descriptor.kind);
        Self {
            plural: descriptor.plural.to_owned(),
            singular: descriptor.singular.to_owned(),
            namespaced: descriptor.is_namespaced(),
            verbs: owned(verbs),
            short_names: owned(descriptor.short_names),
            categories: owned(descriptor.categories),
            subresources,
            stored: Some(kind.clone()),
            kind,
        }
    }

    /// A kind that is read and not stored.
    fn reported(kind: KindRef) -> Self {
        Self { verbs: owned(&["get", "list"]), stored: None, ..Self::of(kind.descriptor()) }
    }

    /// What is measured when somebody asks, and not stored.
    fn measure(plural: &str, kind: &str, namespaced: bool) -> Self {
        let kind = GroupVersionKind::new("metrics.k8s.io", "v1beta1", kind);
        let measure = Self::question("metrics.k8s.io", plural, &kind.kind, namespaced);
        Self { singular: String::new(), verbs: owned(&["get", "list"]), kind, ..measure }
    }

    /// A question that is answered and not stored.
    fn question(group: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: GroupVersionKind::new(group, "v1", kind),
            namespaced,
            verbs: owned(&["create"]),
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            stored: None,
        }
    }
}

/// What Kubernetes calls the hash of the stored version.
fn storage_hash(GroupVersionKind { group, version, kind }: &GroupVersionKind) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&digest[..8])
}

fn subresource(descriptor: &Descriptor, part: Subresource) -> SubresourceInfo {
    let own = || GroupVersionKind::new(descriptor.group, descriptor.version, descriptor.kind);
    let core = |kind| GroupVersionKind::new("", "v1", kind);
    let (kind, verbs): (GroupVersionKind, &[&str]) = match part {
        Subresource::Status
        | Subresource::Approval
        | Subresource::EphemeralContainers
        | Subresource::Resize => (own(), &["get", "patch", "update"]),
        Subresource::Scale => {
            (GroupVersionKind::new("autoscaling", "v1", "Scale"), &["get", "patch", "update"])
        }
        Subresource::Log => (own(), &["get"]),
        Subresource::Exec => (core("PodExecOptions"), &["create", "get"]),
        Subresource::Attach => (core("PodAttachOptions"), &["create", "get"]),
        Subresource::PortForward => (core("PodPortForwardOptions"), &["create", "get"]),
        Subresource::Proxy => {
            let kind = format!("{}ProxyOptions", descriptor.kind);
            (GroupVersionKind::new("", "v1", &kind), &["create", "delete", "get", "patch", "update"])
        }
        Subresource::Binding => (core("Binding"), &["create"]),
        Subresource::Eviction => (GroupVersionKind::new("policy", "v1", "Eviction"), &["create"]),
        Subresource::Finalize => (own(), &["update"]),
        Subresource::Token => {
            (GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
        }
    };
    SubresourceInfo { name: part.path().to_owned(), kind, verbs: owned(verbs) }
}

/// Everything that is built in: the kinds, and the questions that are answered but not stored.
pub fn built_in() -> Vec<GroupVersion> {
    let kinds = kinds::served().map(ResourceInfo::of_kind);
    let question = ResourceInfo::question;
    let questions = [
        question("", "bindings", "Binding", true),
        question("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
        question("authentication.k8s.io", "tokenreviews", "TokenReview", false),
        question("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
        question("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
        question("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
        question("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
    ];
    let measures = [
        ResourceInfo::measure("nodes", "NodeMetrics", false),
        ResourceInfo::measure("pods", "PodMetrics", true),
    ];
    let reported = kinds::reported().iter().map(|kind| ResourceInfo::reported(*kind));
    arrange(kinds.chain(questions).chain(measures).chain(reported))
}

/// Sorts resources into group versions, in the order of preference.
pub fn arrange(resources: impl IntoIterator<Item = ResourceInfo>) -> Vec<GroupVersion> {
    let mut groups: Vec<GroupVersion> = Vec::new();
    for resource in resources {
        let same =
            |g: &&mut GroupVersion| g.group == resource.kind.group && g.version == resource.kind.version;
        match groups.iter_mut().find(same) {
            Some(found) => found.resources.push(resource),
            None => groups.push(GroupVersion {
                group: resource.kind.group.clone(),
                version: resource.kind.version.clone(),
                resources: vec![resource],
            }),
        }
    }
    for group in &mut groups {
        group.resources.sort_by(|a, b| a.plural.cmp(&b.plural));
    }
    let rank = |group: &str| GROUP_ORDER.iter().position(|name| *name == group).unwrap_or(GROUP_ORDER.len());
    groups.sort_by(|a, b| {
        let group = rank(&a.group).cmp(&rank(&b.group)).then_with(|| a.group.cmp(&b.group));
        group.then_with(|| version_rank(&b.version).cmp(&version_rank(&a.version)))
    });
    groups
}

/// How much a version is preferred: stable before beta before alpha, then the higher number.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let (major, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    for (word, stability) in [("beta", 2), ("alpha", 1)] {
        if let Some(minor) = rest.strip_prefix(word) {
            return (stability, major, minor.parse().unwrap_or(0));
        }
    }
    if rest.is_empty() { (3, major, 0) } else { (0, 0, 0) }
}

/// `GET /api`: versions of the core group, and where the server is, `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `GET /apis`: all groups but the core group.
pub fn api_group_list(groups: &[GroupVersion]) -> Value {
    let mut names: Vec<&str> = Vec::new();
    for group in groups.iter().filter(|group| !group.group.is_empty()) {
        if !names.contains(&group.group.as_str()) {
            names.push(&group.group);
        }
    }
    let list: Vec<Value> = names.into_iter().filter_map(|name| group_body(groups, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `GET /apis/<group>`; `None` when there is no such group.
pub fn api_group(groups: &[GroupVersion], name: &str) -> Option<Value> {
    let mut out = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(out), Value::Object(body)) = (out.as_object_mut(), group_body(groups, name)?) {
        out.extend(body);
    }
    Some(out)
}

fn group_body(groups: &[GroupVersion], name: &str) -> Option<Value> {
    let version =
        |group: &GroupVersion| json!({"groupVersion": group.name(), "version": group.version.as_str()});
    let versions: Vec<Value> =
        groups.iter().filter(|group| !name.is_empty() && group.group == name).map(version).collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// `GET /api/v1`, `GET /apis/<group>/<version>`; `None` when there is no such version.
pub fn api_resource_list(groups: &[GroupVersion], group: &str, version: &str) -> Option<Value> {
    let found = groups.iter().find(|g| g.group == group && g.version == version)?;
    let mut list = Vec::new();
    for resource in &found.resources {
        list.push(resource_entry(resource));
        for part in &resource.subresources {
            let mut entry = Map::new();
            entry.insert("name".to_owned(), format!("{}/{}", resource.plural, part.name).into());
            entry.insert("singularName".to_owned(), "".into());
            entry.insert("namespaced".to_owned(), resource.namespaced.into());
            if part.kind.group != group || part.kind.version != version {
                entry.insert("group".to_owned(), part.kind.group.as_str().into());
                entry.insert("version".to_owned(), part.kind.version.as_str().into());
            }
            entry.insert("kind".to_owned(), part.kind.kind.as_str().into());
            entry.insert("verbs".to_owned(), part.verbs.clone().into());
            list.push(Value::Object(entry));
        }
    }
    // The reference server leaves the core group's list without an apiVersion.
    Some(if group.is_empty() {
        json!({"kind": "APIResourceList", "groupVersion": found.name(), "resources": list})
    } else {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found.name(), "resources": list})
    })
}

fn resource_entry(resource: &ResourceInfo) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind.kind,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    if let Some(stored) = &resource.stored {
        entry["storageVersionHash"] = storage_hash(stored).into();
    }
    entry
}

fn add_names(entry: &mut Value, resource: &ResourceInfo) {
    for (name, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            entry[name] = list.clone().into();
        }
    }
}

/// Which aggregated document: `GET /api` has the core group, `GET /apis` all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/api`
    Core,
    /// `/apis`
    Groups,
}

/// The aggregated discovery document, in version `v2` or `v2beta1` of its group.
pub fn aggregated(groups: &[GroupVersion], root: Root, version: &str) -> Value {
    let mut items: Vec<(&str, Vec<Value>)> = Vec::new();
    for group in groups.iter().filter(|group| group.group.is_empty() == (root == Root::Core)) {
        let resources: Vec<Value> = group.resources.iter().map(aggregated_resource).collect();
        let entry = json!({"version": group.version, "resources": resources, "freshness": "Current"});
        match items.iter_mut().find(|(name, _)| *name == group.group) {
            Some((_, versions)) => versions.push(entry),
            None => items.push((&group.group, vec![entry])),
        }
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(name, versions)| {
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &ResourceInfo) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": resource.kind.to_json(),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    if !resource.subresources.is_empty() {
        let parts: Vec<Value> = resource
            .subresources
            .iter()
            .map(|part| {
                json!({"subresource": part.name, "responseKind": part.kind.to_json(), "verbs": part.verbs})
            })
            .collect();
        entry["subresources"] = parts.into();
    }
    entry
}

/// The media type of an aggregated document in that version.
pub fn aggregated_content_type(version: &str) -> String {
    format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
}

/// What tells one document from another: for `ETag` headers and the hashes of OpenAPI documents.
pub fn hash(document: &[u8]) -> String {
    Sha256::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(list: &'a Value, name: &str) -> &'a Value {
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap()
    }

    #[test]
    fn resources_are_listed_as_kubernetes_lists_them() {
        let groups = built_in();
        let core = api_resource_list(&groups, "", "v1").unwrap();
        assert_eq!(
            entry(&core, "configmaps"),
            &json!({
                "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["cm"], "storageVersionHash": "qFsyl6wFWjQ=",
            })
        );
        assert_eq!(entry(&core, "bindings")["verbs"], json!(["create"]));
        assert!(api_resource_list(&groups, "", "v9").is_none());
        assert!(api_group(&groups, "none").is_none());
        assert!(api_group(&groups, "").is_none());
        let reviews = api_group(&groups, "authorization.k8s.io").unwrap();
        assert_eq!(reviews["preferredVersion"]["groupVersion"], "authorization.k8s.io/v1");
    }

    #[test]
    fn subresources_say_their_own_kind() {
        let descriptor = Descriptor {
            subresources: &[
                Subresource::Status,
                Subresource::Eviction,
                Subresource::Scale,
                Subresource::Exec,
            ],
            ..Descriptor::namespaced("", "v1", "Pod", "pods", "pod", "core.v1.Pod")
        };
        let groups = arrange([ResourceInfo::of(&descriptor)]);
        let list = api_resource_list(&groups, "", "v1").unwrap();
        assert_eq!(
            entry(&list, "pods/eviction"),
            &json!({
                "name": "pods/eviction", "singularName": "", "namespaced": true,
                "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"],
            })
        );
        assert!(entry(&list, "pods/status").get("group").is_none());
        let aggregated = aggregated(&groups, Root::Core, "v2");
        let pods = &aggregated["items"][0]["versions"][0]["resources"][0];
        assert_eq!(pods["subresources"][0]["subresource"], "eviction");
        assert_eq!(
            pods["subresources"][2]["responseKind"],
            json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
        );
    }

    #[test]
    fn groups_and_versions_come_in_order_of_preference() {
        let resource = |group: &str, version: &str| {
            let mut resource = ResourceInfo::question(group, "things", "Thing", true);
            resource.kind.version = version.to_owned();
            resource
        };
        let groups = arrange([
            resource("zeta.example.com", "v1"),
            resource("autoscaling", "v1"),
            resource("autoscaling", "v2"),
            resource("autoscaling", "v2beta2"),
            resource("apps", "v1"),
            resource("alpha.example.com", "v1alpha1"),
        ]);
        let names: Vec<String> = groups.iter().map(GroupVersion::name).collect();
        assert_eq!(
            names,
            [
                "apps/v1",
                "autoscaling/v2",
                "autoscaling/v1",
                "autoscaling/v2beta2",
                "alpha.example.com/v1alpha1",
                "zeta.example.com/v1"
            ]
        );
        let aggregated = aggregated(&groups, Root::Groups, "v2beta1");
        assert_eq!(aggregated["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        assert_eq!(aggregated["items"][1]["versions"].as_array().unwrap().len(), 3);
        assert_eq!(api_group_list(&groups)["groups"].as_array().unwrap().len(), 4);
    }
}
