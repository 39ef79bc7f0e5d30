//! Pods as the checks look at them, and how their findings are worded.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, SecurityContext};

use crate::kind::Pods;
use crate::kinds::pod_spec::members::{Member, members};

/// What is checked.
pub(super) struct Subject<'a> {
    pub(super) annotations: Option<&'a BTreeMap<String, String>>,
    pub(super) spec: &'a PodSpec,
    pub(super) containers: Vec<Member<'a>>,
    /// As of which minor version of Kubernetes.
    pub(super) minor: u32,
}

impl<'a> Subject<'a> {
    pub(super) fn new(pods: &Pods<'a>, minor: u32) -> Self {
        let annotations = pods.meta.and_then(|meta| meta.annotations.as_ref());
        Self { annotations, spec: pods.spec, containers: members(pods.spec, &pods.path), minor }
    }

    /// What the pod says for all its containers.
    pub(super) fn security(&self) -> Option<&'a PodSecurityContext> {
        self.spec.security_context.as_ref()
    }

    /// Whether it runs on Windows, where since 1.25 nothing is asked that only Linux has.
    pub(super) fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }

    /// The names of the containers whose security context is like that.
    pub(super) fn names(&self, is_so: impl Fn(&SecurityContext) -> bool) -> Vec<&'a str> {
        self.names_of(|container| container.context.is_some_and(&is_so))
    }

    /// The names of the containers that are like that.
    pub(super) fn names_of(&self, is_so: impl Fn(&Member<'a>) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|container| is_so(container)).map(|container| container.name).collect()
    }
}

/// The pod, the containers, or both, in one phrase; `None` when it is neither.
pub(super) fn setters(is_pod: bool, names: &[&str]) -> Option<String> {
    let pod = is_pod.then(|| "pod".to_owned());
    let containers = (!names.is_empty()).then(|| containers(names));
    let all: Vec<_> = pod.into_iter().chain(containers).collect();
    if all.is_empty() { None } else { Some(all.join(" and ")) }
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// A word for so many.
pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `uses` of one, `use` of several.
pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

/// `"a", "b"`.
pub(super) fn quoted<'a>(words: impl IntoIterator<Item = &'a (impl AsRef<str> + 'a + ?Sized)>) -> String {
    words.into_iter().map(|word| format!("{:?}", word.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Each value once, in order, quoted.
pub(super) fn quoted_set<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let set: BTreeSet<&str> = values.into_iter().collect();
    quoted(set)
}
