//! Services, endpoints and names: what the API says, in the words of balsa-net. Pure but for the loop.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use balsa_client::{Client, Informer};
use balsa_model::kinds::service::wants_health_check;
use balsa_model::selector::Filter;
use balsa_model::{Key, Object};
use balsa_net::dns::{DnsEndpoint, DnsPort, DnsService, DnsTarget};
use balsa_net::proxy::{Protocol, ProxyEndpoint, ProxyPort, ProxyService};
use balsa_net::{DnsView, ProxyInput, ServiceProxy};
use balsa_rt::{Scope, TaskKind};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::config::AgentConfig;
use crate::net::shown::{Picture, Shown};
use crate::net::{HealthCheck, NetworkSeam};
use crate::pod::manager::Pods;
use crate::pod::observed::app_containers;

/// Changes that come together are made true together.
const SETTLE: Duration = Duration::from_millis(20);
/// The label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Keeps services and names true until the scope ends.
pub(crate) fn start(
    config: Arc<AgentConfig>,
    client: &Client,
    services: Informer,
    network: NetworkSeam,
    pods: Arc<Pods>,
    shown: Arc<Shown>,
    scope: &Scope,
) {
    let slices = client.informer::<EndpointSlice>(Filter::everything(), scope);
    let namespaces = client.informer::<Namespace>(Filter::everything(), scope);
    let token = scope.token();
    scope.spawn(TaskKind::Network, async move {
        let keeper = Keeper { config, services, slices, namespaces, network, pods, shown };
        tokio::select! {
            () = token.cancelled() => {}
            () = keeper.run() => {}
        }
        keeper.network.stop().await;
    });
}

struct Keeper {
    config: Arc<AgentConfig>,
    services: Informer,
    slices: Informer,
    namespaces: Informer,
    network: NetworkSeam,
    pods: Arc<Pods>,
    shown: Arc<Shown>,
}

impl Keeper {
    async fn run(&self) {
        let (mut a, mut b, mut c) =
            (self.services.subscribe(), self.slices.subscribe(), self.namespaces.subscribe());
        let mut pods = self.pods.host_ports_changed();
        // Rules made from half of the picture would cut off what works.
        tokio::join!(self.services.synced(), self.slices.synced(), self.namespaces.synced());
        let mut serial = 0_u32;
        let mut host_ports: Option<ProxyInput> = None;
        loop {
            while a.try_recv().is_ok() || b.try_recv().is_ok() || c.try_recv().is_ok() {}
            // The revision first: what is listed after it holds all of it.
            let reached = self.slices.revision().0;
            let listed = self.slices.list();
            let slices = by_service(&listed);
            let services: Vec<Arc<Object>> = self.services.list();
            let services: Vec<Arc<Service>> = services.iter().filter_map(|object| object.typed()).collect();
            let input = self.proxy_input(&services, &slices);
            let made = self.network.sync_services(&input).await;
            if let Err(error) =
                self.network.sync_health(&health_checks(&services, &input, made.is_ok())).await
            {
                tracing::warn!(%error, "health checks of services are not answered; will try again");
            }
            match made {
                Ok(()) => self.shown.publish(Picture::of(&listed, &self.config.node_name, reached)),
                Err(error) => tracing::warn!(%error, "services not made true; will try again"),
            }
            self.sync_host_ports(&mut host_ports).await;
            serial = serial.wrapping_add(1);
            let view = self.dns_view(&services, &slices, serial);
            self.network.sync_dns(view).await;
            let changed = tokio::select! {
                changed = a.recv() => changed.is_some(),
                changed = b.recv() => changed.is_some(),
                changed = c.recv() => changed.is_some(),
                changed = pods.changed() => changed.is_ok(),
                () = tokio::time::sleep(ServiceProxy::PERIOD) => true,
            };
            if !changed {
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Host ports, where there are any or were some; `known` is what was made true last.
    async fn sync_host_ports(&self, known: &mut Option<ProxyInput>) {
        let services = self.pods.all().iter().flat_map(|pod| host_ports(pod)).collect();
        let cluster_cidr = Some(self.config.cluster_cidr);
        let input = ProxyInput { cluster_cidr, services, ..ProxyInput::default() };
        if input.services.is_empty() && known.as_ref() == Some(&input) {
            return;
        }
        match self.network.sync_host_ports(&input).await {
            Ok(()) => *known = Some(input),
            Err(error) => tracing::warn!(%error, "host ports not made true; will try again"),
        }
    }

    fn proxy_input(&self, services: &[Arc<Service>], slices: &Slices) -> ProxyInput {
        let on_machine = |node: &str| self.config.is_on_machine(node);
        let dns = self.config.cluster_dns;
        let cluster_cidr = Some(self.config.cluster_cidr);
        let mut input = ProxyInput { cluster_cidr, resolver: dns, ..ProxyInput::default() };
        for service in services {
            let found = proxy_service(
                service,
                slices.get(&key(service)).map(Vec::as_slice).unwrap_or_default(),
                &on_machine,
            );
            // The pod network leads to the node's own resolver already.
            input.services.extend(found.filter(|found| !found.cluster_ips.iter().any(|ip| Some(*ip) == dns)));
        }
        input
    }

    fn dns_view(&self, services: &[Arc<Service>], slices: &Slices, serial: u32) -> DnsView {
        let namespaces =
            self.namespaces.list().iter().map(|object| object.key().name.to_string()).collect::<Vec<_>>();
        let services = services
            .iter()
            .map(|service| {
                dns_service(service, slices.get(&key(service)).map(Vec::as_slice).unwrap_or_default())
            })
            .collect();
        let view = DnsView::new(&self.config.cluster_domain, serial, namespaces, services);
        match self.config.cluster_dns {
            Some(address) => view.with_dns_service(address),
            None => view,
        }
    }
}

type Slices = BTreeMap<Key, Vec<Arc<EndpointSlice>>>;

fn by_service(objects: &[Arc<Object>]) -> Slices {
    let mut slices = Slices::new();
    for object in objects {
        let Some(name) = object.meta().labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
            continue;
        };
        let Some(slice) = object.typed() else { continue };
        slices.entry(Key::new(object.key().namespace.clone(), name.as_str())).or_default().push(slice);
    }
    slices
}

fn key(service: &Service) -> Key {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Key::new(text(&service.metadata.namespace), text(&service.metadata.name))
}

fn port_number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or(0)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// A service with rules; none for headless and external ones.
fn proxy_service(
    service: &Service,
    slices: &[Arc<EndpointSlice>],
    on_machine: &dyn Fn(&str) -> bool,
) -> Option<ProxyService> {
    let spec = service.spec.as_ref()?;
    let own = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
    let cluster_ips = addresses(own);
    if cluster_ips.is_empty() {
        return None;
    }
    let key = key(service);
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let vip = ingress
        .iter()
        .filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|e| e.ip.as_ref());
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(10_800);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(10_800))
    });
    let ports = spec.ports.iter().flatten().map(|port| ProxyPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::from_spec(port.protocol.as_deref()),
        port: port_number(port.port),
        node_port: port.node_port.map(port_number).filter(|port| *port > 0),
        node_address: None,
        endpoints: endpoints(port, slices, on_machine),
    });
    Some(ProxyService {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: addresses(vip),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|r| r.trim().parse().ok())
            .collect(),
        ports: ports.collect(),
        affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
    })
}

