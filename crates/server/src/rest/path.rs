//! The URL space of the Kubernetes API.

/// A path below `/api/v1` or `/apis/<group>/<version>`, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    /// Empty for cluster-scoped kinds and for all namespaces.
    pub(super) namespace: String,
    pub(super) plural: String,
    /// Empty for collections.
    pub(super) name: String,
    pub(super) subresource: String,
    /// What follows the subresource (`proxy`).
    pub(super) rest: String,
}

/// Takes a path apart; `None` when it is none of a resource. Parts are percent-decoded.
pub(crate) fn parse(path: &str) -> Option<ResourcePath> {
    if path.starts_with("//") {
        return None;
    }
    let mut parts = path.trim_matches('/').split('/').map(decode);
    let (group, version) = match parts.next()?.as_str() {
        "api" => (String::new(), parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<String> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        [] => return None,
        // `status` and `finalize` are parts of a namespace, not resources in one.
        [first, namespace, third, ..]
            if first == "namespaces"
                && !(group.is_empty() && matches!(third.as_str(), "status" | "finalize")) =>
        {
            (namespace.clone(), &rest[2..])
        }
        _ => (String::new(), rest.as_slice()),
    };
    let part = |i: usize| rest.get(i).cloned().unwrap_or_default();
    Some(ResourcePath {
        group,
        version,
        namespace,
        plural: part(0),
        name: part(1),
        subresource: part(2),
        rest: rest.get(3..).map(|r| r.join("/")).unwrap_or_default(),
    })
}

fn decode(part: &str) -> String {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/pods", "", "", "pods", "", ""),
            ("/api/v1/namespaces/default/pods/a/log", "", "default", "pods", "a", "log"),
            ("/api/v1/namespaces/default", "", "", "namespaces", "default", ""),
            ("/api/v1/namespaces/default/status", "", "", "namespaces", "default", "status"),
            ("/apis/apps/v1/namespaces/n/deployments/d/scale", "apps", "n", "deployments", "d", "scale"),
            ("/api/v1/nodes/n1/status", "", "", "nodes", "n1", "status"),
        ];
        for (path, group, namespace, plural, name, subresource) in cases {
            let parsed = parse(path).unwrap();
            let found =
                (&*parsed.group, &*parsed.namespace, &*parsed.plural, &*parsed.name, &*parsed.subresource);
            assert_eq!(found, (group, namespace, plural, name, subresource), "{path}");
        }
        assert_eq!(parse("/healthz"), None);
        assert_eq!(parse("/api/v1"), None);
        assert_eq!(parse("//api/v1/pods"), None);
    }
}
