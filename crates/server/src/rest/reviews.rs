//! Questions that are answered and not stored: who somebody is, and what they may do; and bindings,
//! which are orders about a pod at a URL of their own.
//!
//! Everybody with a name may ask about themselves; about others only who is allowed to.

use axum::body::Body;
use axum::response::Response;
use balsa_model::field::{FieldErrors, Path};
use balsa_model::{Descriptor, Failure, Key, Reason, schema};
use balsa_state::State;
use http::{Method, StatusCode};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value, json};

use super::path::ResourcePath;
use super::{Call, body, respond, subresources, texts};
use crate::authorize::{Attributes, MASTERS, rbac};
use crate::identity::Authenticated;

/// The group of everybody with a name.
const AUTHENTICATED: &str = "system:authenticated";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Binding,
    LocalSubjectAccessReview,
    SelfSubjectAccessReview,
    SelfSubjectReview,
    SelfSubjectRulesReview,
    SubjectAccessReview,
    TokenReview,
}

/// The questions, and where they are asked.
const QUESTIONS: [(Question, &str, &str, &str); 7] = [
    (Question::Binding, "", "bindings", "Binding"),
    (Question::SelfSubjectReview, "authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    (Question::TokenReview, "authentication.k8s.io", "tokenreviews", "TokenReview"),
    (
        Question::LocalSubjectAccessReview,
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        "LocalSubjectAccessReview",
    ),
    (
        Question::SelfSubjectAccessReview,
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "SelfSubjectAccessReview",
    ),
    (
        Question::SelfSubjectRulesReview,
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        "SelfSubjectRulesReview",
    ),
    (Question::SubjectAccessReview, "authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
];

/// The question that a path asks.
pub(super) fn question(path: &ResourcePath) -> Option<Question> {
    let matches = |(_, group, plural, _): &&(Question, &str, &str, &str)| {
        path.version == "v1" && path.group == *group && path.plural == *plural
    };
    QUESTIONS.iter().find(matches).map(|(question, ..)| *question)
}

impl Question {
    fn kind(self) -> &'static str {
        QUESTIONS.iter().find(|(question, ..)| *question == self).map_or("", |(.., kind)| kind)
    }

    /// Whether it is asked within a namespace.
    fn is_namespaced(self) -> bool {
        matches!(self, Self::Binding | Self::LocalSubjectAccessReview)
    }

    /// Whether it is about whoever asks.
    fn is_about_self(self) -> bool {
        matches!(self, Self::SelfSubjectAccessReview | Self::SelfSubjectReview | Self::SelfSubjectRulesReview)
    }

    /// Its name in the tables of messages.
    fn message(self) -> String {
        let package = match self {
            Self::Binding => "core",
            Self::SelfSubjectReview | Self::TokenReview => "authentication",
            _ => "authorization",
        };
        format!("{package}.v1.{}", self.kind())
    }
}

/// Answers a question.
pub(super) async fn serve(
    question: Question,
    call: Call,
    path: ResourcePath,
    body: Body,
) -> Result<Response, Failure> {
    if question.is_namespaced() == path.namespace.is_empty() || !path.subresource.is_empty() {
        return Err(Failure::generic(Reason::NotFound));
    }
    if call.method != Method::POST || !path.name.is_empty() {
        return Err(Failure::generic(Reason::MethodNotAllowed));
    }
    let attributes = Attributes {
        verb: "create".to_owned(),
        group: path.group.clone(),
        resource: path.plural.clone(),
        namespace: path.namespace.clone(),
        ..Attributes::default()
    };
    if question == Question::Binding {
        let who = call.front.authorize(&call.user, &attributes)?;
        let value = subresources::binding(&call, body).await?;
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let pod = Key::new(path.namespace.as_str(), name);
        return subresources::bind_pod(&call, &who, pod, &value).await;
    }
    if !(question.is_about_self() && call.user.is_in(AUTHENTICATED)) {
        call.front.authorize(&call.user, &attributes)?;
    }
    let mut value = read(question, &call, &path, body).await?;
    check_metadata(question, &value)?;
    let status = answer(question, &call, &path, &value)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("status".to_owned(), status);
    }
    Ok(respond::value(StatusCode::CREATED, &value))
}

/// The question as it is repeated in the answer.
async fn read(question: Question, call: &Call, path: &ResourcePath, body: Body) -> Result<Value, Failure> {
    let bytes = body::read(body).await?;
    let message = question.message();
    let (value, _) = body::parse(&call.headers, &bytes, &message)?;
    let api_version = format!("{}/{}", path.group, path.version);
    body::require_type(question.kind(), &api_version, &value)?;
    let checked = schema::check(&message, value)?.value;
    let mut whole = Map::new();
    whole.insert("kind".to_owned(), question.kind().into());
    whole.insert("apiVersion".to_owned(), api_version.into());
    whole.insert("metadata".to_owned(), json!({}));
    if let Value::Object(fields) = checked {
        whole.extend(
            fields.into_iter().filter(|(name, _)| !matches!(name.as_str(), "kind" | "apiVersion" | "status")),
        );
    }
    Ok(Value::Object(whole))
}