/// What is said of services to load balancers that ask whether to send anything here, by port.
fn health_checks(
    services: &[Arc<Service>],
    input: &ProxyInput,
    proxy_is_well: bool,
) -> BTreeMap<u16, HealthCheck> {
    let mut checks = BTreeMap::new();
    for service in services {
        let spec = service.spec.as_ref().filter(|spec| wants_health_check(spec));
        let port =
            spec.and_then(|spec| spec.health_check_node_port).map(port_number).filter(|port| *port > 0);
        let Some(port) = port else { continue };
        let Key { namespace, name, .. } = key(service);
        let made = input.services.iter().find(|made| *made.namespace == *namespace && *made.name == *name);
        checks.extend(made.map(|made| (port, HealthCheck::new(made, proxy_is_well))));
    }
    checks
}

/// Where a port leads: the slices' endpoints at the port of the same name.
fn endpoints(
    port: &ServicePort,
    slices: &[Arc<EndpointSlice>],
    on_machine: &dyn Fn(&str) -> bool,
) -> Vec<ProxyEndpoint> {
    let name = port.name.as_deref().unwrap_or_default();
    let mut found: Vec<ProxyEndpoint> = Vec::new();
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let target =
            ports.iter().find(|p| p.name.as_deref().unwrap_or_default() == name).and_then(|p| p.port);
        let Some(target) = target.map(port_number).filter(|port| *port > 0) else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready != Some(false);
            for address in addresses(endpoint.addresses.iter()) {
                let endpoint = ProxyEndpoint {
                    address,
                    port: target,
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating == Some(true),
                    local: endpoint.node_name.as_deref().is_some_and(on_machine),
                };
                // A pod may be in two slices while it moves from one to the other.
                if !found.iter().any(|known| (known.address, known.port) == (address, target)) {
                    found.push(endpoint);
                }
            }
        }
    }
    found
}

/// A pod's host ports, as node ports of a service that only this pod is behind. Whoever asks keeps its
/// address, as it does with a port of the node itself.
fn host_ports(pod: &Pod) -> Option<ProxyService> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true))?;
    let address: Ipv4Addr = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    if balsa_model::kinds::pod::is_terminal(pod) {
        return None;
    }
    let all = app_containers(pod).iter().chain(spec.init_containers.iter().flatten());
    let ports: Vec<ProxyPort> = all
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host = port_number(port.host_port?);
            let at: Option<Ipv4Addr> = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            (host > 0).then(|| ProxyPort {
                name: format!("host-{host}"),
                protocol: Protocol::from_spec(port.protocol.as_deref()),
                port: host,
                node_port: Some(host),
                node_address: at.filter(|ip| !ip.is_unspecified()),
                endpoints: vec![ProxyEndpoint::ready(address, port_number(port.container_port))],
            })
        })
        .collect();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (!ports.is_empty()).then(|| ProxyService {
        namespace: text(&pod.metadata.namespace),
        name: format!("hostport.{}", text(&pod.metadata.name)),
        ports,
        external_local: true,
        ..ProxyService::default()
    })
}

