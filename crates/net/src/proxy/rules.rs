//! From services to rules: a pure function.
//!
//! ```text
//!  prerouting, output (nat) ─▶ services ─┬─ address.proto.port in @service_ips ───┬─▶ svc-…   all endpoints
//!                                        └─ local address, port in @node_ports ───┤─▶ local-… this machine's
//!                                                                                 └─▶ ext-…   from outside ─▶ svc-… or local-…
//!  svc-…, local-…  ─▶ ep-…  mark if the pod talks to itself, remember the client, translate
//!  input, forward, output (filter) ─┬─▶ @no_endpoints… ─▶ refuse | drop
//!                                   └─▶ not translated, though in @served… ─▶ drop: a change ran over it
//!  postrouting ─▶ masquerade what is marked
//! ```
//!
//! The maps are looked up by hash, so a packet's cost does not grow with the number of services;
//! only a service with session affinity has one rule for each of its endpoints. Chains have the
//! service's name in theirs, for whoever reads `nft list table`. Invariants: no rule refers to a
//! chain or set outside the result, and equal inputs (in any order) give equal results.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::input::{Protocol, ProxyEndpoint, ProxyInput, ProxyPort, ProxyService, usable};
use super::nft::{matches, payload, prefix};
use super::ruleset::{Chain, RuleSet, Set};
use crate::hash::short;

/// The packet mark that asks for masquerading, the one that kube-proxy uses too.
const MASQUERADE_MARK: u32 = 0x4000;

const SERVICE_IPS: &str = "service_ips";
const NODE_PORTS: &str = "node_ports";
const NO_ENDPOINTS_IPS: &str = "no_endpoints_ips";
const NO_ENDPOINTS_NODE_PORTS: &str = "no_endpoints_node_ports";
const SERVED_IPS: &str = "served_ips";
const SERVED_NODE_PORTS: &str = "served_node_ports";
const CLUSTER_IPS: &str = "cluster_ips";
const NODE_ADDRESSES: &str = "node_addresses";

/// The kernel's `IPS_DST_NAT`: the connection's destination was translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// The rules for `input`, in `table`.
pub fn rules(table: &str, input: &ProxyInput) -> RuleSet {
    let mut build = Build { input, set: RuleSet { table: table.to_owned(), ..RuleSet::default() } };
    build.frame();
    let mut services: Vec<&ProxyService> = input.services.iter().collect();
    services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for service in services {
        for port in &service.ports {
            build.port(service, port);
        }
    }
    build.set
}

struct Build<'a> {
    input: &'a ProxyInput,
    set: RuleSet,
}