fn answer(question: Question, call: &Call, path: &ResourcePath, value: &Value) -> Result<Value, Failure> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let access = |user: &Authenticated| {
        let wanted = wanted(value)?;
        Ok(match call.front.authorizer.why(user, &wanted) {
            Some(why) if why.is_empty() => json!({"allowed": true}),
            Some(why) => json!({"allowed": true, "reason": why}),
            None => json!({"allowed": false}),
        })
    };
    match question {
        // Orders are no questions: they were handled before.
        Question::Binding => Err(Failure::generic(Reason::NotFound)),
        Question::SelfSubjectReview => Ok(json!({"userInfo": user_info(&call.user)})),
        Question::TokenReview => token_review(call, text("/spec/token"), &texts(value, "/spec/audiences")),
        Question::SelfSubjectAccessReview => access(&call.user),
        Question::SubjectAccessReview => access(&subject(value)?),
        Question::LocalSubjectAccessReview => {
            let namespace = text("/spec/resourceAttributes/namespace");
            if namespace != path.namespace {
                let why = format!("must match the namespace of the URL, {}", path.namespace);
                return Err(wrong("namespace", namespace, &why));
            }
            access(&subject(value)?)
        }
        Question::SelfSubjectRulesReview => {
            let namespace = text("/spec/namespace");
            if namespace.is_empty() {
                return Err(Failure::bad_request("no namespace on request"));
            }
            Ok(rules_status(&rules_of(call.front.engine.state(), &call.user, namespace)))
        }
    }
}

fn user_info(user: &Authenticated) -> Value {
    let mut info = json!({"username": &**user.user(), "groups": user.groups()});
    if !user.uid().is_empty() {
        info["uid"] = user.uid().into();
    }
    if !user.extra().is_empty() {
        info["extra"] = json!(user.extra());
    }
    info
}

fn token_review(call: &Call, token: &str, audiences: &[String]) -> Result<Value, Failure> {
    if token.is_empty() {
        return Err(Failure::bad_request("token is required for TokenReview in authentication"));
    }
    Ok(match call.front.authenticator.review(token, audiences) {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why.to_string()}),
    })
}

/// Questions about what somebody may do are nobody's objects: they have no names. What is wrong with the question
/// itself is said first.
fn check_metadata(question: Question, value: &Value) -> Result<(), Failure> {
    let (may_be, detail): (&[&str], _) = match question {
        Question::SelfSubjectAccessReview | Question::SubjectAccessReview => {
            (&["managedFields"], "must be empty")
        }
        Question::LocalSubjectAccessReview => {
            (&["managedFields", "namespace"], "must be empty except for namespace")
        }
        _ => return Ok(()),
    };
    let metadata = value.get("metadata").and_then(Value::as_object).into_iter().flatten();
    let is_set = |value: &Value| !value.is_null() && *value != json!("");
    let said = metadata.filter(|(name, value)| is_set(value) && !may_be.contains(&name.as_str()));
    if said.count() == 0 {
        return Ok(());
    }
    wanted(value)?;
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::new("metadata"), value["metadata"].clone(), detail);
    Err(invalid(errors))
}

/// The refusal of a question's field.
fn wrong(field: &str, value: &str, why: &str) -> Failure {
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::new("spec").child(field), value, why);
    invalid(errors)
}

fn invalid(errors: FieldErrors) -> Failure {
    // These refusals name the group only.
    let nothing = Descriptor::cluster("authorization.k8s.io", "v1", "", "", "", "");
    Failure::invalid(&nothing, "", errors)
        .unwrap_or_else(|| Failure::internal("a question was refused without a reason"))
}

/// The user whom a question is about.
fn subject(value: &Value) -> Result<Authenticated, Failure> {
    let user = value.pointer("/spec/user").and_then(Value::as_str).unwrap_or_default();
    let groups = texts(value, "/spec/groups");
    if user.is_empty() && groups.is_empty() {
        return Err(wrong("user", "", "at least one of user or group must be specified"));
    }
    Ok(Authenticated::impersonated(user, groups))
}

