//! Services: defaults, refusals and rows as the reference server has them.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut service: Service =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
    Kind::prepare_create(&mut service);
    Kind::set_defaults(&mut service);
    service
}

fn updated(old: &Service, spec: Value) -> Service {
    let mut new = Service { spec: serde_json::from_value(spec).unwrap(), ..old.clone() };
    Kind::prepare_update(&mut new, old);
    Kind::set_defaults(&mut new);
    new
}

fn errors(service: &Service) -> Vec<String> {
    let mut errors = FieldErrors::new();
    Kind::validate(service, &mut errors);
    errors.into_vec().iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_by_type() {
    let spec = |spec: Value| serde_json::to_value(service(spec).spec).unwrap();
    assert_eq!(
        spec(json!({"ports": [{"port": 80}]})),
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack"})
    );
    assert_eq!(
        spec(json!({"type": "ExternalName", "externalName": "example.com"})),
        json!({"type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None"})
    );
    let headless = spec(json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!(headless["clusterIPs"], json!(["None"]));
    assert_eq!(headless["ipFamilyPolicy"], "SingleStack");
    let by_hand = |more: Value| {
        let mut wanted = json!({"clusterIP": "None"});
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = spec(wanted);
        (spec["ipFamilyPolicy"].clone(), spec["ipFamilies"].clone())
    };
    assert_eq!(by_hand(json!({})), (json!("RequireDualStack"), json!(["IPv4", "IPv6"])));
    assert_eq!(
        by_hand(json!({"ipFamilies": ["IPv6"]})),
        (json!("RequireDualStack"), json!(["IPv6", "IPv4"]))
    );
    let single = json!({"ipFamilyPolicy": "SingleStack"});
    assert_eq!(by_hand(single), (json!("SingleStack"), json!(["IPv4"])));
    let balanced =
        spec(json!({"type": "LoadBalancer", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}));
    assert_eq!(balanced["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["externalTrafficPolicy"], "Cluster");
    assert_eq!(balanced["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
}

#[test]
fn wrong_specs_are_refused() {
    for (spec, wanted) in [
        (json!({}), vec!["spec.ports: Required value"]),
        (
            json!({"ports": [{"port": 0}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            json!({"clusterIP": "300.1.1.1", "ports": [{"port": 80}]}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"300.1.1.1\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (
            json!({"type": "Magic", "ports": [{"port": 80}]}),
            vec![
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30500}]}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
    ] {
        assert_eq!(errors(&service(spec)), wanted);
    }
}

#[test]
fn what_it_alone_has_is_claimed_and_shown() {
    let service = service(json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports":
        [{"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053},
         {"name": "w", "port": 80, "nodePort": 30080}]}));
    let tokens: Vec<String> = Kind::claims(&service).into_iter().map(|c| c.token).collect();
    assert_eq!(tokens, ["clusterip/10.96.0.9", "nodeport/UDP/30053", "nodeport/TCP/30080"]);
    let cells: Vec<_> = Kind::row(&service, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
    assert_eq!(
        cells,
        ["s", "NodePort", "10.96.0.9", "<none>", "53:30053/UDP,80:30080/TCP", "<unknown>", "<none>"]
    );
}

#[test]
fn updates_keep_what_was_allocated() {
    let old = service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let same = updated(&old, json!({"type": "NodePort", "ports": [{"port": 80}]}));
    assert_eq!((cluster_ip(&same), ports(&same)[0].node_port), (Some("10.96.0.9"), Some(30080)));

    let mut plain = serde_json::to_value(&old.spec).unwrap();
    plain["type"] = json!("ClusterIP");
    let plain = updated(&old, plain);
    assert_eq!((cluster_ip(&plain), ports(&plain)[0].node_port), (Some("10.96.0.9"), None));
    assert!(errors(&plain).is_empty());

    let mut named = serde_json::to_value(&old.spec).unwrap();
    named["type"] = json!("ExternalName");
    named["externalName"] = json!("x.test");
    let named = updated(&old, named);
    assert!(errors(&named).is_empty(), "{:?}", errors(&named));
    assert_eq!(cluster_ip(&named), None);

    let mut moved = serde_json::to_value(&old.spec).unwrap();
    moved["clusterIP"] = json!("10.96.200.1");
    let moved = updated(&old, moved);
    let mut found = FieldErrors::new();
    Kind::validate_update(&moved, &old, &mut found);
    assert_eq!(
        found.into_vec()[0].to_string(),
        "spec.clusterIPs[0]: Invalid value: [\"10.96.200.1\"]: may not change once set"
    );
}

#[test]
fn what_the_world_reaches_is_checked() {
    let balancer = json!({"type": "LoadBalancer", "ports": [{"port": 10250}], "loadBalancerClass": "a b",
        "externalIPs": ["203.0.113.7", "169.254.1.1"], "trafficDistribution": "PreferFar"});
    let found = errors(&service(balancer));
    let starts = [
        "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
        "spec.externalIPs[1]: Invalid value: \"169.254.1.1\": may not be in the link-local range",
        "spec.loadBalancerClass: Invalid value: \"a b\": ",
        "spec.trafficDistribution: Unsupported value: \"PreferFar\": supported values: \"PreferClose\"",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (error, start) in found.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
    let of = |class: &str| {
        service(json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerClass": class}))
    };
    let mut errors = FieldErrors::new();
    Kind::validate_update(&of("a"), &of("b"), &mut errors);
    let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["spec.loadBalancerClass: Invalid value: \"a\": may not change once set"]);
}

#[test]
fn health_checks_keep_their_port() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let mut old = service(spec.clone());
    assert!(needs_health_check_port(&old));
    set_health_check_port(&mut old, 30999);
    assert!(!needs_health_check_port(&old));
    assert_eq!(health_check_port(&updated(&old, spec.clone())), Some(30999));

    let mut moved = spec.clone();
    moved["healthCheckNodePort"] = json!(31000);
    let mut found = FieldErrors::new();
    Kind::validate_update(&updated(&old, moved), &old, &mut found);
    let texts: Vec<String> = found.into_vec().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["spec.healthCheckNodePort: Forbidden: field is immutable"]);

    let mut cluster = serde_json::to_value(&old.spec).unwrap();
    cluster["externalTrafficPolicy"] = json!("Cluster");
    let cluster = updated(&old, cluster);
    assert_eq!(health_check_port(&cluster), None);
    assert!(errors(&cluster).is_empty());
}
