//! Ingress: which service answers HTTP requests for which host and path.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressLoadBalancerStatus, IngressRule, IngressStatus,
};

use super::cells::or_none;
use super::check::{balancer_address, default_to, invalid_each, json, one_of, port_name, subdomain};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta::{dns1123_subdomain, path_segment};
use crate::table::{Cell, Column};

const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// What named the class before there was a field for it.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Hosts that a row shows before it counts the rest.
const SHOWN: usize = 3;

impl Kind for Ingress {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["ing"],
        subresources: &[Subresource::Status],
        has_generation: true,
        columns: &[
            Column::NAME,
            Column::text("Class"),
            Column::text("Hosts"),
            Column::text("Address"),
            Column::text("Ports"),
            Column::AGE,
        ],
        ..Descriptor::namespaced(
            "networking.k8s.io",
            "v1",
            "Ingress",
            "ingresses",
            "ingress",
            "networking.v1.Ingress",
        )
    };

    fn set_defaults(&mut self) {
        self.spec.get_or_insert_default();
        let status = self.status.get_or_insert_default();
        default_to(&mut status.load_balancer, IngressLoadBalancerStatus::default());
    }

    fn prepare_create(&mut self) {
        self.status = Some(IngressStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (Some(spec), path) = (&self.spec, Path::new("spec")) else { return };
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.invalid(&path, json(&spec.rules), detail);
        }
        if let Some(backend) = &spec.default_backend {
            validate_backend(backend, &path.child("defaultBackend"), errors);
        }
        for (i, rule) in rules.iter().enumerate() {
            validate_rule(rule, &path.child("rules").index(i), errors);
        }
        for (i, tls) in spec.tls.iter().flatten().enumerate() {
            for (j, host) in tls.hosts.iter().flatten().enumerate() {
                validate_host_name(host, &path.child("tls").index(i).child("hosts").index(j), errors);
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            subdomain(errors, &path.child("ingressClassName"), class);
        }
    }

    fn validate_create(&self, errors: &mut FieldErrors) {
        validate_secrets(self, errors);
        let annotation = self.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        let class = self.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        if let (Some(annotation), Some(class)) = (annotation, class)
            && annotation != class
        {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid(&path, annotation.as_str(), detail);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let mut known = FieldErrors::new();
        validate_secrets(old, &mut known);
        // What is wrong already keeps nobody from changing the rest.
        if known.is_empty() {
            validate_secrets(self, errors);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let path = Path::new("status").child("loadBalancer").child("ingress");
        let balancer = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        for (i, item) in balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten().enumerate() {
            balancer_address(errors, &path.index(i), item.ip.as_deref(), item.hostname.as_deref());
        }
    }

    fn warnings_on_create(&self) -> Vec<String> {
        let annotated = self.metadata.annotations.iter().any(|all| all.contains_key(CLASS_ANNOTATION));
        let named = self.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
        let told = format!(
            "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
        );
        if annotated && !named { vec![told] } else { Vec::new() }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = self.spec.as_ref();
        let secure = spec.is_some_and(|s| s.tls.as_ref().is_some_and(|tls| !tls.is_empty()));
        vec![
            Cell::name(self.metadata()),
            or_none(spec.and_then(|s| s.ingress_class_name.as_deref())),
            Cell::text(hosts_text(self)),
            Cell::text(address_text(self)),
            Cell::text(if secure { "80, 443" } else { "80" }),
            Cell::age(self.metadata(), now),
        ]
    }
}

fn validate_secrets(ingress: &Ingress, errors: &mut FieldErrors) {
    let path = Path::new("spec").child("tls");
    for (i, tls) in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()).enumerate() {
        if let Some(name) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
            subdomain(errors, &path.index(i).child("secretName"), name);
        }
    }
}

fn validate_host_name(host: &str, path: &Path, errors: &mut FieldErrors) {
    match host.strip_prefix("*.") {
        Some(rest) if !dns1123_subdomain(rest).is_empty() => errors.invalid(path, host, WILDCARD_RULE),
        Some(_) => {}
        None if host.contains('*') => errors.invalid(path, host, WILDCARD_RULE),
        None => subdomain(errors, path, host),
    }
}

fn validate_rule(rule: &IngressRule, path: &Path, errors: &mut FieldErrors) {
    if let Some(host) = rule.host.as_deref().filter(|h| !h.is_empty()) {
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
        } else {
            validate_host_name(host, &path.child("host"), errors);
        }
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (i, item) in http.paths.iter().enumerate() {
        validate_path(item, &path.index(i), errors);
    }
}

fn validate_path(item: &HTTPIngressPath, path: &Path, errors: &mut FieldErrors) {
    let text = item.path.as_deref().unwrap_or_default();
    let known = ["Exact", "ImplementationSpecific", "Prefix"];
    match item.path_type.as_str() {
        "" => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&path.child("path"), text, "must be an absolute path");
            } else {
                validate_exact(text, &path.child("path"), errors);
            }
        }
        "ImplementationSpecific" if !text.is_empty() && !text.starts_with('/') => {
            errors.invalid(&path.child("path"), text, "must be an absolute path");
        }
        other => one_of(errors, &path.child("pathType"), other, &known),
    }
    validate_backend(&item.backend, &path.child("backend"), errors);
}