impl Build<'_> {
    /// The part that is the same for all services.
    fn frame(&mut self) {
        let by_ip = json!(["ipv4_addr", "inet_proto", "inet_service"]);
        let by_port = json!(["inet_proto", "inet_service"]);
        let verdict_map = |key: &Value| Set::new(vec![("type", key.clone()), ("map", json!("verdict"))]);
        let set_of = |key: &Value| Set::new(vec![("type", key.clone())]);
        let address = json!("ipv4_addr");
        for (name, set) in [
            (SERVICE_IPS, verdict_map(&by_ip)),
            (NO_ENDPOINTS_IPS, verdict_map(&by_ip)),
            (NODE_PORTS, verdict_map(&by_port)),
            (NO_ENDPOINTS_NODE_PORTS, verdict_map(&by_port)),
            (SERVED_IPS, set_of(&by_ip)),
            (SERVED_NODE_PORTS, set_of(&by_port)),
            (CLUSTER_IPS, set_of(&address)),
            (NODE_ADDRESSES, set_of(&address)),
        ] {
            self.set.sets.insert(name.to_owned(), set);
        }
        for address in &self.input.node_addresses {
            self.insert(NODE_ADDRESSES, json!(address), None);
        }
        self.nat_chains();
        self.filter_chains();
    }

    fn nat_chains(&mut self) {
        self.chain("prerouting", Some(("nat", "prerouting", -100)), vec![json!([jump("services")])]);
        self.chain("output", Some(("nat", "output", -100)), vec![json!([jump("services")])]);
        let mut dispatch = Vec::new();
        if let Some(cidr) = self.input.cluster_cidr {
            let to_cluster_ip = matches("==", payload("ip", "daddr"), json!(format!("@{CLUSTER_IPS}")));
            dispatch.push(json!([to_cluster_ip, outside(cidr), jump("mark_masquerade")]));
        }
        dispatch.push(json!([lookup_ip(SERVICE_IPS)]));
        dispatch.push(json!([self.to_node(), lookup_port(NODE_PORTS)]));
        self.chain("services", None, dispatch);
        let mark = || json!({"meta": {"key": "mark"}});
        let set_mark = |operator: &str| json!({"mangle": {"key": mark(), "value": {operator: [mark(), MASQUERADE_MARK]}}});
        self.chain("mark_masquerade", None, vec![json!([set_mark("|")])]);
        let unmarked = matches("==", json!({"&": [mark(), MASQUERADE_MARK]}), json!(0));
        self.chain(
            "postrouting",
            Some(("nat", "postrouting", 100)),
            vec![
                json!([unmarked, {"return": null}]),
                json!([set_mark("^")]),
                json!([{"masquerade": {"flags": ["fully-random"]}}]),
            ],
        );
    }

    /// Refusals are made before translation, where the destination still is the service.
    ///
    /// A packet that is under way while the kernel takes over a change may see the new rules halfway
    /// (an old chain whose map is gone already), and comes out of the chains untranslated. A refusal
    /// would be final; dropped, the client sends it again, and the new rules have it.
    fn filter_chains(&mut self) {
        let new = matches("in", json!({"ct": {"key": "state"}}), json!("new"));
        let unknown_port = json!([new, matches("==", payload("ip", "daddr"), json!(format!("@{CLUSTER_IPS}"))), {"goto": {"target": "refuse"}}]);
        let by_ip = json!([new, lookup_ip(NO_ENDPOINTS_IPS)]);
        let by_port = json!([new, self.to_node(), lookup_port(NO_ENDPOINTS_NODE_PORTS)]);
        let status = json!({"&": [{"ct": {"key": "status"}}, DESTINATION_TRANSLATED]});
        let untranslated = matches("==", status, json!(0));
        let served = |key: Value, set: &str| matches("==", key, json!(format!("@{set}")));
        let late_ip = json!([new, untranslated, served(ip_key(), SERVED_IPS), {"drop": null}]);
        let late_port =
            json!([new, untranslated, self.to_node(), served(port_key(), SERVED_NODE_PORTS), {"drop": null}]);
        self.chain("refuse", None, vec![
            json!([matches("==", json!({"meta": {"key": "l4proto"}}), json!("tcp")), {"reject": {"type": "tcp reset"}}]),
            json!([{"reject": {"type": "icmp", "expr": "port-unreachable"}}]),
        ]);
        let input = vec![by_ip.clone(), by_port.clone(), late_ip.clone(), late_port.clone()];
        self.chain("input", Some(("filter", "input", -110)), input);
        let forward = vec![by_ip.clone(), late_ip.clone(), unknown_port.clone()];
        self.chain("forward", Some(("filter", "forward", -110)), forward);
        self.chain("filter_output", Some(("filter", "output", -110)), vec![by_ip, by_port]);
        // After translation, a destination that still is a cluster IP has no such port.
        let translated = vec![late_ip, late_port, unknown_port];
        self.chain("output_translated", Some(("filter", "output", -90)), translated);
    }

    fn port(&mut self, service: &ProxyService, port: &ProxyPort) {
        let names = Names::of(service, port);
        let local: Vec<ProxyEndpoint> =
            port.endpoints.iter().filter(|endpoint| endpoint.local).cloned().collect();
        let (everywhere, here) = (sorted(usable(&port.endpoints)), sorted(usable(&local)));
        let has_external = !service.external_ips.is_empty()
            || !service.load_balancer_ips.is_empty()
            || port.node_port.is_some();
        let internal = if service.internal_local { &here } else { &everywhere };
        let external = if service.external_local { &here } else { &everywhere };
        // With a Local policy, endpoints elsewhere mean: not here, try another node.
        let missing =
            if everywhere.is_empty() { json!({"goto": {"target": "refuse"}}) } else { json!({"drop": null}) };

        let needs_all = !service.internal_local
            || (has_external && (!service.external_local || self.input.cluster_cidr.is_some()));
        let needs_here = service.internal_local || (has_external && service.external_local);
        if needs_all && !everywhere.is_empty() {
            self.balance(&names.all, service, port, &names, &everywhere);
        }
        if needs_here && !here.is_empty() {
            self.balance(&names.local, service, port, &names, &here);
        }
        for address in &service.cluster_ips {
            self.insert(CLUSTER_IPS, json!(address), None);
            let chain = if service.internal_local { &names.local } else { &names.all };
            self.lead_ip(*address, port, (!internal.is_empty()).then_some(chain.as_str()), &missing);
        }
        if !has_external {
            return;
        }
        if !external.is_empty() {
            self.external(service, &names, !everywhere.is_empty());
        }
        let target = (!external.is_empty()).then_some(names.external.as_str());
        for address in &service.external_ips {
            self.lead_ip(*address, port, target, &missing);
        }
        if !service.load_balancer_ips.is_empty() {
            let target = target.map(|target| self.firewall(service, &names, target));
            for address in &service.load_balancer_ips {
                self.lead_ip(*address, port, target.as_deref(), &missing);
            }
        }
        if let (Some(_), Some(address)) = (port.node_port, port.node_address) {
            self.lead_ip(address, port, target, &missing);
        } else if let Some(node_port) = port.node_port {
            let key = json!({"concat": [port.protocol.name(), node_port]});
            match target {
                Some(chain) => {
                    self.insert(NODE_PORTS, key.clone(), Some(goto(chain)));
                    // An endpoint with the node port's own number is no translation for the kernel.
                    if everywhere.iter().all(|endpoint| endpoint.port != node_port) {
                        self.insert(SERVED_NODE_PORTS, key, None);
                    }
                }
                None => self.insert(NO_ENDPOINTS_NODE_PORTS, key, Some(missing)),
            }
        }
    }

    /// Leads an address and port to a chain, or to what happens where there is no endpoint.
    fn lead_ip(&mut self, address: Ipv4Addr, port: &ProxyPort, chain: Option<&str>, missing: &Value) {
        let key = json!({"concat": [address, port.protocol.name(), port.port]});
        match chain {
            Some(chain) => {
                self.insert(SERVICE_IPS, key.clone(), Some(goto(chain)));
                // An endpoint at this very address (host network) is no translation for the kernel.
                let itself =
                    |endpoint: &ProxyEndpoint| (endpoint.address, endpoint.port) == (address, port.port);
                if !port.endpoints.iter().any(itself) {
                    self.insert(SERVED_IPS, key, None);
                }
            }
            None => self.insert(NO_ENDPOINTS_IPS, key, Some(missing.clone())),
        }
    }

    /// The chain that picks one of `endpoints`: the one the client had before, or any.
    fn balance(
        &mut self,
        chain: &str,
        service: &ProxyService,
        port: &ProxyPort,
        names: &Names,
        endpoints: &[ProxyEndpoint],
    ) {
        let mut rules = Vec::new();
        let mut choices = Vec::new();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let target = self.endpoint(service, port, names, endpoint);
            if let Some(timeout) = service.affinity {
                let set = names.affinity(endpoint, timeout);
                let known = matches("==", payload("ip", "saddr"), json!(format!("@{set}")));
                rules.push(json!([known, goto(&target)]));
            }
            choices.push(json!([number, goto(&target)]));
        }
        let random = json!({"numgen": {"mode": "random", "mod": endpoints.len(), "offset": 0}});
        rules.push(json!([{"vmap": {"key": random, "data": {"set": choices}}}]));
        self.chain(chain, None, rules);
    }

    fn endpoint(
        &mut self,
        service: &ProxyService,
        port: &ProxyPort,
        names: &Names,
        endpoint: &ProxyEndpoint,
    ) -> String {
        let chain = names.endpoint(endpoint);
        let itself = matches("==", payload("ip", "saddr"), json!(endpoint.address));
        let mut rules = vec![json!([itself, jump("mark_masquerade")])];
        if let Some(timeout) = service.affinity {
            let set = names.affinity(endpoint, timeout);
            rules.push(
                json!([{"set": {"op": "update", "elem": payload("ip", "saddr"), "set": format!("@{set}")}}]),
            );
            let spec = vec![
                ("type", json!("ipv4_addr")),
                ("flags", json!(["timeout"])),
                ("timeout", json!(timeout.as_secs().max(1))),
                ("size", json!(65535)),
            ];
            self.set.sets.insert(set, Set::new(spec));
        }
        let protocol = matches("==", json!({"meta": {"key": "l4proto"}}), json!(port.protocol.name()));
        rules.push(json!([protocol, {"dnat": {"addr": endpoint.address, "port": endpoint.port}}]));
        self.chain(&chain, None, rules);
        chain
    }

    /// Traffic to a node port, an external or a load balancer's address.
    fn external(&mut self, service: &ProxyService, names: &Names, anywhere: bool) {
        let rules = if service.external_local {
            let mut rules = Vec::new();
            if let (Some(cidr), true) = (self.input.cluster_cidr, anywhere) {
                // Pods are inside: the policy is about clients outside.
                let from_pods = matches("==", payload("ip", "saddr"), prefix(cidr));
                rules.push(json!([from_pods, goto(&names.all)]));
            }
            let from_here =
                matches("==", json!({"fib": {"result": "type", "flags": ["saddr"]}}), json!("local"));
            rules.push(json!([from_here, jump("mark_masquerade")]));
            rules.push(json!([goto(&names.local)]));
            rules
        } else {
            vec![json!([jump("mark_masquerade")]), json!([goto(&names.all)])]
        };
        self.chain(&names.external, None, rules);
    }

    /// `loadBalancerSourceRanges`: who is not in them is dropped.
    fn firewall(&mut self, service: &ProxyService, names: &Names, target: &str) -> String {
        if service.source_ranges.is_empty() {
            return target.to_owned();
        }
        let allowed = service
            .source_ranges
            .iter()
            .map(|range| json!([matches("==", payload("ip", "saddr"), prefix(*range)), goto(target)]));
        let rules = allowed.chain([json!([{"drop": null}])]).collect();
        self.chain(&names.firewall, None, rules);
        names.firewall.clone()
    }

    /// To one of the node's addresses; a node port is everywhere but on no address of others.
    fn to_node(&self) -> Value {
        if self.input.node_addresses.is_empty() {
            matches("==", json!({"fib": {"result": "type", "flags": ["daddr"]}}), json!("local"))
        } else {
            matches("==", payload("ip", "daddr"), json!(format!("@{NODE_ADDRESSES}")))
        }
    }

    fn chain(&mut self, name: &str, hook: Option<(&'static str, &'static str, i32)>, rules: Vec<Value>) {
        self.set.chains.insert(name.to_owned(), Chain { hook, rules });
    }

    fn insert(&mut self, set: &str, key: Value, data: Option<Value>) {
        if let Some(set) = self.set.sets.get_mut(set) {
            set.insert(key, data);
        }
    }
}

