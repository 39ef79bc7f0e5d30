//! What stands where in an object, as far as ownership cares: which values are owned as a whole, which
//! field by field, and how the items of lists are told apart.
//!
//! From the table of messages and the list semantics for built-in kinds. Custom resources are judged by
//! what they look like: maps field by field, lists as a whole.

use serde_json::{Map, Value};

use super::element::Element;
use crate::schema::list::Semantics;
use crate::schema::table::{self, Cardinality, Field, Message, Type};

/// Structures that are owned as a whole, wherever they stand. The list semantics, which go by field, do
/// not have them.
const ATOMIC: &[&str] = &[
    "admissionregistration.v1.MatchResources",
    "admissionregistration.v1.NamedRuleWithOperations",
    "admissionregistration.v1.ParamKind",
    "admissionregistration.v1.ParamRef",
    "admissionregistration.v1.Variable",
    "autoscaling.v1.CrossVersionObjectReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.ScopedResourceSelectorRequirement",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// Structures and lists of structures that Kubernetes always writes, if empty: nobody brings them into being.
const ALWAYS_THERE: &[&str] = &[
    "containers",
    "daemonEndpoints",
    "drivers",
    "involvedObject",
    "jobTemplate",
    "kubeletEndpoint",
    "lastState",
    "loadBalancer",
    "metadata",
    "nodeInfo",
    "resources",
    "spec",
    "state",
    "status",
    "strategy",
    "template",
    "updateStrategy",
];

/// How values of a place are owned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(super) form: Form,
    /// Owned as a whole, whatever is in it.
    pub(super) atomic: bool,
}

/// What a value should look like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Scalar(Scalar),
    /// The flag says that apiVersion and kind may stand in it.
    Struct(&'static Message, bool),
    /// Keys are text.
    Map(Type),
    List(Type, Keys),
    /// The root of a custom resource.
    Custom,
    /// Whatever it looks like.
    Deduced,
}

/// Values without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Number,
    Text,
    Bool,
    Any,
}

/// What tells the items of a list apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    /// Nothing: the list is owned as a whole.
    None,
    /// Their values.
    Values,
    /// These fields.
    Fields(&'static [String]),
}

impl Shape {
    /// The shape of a kind's objects, by the name of its message.
    pub(crate) fn of_kind(message: &str) -> Self {
        match table::find(message) {
            Some(id) => Self { form: Form::Struct(id.get(), true), atomic: false },
            None => Self { form: Form::Custom, atomic: false },
        }
    }

    const fn deduced(atomic: bool) -> Self {
        Self { form: Form::Deduced, atomic }
    }

    /// The shape of a field; `None`: there is none of that name.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        match self.form {
            Form::Struct(message, root) => match message.json_field(name) {
                Some(field) => Some(Self::of_field(message.json_owner(name).unwrap_or(message), field)),
                None if matches!(name, "apiVersion" | "kind") && (root || message.has_type_meta) => {
                    Some(Self { form: Form::Scalar(Scalar::Text), atomic: false })
                }
                None => None,
            },
            Form::Map(values) => Some(Self::of_value(values)),
            Form::Custom if name == "metadata" => {
                table::find("am.apis.meta.v1.ObjectMeta").map(|id| Self::of_value(Type::Message(id)))
            }
            Form::Custom => Some(Self::deduced(false)),
            Form::Deduced => Some(Self::deduced(self.atomic)),
            Form::Scalar(_) | Form::List(..) => None,
        }
    }

    /// Whether it is a structure that has a field of that name.
    pub(super) fn names(&self, name: &str) -> bool {
        match self.form {
            Form::Struct(..) => self.field(name).is_some(),
            _ => false,
        }
    }

    /// The shape of the items of a list.
    pub(super) fn item(&self) -> Self {
        match self.form {
            Form::List(items, _) => Self::of_value(items),
            _ => Self::deduced(self.atomic),
        }
    }

    /// The shape one step down.
    pub(super) fn step(&self, element: &Element) -> Self {
        match element {
            Element::Field(name) => self.field(name).unwrap_or(Self::deduced(false)),
            _ => self.item(),
        }
    }

    fn of_field(owner: &'static Message, field: &'static Field) -> Self {
        let semantics = field.semantics(owner);
        let says = |word: &str, pick: fn(&Semantics) -> Option<&String>| {
            semantics.and_then(pick).is_some_and(|said| said == word)
        };
        let named_atomic =
            says("atomic", |s| s.map_type.as_ref()) || says("atomic", |s| s.struct_type.as_ref());
        match field.cardinality {
            Cardinality::One => {
                let shape = Self::of_value(field.ty);
                let granular = says("granular", |s| s.struct_type.as_ref());
                Self { atomic: (shape.atomic || named_atomic) && !granular, ..shape }
            }
            Cardinality::Map => Self { form: Form::Map(field.ty), atomic: named_atomic },
            Cardinality::List => {
                let keys = match semantics.and_then(|s| s.list_type.as_deref()) {
                    Some("set") => Keys::Values,
                    Some("map") => semantics.map_or(Keys::None, |s| Keys::Fields(&s.list_map_keys)),
                    _ => Keys::None,
                };
                Self { form: Form::List(field.ty, keys), atomic: matches!(keys, Keys::None) }
            }
        }
    }

    fn of_value(ty: Type) -> Self {
        let scalar = |scalar| Self { form: Form::Scalar(scalar), atomic: false };
        match ty {
            Type::Bool => scalar(Scalar::Bool),
            Type::Int32 | Type::Int64 | Type::Double => scalar(Scalar::Number),
            Type::String | Type::Bytes | Type::Duration => scalar(Scalar::Text),
            Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime => scalar(Scalar::Any),
            Type::Message(id) => {
                let message = id.get();
                let name = message.name.strip_prefix("am.apis.").unwrap_or(message.name);
                let atomic = ATOMIC.contains(&name)
                    || message.semantics().is_some_and(|s| s.map_type.as_deref() == Some("atomic"));
                Self { form: Form::Struct(message, false), atomic }
            }
            Type::Texts => Self { form: Form::List(Type::String, Keys::None), atomic: true },
            Type::Raw | Type::SchemaOr(..) | Type::Opaque => Self::deduced(true),
        }
    }

    /// Whether a value of this shape has no parts that are owned by themselves.
    pub(super) fn is_leaf(&self, value: &Value) -> bool {
        if self.atomic {
            return true;
        }
        match self.form {
            Form::Scalar(_) => true,
            Form::Struct(..) | Form::Map(_) | Form::Custom | Form::Deduced => !value.is_object(),
            Form::List(..) => !value.is_array(),
        }
    }

    /// Whether Kubernetes writes that field of a structure even when nothing is in it.
    pub(super) fn always_has(&self, name: &str) -> bool {
        matches!(self.form, Form::Struct(..)) && ALWAYS_THERE.contains(&name)
    }

    /// What tells an item of a list apart from the others.
    ///
    /// # Errors
    /// When the item has nothing that could.
    pub(super) fn element(&self, item: &Value) -> Result<Element, String> {
        match self.form {
            Form::List(items, Keys::Fields(keys)) => keyed(items, keys, item),
            Form::List(_, Keys::Values) => match item {
                Value::Object(_) => {
                    Err("associative list without keys has an element that's a map type".to_owned())
                }
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".to_owned())
                }
                scalar => Ok(Element::Value(scalar.clone())),
            },
            _ => Err("invalid indexing of non-associative list".to_owned()),
        }
    }
}

