//! FlowSchema: which requests belong together, and at which priority level they are worked on.
//! Invariants: the schemas `exempt` and `catch-all` are what they always are; `exempt` alone comes first.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, FlowSchemaStatus, NonResourcePolicyRule, PolicyRulesWithSubjects,
    ResourcePolicyRule, Subject,
};
use serde_json::{Value, json};

use super::cells::{NONE, or_none};
use super::check::{default_number, invalid_each, json as shown, one_of, subdomain};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta;
use crate::table::{Cell, Column};

/// The schema of those who never wait, and of the level of that name.
pub const EXEMPT: &str = "exempt";
/// The schema of whatever no other one takes, and of the level of that name.
pub const CATCH_ALL: &str = "catch-all";
/// The condition that says whether the level is missing.
pub const DANGLING: &str = "Dangling";

const MOST_PRECEDENCE: i32 = 10_000;
const VERBS: [&str; 9] =
    ["get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"];

impl Kind for FlowSchema {
    const DESCRIPTOR: Descriptor = Descriptor {
        has_generation: true,
        subresources: &[Subresource::Status],
        columns: &[
            Column::NAME,
            Column::text("PriorityLevel"),
            Column::text("MatchingPrecedence"),
            Column::text("DistinguisherMethod"),
            Column::AGE,
            Column::text("MissingPL"),
        ],
        ..Descriptor::cluster(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "FlowSchema",
            "flowschemas",
            "flowschema",
            "flowcontrol.v1.FlowSchema",
        )
    };

    fn set_defaults(&mut self) {
        default_number(&mut self.spec.get_or_insert_default().matching_precedence, 1000);
    }

    fn prepare_create(&mut self) {
        self.status = Some(FlowSchemaStatus::default());
    }

