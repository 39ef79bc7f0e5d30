//! The resolver over real sockets, alone and as pods reach it.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use balsa_net::dns::{DnsConfig, DnsEndpoint, DnsService, DnsTarget};
use balsa_net::{DnsServer, DnsView, Netns, PodNetwork};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Lab, ip};

fn service(name: &str, address: &str) -> DnsService {
    let target = DnsTarget::ClusterIps(vec![address.parse().unwrap()]);
    DnsService { namespace: "shop".into(), name: name.into(), target, ..DnsService::default() }
}

fn view(services: Vec<DnsService>) -> DnsView {
    DnsView::new("cluster.local", 1, [], services).with_dns_service(ip("10.96.0.10"))
}

async fn start(upstreams: Vec<SocketAddr>, services: Vec<DnsService>) -> DnsServer {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    DnsServer::start(DnsConfig { listen, upstreams, netns: Netns::Current }, view(services)).await.unwrap()
}

fn question(name: &str, kind: RecordType, edns: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        message.set_edns(Edns::new());
    }
    message
}

fn over_udp(server: SocketAddr, asked: &Message) -> Message {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(server).unwrap();
    socket.send(&asked.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn udp(server: SocketAddr, asked: Message) -> Message {
    Netns::Current.run(move || Ok(over_udp(server, &asked))).await.unwrap()
}

async fn tcp(server: SocketAddr, asked: &Message) -> Message {
    let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
    let bytes = asked.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn answers_and_denials_over_udp_and_tcp() {
    let server = start(vec![], vec![service("web", "10.96.0.7")]).await;
    let at = server.addresses()[0];
    let asked = question("WEB.shop.svc.cluster.local.", RecordType::A, false);
    for answer in [udp(at, asked.clone()).await, tcp(at, &asked).await] {
        assert_eq!(data(&answer), ["10.96.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!((answer.metadata.id, &answer.queries), (asked.metadata.id, &asked.queries));
        assert_eq!(answer.answers[0].ttl, 5);
    }
    let nodata = udp(at, question("web.shop.svc.cluster.local.", RecordType::AAAA, true)).await;
    assert_eq!(nodata.metadata.response_code, ResponseCode::NoError);
    assert_eq!((nodata.answers.len(), nodata.authorities[0].record_type()), (0, RecordType::SOA));
    assert!(nodata.edns.is_some());
    let none = udp(at, question("no.shop.svc.cluster.local.", RecordType::A, true)).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    let foreign = udp(at, question("example.com.", RecordType::A, true)).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused, "nobody to ask");
    server.shutdown().await;
}

#[tokio::test]
async fn a_new_view_is_answered_from_at_once() {
    let server = start(vec![], vec![service("web", "10.96.0.7")]).await;
    server.update(view(vec![service("web", "10.96.0.9")]));
    let answer =
        udp(server.addresses()[0], question("web.shop.svc.cluster.local.", RecordType::A, false)).await;
    assert_eq!(data(&answer), ["10.96.0.9"]);
}

#[tokio::test]
async fn long_answers_are_cut_for_udp_and_whole_over_tcp() {
    let endpoint = |n: u32| DnsEndpoint {
        address: std::net::Ipv4Addr::from(0x0af4_0000 + n).into(),
        hostname: None,
        ready: true,
        ports: Vec::new(),
    };
    let db = DnsService {
        target: DnsTarget::Headless,
        endpoints: (2..202).map(endpoint).collect(),
        ..service("db", "0.0.0.0")
    };
    let server = start(vec![], vec![db]).await;
    let asked = question("db.shop.svc.cluster.local.", RecordType::A, false);
    let short = udp(server.addresses()[0], asked.clone()).await;
    assert!(short.metadata.truncation);
    assert_eq!(tcp(server.addresses()[0], &asked).await.answers.len(), 200);
}

#[tokio::test]
async fn other_names_are_asked_upstream_once_and_aliases_followed() {
    // Another of our own resolvers plays the outside world.
    let world = DnsView::new("example", 1, [], vec![service("www", "192.0.2.80")]);
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let upstream = DnsServer::start(DnsConfig { listen, ..DnsConfig::default() }, world).await.unwrap();
    let alias = |name: &str, target: &str| DnsService {
        target: DnsTarget::ExternalName(target.into()),
        ..service(name, "0.0.0.0")
    };
    let services = vec![
        alias("far", "www.shop.svc.example"),
        alias("near", "web.shop.svc.cluster.local"),
        alias("round", "round.shop.svc.cluster.local"),
        service("web", "10.96.0.7"),
    ];
    // The first one does not answer; the server itself must be left out.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = start(vec![dead, upstream.addresses()[0]], services).await;
    let at = server.addresses()[0];
    let ask = async |name: &str| udp(at, question(name, RecordType::A, true)).await;
    assert_eq!(data(&ask("www.shop.svc.example.").await), ["192.0.2.80"]);
    assert_eq!(data(&ask("far.shop.svc.cluster.local.").await), ["www.shop.svc.example.", "192.0.2.80"]);
    assert_eq!(
        data(&ask("near.shop.svc.cluster.local.").await),
        ["web.shop.svc.cluster.local.", "10.96.0.7"]
    );
    assert_eq!(ask("round.shop.svc.cluster.local.").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ask("no.shop.svc.example.").await.metadata.response_code, ResponseCode::NXDomain);
    upstream.shutdown().await;
    assert_eq!(data(&ask("www.shop.svc.example.").await), ["192.0.2.80"], "from the cache");
    assert_eq!(ask("new.shop.svc.example.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn pods_reach_their_nodes_resolver_at_the_cluster_address() {
    let mut lab = Lab::new();
    let config = lab.config("one", "10.244.1.0/24");
    let network = PodNetwork::ensure(config.clone()).await.unwrap();
    lab.pod(&network, "a", "10.244.1.2").await;
    let listen = vec![(config.gateway(), 53).into()];
    let config = DnsConfig { listen, upstreams: vec![], netns: lab.netns("node") };
    let _server = DnsServer::start(config, view(vec![service("web", "10.96.0.7")])).await.unwrap();
    for from in ["a", "node"] {
        let ask = || {
            Ok(over_udp(
                "10.96.0.10:53".parse().unwrap(),
                &question("web.shop.svc.cluster.local.", RecordType::A, false),
            ))
        };
        assert_eq!(data(&lab.netns(from).run(ask).await.unwrap()), ["10.96.0.7"], "from {from}");
    }
}
