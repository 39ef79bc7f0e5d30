//! What is taken of a Service and does nothing. Wordings are those of `k8s.io/kubernetes` `pkg/api/service`.

use k8s_openapi::api::core::v1::Service;

use super::{is_headless, type_of};

const OLD_TOPOLOGY: &str = "service.kubernetes.io/topology-aware-hints";

pub(super) fn of(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut told = Vec::new();
    if service.metadata.annotations.iter().any(|all| all.contains_key(OLD_TOPOLOGY)) {
        told.push(format!(
            "annotation {OLD_TOPOLOGY} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let has_external = spec.external_ips.iter().any(|ips| !ips.is_empty());
    if is_headless(service) && type_of(service) == "ClusterIP" {
        if spec.load_balancer_ip.iter().any(|ip| !ip.is_empty()) {
            told.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if has_external {
            told.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.session_affinity.iter().any(|affinity| affinity != "None") {
            told.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    let is_name = type_of(service) == "ExternalName";
    if is_name && has_external {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_name && spec.external_name.iter().any(|name| !name.is_empty()) {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(spec: Value) -> Vec<String> {
        of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn what_a_type_ignores_is_told() {
        assert!(told(json!({"clusterIP": "None", "sessionAffinity": "None"})).is_empty());
        assert_eq!(
            told(json!({"clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["1.1.1.1"]})),
            [
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services"
            ]
        );
        assert_eq!(
            told(json!({"type": "ExternalName", "externalName": "a", "externalIPs": ["1.1.1.1"]})),
            ["spec.externalIPs is ignored when spec.type is \"ExternalName\""]
        );
        assert_eq!(
            told(json!({"externalName": "a"})),
            ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
        );
    }
}