    fn prepare_part(&mut self, old: &Self, _part: Subresource) {
        meta::keep(&mut self.metadata, &old.metadata);
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let (spec, path) = (self.spec.clone().unwrap_or_default(), Path::new("spec"));
        validate_spec(name, &spec, &path, errors);
        if mandatory(name).is_some_and(|fixed| fixed != spec) {
            errors.invalid(&path, shown(&spec), format!("spec of '{name}' must equal the fixed value"));
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        validate_condition_types(conditions.map(|condition| condition.type_.as_deref()), errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.clone().unwrap_or_default();
        let method = spec.distinguisher_method.as_ref().map_or(NONE, |method| method.type_.as_str());
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let dangling = conditions.into_iter().find(|condition| condition.type_.as_deref() == Some(DANGLING));
        vec![
            Cell::name(self.metadata()),
            Cell::text(spec.priority_level_configuration.name.as_str()),
            Cell::number(spec.matching_precedence.unwrap_or_default()),
            or_none(Some(method)),
            Cell::age(self.metadata(), now),
            Cell::text(dangling.and_then(|condition| condition.status.as_deref()).unwrap_or("?")),
        ]
    }
}

/// The rules that are about every request of these subjects.
pub fn all_requests(subjects: &Value) -> Value {
    json!([{
        "subjects": subjects,
        "resourceRules": [{
            "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
        }],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

/// These groups, as subjects of a schema.
pub fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

/// What a schema that every cluster must have looks like; `None` for all others.
pub fn mandatory(name: &str) -> Option<FlowSchemaSpec> {
    let spec = match name {
        EXEMPT => json!({
            "priorityLevelConfiguration": {"name": EXEMPT}, "matchingPrecedence": 1,
            "rules": all_requests(&groups(&["system:masters"])),
        }),
        CATCH_ALL => json!({
            "priorityLevelConfiguration": {"name": CATCH_ALL}, "matchingPrecedence": MOST_PRECEDENCE,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": all_requests(&groups(&["system:unauthenticated", "system:authenticated"])),
        }),
        _ => return None,
    };
    serde_json::from_value(spec).ok()
}

fn validate_spec(name: &str, spec: &FlowSchemaSpec, path: &Path, errors: &mut FieldErrors) {
    let (precedence, at) = (spec.matching_precedence.unwrap_or_default(), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > MOST_PRECEDENCE {
        errors.invalid(&at, precedence, format!("must not be greater than {MOST_PRECEDENCE}"));
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if let Some(method) = &spec.distinguisher_method {
        let at = path.child("distinguisherMethod").child("type");
        one_of(errors, &at, &method.type_, &["ByNamespace", "ByUser"]);
    }
    let at = path.child("priorityLevelConfiguration").child("name");
    match spec.priority_level_configuration.name.as_str() {
        "" => errors.required(&at, "must reference a priority level"),
        level => subdomain(errors, &at, level),
    }
    for (i, rules) in spec.rules.iter().flatten().enumerate() {
        validate_rules(rules, &path.child("rules").index(i), errors);
    }
}

fn validate_rules(rules: &PolicyRulesWithSubjects, path: &Path, errors: &mut FieldErrors) {
    if rules.subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in rules.subjects.iter().enumerate() {
        validate_subject(subject, &path.child("subjects").index(i), errors);
    }
    let resources = rules.resource_rules.as_deref().unwrap_or_default();
    let others = rules.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        validate_resource_rule(rule, &path.child("resourceRules").index(i), errors);
    }
    for (i, rule) in others.iter().enumerate() {
        validate_other_rule(rule, &path.child("nonResourceRules").index(i), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path, errors: &mut FieldErrors) {
    let kinds = ["Group", "ServiceAccount", "User"];
    let kind = subject.kind.as_str();
    if !kinds.contains(&kind) {
        return one_of(errors, &path.child("kind"), kind, &kinds);
    }
    let parts = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    for (of, field, there) in parts {
        let at = path.child(field);
        if kind == of && !there {
            errors.required(&at, format!("{field} is required when subject kind is '{of}'"));
        } else if kind != of && there {
            errors.forbidden(&at, format!("{field} is forbidden when subject kind is not '{of}'"));
        }
    }
    let named = match kind {
        "User" => subject.user.as_ref().map(|user| user.name.as_str()),
        "Group" => subject.group.as_ref().map(|group| group.name.as_str()),
        _ => subject.service_account.as_ref().map(|account| account.name.as_str()),
    };
    let field = parts.iter().find(|(of, ..)| *of == kind).map_or("", |(_, field, _)| *field);
    if named == Some("") {
        errors.required(&path.child(field).child("name"), "");
    }
    let Some(account) = subject.service_account.as_ref().filter(|_| kind == "ServiceAccount") else { return };
    if !matches!(account.name.as_str(), "" | "*") {
        subdomain(errors, &path.child(field).child("name"), &account.name);
    }
    let at = path.child(field).child("namespace");
    if account.namespace.is_empty() {
        errors.required(&at, "must specify namespace for service account");
    } else {
        invalid_each(errors, &at, &account.namespace, meta::dns1123_label(&account.namespace));
    }
}

/// A list in which `*` stands alone; whether its items are worth a look.
fn one_or_more(list: &[String], path: &Path, none: &str, others: &str, errors: &mut FieldErrors) -> bool {
    let any = list.iter().any(|item| item == "*");
    if list.is_empty() {
        errors.required(path, none);
    } else if any && list.len() > 1 {
        errors.invalid(path, shown(&list), format!("if '*' is present, must not specify other {others}"));
    }
    !any && !list.is_empty()
}

fn validate_verbs(verbs: &[String], path: &Path, errors: &mut FieldErrors) {
    let look = one_or_more(verbs, path, "verbs must contain at least one value", "verbs", errors);
    if look && !verbs.iter().all(|verb| VERBS.contains(&verb.as_str())) {
        errors.not_supported(path, shown(&verbs), &VERBS);
    }
}

fn validate_resource_rule(rule: &ResourcePolicyRule, path: &Path, errors: &mut FieldErrors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let none = "resource rules must supply at least one api group";
    one_or_more(&rule.api_groups, &path.child("apiGroups"), none, "api groups", errors);
    let none = "resource rules must supply at least one resource";
    one_or_more(&rule.resources, &path.child("resources"), none, "resources", errors);
    let (namespaces, at) = (rule.namespaces.as_deref().unwrap_or_default(), path.child("namespaces"));
    if namespaces.is_empty() && rule.cluster_scope == Some(true) {
        return;
    }
    let none = "resource rules that are not cluster scoped must supply at least one namespace";
    if !one_or_more(namespaces, &at, none, "namespaces", errors) {
        return;
    }
    for (i, namespace) in namespaces.iter().enumerate() {
        for wrong in meta::dns1123_label(namespace) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
            errors.invalid(&at.index(i), namespace.as_str(), detail);
        }
    }
}

fn validate_other_rule(rule: &NonResourcePolicyRule, path: &Path, errors: &mut FieldErrors) {
    validate_verbs(&rule.verbs, &path.child("verbs"), errors);
    let (urls, at) = (rule.non_resource_urls.as_slice(), path.child("nonResourceURLs"));
    let none = "nonResourceURLs must contain at least one value";
    if one_or_more(urls, &at, none, "non-resource URLs", errors) {
        for (i, url) in urls.iter().enumerate() {
            if let Some(wrong) = wrong_with_url(url) {
                errors.invalid(&at.index(i), url.as_str(), wrong);
            }
        }
    }
}

fn wrong_with_url(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        Some("must not be empty")
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else {
        let stars = url.matches('*').count();
        (stars > 1 || (stars == 1 && !url.ends_with("/*"))).then_some("wildcard can only do suffix matching")
    }
}

/// Refuses conditions without a type, and two of one type.
pub(super) fn validate_condition_types<'a>(
    types: impl Iterator<Item = Option<&'a str>>,
    errors: &mut FieldErrors,
) {
    let path = Path::new("status").child("conditions");
    let mut seen = std::collections::BTreeSet::new();
    for (i, type_) in types.enumerate() {
        let (type_, at) = (type_.unwrap_or_default(), path.index(i).child("type"));
        if !seen.insert(type_) {
            errors.duplicate(&at, type_);
        }
        if type_.is_empty() {
            errors.required(&at, "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let mut schema: FlowSchema = serde_json::from_value(object).unwrap();
        Kind::set_defaults(&mut schema);
        let mut errors = FieldErrors::new();
        Kind::validate(&schema, &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_every_cluster_has_stays_as_it_is() {
        for name in [EXEMPT, CATCH_ALL] {
            let mut spec = serde_json::to_value(mandatory(name).unwrap()).unwrap();
            assert_eq!(wrong(name, spec.clone()), [""; 0]);
            spec["matchingPrecedence"] = 2.into();
            let said = wrong(name, spec);
            assert!(said[0].ends_with(&format!("spec of '{name}' must equal the fixed value")), "{said:?}");
        }
    }

    #[test]
    fn rules_are_checked_in_kubernetes_words() {
        let said = wrong(
            "f",
            json!({
                "matchingPrecedence": 1, "priorityLevelConfiguration": {"name": ""},
                "distinguisherMethod": {"type": "ByMoon"},
                "rules": [
                    {"subjects": [{"kind": "User", "group": {"name": "g"}}], "resourceRules": [{
                        "verbs": ["get", "*"], "apiGroups": [], "resources": ["pods"], "namespaces": ["Not_One"]}]},
                    {"subjects": [], "nonResourceRules": [{"verbs": ["shout"], "nonResourceURLs": ["a", "/b*"]}]},
                    {"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": ""}}]},
                ],
            }),
        );
        let fields: Vec<&str> = said.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(
            fields,
            [
                "spec.matchingPrecedence",
                "spec.distinguisherMethod.type",
                "spec.priorityLevelConfiguration.name",
                "spec.rules[0].subjects[0].user",
                "spec.rules[0].subjects[0].group",
                "spec.rules[0].resourceRules[0].verbs",
                "spec.rules[0].resourceRules[0].apiGroups",
                "spec.rules[0].resourceRules[0].namespaces[0]",
                "spec.rules[1].subjects",
                "spec.rules[1].nonResourceRules[0].verbs",
                "spec.rules[1].nonResourceRules[0].nonResourceURLs[0]",
                "spec.rules[1].nonResourceRules[0].nonResourceURLs[1]",
                "spec.rules[2].subjects[0].serviceAccount.namespace",
                "spec.rules[2]",
            ]
        );
        assert_eq!(
            said[0],
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"
        );
    }

    #[test]
    fn a_condition_is_there_once() {
        let mut errors = FieldErrors::new();
        validate_condition_types([Some(DANGLING), Some(DANGLING), None].into_iter(), &mut errors);
        let said: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(said[0], "status.conditions[1].type: Duplicate value: \"Dangling\"");
        assert_eq!(said[1], "status.conditions[2].type: Required value: must not be empty");
    }
}
