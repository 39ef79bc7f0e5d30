//! Request bodies against the table: unknown fields, types, canonical values.

use serde_json::{Map, Value};

use super::table::{self, Cardinality, Field, Message, MessageId, Type};
use super::{MAX_DEPTH, cannot_be_handled, scalar, unset};
use crate::quantity;
use crate::status::Failure;

/// A body that fits its schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The body, without unknown fields and unset ones, with canonical values.
    pub value: Value,
    /// What was dropped, in Kubernetes' words: `unknown field "spec.foo"`.
    pub unknown: Vec<String>,
}

/// Checks a body against the message of its kind (`core.v1.Pod`). Messages that the table does not
/// have (custom resources) pass as they are.
///
/// # Errors
/// `BadRequest` when a value has another type than its field.
pub fn check(message: &str, value: Value) -> Result<Checked, Failure> {
    let Some(id) = table::find(message) else {
        return Ok(Checked { value, unknown: Vec::new() });
    };
    let mut walk = Walk { unknown: Vec::new(), path: String::new(), depth: 0 };
    let result = walk.message(id, value, Place { owner: None, of: "", ty: Type::Opaque });
    let message = id.get();
    match result {
        Ok(value) => Ok(Checked { value, unknown: walk.unknown }),
        Err(why) => Err(cannot_be_handled(message.short_name(), message.version(), &why)),
    }
}

/// Where a value stands, for messages: the message that has the field, and the type of the value; `of` is
/// what Go writes before it where it is that of the items.
#[derive(Clone, Copy)]
struct Place {
    owner: Option<&'static Message>,
    of: &'static str,
    ty: Type,
}

impl Place {
    /// What Go calls the type.
    fn go_type(self) -> String {
        format!("{}{}", self.of, go_type(self.ty))
    }
}

struct Walk {
    unknown: Vec<String>,
    path: String,
    depth: usize,
}

impl Walk {
    /// Runs `inner` with the path extended by the name of a field.
    fn at<T>(&mut self, name: &str, inner: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        self.below(length, inner)
    }

    /// Runs `inner` with the path extended by an index.
    fn at_index<T>(
        &mut self,
        index: &dyn std::fmt::Display,
        inner: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        let length = self.path.len();
        // Writing into a String does not fail.
        let _ = std::fmt::Write::write_fmt(&mut self.path, format_args!("[{index}]"));
        self.below(length, inner)
    }

    /// Runs `inner` one level deeper, and cuts the path back to `length` then.
    fn below<T>(
        &mut self,
        length: usize,
        inner: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.depth >= MAX_DEPTH {
            self.path.truncate(length);
            return Err(format!("exceeded max depth of {MAX_DEPTH} at {}", self.path));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        self.path.truncate(length);
        result
    }

    fn message(&mut self, id: MessageId, value: Value, place: Place) -> Result<Value, String> {
        let message = id.get();
        let Value::Object(map) = value else { return Err(self.mismatch(&value, place)) };
        let mut out = Map::with_capacity(map.len());
        let root = self.depth == 0;
        for (name, value) in map {
            let Some(field) = message.json_field(&name) else {
                if matches!(name.as_str(), "apiVersion" | "kind") && (root || message.has_type_meta) {
                    out.insert(name, value);
                } else {
                    self.report_unknown(&name);
                }
                continue;
            };
            if value.is_null() {
                continue;
            }
            let value = self.at(&name, |walk| walk.field(message, field, value))?;
            if !unset::is_unset(message, field, &value) {
                out.insert(name, value);
            }
        }
        Ok(Value::Object(out))
    }

    fn report_unknown(&mut self, name: &str) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.unknown.push(format!("unknown field \"{}{dot}{name}\"", self.path));
    }

    fn field(
        &mut self,
        owner: &'static Message,
        field: &'static Field,
        value: Value,
    ) -> Result<Value, String> {
        let place = |of: &'static str| Place { owner: Some(owner), of, ty: field.ty };
        match (field.cardinality, value) {
            (Cardinality::One, value) => self.one(field.ty, value, place("")),
            (Cardinality::List, Value::Array(items)) => {
                let mut out = Vec::with_capacity(items.len());
                for (i, item) in items.into_iter().enumerate() {
                    // A null in a list is the empty value of its type.
                    let item = if item.is_null() { empty(field.ty) } else { item };
                    out.push(self.at_index(&i, |walk| walk.one(field.ty, item, place("")))?);
                }
                Ok(Value::Array(out))
            }
            (Cardinality::Map, Value::Object(entries)) => {
                let mut out = Map::with_capacity(entries.len());
                for (key, entry) in entries {
                    let entry = if entry.is_null() { empty(field.ty) } else { entry };
                    // As an index: Go names the field that holds a map, not the key.
                    let entry = self.at_index(&key, |walk| walk.one(field.ty, entry, place("")))?;
                    out.insert(key, entry);
                }
                Ok(Value::Object(out))
            }
            (Cardinality::List, other) => Err(self.mismatch(&other, place("[]"))),
            (Cardinality::Map, other) => Err(self.mismatch(&other, place("map[string]"))),
        }
    }

