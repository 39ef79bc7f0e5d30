//! The proxy without rules: listeners on loopback, in this process's own namespace.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use balsa_net::proxy::{Protocol, ProxyEndpoint, ProxyPort, ProxyService, Synced};
use balsa_net::{Netns, PodNetwork, ProxyInput, ProxyMode, ServiceProxy};

use crate::lab::{Lab, ask_tcp, ip, serve_on};

fn backend(name: &str) -> ProxyEndpoint {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    serve_on(tcp, udp, name);
    ProxyEndpoint::ready(Ipv4Addr::LOCALHOST, address.port())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn input(
    protocol: Protocol,
    node_port: u16,
    endpoints: Vec<ProxyEndpoint>,
    affinity: Option<Duration>,
) -> ProxyInput {
    let port =
        ProxyPort { protocol, port: 80, node_port: Some(node_port), endpoints, ..ProxyPort::default() };
    let service = ProxyService {
        namespace: "shop".into(),
        name: "web".into(),
        ports: vec![port],
        affinity,
        ..ProxyService::default()
    };
    ProxyInput { node_addresses: vec![Ipv4Addr::LOCALHOST], services: vec![service], ..ProxyInput::default() }
}

async fn who(port: u16) -> Result<String, ErrorKind> {
    let asked = Netns::Current.run(move || Ok(ask_tcp(([127, 0, 0, 1], port).into()))).await.unwrap();
    asked.map(|said| said.split(' ').next().unwrap().to_owned()).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_node_port_is_balanced_kept_and_refused() {
    let (one, two, port) = (backend("one"), backend("two"), free_port());
    let proxy = ServiceProxy::new(ProxyMode::Userspace, &format!("test-{port}"), Netns::Current);
    let both = |affinity| input(Protocol::Tcp, port, vec![one.clone(), two.clone()], affinity);
    assert_eq!(proxy.sync(&both(None)).await.unwrap(), Synced::Changed(1));
    assert_eq!(proxy.sync(&both(None)).await.unwrap(), Synced::Unchanged);
    let (first, second) = (who(port).await.unwrap(), who(port).await.unwrap());
    assert_ne!(first, second);
    proxy.sync(&both(Some(Duration::from_secs(60)))).await.unwrap();
    let kept = who(port).await.unwrap();
    for _ in 0..5 {
        assert_eq!(who(port).await.unwrap(), kept);
    }
    proxy.sync(&input(Protocol::Tcp, port, vec![], None)).await.unwrap();
    // Reset is who came while the listener was being closed; it is once, and not for long.
    let refused = async { while who(port).await == Err(ErrorKind::ConnectionReset) {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(who(port).await, Err(ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn datagrams_find_their_way_back() {
    let (one, port) = (backend("one"), free_port());
    let proxy = ServiceProxy::new(ProxyMode::Userspace, &format!("test-{port}"), Netns::Current);
    proxy.sync(&input(Protocol::Udp, port, vec![one], None)).await.unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    for _ in 0..3 {
        socket.send(b"hello").await.unwrap();
        let mut buffer = [0; 64];
        let received = tokio::time::timeout(Duration::from_secs(3), socket.recv(&mut buffer)).await;
        assert!(buffer[..received.unwrap().unwrap()].starts_with(b"one "));
    }
}

#[tokio::test]
async fn cluster_ips_are_served_on_loopback_and_go_with_the_proxy() {
    let mut lab = Lab::new();
    let network = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    lab.pod(&network, "a", "10.244.1.2").await;
    lab.pod(&network, "b", "10.244.1.3").await;
    let port = ProxyPort {
        port: 80,
        node_port: Some(30080),
        endpoints: vec![ProxyEndpoint::ready(ip("10.244.1.2"), 8080)],
        ..ProxyPort::default()
    };
    let service = ProxyService {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ips: vec![ip("10.96.7.7")],
        ports: vec![port],
        ..ProxyService::default()
    };
    let input = ProxyInput { services: vec![service], ..ProxyInput::default() };
    let node = lab.netns("node");
    let first = ServiceProxy::new(ProxyMode::Userspace, "lab", node.clone());
    assert!(matches!(first.sync(&input).await.unwrap(), Synced::Changed(_)));
    // Relays connect from this process's own namespace, so the way to an endpoint is not walked here.
    let listening = lab.exec("node", "ss -Hltn");
    assert!(listening.contains("10.96.7.7:80") && listening.contains("0.0.0.0:30080"), "{listening}");
    let second = ServiceProxy::new(ProxyMode::Userspace, "lab", node.clone());
    assert_eq!(second.sync(&input).await.unwrap(), Synced::Standby, "another agent of the same machine");

    // The process dies: its sockets close, and the address stays until the next one takes over.
    drop(first);
    assert!(lab.exec("node", "ip -4 addr show lo").contains("10.96.7.7"));
    assert!(matches!(second.sync(&input).await.unwrap(), Synced::Changed(_)), "the other one takes over");
    second.remove().await.unwrap();
    assert!(!lab.exec("node", "ip -4 addr show lo").contains("10.96.7.7"));
    assert_eq!(lab.exec("node", "ss -Hltn").trim(), "");
}
