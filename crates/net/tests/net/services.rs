//! The service proxy in the kernel, from pods, from the host and from outside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use balsa_net::proxy::{Protocol, ProxyEndpoint, ProxyPort, ProxyService, Synced};
use balsa_net::{PodNetwork, ProxyInput, ProxyMode, ServiceProxy};

use crate::lab::{Lab, ask_tcp, ip};

const TABLE: &str = "balsa_services";
const WEB: &str = "10.96.0.7:80";

/// Pods a, b and c on two nodes, a machine outside, and a proxy that has no services yet.
async fn start() -> (Lab, ServiceProxy) {
    let mut lab = Lab::new();
    lab.outside().await;
    let one = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    let two = PodNetwork::ensure(lab.config("two", "10.244.2.0/24")).await.unwrap();
    lab.pod(&one, "a", "10.244.1.2").await;
    lab.pod(&one, "b", "10.244.1.3").await;
    lab.pod(&two, "c", "10.244.2.2").await;
    let proxy = ServiceProxy::new(ProxyMode::Nftables, TABLE, lab.netns("node"));
    (lab, proxy)
}

fn address_of(pod: &str) -> std::net::Ipv4Addr {
    ip(match pod {
        "a" => "10.244.1.2",
        "b" => "10.244.1.3",
        _ => "10.244.2.2",
    })
}

fn web(pods: &[&str]) -> ProxyService {
    ProxyService {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ips: vec![ip("10.96.0.7")],
        ports: vec![ProxyPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            endpoints: pods.iter().map(|pod| ProxyEndpoint::ready(address_of(pod), 8080)).collect(),
            ..ProxyPort::default()
        }],
        ..ProxyService::default()
    }
}

fn input(services: Vec<ProxyService>) -> ProxyInput {
    ProxyInput { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), services, ..ProxyInput::default() }
}

async fn answers(lab: &Lab, from: &str, to: &str, times: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..times {
        seen.insert(lab.who(from, to).await);
    }
    seen
}

#[tokio::test]
async fn a_service_is_reached_from_everywhere() {
    let (lab, proxy) = start().await;
    assert!(matches!(proxy.sync(&input(vec![web(&["b", "c"])])).await.unwrap(), Synced::Changed(_)));
    let both = BTreeSet::from(["b".to_owned(), "c".to_owned()]);
    assert_eq!(answers(&lab, "a", WEB, 40).await, both, "cluster IP from a pod");
    assert_eq!(answers(&lab, "node", WEB, 40).await, both, "cluster IP from the host");
    assert_eq!(answers(&lab, "out", "192.0.2.1:30080", 40).await, both, "node port from outside");
    assert_eq!(answers(&lab, "node", "127.0.0.1:30080", 40).await, both, "node port on loopback");
    assert_eq!(answers(&lab, "node", "192.0.2.1:30080", 40).await, both, "node port from the host");
    assert_eq!(answers(&lab, "a", "192.0.2.1:30080", 40).await, both, "node port from a pod");
    let from_pod = lab.ask("a", WEB).await.unwrap();
    assert!(from_pod.ends_with(" 10.244.1.2"), "a pod keeps its address: {from_pod}");
}

#[tokio::test]
async fn bridges_may_or_may_not_pass_through_netfilter() {
    let setting = "net.bridge.bridge-nf-call-iptables";
    // Without the module br_netfilter there is but one way, and it has no setting.
    let has_choice = std::path::Path::new("/proc/sys/net/bridge").exists();
    let (lab, proxy) = start().await;
    proxy.sync(&input(vec![web(&["a"])])).await.unwrap();
    for value in if has_choice { &["0", "1"][..] } else { &["absent"] } {
        if has_choice {
            lab.exec("node", &format!("sysctl -qw {setting}={value}"));
        }
        assert_eq!(lab.who("b", WEB).await, "a", "same bridge, {setting}={value}");
        assert_eq!(lab.who("c", WEB).await, "a", "other bridge, {setting}={value}");
        assert_eq!(lab.who("a", WEB).await, "a", "itself, {setting}={value}");
        assert_eq!(lab.who("b", "10.244.1.2:8080").await, "a", "without a service, {setting}={value}");
    }
}

#[tokio::test]
async fn one_change_among_many_services_is_a_small_transaction() {
    let (lab, proxy) = start().await;
    let many = |pods: &[&str]| {
        let others = (0..2000u32).map(|number| {
            let mut service = web(&["a", "b", "c"]);
            service.name = format!("s{number}");
            service.cluster_ips = vec![std::net::Ipv4Addr::from(0x0a60_1000 + number)];
            service.ports[0].node_port = None;
            service
        });
        input(others.chain([web(pods)]).collect())
    };
    proxy.sync(&many(&["a"])).await.unwrap();
    let started = std::time::Instant::now();
    let Synced::Changed(commands) = proxy.sync(&many(&["b"])).await.unwrap() else {
        panic!("nothing changed")
    };
    println!("one change among 2000 services: {commands} commands, {:?}", started.elapsed());
    assert!(commands < 10, "{commands}");
    assert_eq!(lab.who("c", WEB).await, "b");
    assert_eq!(answers(&lab, "node", "10.96.20.7:80", 30).await.len(), 3);
}

