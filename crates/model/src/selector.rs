//! Label and field selectors, and the [`Filter`] that lists and watches apply.
//!
//! Grammar, meaning and wordings are those of `k8s.io/apimachinery` `labels` and `fields`.

mod field;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as MetaSelector;

use crate::field::Path;
use crate::kind::KindRef;
use crate::meta;
use crate::object::Object;
use crate::status::Failure;

pub use field::FieldSelector;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// Checks the key and the values against the operator, with the messages that clients see.
    fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        values.sort_unstable();
        values.dedup();
        let path = Path::new("values");
        let quoted = serde_json::Value::from(values.clone());
        let invalid = |path: &Path, value: &serde_json::Value, why: &str| {
            Err(format!("{path}: Invalid value: {value}: {why}"))
        };
        check_key(&key)?;
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return invalid(&path, &quoted, "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return invalid(&path, &quoted, "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let why = "for 'Gt', 'Lt' operators, exactly one value is required";
                    return invalid(&path, &quoted, why);
                }
                if values[0].parse::<i64>().is_err() {
                    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                    return invalid(&path.index(0), &quoted[0], why);
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = meta::label_value(value);
            if !wrong.is_empty() {
                return invalid(&path.index(i).key(&key), &quoted[i], &wrong.join("; "));
            }
        }
        Ok(Self { key, operator, values })
    }

    fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key));
        let listed = || value.is_some_and(|value| self.values.contains(value));
        let number = |text: &String| text.parse::<i64>().ok();
        let limit = || self.values.first().and_then(number);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => listed(),
            Operator::NotIn | Operator::NotEquals => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => value.and_then(number).zip(limit()).is_some_and(|(v, limit)| v > limit),
            Operator::LessThan => value.and_then(number).zip(limit()).is_some_and(|(v, limit)| v < limit),
        }
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let wrong = meta::qualified_name(key);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("<nil>: Invalid value: {}: {}", serde_json::Value::from(key), wrong.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |word: &str| format!("{} {word} ({})", self.key, self.values.join(","));
        let infix = |sign: &str| format!("{}{sign}{}", self.key, self.values.join(","));
        f.write_str(&match self.operator {
            Operator::In => set("in"),
            Operator::NotIn => set("notin"),
            Operator::Equals => infix("="),
            Operator::DoubleEquals => infix("=="),
            Operator::NotEquals => infix("!="),
            Operator::GreaterThan => infix(">"),
            Operator::LessThan => infix("<"),
            Operator::Exists => self.key.clone(),
            Operator::DoesNotExist => format!("!{}", self.key),
        })
    }
}