/// What a question is about: objects, or another path.
fn wanted(value: &Value) -> Result<Attributes, Failure> {
    let spec = Path::new("spec");
    let mut errors = FieldErrors::new();
    let part = |name: &str| value.pointer(&format!("/spec/{name}")).filter(|part| part.is_object());
    let text =
        |part: &Value, field: &str| part.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (part("resourceAttributes"), part("nonResourceAttributes")) {
        (Some(part), None) => {
            let any = |text: String| if text == "*" { String::new() } else { text };
            return Ok(Attributes {
                verb: text(part, "verb"),
                group: text(part, "group"),
                resource: text(part, "resource"),
                subresource: text(part, "subresource"),
                namespace: any(text(part, "namespace")),
                name: text(part, "name"),
                ..Attributes::default()
            });
        }
        (None, Some(part)) => {
            return Ok(Attributes {
                verb: text(part, "verb"),
                path: text(part, "path"),
                ..Attributes::default()
            });
        }
        (Some(_), Some(part)) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&spec.child("nonResourceAttributes"), part.clone(), why);
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&spec.child("resourceAttributes"), "null", why);
        }
    }
    Err(invalid(errors))
}

fn rules_status(rules: &[PolicyRule]) -> Value {
    let (mut resource, mut other) = (Vec::new(), Vec::new());
    for rule in rules {
        if rule.resources.is_some() {
            let mut shown =
                json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(names) = &rule.resource_names {
                shown["resourceNames"] = names.clone().into();
            }
            resource.push(shown);
        } else if let Some(urls) = &rule.non_resource_urls {
            other.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
        }
    }
    json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": false})
}

/// What a user may do in a namespace, rule by rule.
fn rules_of(state: &State, user: &Authenticated, namespace: &str) -> Vec<PolicyRule> {
    let everything = || Some(vec!["*".to_owned()]);
    let mut rules = Vec::new();
    if user.is_in(MASTERS) {
        let all = PolicyRule { verbs: vec!["*".to_owned()], ..PolicyRule::default() };
        rules.push(PolicyRule { api_groups: everything(), resources: everything(), ..all.clone() });
        rules.push(PolicyRule { non_resource_urls: everything(), ..all });
    }
    rules.extend(rbac::rules(state, user, namespace));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(spec: Value) -> Result<Attributes, Failure> {
        wanted(&json!({"spec": spec}))
    }

    #[test]
    fn questions_are_found_by_their_path() {
        let path = |group: &str, plural: &str| ResourcePath {
            group: group.to_owned(),
            version: "v1".to_owned(),
            plural: plural.to_owned(),
            ..ResourcePath::default()
        };
        assert_eq!(question(&path("authentication.k8s.io", "tokenreviews")), Some(Question::TokenReview));
        assert_eq!(question(&path("", "bindings")), Some(Question::Binding));
        assert_eq!(question(&path("", "pods")), None);
        for (question, ..) in QUESTIONS {
            assert!(schema::check(&question.message(), json!({})).is_ok(), "{question:?}");
        }
    }

    #[test]
    fn a_question_has_no_name() {
        let with = |metadata: Value| json!({"metadata": metadata, "spec": {"nonResourceAttributes": {}}});
        let refused =
            |question, metadata: Value| check_metadata(question, &with(metadata)).err().map(|e| e.message);
        let own = Question::SelfSubjectAccessReview;
        assert_eq!(refused(own, json!({"creationTimestamp": null, "name": ""})), None);
        let why = refused(own, json!({"name": "x"})).unwrap_or_default();
        assert!(why.ends_with("metadata: Invalid value: {\"name\":\"x\"}: must be empty"), "{why}");
        let local = Question::LocalSubjectAccessReview;
        assert_eq!(refused(local, json!({"namespace": "n"})), None);
        assert!(refused(local, json!({"labels": {"a": "b"}})).is_some());
        assert_eq!(refused(Question::TokenReview, json!({"name": "x"})), None);
    }

    #[test]
    fn a_question_is_about_objects_or_a_path() {
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "*"});
        let attributes = asked(json!({"resourceAttributes": pods})).unwrap();
        assert_eq!((&*attributes.resource, &*attributes.namespace), ("pods", ""));
        let path = json!({"verb": "get", "path": "/metrics"});
        assert_eq!(asked(json!({"nonResourceAttributes": path})).unwrap().path, "/metrics");
        let both = asked(json!({"resourceAttributes": pods, "nonResourceAttributes": path})).unwrap_err();
        assert_eq!(both.causes[0].field, "spec.nonResourceAttributes");
        let none = asked(json!({})).unwrap_err();
        assert!(none.message.starts_with(".authorization.k8s.io \"\" is invalid: spec.resourceAttributes"));
        let nobody = subject(&json!({"spec": {}})).unwrap_err();
        assert_eq!(nobody.causes[0].field, "spec.user");
    }
}
