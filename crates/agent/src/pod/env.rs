//! A container's environment: service variables, then `envFrom`, then `env`, each able to refer to
//! those before it. What Kubernetes gives where two have the same name: the later one.

use std::collections::BTreeMap;
use std::sync::Arc;

use balsa_model::Key;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service};

use crate::objects::ObjectSource;
use crate::pod::expand::expand;
use crate::pod::fields::{PodFacts, field, resource};
use crate::pod::observed::members;

/// Why an environment cannot be made: shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    /// There is no such ConfigMap or Secret.
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    /// There is no such field.
    #[error("unsupported fieldPath: {0}")]
    NoField(String),
    /// The object cannot be had just now.
    #[error("{0}")]
    Source(String),
}

/// An environment in the order in which it was written.
#[derive(Clone, Debug, Default)]
struct Env {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn into_vec(mut self) -> Vec<(String, String)> {
        self.order.into_iter().filter_map(|name| self.values.remove_entry(&name)).collect()
    }
}

/// What an environment is made from.
pub(crate) struct EnvContext<'a> {
    pub pod: &'a Pod,
    pub facts: &'a PodFacts,
    pub objects: &'a dyn ObjectSource,
    /// Variables of services.
    pub services: Vec<(String, String)>,
}

impl EnvContext<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The environment of one container.
    pub(crate) async fn environment(&self, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
        let mut env = Env::default();
        for (name, value) in &self.services {
            env.set(name, value.clone());
        }
        for source in container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(reference), _) => ("configmap", reference.name.as_str(), reference.optional),
                (None, Some(reference)) => ("secret", reference.name.as_str(), reference.optional),
                (None, None) => continue,
            };
            match self.data(kind, name).await? {
                Some(data) => {
                    data.iter().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), text(value)))
                }
                None if optional == Some(true) => {}
                None => return Err(EnvError::NoObject { kind, name: name.to_owned() }),
            }
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.value(container, variable, &env).await? {
                env.set(&variable.name, value);
            }
        }
        Ok(env.into_vec())
    }

    async fn value(
        &self,
        container: &Container,
        variable: &EnvVar,
        env: &Env,
    ) -> Result<Option<String>, EnvError> {
        if let Some(source) = &variable.value_from {
            return self.referenced(container, source).await;
        }
        let value = variable.value.as_deref().unwrap_or_default();
        Ok(Some(expand(value, |name| env.values.get(name).cloned())))
    }

    async fn referenced(
        &self,
        container: &Container,
        source: &EnvVarSource,
    ) -> Result<Option<String>, EnvError> {
        if let Some(reference) = &source.field_ref {
            let value = field(self.pod, self.facts, &reference.field_path);
            return value.map(Some).ok_or_else(|| EnvError::NoField(reference.field_path.clone()));
        }
        if let Some(reference) = &source.resource_field_ref {
            let named = reference.container_name.as_deref().filter(|name| !name.is_empty());
            let of = named.and_then(|name| members(self.pod).map(|(_, c)| c).find(|c| c.name == name));
            let value = resource(of.unwrap_or(container), self.facts, reference);
            return value.map(Some).ok_or_else(|| EnvError::NoField(reference.resource.clone()));
        }
        let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
            (Some(reference), _) => ("configmap", &reference.name, &reference.key, reference.optional),
            (None, Some(reference)) => ("secret", &reference.name, &reference.key, reference.optional),
            (None, None) => return Ok(Some(String::new())),
        };
        let Some(data) = self.data(kind, name).await? else {
            let missing = EnvError::NoObject { kind, name: name.clone() };
            return if optional == Some(true) { Ok(None) } else { Err(missing) };
        };
        match data.get(key) {
            Some(value) => Ok(Some(text(value))),
            None if optional == Some(true) => Ok(None),
            None => Err(EnvError::NoKey {
                key: key.clone(),
                kind,
                namespace: self.namespace().to_owned(),
                name: name.clone(),
            }),
        }
    }

    async fn data(&self, kind: &str, name: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, EnvError> {
        let found = match kind {
            "secret" => self.objects.secret(self.namespace(), name).await,
            _ => self.objects.config_map(self.namespace(), name).await,
        };
        found.map_err(EnvError::Source)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Whether a pod of a namespace is told where a service is: if that is in its own namespace (unless `links` is
/// false), and always of `kubernetes` in `default`.
pub(crate) fn is_told_of(service: &Key, namespace: &str, links: bool) -> bool {
    let api = *service.namespace == *"default" && *service.name == *"kubernetes";
    api || (links && *service.namespace == *namespace)
}

/// The variables that tell where services are.
pub(crate) fn service_variables(services: &[Arc<Service>]) -> Vec<(String, String)> {
    services.iter().flat_map(|service| variables_of(service)).collect()
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return Vec::new();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let screaming = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let name = screaming(name);
    let mut out = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(of) = port.name.as_deref().filter(|of| !of.is_empty()) {
            out.push((format!("{name}_SERVICE_PORT_{}", screaming(of)), port.port.to_string()));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let proto = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{}", proto.to_ascii_lowercase(), port.port);
        if i == 0 {
            out.push((format!("{name}_PORT"), url.clone()));
        }
        let stem = format!("{name}_PORT_{}_{}", port.port, proto.to_ascii_uppercase());
        out.push((stem.clone(), url));
        out.push((format!("{stem}_PROTO"), proto.to_ascii_lowercase()));
        out.push((format!("{stem}_PORT"), port.port.to_string()));
        out.push((format!("{stem}_ADDR"), ip.to_owned()));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::FixedObjects;

    async fn environment(container: Value) -> Result<Vec<(String, String)>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []},
        }))
        .unwrap();
        let mut objects = FixedObjects::default();
        objects.config_maps.insert("n/cm".into(), [("A".to_owned(), b"1".to_vec())].into());
        objects.secrets.insert("n/s".into(), [("pw".to_owned(), b"x".to_vec())].into());
        let context = EnvContext {
            pod: &pod,
            facts: &PodFacts::default(),
            objects: &objects,
            services: vec![("WEB_SERVICE_HOST".into(), "10.0.0.1".into())],
        };
        context.environment(&serde_json::from_value(container).unwrap()).await
    }

    #[tokio::test]
    async fn sources_come_in_order_and_later_ones_win() {
        let env = environment(json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
            "env": [
                {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)/$(P_A)"},
                {"name": "P_A", "value": "2"},
                {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
                {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "pw", "optional": true}}},
            ],
        }))
        .await
        .unwrap();
        let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("WEB_SERVICE_HOST", "10.0.0.1"),
            ("P_A", "2"),
            ("URL", "http://10.0.0.1/1"),
            ("PW", "x"),
            ("ME", "p"),
        ];
        assert_eq!(env, expected);
    }

    #[tokio::test]
    async fn what_is_missing_is_named_as_kubernetes_does() {
        let key = json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no"}}}]});
        assert_eq!(environment(key).await.unwrap_err().to_string(), "couldn't find key no in configmap n/cm");
        let object = json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]});
        assert_eq!(environment(object).await.unwrap_err().to_string(), "secret \"no\" not found");
    }

    #[test]
    fn services_become_variables() {
        let service = |name: &str| {
            let service = json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"clusterIP": "10.0.0.11", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
            });
            Arc::new(serde_json::from_value(service).unwrap())
        };
        let found = service_variables(&[service("kubernetes"), service("redis-primary")]);
        let get = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("REDIS_PRIMARY_SERVICE_HOST"), Some("10.0.0.11"));
        assert_eq!(get("REDIS_PRIMARY_PORT"), Some("tcp://10.0.0.11:80"));
        assert_eq!(get("REDIS_PRIMARY_PORT_53_UDP_PROTO"), Some("udp"));
        assert_eq!(get("KUBERNETES_SERVICE_PORT_HTTP"), Some("80"));
    }

    #[test]
    fn pods_are_told_of_their_namespaces_services() {
        let told = |links: bool| {
            let all = [("default", "kubernetes"), ("n", "redis"), ("other", "x")];
            all.map(|(namespace, name)| is_told_of(&Key::new(namespace, name), "n", links))
        };
        assert_eq!(told(true), [true, true, false]);
        assert_eq!(told(false), [true, false, false]);
    }
}