/// Which labels an object must have. Shared, not copied, when cloned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// All must hold; sorted by key.
    requirements: Arc<[Requirement]>,
    /// Selects no object at all: what an absent `selector` means for workloads.
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object: what a `selector` that is not there means.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Reads the text form, `app=web,tier in (a,b),!old`. Empty selects everything.
    ///
    /// # Errors
    /// `BadRequest` when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        parse::requirements(text).map(Self::from_requirements).map_err(Failure::bad_request)
    }

    /// The selector of a workload: an empty one selects everything.
    ///
    /// # Errors
    /// `BadRequest` when an operator is unknown or values do not fit it.
    pub fn from_meta(selector: &MetaSelector) -> Result<Self, Failure> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.clone(), Operator::Equals, vec![value.clone()]));
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(Failure::bad_request(format!(
                        "\"{other}\" is not a valid label selector operator"
                    )));
                }
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(expression.key.clone(), operator, values));
        }
        let requirements: Result<Vec<_>, String> = requirements.into_iter().collect();
        requirements.map(Self::from_requirements).map_err(Failure::bad_request)
    }

    /// Selects objects that have all of these labels (Services, replication controllers). Labels were
    /// validated with the object that holds them.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::from_requirements(labels.iter().map(equals).collect())
    }

    fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: requirements.into(), nothing: false }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether every object is selected, whatever its labels.
    pub fn selects_all(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The value that a label must have for an object to be selected, when only one will do.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find_map(|requirement| {
            let one =
                matches!(requirement.operator, Operator::In | Operator::Equals | Operator::DoubleEquals)
                    && requirement.values.len() == 1;
            (one && requirement.key == key).then(|| requirement.values[0].as_str())
        })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// What a list or a watch wants to see of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only objects of this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only the object of this name.
    pub name: Option<Arc<str>>,
    /// Only objects with these labels.
    pub labels: LabelSelector,
    /// Only objects with these fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Keeps every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Keeps every object of a namespace; empty: of all.
    pub fn namespaced(namespace: &str) -> Self {
        Self { namespace: (!namespace.is_empty()).then(|| namespace.into()), ..Self::default() }
    }

    /// Whether it keeps an object. The cheap questions come first; only a field selector beyond name
    /// and namespace decodes the object.
    pub fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.key().namespace)
            && self.name.as_ref().is_none_or(|name| *name == object.key().name)
            && self.labels.matches(object.meta().labels.as_ref())
            && self.fields.matches(object)
    }

    /// The same for the stored objects of a kind.
    #[must_use]
    pub fn of_stored(self, kind: KindRef) -> Self {
        match kind.face() {
            Some(face) => Self { fields: self.fields.relabelled(face.label), ..self },
            None => self,
        }
    }

    /// Whether it keeps every object of its kind.
    pub fn selects_all(&self) -> bool {
        self.namespace.is_none()
            && self.name.is_none()
            && self.labels.selects_all()
            && self.fields.selects_all()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use serde_json::json;

    use super::*;
    use crate::kind::kind_of;
    use crate::object::Revision;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors_select() {
        let web = labels(&[("app", "web"), ("t", "x"), ("n", "7")]);
        let yes = [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "app in (web,db)",
            "app notin (db)",
            "other notin (db)",
            "t",
            "!env",
            "n>6,n<8",
            "app in (db, web), t = x",
            "env!=",
        ];
        for text in yes {
            assert!(LabelSelector::parse(text).unwrap().matches(Some(&web)), "{text}");
        }
        for text in ["app=db", "app!=web", "env", "!t", "n>7", "app in ()", "t notin (x)", "env="] {
            assert!(!LabelSelector::parse(text).unwrap().matches(Some(&web)), "{text}");
        }
        assert!(LabelSelector::parse("!a").unwrap().matches(None));
        assert!(!LabelSelector::nothing().matches(Some(&web)));
    }

    #[test]
    fn selectors_print_in_canonical_form() {
        for (text, canonical) in [
            ("b in ( y , x ),a", "a,b in (x,y)"),
            ("!z, a==1 ,c!=2", "a==1,c!=2,!z"),
            ("in in (in)", "in in (in)"),
            ("notin", "notin"),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.to_string(), canonical);
            assert_eq!(LabelSelector::parse(canonical).unwrap(), selector);
        }
        assert_eq!(LabelSelector::parse("app in (web)").unwrap().exact("app"), Some("web"));
    }

    #[test]
    fn mistakes_are_told_as_kubernetes_tells_them() {
        for (text, message) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("app=web,", "found '', expected: identifier after ','"),
            (
                "app>web",
                "unable to parse requirement: values[0]: Invalid value: \"web\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("a==b==c", "found '==', expected: ',' or 'end of string'"),
            ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().message, message, "{text}");
        }
        assert!(LabelSelector::parse("a/b/c=1").is_err());
        assert!(LabelSelector::parse("a=@").is_err());
    }

    #[test]
    fn workload_selectors_select() {
        let requirement = |operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: "tier".to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        let selector = |expression| MetaSelector {
            match_labels: Some(labels(&[("app", "web")])),
            match_expressions: Some(vec![expression]),
        };
        let parsed = LabelSelector::from_meta(&selector(requirement("NotIn", &["b"]))).unwrap();
        assert_eq!(parsed.to_string(), "app=web,tier notin (b)");
        assert!(parsed.matches(Some(&labels(&[("app", "web")]))));
        let error = LabelSelector::from_meta(&selector(requirement("Gt", &["1"]))).unwrap_err();
        assert_eq!(error.message, "\"Gt\" is not a valid label selector operator");
        assert!(LabelSelector::from_meta(&MetaSelector::default()).unwrap().selects_all());
    }

    #[test]
    fn filters_see_name_namespace_labels_and_fields() {
        let kind = kind_of::<ConfigMap>();
        let bytes = Object::canonical(
            kind,
            &json!({"metadata": {"name": "c", "namespace": "n", "labels": {"a": "b"}}}),
        );
        let object = Object::seal(kind, &bytes, Revision(1)).unwrap();
        assert!(Filter::everything().selects_all());
        assert!(Filter::everything().matches(&object));
        assert!(Filter::namespaced("n").matches(&object));
        assert!(!Filter::namespaced("m").matches(&object));
        let labels = LabelSelector::parse("a=c").unwrap();
        assert!(!Filter { labels, ..Filter::everything() }.matches(&object));
        let fields = |text| FieldSelector::parse(text, &<ConfigMap as crate::Kind>::DESCRIPTOR).unwrap();
        assert!(Filter { fields: fields("metadata.name=c"), ..Filter::everything() }.matches(&object));
        assert!(!Filter { fields: fields("metadata.name!=c"), ..Filter::everything() }.matches(&object));
    }
}
