//! Who gives rights away must have them: rules of roles and bindings held against those of their author.
//!
//! Rules are taken apart into the smallest ones (one verb on one resource); each must be covered by a
//! rule of the author's. What is not covered is told, put together again.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::rbac::has;
use crate::identity::Authenticated;

/// What a refusal says of an author who lacks some of what `wanted` would give; `None`: nothing is lacking.
pub(crate) fn refusal(user: &Authenticated, owned: &[PolicyRule], wanted: &[PolicyRule]) -> Option<String> {
    let missing = missing(owned, wanted);
    if missing.is_empty() {
        return None;
    }
    let rules: Vec<String> = missing.iter().map(told).collect();
    let groups: Vec<String> = user.groups().iter().map(|group| format!("{group:?}")).collect();
    Some(format!(
        "user \"{}\" (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.user(),
        groups.join(" "),
        rules.join("\n")
    ))
}

/// The parts of `wanted` that no rule of `owned` covers; those of one resource are one rule.
fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut found: Vec<PolicyRule> = Vec::new();
    for part in wanted.iter().flat_map(parts) {
        if owned.iter().any(|rule| covers(rule, &part)) {
            continue;
        }
        let same = |rule: &&mut PolicyRule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
        };
        match found.iter_mut().find(same) {
            Some(rule) => {
                let new = part.verbs.into_iter().filter(|verb| !rule.verbs.contains(verb));
                rule.verbs.extend(new.collect::<Vec<_>>());
            }
            None => found.push(part),
        }
    }
    found.sort_by_key(told);
    found
}

/// The smallest rules that make up a rule.
fn parts(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut out = Vec::new();
    let one = |text: &String| Some(vec![text.clone()]);
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for url in rule.non_resource_urls.iter().flatten() {
            out.push(PolicyRule {
                verbs: verbs.clone(),
                non_resource_urls: one(url),
                ..PolicyRule::default()
            });
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let part = PolicyRule {
                    verbs: verbs.clone(),
                    api_groups: one(group),
                    resources: one(resource),
                    ..PolicyRule::default()
                };
                match rule.resource_names.as_deref() {
                    None | Some([]) => out.push(part),
                    Some(names) => out.extend(
                        names.iter().map(|name| PolicyRule { resource_names: one(name), ..part.clone() }),
                    ),
                }
            }
        }
    }
    out
}

/// Whether a rule gives everything that one of the smallest ones gives.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |list: Option<&Vec<String>>, parts: Option<&Vec<String>>| {
        parts.into_iter().flatten().all(|part| has(list, part))
    };
    if !part.verbs.iter().all(|verb| has(Some(&rule.verbs), verb)) {
        return false;
    }
    if let Some(urls) = &part.non_resource_urls {
        return urls.iter().all(|url| {
            rule.non_resource_urls.iter().flatten().any(|owned| match owned.strip_suffix('*') {
                Some(prefix) => url.starts_with(prefix),
                None => owned == url,
            })
        });
    }
    let of_part = |resource: &String| {
        // `*/scale` is that part of everything.
        resource.split_once('/').is_some_and(|(_, part)| {
            rule.resources.iter().flatten().any(|owned| *owned == format!("*/{part}"))
        })
    };
    let resources = part.resources.iter().flatten().all(|r| has(rule.resources.as_ref(), r) || of_part(r));
    let names = match rule.resource_names.as_deref() {
        None | Some([]) => true,
        Some(owned) => {
            part.resource_names.as_ref().is_some_and(|names| names.iter().all(|n| owned.contains(n)))
        }
    };
    resources && names && all(rule.api_groups.as_ref(), part.api_groups.as_ref())
}

/// A rule as refusals name it.
fn told(rule: &PolicyRule) -> String {
    let list = |name: &str, texts: Option<&Vec<String>>| {
        let texts: Vec<String> = texts?.iter().map(|text| format!("{text:?}")).collect();
        (!texts.is_empty()).then(|| format!("{name}:[{}]", texts.join(" ")))
    };
    let fields = [
        list("APIGroups", rule.api_groups.as_ref()),
        list("Resources", rule.resources.as_ref()),
        list("NonResourceURLs", rule.non_resource_urls.as_ref()),
        list("ResourceNames", rule.resource_names.as_ref()),
        list("Verbs", Some(&rule.verbs)),
    ];
    format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(texts(groups)),
            resources: Some(texts(resources)),
            resource_names: (!names.is_empty()).then(|| texts(names)),
            verbs: texts(verbs),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn what_is_held_may_be_given() {
        let pods = rule(&[""], &["pods"], &[], &["get", "list"]);
        for (owned, wanted, fine) in [
            (&pods, rule(&[""], &["pods"], &[], &["get"]), true),
            (&pods, rule(&[""], &["pods"], &["a"], &["list"]), true),
            (&pods, rule(&[""], &["pods"], &[], &["delete"]), false),
            (&pods, rule(&["", "apps"], &["pods"], &[], &["get"]), false),
            (&rule(&["*"], &["*"], &[], &["*"]), rule(&["apps"], &["deployments"], &[], &["*"]), true),
            (&rule(&[""], &["pods"], &["a"], &["get"]), rule(&[""], &["pods"], &[], &["get"]), false),
            (
                &rule(&["*"], &["*/scale"], &[], &["get"]),
                rule(&["apps"], &["deployments/scale"], &[], &["get"]),
                true,
            ),
        ] {
            assert_eq!(
                missing(std::slice::from_ref(owned), std::slice::from_ref(&wanted)).is_empty(),
                fine,
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn what_is_lacking_is_told_by_resource() {
        let user = Authenticated::impersonated("mia", Vec::new());
        let wanted = [rule(&[""], &["secrets", "pods"], &[], &["get", "list"])];
        let why = refusal(&user, &[rule(&[""], &["pods"], &[], &["get"])], &wanted).unwrap();
        assert_eq!(
            why,
            "user \"mia\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
        );
    }
}