/// The names of a port's chains and sets. The hash keeps them apart, the rest is for people.
struct Names {
    all: String,
    local: String,
    external: String,
    firewall: String,
    hash: String,
    readable: String,
}

impl Names {
    fn of(service: &ProxyService, port: &ProxyPort) -> Self {
        let readable =
            format!("{}/{}/{}/{}", service.namespace, service.name, port.protocol.name(), port.port);
        let hash = short(&readable, 8);
        let chain = |kind: &str| format!("{kind}-{hash}-{readable}");
        Self {
            all: chain("svc"),
            local: chain("local"),
            external: chain("ext"),
            firewall: chain("fw"),
            hash,
            readable,
        }
    }

    fn endpoint(&self, endpoint: &ProxyEndpoint) -> String {
        format!("ep-{}-{}__{}/{}", self.hash, self.readable, endpoint.address, endpoint.port)
    }

    // With the timeout: a set cannot change it, so another timeout is another set.
    fn affinity(&self, endpoint: &ProxyEndpoint, timeout: Duration) -> String {
        let (address, port, seconds) = (endpoint.address, endpoint.port, timeout.as_secs());
        format!("aff-{}-{}__{address}/{port}_{seconds}s", self.hash, self.readable)
    }
}

fn sorted(endpoints: Vec<&ProxyEndpoint>) -> Vec<ProxyEndpoint> {
    let mut sorted: Vec<ProxyEndpoint> = endpoints.into_iter().cloned().collect();
    sorted.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
    sorted.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
    sorted
}

fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

fn goto(chain: &str) -> Value {
    json!({"goto": {"target": chain}})
}

fn outside(cidr: Ipv4Net) -> Value {
    matches("!=", payload("ip", "saddr"), prefix(cidr))
}

fn ip_key() -> Value {
    json!({"concat": [payload("ip", "daddr"), {"meta": {"key": "l4proto"}}, payload("th", "dport")]})
}

fn port_key() -> Value {
    json!({"concat": [{"meta": {"key": "l4proto"}}, payload("th", "dport")]})
}

fn lookup_ip(map: &str) -> Value {
    json!({"vmap": {"key": ip_key(), "data": format!("@{map}")}})
}

fn lookup_port(map: &str) -> Value {
    json!({"vmap": {"key": port_key(), "data": format!("@{map}")}})
}

/// A flow of a datagram protocol whose connection tracking entry leads where it no longer should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaleFlow {
    /// The service's address; none for a node port.
    pub destination: Option<Ipv4Addr>,
    /// The service's port, or the node port.
    pub port: u16,
    /// The endpoint that is gone; none for flows that were never translated, because there was no
    /// endpoint when they began.
    pub endpoint: Option<Ipv4Addr>,
}

/// The UDP flows that must be forgotten when `old` becomes `new`. TCP connections to an endpoint
/// that was removed go on for as long as the pod lives.
pub fn stale_udp(old: &ProxyInput, new: &ProxyInput) -> Vec<StaleFlow> {
    let (before, after) = (udp_targets(old), udp_targets(new));
    let mut stale = std::collections::BTreeSet::new();
    for ((destination, port), endpoints) in &before {
        let left = after.get(&(*destination, *port));
        for endpoint in endpoints.iter().filter(|endpoint| left.is_none_or(|left| !left.contains(endpoint))) {
            stale.insert(StaleFlow { destination: *destination, port: *port, endpoint: Some(*endpoint) });
        }
    }
    for ((destination, port), endpoints) in &after {
        let had_some = before.get(&(*destination, *port)).is_some_and(|before| !before.is_empty());
        if !endpoints.is_empty() && !had_some {
            stale.insert(StaleFlow { destination: *destination, port: *port, endpoint: None });
        }
    }
    stale.into_iter().collect()
}

type UdpTargets = std::collections::BTreeMap<(Option<Ipv4Addr>, u16), Vec<Ipv4Addr>>;

fn udp_targets(input: &ProxyInput) -> UdpTargets {
    let mut targets = UdpTargets::new();
    for service in &input.services {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
            let endpoints: Vec<Ipv4Addr> =
                usable(&port.endpoints).into_iter().map(|endpoint| endpoint.address).collect();
            let addresses =
                service.cluster_ips.iter().chain(&service.external_ips).chain(&service.load_balancer_ips);
            for address in addresses {
                targets.insert((Some(*address), port.port), endpoints.clone());
            }
            if let Some(node_port) = port.node_port {
                targets.insert((port.node_address, node_port), endpoints);
            }
        }
    }
    targets
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