fn keyed(items: Type, keys: &'static [String], item: &Value) -> Result<Element, String> {
    let map: &Map<String, Value> = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let shape = Shape::of_value(items);
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let value = map.get(key).filter(|value| !value.is_null()).cloned();
        // What the published schema gives as default: nothing, and the protocol of ports.
        let value = value.or_else(|| match shape.field(key).map(|shape| shape.form) {
            Some(Form::Scalar(Scalar::Text)) if key == "protocol" => Some(Value::from("TCP")),
            Some(Form::Scalar(Scalar::Text)) => Some(Value::from("")),
            Some(Form::Scalar(Scalar::Number)) => Some(Value::from(0)),
            _ => None,
        });
        found.extend(value.map(|value| (key.as_str().into(), value)));
    }
    if found.is_empty() {
        return Err(format!("associative list with keys has an element that omits all key fields {keys:?}"));
    }
    Ok(Element::keys(found))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn at(kind: &str, path: &[&str]) -> Shape {
        path.iter().fold(Shape::of_kind(kind), |shape, name| match *name {
            "*" => shape.item(),
            name => shape.field(name).unwrap(),
        })
    }

    #[test]
    fn the_table_and_the_semantics_say_what_is_whole() {
        let atomic = |kind, path: &[&str]| at(kind, path).atomic;
        assert!(atomic("apps.v1.Deployment", &["spec", "selector"]));
        assert!(!atomic("apps.v1.Deployment", &["spec", "template"]));
        assert!(atomic("core.v1.Service", &["spec", "selector"]));
        assert!(!atomic("core.v1.ConfigMap", &["data"]));
        assert!(atomic("core.v1.PersistentVolumeClaim", &["spec", "dataSource"]));
        assert!(!atomic("core.v1.PersistentVolume", &["spec", "claimRef"]));
        assert!(atomic("core.v1.Pod", &["spec", "containers", "*", "command"]));
        assert!(!atomic("core.v1.Pod", &["spec", "containers"]));
        assert!(!atomic("core.v1.Pod", &["metadata", "finalizers"]));
        assert!(atomic("apps.v1.ControllerRevision", &["data"]));
        assert!(!atomic("example.v1.Custom", &["spec", "a"]));
        assert!(!atomic("example.v1.Custom", &["metadata", "finalizers"]));
        assert!(at("core.v1.Pod", &["kind"]).is_leaf(&json!("Pod")));
        assert!(Shape::of_kind("core.v1.Pod").field("bogus").is_none());
        // All names in the list are messages of the table, but for those of newer releases.
        let unknown: Vec<_> = ATOMIC.iter().filter(|name| table::find(name).is_none()).collect();
        assert!(unknown.len() <= 2, "{unknown:?}");
    }

    #[test]
    fn items_are_told_apart() {
        let ports = at("core.v1.Pod", &["spec", "containers", "*", "ports"]);
        let element = ports.element(&json!({"containerPort": 80})).unwrap();
        assert_eq!(element.to_string(), r#"[containerPort=80,protocol="TCP"]"#);
        assert!(ports.element(&json!(1)).is_err());
        let finalizers = at("core.v1.Pod", &["metadata", "finalizers"]);
        assert_eq!(finalizers.element(&json!("a")).unwrap(), Element::Value(json!("a")));
        assert!(finalizers.element(&json!({})).is_err());
        assert!(at("core.v1.Pod", &["spec", "tolerations"]).element(&json!({})).is_err());
    }
}
