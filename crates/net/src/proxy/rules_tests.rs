//! Table tests of the rules: what a service of each sort becomes.
#![allow(clippy::unwrap_used)]

use super::super::ruleset::diff;
use super::*;

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn input(services: Vec<ProxyService>) -> ProxyInput {
    ProxyInput { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), services, ..ProxyInput::default() }
}

fn service(endpoints: Vec<ProxyEndpoint>) -> ProxyService {
    ProxyService {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ips: vec![ip("10.96.0.7")],
        ports: vec![ProxyPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            endpoints,
            ..ProxyPort::default()
        }],
        ..ProxyService::default()
    }
}

fn endpoint(last: u8) -> ProxyEndpoint {
    ProxyEndpoint::ready(Ipv4Addr::new(10, 244, 0, last), 8080)
}

fn only<'a>(rules: &'a RuleSet, prefix: &str) -> &'a Chain {
    let mut found = rules.chains.iter().filter(|(name, _)| name.starts_with(prefix));
    let chain = found.next().unwrap_or_else(|| panic!("no chain {prefix} in {:?}", rules.chains.keys())).1;
    assert!(found.next().is_none(), "more than one {prefix}");
    chain
}

fn target<'a>(rules: &'a RuleSet, map: &str, key: &Value) -> Option<&'a Value> {
    rules.sets[map].elements.get(&key.to_string()).and_then(|(_, data)| data.as_ref())
}

fn http() -> Value {
    json!({"concat": ["10.96.0.7", "tcp", 80]})
}

#[test]
fn a_cluster_ip_leads_to_each_ready_endpoint_with_the_same_chance() {
    let rules = rules("t", &input(vec![service(vec![endpoint(2), endpoint(3)])]));
    let chain = target(&rules, SERVICE_IPS, &http()).unwrap()["goto"]["target"].as_str().unwrap();
    assert!(chain.ends_with("shop/web/tcp/80"), "{chain}");
    let choice = &rules.chains[chain].rules[0][0]["vmap"];
    assert_eq!(choice["key"]["numgen"]["mod"], 2);
    assert_eq!(choice["data"]["set"].as_array().unwrap().len(), 2);
    assert!(rules.sets[CLUSTER_IPS].elements.contains_key(&json!("10.96.0.7").to_string()));
    assert!(rules.sets[NO_ENDPOINTS_IPS].elements.is_empty());
}

#[test]
fn an_endpoint_translates_and_masquerades_the_pod_that_meets_itself() {
    let rules = rules("t", &input(vec![service(vec![endpoint(2)])]));
    let chain = only(&rules, "ep-");
    assert_eq!(
        chain.rules[0],
        json!([matches("==", payload("ip", "saddr"), json!("10.244.0.2")), jump("mark_masquerade")])
    );
    assert_eq!(chain.rules[1][1], json!({"dnat": {"addr": "10.244.0.2", "port": 8080}}));
}

#[test]
fn without_endpoints_it_refuses() {
    let mut unready = endpoint(2);
    unready.ready = false;
    for endpoints in [vec![], vec![unready]] {
        let rules = rules("t", &input(vec![service(endpoints)]));
        assert_eq!(target(&rules, NO_ENDPOINTS_IPS, &http()), Some(&json!({"goto": {"target": "refuse"}})));
        assert!(rules.sets[SERVICE_IPS].elements.is_empty());
    }
}

#[test]
fn terminating_endpoints_serve_only_when_none_is_ready() {
    let mut leaving = endpoint(2);
    (leaving.ready, leaving.terminating) = (false, true);
    let alone = rules("t", &input(vec![service(vec![leaving.clone()])]));
    assert_eq!(only(&alone, "ep-").rules.len(), 2);
    let both = rules("t", &input(vec![service(vec![leaving, endpoint(3)])]));
    assert_eq!(only(&both, "ep-").rules[1][1]["dnat"]["addr"], "10.244.0.3");
}

#[test]
fn a_node_port_masquerades_and_reaches_all_endpoints() {
    let mut web = service(vec![endpoint(2)]);
    web.ports[0].node_port = Some(30080);
    let rules = rules("t", &input(vec![web]));
    let to = target(&rules, NODE_PORTS, &json!({"concat": ["tcp", 30080]})).unwrap();
    assert!(to["goto"]["target"].as_str().unwrap().starts_with("ext-"));
    assert_eq!(only(&rules, "ext-").rules[0], json!([jump("mark_masquerade")]));
}

#[test]
fn external_traffic_policy_local_keeps_the_client_and_drops_where_no_endpoint_is() {
    let mut elsewhere = endpoint(3);
    elsewhere.local = false;
    let mut web = service(vec![endpoint(2), elsewhere.clone()]);
    web.ports[0].node_port = Some(30080);
    web.external_local = true;
    let here = rules("t", &input(vec![web.clone()]));
    assert_eq!(only(&here, "local-").rules[0][0]["vmap"]["key"]["numgen"]["mod"], 1);
    assert_eq!(only(&here, "ext-").rules.len(), 3, "pods inside, this machine, clients outside");
    web.ports[0].endpoints = vec![elsewhere];
    let not_here = rules("t", &input(vec![web]));
    let key = json!({"concat": ["tcp", 30080]});
    assert_eq!(target(&not_here, NO_ENDPOINTS_NODE_PORTS, &key), Some(&json!({"drop": null})));
    assert!(target(&not_here, SERVICE_IPS, &http()).is_some(), "the cluster IP is not affected");
}