#[tokio::test]
async fn the_mode_comes_with_its_reason() {
    let lab = Lab::new();
    let found = balsa_net::proxy::detect(&lab.netns("node")).await;
    assert_eq!((found.mode, found.mode.name()), (ProxyMode::Nftables, "nftables"));
    assert!(!found.reason.is_empty());
    assert!(!lab.exec("node", "nft list tables").contains("check"), "detection changes nothing");
}

#[tokio::test]
async fn a_pod_reaches_itself_through_its_service() {
    let (lab, proxy) = start().await;
    proxy.sync(&input(vec![web(&["a"])])).await.unwrap();
    assert_eq!(lab.who("a", WEB).await, "a");
}

#[tokio::test]
async fn without_endpoints_connections_are_refused_at_once() {
    let (lab, proxy) = start().await;
    proxy.sync(&input(vec![web(&[])])).await.unwrap();
    let refused = Err(std::io::ErrorKind::ConnectionRefused);
    for (from, to) in [
        ("a", WEB),
        ("node", WEB),
        ("out", "192.0.2.1:30080"),
        ("node", "127.0.0.1:30080"),
        ("a", "10.96.0.7:81"),
        ("node", "10.96.0.7:81"),
    ] {
        assert_eq!(lab.ask(from, to).await, refused, "{from} to {to}");
    }
    proxy.sync(&input(vec![web(&["b"])])).await.unwrap();
    assert_eq!(lab.who("a", WEB).await, "b");
    assert_eq!(lab.ask("node", "10.96.0.7:81").await, refused, "a port that the service does not have");
}

#[tokio::test]
async fn affinity_keeps_a_client_with_its_endpoint() {
    let (lab, proxy) = start().await;
    let mut service = web(&["a", "b", "c"]);
    service.affinity = Some(Duration::from_secs(60));
    proxy.sync(&input(vec![service.clone()])).await.unwrap();
    let kept = answers(&lab, "node", WEB, 30).await;
    assert_eq!(kept.len(), 1);
    // Another service's change must not lose it, and a lost endpoint must not keep it.
    let mut other = web(&["a"]);
    (other.name, other.cluster_ips, other.ports[0].node_port) = ("other".into(), vec![ip("10.96.0.8")], None);
    proxy.sync(&input(vec![service.clone(), other.clone()])).await.unwrap();
    assert_eq!(answers(&lab, "node", WEB, 30).await, kept);
    let left: Vec<_> = ["a", "b", "c"].into_iter().filter(|pod| !kept.contains(*pod)).collect();
    let mut fewer = web(&left);
    fewer.affinity = service.affinity;
    proxy.sync(&input(vec![fewer, other])).await.unwrap();
    let moved = answers(&lab, "node", WEB, 30).await;
    assert!(moved.len() == 1 && moved.is_disjoint(&kept), "{moved:?}");
}