/// A service as DNS sees it.
fn dns_service(service: &Service, slices: &[Arc<EndpointSlice>]) -> DnsService {
    let key = key(service);
    let spec = service.spec.clone().unwrap_or_default();
    let target = if spec.type_.as_deref() == Some("ExternalName") {
        DnsTarget::ExternalName(spec.external_name.clone().unwrap_or_default())
    } else if spec.cluster_ip.as_deref() == Some("None") {
        DnsTarget::Headless
    } else {
        let texts = spec
            .cluster_ips
            .iter()
            .flatten()
            .chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
        DnsTarget::ClusterIps(texts.filter_map(|text| text.parse::<IpAddr>().ok()).collect())
    };
    let ports = spec.ports.iter().flatten().map(|port| DnsPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::from_spec(port.protocol.as_deref()),
        port: port_number(port.port),
    });
    DnsService {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        ports: ports.collect(),
        endpoints: if target == DnsTarget::Headless { dns_endpoints(slices) } else { Vec::new() },
        target,
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
    }
}

fn dns_endpoints(slices: &[Arc<EndpointSlice>]) -> Vec<DnsEndpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let ports: Vec<DnsPort> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| DnsPort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::from_spec(port.protocol.as_deref()),
                port: port.port.map_or(0, port_number),
            })
            .collect();
        for endpoint in &slice.endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
            found.extend(addresses.map(|address| DnsEndpoint {
                address,
                hostname: endpoint.hostname.clone(),
                ready,
                ports: ports.clone(),
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn slice(ready: bool) -> Arc<EndpointSlice> {
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "n", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"], "nodeName": "n1", "hostname": "web-0", "conditions": {"ready": ready}}],
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn service(cluster_ip: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "sessionAffinity": "ClientIP",
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_services_port_leads_to_its_slices_port_of_that_name() {
        let found =
            proxy_service(&service("10.96.0.7"), &[slice(true), slice(true)], &|node| node == "n1").unwrap();
        let port = &found.ports[0];
        assert_eq!((port.port, port.node_port), (80, Some(30080)));
        assert_eq!(port.endpoints, [ProxyEndpoint::ready("10.0.0.2".parse().unwrap(), 8080)]);
        assert_eq!(found.affinity, Some(Duration::from_secs(10_800)));
        let away = proxy_service(&service("10.96.0.7"), &[slice(false)], &|node| node == "n2").unwrap();
        assert!(!away.ports[0].endpoints[0].ready && !away.ports[0].endpoints[0].local);
        assert_eq!(proxy_service(&service("None"), &[slice(true)], &|_| true), None);
    }

    #[test]
    fn load_balancers_may_ask_where_pods_are() {
        let mut service = service("10.96.0.7");
        let on_machine = |node: &str| node == "n1";
        let input = ProxyInput {
            services: proxy_service(&service, &[slice(true)], &on_machine).into_iter().collect(),
            ..ProxyInput::default()
        };
        let spec = service.spec.as_mut().unwrap();
        spec.health_check_node_port = Some(30_123);
        assert!(health_checks(&[Arc::new(service.clone())], &input, true).is_empty(), "not of every service");
        let spec = service.spec.as_mut().unwrap();
        (spec.type_, spec.external_traffic_policy) = (Some("LoadBalancer".into()), Some("Local".into()));
        let checks = health_checks(&[Arc::new(service)], &input, true);
        let (namespace, name) = ("n".to_owned(), "web".to_owned());
        let expected = HealthCheck { namespace, name, local: 1, proxy_is_well: true };
        assert_eq!(checks, BTreeMap::from([(30_123, expected)]));
    }

    #[test]
    fn headless_services_show_their_endpoints() {
        let found = dns_service(&service("None"), &[slice(true)]);
        assert_eq!(found.target, DnsTarget::Headless);
        assert_eq!(found.endpoints[0].label(), "web-0");
        assert!(dns_service(&service("10.96.0.7"), &[slice(true)]).endpoints.is_empty());
    }

    #[test]
    fn host_ports_are_node_ports_of_one_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
                {"containerPort": 82, "hostPort": 8082, "hostIP": "127.0.0.1"}]}]},
            "status": {"podIP": "10.0.0.3"},
        }))
        .unwrap();
        let found = host_ports(&pod).unwrap();
        let ports: Vec<_> = found.ports.iter().map(|port| (port.node_port, port.node_address)).collect();
        assert_eq!(ports, [(Some(8080), None), (Some(8082), Some(Ipv4Addr::LOCALHOST))]);
        let mut over = pod;
        over.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        assert_eq!(host_ports(&over), None, "a pod that is over has no ports any more");
    }
}