#[test]
fn affinity_remembers_clients_by_endpoint() {
    let mut web = service(vec![endpoint(2), endpoint(3)]);
    web.affinity = Some(Duration::from_secs(10_800));
    let rules = rules("t", &input(vec![web]));
    let sets: Vec<_> = rules.sets.iter().filter(|(name, _)| name.starts_with("aff-")).collect();
    assert_eq!(sets.len(), 2);
    assert!(sets[0].1.spec.contains(&("timeout", json!(10_800))));
    assert_eq!(only(&rules, "svc-").rules.len(), 3, "two known clients, then any");
}

#[test]
fn load_balancer_source_ranges_are_a_firewall() {
    let mut web = service(vec![endpoint(2)]);
    web.load_balancer_ips = vec![ip("203.0.113.5")];
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let rules = rules("t", &input(vec![web]));
    let to = target(&rules, SERVICE_IPS, &json!({"concat": ["203.0.113.5", "tcp", 80]})).unwrap();
    assert!(to["goto"]["target"].as_str().unwrap().starts_with("fw-"));
    assert_eq!(only(&rules, "fw-").rules.last(), Some(&json!([{"drop": null}])));
}

#[test]
fn equal_inputs_in_any_order_give_equal_rules() {
    let mut other = service(vec![endpoint(4)]);
    (other.name, other.cluster_ips) = ("api".into(), vec![ip("10.96.0.8")]);
    let one = rules("t", &input(vec![service(vec![endpoint(2), endpoint(3)]), other.clone()]));
    let two = rules("t", &input(vec![other, service(vec![endpoint(3), endpoint(2)])]));
    assert_eq!(one, two);
    assert!(diff(&one, &two).is_empty());
}

#[test]
fn a_changed_service_touches_no_other() {
    let services = |changed: Vec<ProxyEndpoint>| {
        let many = (0..500u16).map(|n| {
            let mut service = service(vec![endpoint(9)]);
            (service.name, service.cluster_ips) =
                (format!("s{n}"), vec![Ipv4Addr::from(0x0a60_1000 + u32::from(n))]);
            service
        });
        input(many.chain([service(changed)]).collect())
    };
    let commands = diff(
        &rules("t", &services(vec![endpoint(2)])),
        &rules("t", &services(vec![endpoint(2), endpoint(3)])),
    );
    assert!(commands.len() <= 5, "{commands:#?}");
}

#[test]
fn every_reference_has_its_chain_or_set() {
    let mut web = service(vec![endpoint(2)]);
    (web.affinity, web.external_local, web.internal_local) = (Some(Duration::from_secs(60)), true, true);
    web.ports[0].node_port = Some(30080);
    web.external_ips = vec![ip("192.0.2.1")];
    let mut remote = web.clone();
    (remote.name, remote.cluster_ips, remote.external_ips) = ("remote".into(), vec![ip("10.96.0.9")], vec![]);
    remote.ports[0].node_port = Some(30081);
    remote.ports[0].endpoints[0].local = false;
    let rules = rules("t", &input(vec![web, remote]));
    let mut references = Vec::new();
    for chain in rules.chains.values() {
        chain.rules.iter().for_each(|rule| collect(rule, &mut references));
    }
    for set in rules.sets.values() {
        set.elements.values().flat_map(|(_, data)| data).for_each(|data| collect(data, &mut references));
    }
    assert!(references.len() > 20);
    for reference in references {
        let found = match reference.strip_prefix('@') {
            Some(set) => rules.sets.contains_key(set),
            None => rules.chains.contains_key(&reference),
        };
        assert!(found, "{reference} is nowhere");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            references.extend(map.get("target").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
        Value::String(text) if text.starts_with('@') => references.push(text.clone()),
        _ => {}
    }
}

#[test]
fn udp_flows_to_endpoints_that_are_gone_are_stale() {
    let mut dns = service(vec![endpoint(2), endpoint(3)]);
    dns.ports[0].protocol = Protocol::Udp;
    dns.ports[0].node_port = Some(30053);
    let mut fewer = dns.clone();
    fewer.ports[0].endpoints.pop();
    let gone = Some(ip("10.244.0.3"));
    let stale = stale_udp(&input(vec![dns.clone()]), &input(vec![fewer]));
    let expected = [(None, 30053), (Some(ip("10.96.0.7")), 80)];
    assert_eq!(stale, expected.map(|(destination, port)| StaleFlow { destination, port, endpoint: gone }));
    let mut none = dns.clone();
    none.ports[0].endpoints.clear();
    let stale = stale_udp(&input(vec![none]), &input(vec![dns]));
    assert!(stale.len() == 2 && stale.iter().all(|flow| flow.endpoint.is_none()));
}

#[test]
fn what_is_served_and_comes_out_untranslated_is_not_refused() {
    let mut web = service(vec![endpoint(2)]);
    web.ports[0].node_port = Some(30080);
    let served = rules("t", &input(vec![web.clone()]));
    let node_port = json!({"concat": ["tcp", 30080]});
    assert!(served.sets[SERVED_IPS].elements.contains_key(&http().to_string()));
    assert!(served.sets[SERVED_NODE_PORTS].elements.contains_key(&node_port.to_string()));
    // In the host's network an endpoint may be where the service is: nothing is translated then.
    web.external_ips = vec![ip("192.0.2.1")];
    web.ports[0].endpoints = vec![ProxyEndpoint::ready(ip("192.0.2.1"), 80)];
    let itself = json!({"concat": ["192.0.2.1", "tcp", 80]});
    let served = rules("t", &input(vec![web.clone()]));
    assert!(served.sets[SERVICE_IPS].elements.contains_key(&itself.to_string()));
    assert!(!served.sets[SERVED_IPS].elements.contains_key(&itself.to_string()));
    web.ports[0].endpoints = vec![ProxyEndpoint::ready(ip("192.0.2.1"), 30080)];
    assert!(rules("t", &input(vec![web])).sets[SERVED_NODE_PORTS].elements.is_empty());
}