#[tokio::test]
async fn local_traffic_policy_keeps_the_clients_address() {
    let (lab, proxy) = start().await;
    let mut service = web(&["b", "c"]);
    service.external_local = true;
    service.ports[0].endpoints[0].local = false;
    proxy.sync(&input(vec![service.clone()])).await.unwrap();
    // The way back from the pod leads to the client itself.
    lab.exec("out", "ip route add 10.244.0.0/16 via 192.0.2.1");
    for _ in 0..10 {
        assert_eq!(lab.ask("out", "192.0.2.1:30080").await.unwrap(), "c 192.0.2.2");
    }
    assert_eq!(answers(&lab, "a", WEB, 30).await.len(), 2, "inside, all endpoints");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_fail_no_connection() {
    let (lab, proxy) = start().await;
    proxy.sync(&input(vec![web(&["a", "b"])])).await.unwrap();
    let (stop, to) = (Arc::new(AtomicBool::new(false)), WEB.parse().unwrap());
    let loops: Vec<_> = ["node", "c"]
        .map(|from| {
            let (stop, netns) = (stop.clone(), lab.netns(from));
            let asking = move || {
                let (mut count, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) || count < 200 {
                    count += 1;
                    failed.extend(ask_tcp(to).err());
                }
                Ok((count, failed))
            };
            balsa_rt::spawn(balsa_rt::TaskKind::Test, async move { netns.run(asking).await })
        })
        .into();
    for round in 0..40u16 {
        let mut services =
            vec![web([&["a", "b"][..], &["b", "c"], &["c", "a"], &["b"]][usize::from(round % 4)])];
        for number in 0..(round % 7) {
            let mut other = web(&["a", "c"]);
            (other.name, other.cluster_ips) = (
                format!("s{number}"),
                vec![std::net::Ipv4Addr::new(10, 96, 1, 1 + u8::try_from(number).unwrap())],
            );
            other.ports[0].node_port = Some(31_000 + number);
            services.push(other);
        }
        proxy.sync(&input(services)).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for asked in loops {
        let (count, failed) = asked.await.unwrap().unwrap().unwrap();
        assert!(failed.is_empty(), "{} of {count} failed: {:?}", failed.len(), failed.first());
    }
}

#[tokio::test]
async fn an_incremental_table_is_the_one_a_full_sync_makes() {
    let (lab, proxy) = start().await;
    for pods in [&["a", "b"][..], &["c"], &[], &["a", "b", "c"]] {
        let mut other = web(pods);
        (other.name, other.cluster_ips, other.ports[0].node_port) =
            ("other".into(), vec![ip("10.96.0.8")], None);
        other.affinity = (pods.len() != 1).then_some(Duration::from_secs(60));
        let wanted = input(vec![web(pods), other]);
        proxy.sync(&wanted).await.unwrap();
        assert_eq!(proxy.sync(&wanted).await.unwrap(), Synced::Unchanged);
        let grown = sorted(&lab.exec("node", &format!("nft list table ip {TABLE}")));
        let fresh = ServiceProxy::new(ProxyMode::Nftables, "fresh", lab.netns("node"));
        fresh.sync(&wanted).await.unwrap();
        let made = sorted(&lab.exec("node", "nft list table ip fresh").replace("fresh", TABLE));
        fresh.remove().await.unwrap();
        assert_eq!(grown, made);
    }
    proxy.remove().await.unwrap();
    assert!(!lab.exec("node", "nft list tables").contains(TABLE));
}

/// Chains and sets are listed in the order they were made; that is no difference.
fn sorted(listing: &str) -> Vec<String> {
    let bare =
        |block: &str| block.trim_end_matches(|c: char| c == '}' || c.is_whitespace()).trim().to_owned();
    let inside = listing.split_once('\n').map(|(_, inside)| inside).unwrap_or_default();
    let mut blocks: Vec<String> = inside.split("\n\n").map(bare).collect();
    blocks.sort();
    blocks
}

#[tokio::test]
async fn one_agent_of_a_machine_programs_the_rules_and_another_takes_over() {
    let (lab, first) = start().await;
    let second = ServiceProxy::new(ProxyMode::Nftables, TABLE, lab.netns("node"));
    let wanted = input(vec![web(&["b"])]);
    first.sync(&wanted).await.unwrap();
    assert_eq!(second.sync(&input(vec![])).await.unwrap(), Synced::Standby);
    assert_eq!(lab.who("a", WEB).await, "b");
    drop(first);
    assert_eq!(lab.who("a", WEB).await, "b", "rules outlive their agent");
    assert!(matches!(second.sync(&wanted).await.unwrap(), Synced::Changed(_)));
    assert_eq!(lab.who("a", WEB).await, "b");
}

#[tokio::test]
async fn rules_that_somebody_flushed_come_back() {
    let (lab, proxy) = start().await;
    let wanted = input(vec![web(&["b"])]);
    proxy.sync(&wanted).await.unwrap();
    lab.exec("node", &format!("nft delete table ip {TABLE}"));
    assert!(matches!(proxy.sync(&wanted).await.unwrap(), Synced::Changed(_)));
    assert_eq!(lab.who("a", WEB).await, "b");
}

#[tokio::test]
async fn a_udp_client_moves_on_when_its_endpoint_goes() {
    let (lab, proxy) = start().await;
    let udp = |pods: &[&str]| {
        let mut service = web(pods);
        service.ports[0].protocol = Protocol::Udp;
        input(vec![service])
    };
    proxy.sync(&udp(&["b"])).await.unwrap();
    let open = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(WEB).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        Ok(socket)
    };
    let socket = lab.netns("a").run(open).await.unwrap();
    let ask = |text: &str| {
        socket.send(text.as_bytes()).unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{text}: {error}"));
        String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned()
    };
    assert_eq!(ask("one"), "b");
    proxy.sync(&udp(&["c"])).await.unwrap();
    assert_eq!(ask("two"), "c", "the same socket is led elsewhere");
}

#[tokio::test]
async fn pods_cannot_use_the_loopback_door() {
    let (lab, proxy) = start().await;
    proxy.sync(&input(vec![])).await.unwrap();
    crate::lab::serve(&lab.netns("node"), "host", 9090).await;
    lab.exec("a", "sysctl -qw net.ipv4.conf.eth0.route_localnet=1");
    lab.exec("a", "ip route add 127.0.0.2/32 via 10.244.1.1 dev eth0");
    lab.exec("a", "ip rule add pref 1 to 127.0.0.2 lookup main");
    for rule in ["ip rule add pref 10 lookup local", "ip rule del pref 0"] {
        lab.exec("a", rule);
    }
    assert_eq!(lab.who("node", "127.0.0.2:9090").await, "host");
    assert!(lab.ask("a", "127.0.0.2:9090").await.is_err());
    // It is our rule that keeps it out, and not the way this test sends.
    let table = balsa_net::pod::bridge_name("lab", "one").replace('-', "_");
    lab.exec("node", &format!("nft flush chain ip {table} raw"));
    assert_eq!(lab.who("a", "127.0.0.2:9090").await, "host");
}