/// Refuses what would match differently once a proxy has cleaned it up.
fn validate_exact(text: &str, path: &Path, errors: &mut FieldErrors) {
    for bad in ["//", "/./", "/../", "%2f", "%2F"] {
        if text.contains(bad) {
            errors.invalid(path, text, format!("must not contain '{bad}'"));
        }
    }
    for bad in ["/..", "/."] {
        if text.ends_with(bad) {
            errors.invalid(path, text, format!("cannot end with '{bad}'"));
        }
    }
}

fn validate_resource(resource: &TypedLocalObjectReference, path: &Path, errors: &mut FieldErrors) {
    if let Some(group) = &resource.api_group {
        subdomain(errors, &path.child("apiGroup"), group);
    }
    for (field, text) in [("kind", &resource.kind), ("name", &resource.name)] {
        if text.is_empty() {
            errors.required(&path.child(field), format!("{field} is required"));
        }
        invalid_each(errors, &path.child(field), text, path_segment(text));
    }
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut FieldErrors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => validate_resource(resource, &path.child("resource"), errors),
        (None, Some(service)) => {
            if service.name.is_empty() {
                errors.required(&path.child("service").child("name"), "");
            } else {
                let wrong = crate::meta::dns1035_label(&service.name);
                invalid_each(errors, &path.child("service").child("name"), &service.name, wrong);
            }
            let port = service.port.clone().unwrap_or_default();
            let name = port.name.as_deref().unwrap_or_default();
            match (name.is_empty(), port.number.unwrap_or(0)) {
                (false, number) if number != 0 => {
                    errors.invalid(path, "", "cannot set both port name & port number");
                }
                (false, _) => {
                    let path = path.child("service").child("port").child("name");
                    invalid_each(errors, &path, name, port_name(name));
                }
                (true, 0) => errors.required(path, "port name or number is required"),
                (true, number) => {
                    super::check::port(errors, &path.child("service").child("port").child("number"), number);
                }
            }
        }
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn hosts_text(ingress: &Ingress) -> String {
    let rules = ingress.spec.as_ref().and_then(|s| s.rules.as_deref()).unwrap_or_default();
    let hosts: Vec<&str> = rules.iter().filter_map(|r| r.host.as_deref()).filter(|h| !h.is_empty()).collect();
    match hosts.len() {
        0 => "*".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", hosts[..SHOWN].join(","), n - SHOWN),
        _ => hosts.join(","),
    }
}

fn address_text(ingress: &Ingress) -> String {
    let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let addresses = balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    let texts: Vec<String> = addresses
        .filter_map(|a| a.ip.clone().filter(|ip| !ip.is_empty()).or_else(|| a.hostname.clone()))
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ingress(spec: Value) -> Ingress {
        let mut ingress: Ingress =
            serde_json::from_value(json!({"metadata": {"name": "i"}, "spec": spec})).unwrap();
        Kind::prepare_create(&mut ingress);
        Kind::set_defaults(&mut ingress);
        ingress
    }

    #[test]
    fn rows() {
        let of = |spec: Value| {
            let cells = Kind::row(&ingress(spec), Timestamp::UNIX_EPOCH);
            cells[1..5].iter().map(|c| c.0.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!({"ingressClassName": "nginx", "tls": [{"hosts": ["a.test"]}],
                "rules": [{"host": "a.test"}, {"host": "b.test"}]})),
            ["nginx", "a.test,b.test", "", "80, 443"]
        );
        assert_eq!(of(json!({})), ["<none>", "*", "", "80"]);
    }

    #[test]
    fn names_and_addresses_are_checked() {
        let wrong = |value: Value| {
            let (object, mut errors): (Ingress, _) =
                (serde_json::from_value(value).unwrap(), FieldErrors::new());
            Kind::validate(&object, &mut errors);
            Kind::validate_create(&object, &mut errors);
            Kind::validate_status(&object, &object, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert_eq!(
            wrong(json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}},
                "spec": {"ingressClassName": "y", "tls": [{"secretName": "A_"}],
                    "defaultBackend": {"resource": {"kind": "", "name": "a/b"}},
                    "rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {}}]}}]},
                "status": {"loadBalancer": {"ingress": [{"ip": "x"}, {"hostname": "1.2.3.4"}]}}})),
            [
                "spec.defaultBackend.resource.kind",
                "spec.defaultBackend.resource.name",
                "spec.rules[0].http.paths[0].backend",
                "spec.tls[0].secretName",
                "annotations.kubernetes.io/ingress.class",
                "status.loadBalancer.ingress[0].ip",
                "status.loadBalancer.ingress[1].hostname",
            ]
        );
    }

    #[test]
    fn wrong_rules_are_refused() {
        let path = |path: Value| json!({"rules": [{"http": {"paths": [path]}}]});
        let service = json!({"service": {"name": "s", "port": {"number": 80}}});
        for (spec, wanted) in [
            (json!({}), vec!["spec"]),
            (path(json!({"path": "/", "backend": service})), vec!["spec.rules[0].http.paths[0].pathType"]),
            (
                path(json!({"path": "x", "pathType": "Prefix", "backend": service})),
                vec!["spec.rules[0].http.paths[0].path"],
            ),
            (
                json!({"rules": [{"host": "1.2.3.4", "http": {"paths": []}}]}),
                vec!["spec.rules[0].host", "spec.rules[0].http.paths"],
            ),
            (json!({"rules": [{"host": "*.*.test"}]}), vec!["spec.rules[0].host"]),
            (path(json!({"path": "/a", "pathType": "Exact", "backend": service})), vec![]),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&ingress(spec), &mut errors);
            assert_eq!(errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>(), wanted);
        }
    }
}