    fn one(&mut self, ty: Type, value: Value, place: Place) -> Result<Value, String> {
        match (ty, value) {
            (Type::Raw | Type::Opaque, value) => Ok(value),
            (Type::Bool, value @ Value::Bool(_))
            | (Type::String, value @ Value::String(_))
            | (Type::Double, value @ Value::Number(_))
            | (Type::IntOrString, value @ Value::String(_)) => Ok(value),
            (Type::Int64, Value::Number(n)) if n.is_i64() => Ok(Value::Number(n)),
            (Type::Int32 | Type::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                Ok(Value::Number(n))
            }
            (Type::Message(id), value) => self.message(id, value, place),
            (Type::Bytes, Value::String(text)) => {
                scalar::from_base64(&text).map(|bytes| scalar::to_base64(&bytes).into())
            }
            (Type::Quantity, Value::String(text)) => quantity_of(text.trim()),
            (Type::Quantity, Value::Number(n)) => quantity_of(&n.to_string()),
            (Type::Time, Value::String(text)) => scalar::canonical_time(&text).map(Value::from),
            (Type::MicroTime, Value::String(text)) => scalar::canonical_micro_time(&text).map(Value::from),
            (Type::Duration, Value::String(text)) => {
                scalar::parse_duration(&text).map(|nanos| scalar::write_duration(nanos).into())
            }
            (Type::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => {
                Ok(Value::Array(items))
            }
            (Type::SchemaOr(id, other), value) => self.schema_or(id, other, value, place),
            (_, value) => Err(self.mismatch(&value, place)),
        }
    }

    /// A CRD schema, or what may stand in its place: a boolean, a list of schemas, a list of texts.
    fn schema_or(
        &mut self,
        id: MessageId,
        other: &'static str,
        value: Value,
        place: Place,
    ) -> Result<Value, String> {
        let message = id.get();
        let name = if value.is_object() { "schema" } else { other };
        match message.json_field(name) {
            Some(field) if value.is_object() || value.is_array() || value.is_boolean() => {
                self.field(message, field, value)
            }
            _ => Err(self.mismatch(&value, place)),
        }
    }

    fn mismatch(&self, value: &Value, place: Place) -> String {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            // Go names the number where the type was right and only the number was not.
            Value::Number(n) if place.of.is_empty() && matches!(place.ty, Type::Int32 | Type::Int64) => {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        match place.owner {
            Some(owner) => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {}",
                owner.short_name(),
                without_indices(&self.path),
                place.go_type()
            ),
            None => format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"),
        }
    }
}

fn quantity_of(text: &str) -> Result<Value, String> {
    quantity::canonicalize(text).map(Value::from).map_err(|error| error.to_string())
}

/// The value that Go gives a null in a list or map.
fn empty(ty: Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
        Type::String | Type::Bytes => Value::from(""),
        Type::Quantity => Value::from("0"),
        Type::Message(_) => Value::Object(Map::new()),
        Type::Texts => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

fn without_indices(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// What Go calls the type of one value.
fn go_type(ty: Type) -> String {
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Message(id) | Type::SchemaOr(id, _) => {
            let message = id.get();
            format!("{}.{}", message.version(), message.short_name())
        }
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::Texts => "[]string".to_owned(),
        Type::Raw | Type::Opaque => "runtime.RawExtension".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_becomes_canonical() {
        let checked = check(
            "core.v1.Pod",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "creationTimestamp": null, "foo": 1, "labels": {}},
                "spec": {
                    "hostNetwork": false, "automountServiceAccountToken": false, "nodeName": "",
                    "terminationGracePeriodSeconds": 0, "dnsPolicy": "ClusterFirst",
                    "containers": [{
                        "name": "c", "bar": {}, "kind": "x", "tty": false,
                        "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}},
                        "livenessProbe": {"httpGet": {"port": "web", "path": ""}, "timeoutSeconds": 0},
                        "env": [{"name": "E", "value": ""}],
                    }],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
            }),
        )
        .unwrap();
        assert_eq!(
            checked.value,
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {
                    "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                    "dnsPolicy": "ClusterFirst",
                    "containers": [{
                        "name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}},
                        "livenessProbe": {"httpGet": {"port": "web"}}, "env": [{"name": "E"}],
                    }],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
            })
        );
        assert_eq!(
            checked.unknown,
            [
                "unknown field \"metadata.foo\"",
                "unknown field \"spec.containers[0].bar\"",
                "unknown field \"spec.containers[0].kind\""
            ]
        );
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        let error = |message, value| check(message, value).unwrap_err().message;
        assert_eq!(
            error("apps.v1.Deployment", json!({"spec": {"replicas": "3"}})),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert!(
            error("apps.v1.Deployment", json!({"spec": {"replicas": 1.5}})).contains("number 1.5 into Go")
        );
        assert!(
            error("core.v1.Pod", json!({"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}))
                .ends_with("ContainerPort.spec.containers.ports.containerPort of type int32")
        );
        assert!(
            error("core.v1.Pod", json!({"spec": {"containers": {}}})).ends_with("of type []v1.Container")
        );
        assert!(
            error("core.v1.ConfigMap", json!({"data": {"a": 1}}))
                .ends_with("cannot unmarshal number into Go struct field ConfigMap.data of type string")
        );
        assert!(error("core.v1.Secret", json!({"data": {"a": "not base64!"}})).contains("input byte 3"));
        assert!(error("core.v1.Pod", json!([])).contains("cannot unmarshal array"));
        assert!(
            error("core.v1.Pod", json!({"spec": {"overhead": {"cpu": "1x"}}})).contains("regular expression")
        );
    }

    #[test]
    fn schemas_of_custom_resources_pass() {
        let schema = json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "a": {"items": {"type": "string"}, "additionalProperties": false, "default": {"any": [1]}},
                "b": {"additionalProperties": {"type": "integer", "minimum": 0}},
            },
        });
        let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let checked = check("apiextensions.v1.CustomResourceDefinition", body.clone()).unwrap();
        assert_eq!(checked.value, body);
        assert!(checked.unknown.is_empty());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut schema = json!({});
        for _ in 0..300 {
            schema = json!({"not": schema});
        }
        let body = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        assert!(check("apiextensions.v1.CustomResourceDefinition", body).is_err());
    }
}
