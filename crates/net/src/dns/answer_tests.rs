//! Table tests of the answers.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::proxy::Protocol;

fn port(name: &str, protocol: Protocol, port: u16) -> DnsPort {
    DnsPort { name: name.into(), protocol, port }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> DnsEndpoint {
    DnsEndpoint {
        address: address.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
        ready,
        ports: vec![port("peer", Protocol::Tcp, 7000)],
    }
}

fn service(name: &str, target: DnsTarget) -> DnsService {
    DnsService { namespace: "shop".into(), name: name.into(), target, ..DnsService::default() }
}

fn view() -> DnsView {
    let ips = |list: &[&str]| DnsTarget::ClusterIps(list.iter().map(|ip| ip.parse().unwrap()).collect());
    let mut web = service("web", ips(&["10.96.0.7"]));
    web.ports = vec![port("http", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)];
    let mut db = service("db", DnsTarget::Headless);
    db.endpoints = vec![
        endpoint("10.244.0.2", Some("db-0"), true),
        endpoint("10.244.0.3", Some("db-1"), true),
        endpoint("10.244.0.4", None, false),
    ];
    let mut all = db.clone();
    (all.name, all.publish_not_ready) = ("all".into(), true);
    let services = vec![
        web,
        db,
        all,
        service("empty", DnsTarget::Headless),
        service("dual", ips(&["10.96.0.8", "fd00::8"])),
        service("ext", DnsTarget::ExternalName("Example.ORG.".into())),
    ];
    DnsView::new("cluster.local", 3, ["shop".into(), "bare".into()], services)
        .with_dns_service(Ipv4Addr::new(10, 96, 0, 10))
}

/// One line for an answer: codes, or the data of its records.
fn ask(name: &str, kind: QueryType) -> String {
    let show = |record: &DnsRecord| match &record.data {
        RecordData::A(ip) => ip.to_string(),
        RecordData::Aaaa(ip) => ip.to_string(),
        RecordData::Srv { weight, port, target, .. } => format!("{weight} {port} {target}"),
        RecordData::Ptr(name) | RecordData::Cname(name) | RecordData::Ns(name) | RecordData::Txt(name) => {
            name.clone()
        }
        RecordData::Soa => "SOA".into(),
    };
    match answer(&view(), name, kind) {
        Answer::Found { records, .. } if records.is_empty() => "NODATA".into(),
        Answer::Found { records, .. } => records.iter().map(show).collect::<Vec<_>>().join(", "),
        Answer::Alias { target } => format!("-> {target}"),
        Answer::NxDomain => "NXDOMAIN".into(),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn names_and_types() {
    use QueryType::{A, Aaaa, Any, Cname, Ns, Other, Ptr, Soa, Srv, Txt};
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local", A, "10.96.0.7"),
        ("WEB.Shop.svc.Cluster.Local.", A, "10.96.0.7"),
        ("web.shop.svc.cluster.local", Aaaa, "NODATA"),
        ("web.shop.svc.cluster.local", Txt, "NODATA"),
        ("web.shop.svc.cluster.local", Other, "NODATA"),
        ("dual.shop.svc.cluster.local", Aaaa, "fd00::8"),
        ("dual.shop.svc.cluster.local", Any, "10.96.0.8, fd00::8"),
        ("none.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("web.other.svc.cluster.local", A, "NXDOMAIN"),
        ("db.shop.svc.cluster.local", A, "10.244.0.2, 10.244.0.3"),
        ("db.shop.svc.cluster.local", Aaaa, "NODATA"),
        ("all.shop.svc.cluster.local", A, "10.244.0.2, 10.244.0.3, 10.244.0.4"),
        ("empty.shop.svc.cluster.local", A, "NODATA"),
        ("db-0.db.shop.svc.cluster.local", A, "10.244.0.2"),
        ("db-0.db.shop.svc.cluster.local", Aaaa, "NODATA"),
        ("10-244-0-4.db.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("10-244-0-4.all.shop.svc.cluster.local", A, "10.244.0.4"),
        ("x.web.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("_http._tcp.web.shop.svc.cluster.local", Srv, "100 80 web.shop.svc.cluster.local"),
        ("_http._tcp.web.shop.svc.cluster.local", A, "NODATA"),
        ("_http._udp.web.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        ("_tcp.web.shop.svc.cluster.local", Srv, "NODATA"),
        ("_sctp.web.shop.svc.cluster.local", Srv, "NXDOMAIN"),
        (
            "_peer._tcp.db.shop.svc.cluster.local",
            Srv,
            "50 7000 db-0.db.shop.svc.cluster.local, 50 7000 db-1.db.shop.svc.cluster.local",
        ),
        ("ext.shop.svc.cluster.local", A, "-> example.org"),
        ("ext.shop.svc.cluster.local", Cname, "-> example.org"),
        ("x.ext.shop.svc.cluster.local", A, "NXDOMAIN"),
        ("10-244-0-2.shop.pod.cluster.local", A, "10.244.0.2"),
        ("10-244-0-2.shop.pod.cluster.local", Aaaa, "NODATA"),
        ("10-244-0.shop.pod.cluster.local", A, "NXDOMAIN"),
        ("10-244-0-2.nowhere.pod.cluster.local", A, "NXDOMAIN"),
        ("svc.cluster.local", A, "NODATA"),
        ("bare.svc.cluster.local", A, "NODATA"),
        ("nowhere.svc.cluster.local", A, "NXDOMAIN"),
        ("cluster.local", Soa, "SOA"),
        ("cluster.local", Ns, "ns.dns.cluster.local"),
        ("cluster.local", A, "NODATA"),
        ("ns.dns.cluster.local", A, "10.96.0.10"),
        ("dns-version.cluster.local", Txt, "1.1.0"),
        ("example.com.cluster.local", A, "NXDOMAIN"),
        ("example.com", A, "not ours"),
        ("mycluster.local", A, "not ours"),
        ("", A, "not ours"),
        ("7.0.96.10.in-addr.arpa", Ptr, "web.shop.svc.cluster.local"),
        ("7.0.96.10.in-addr.arpa", A, "NODATA"),
        ("3.0.244.10.in-addr.arpa", Ptr, "db-1.db.shop.svc.cluster.local, db-1.all.shop.svc.cluster.local"),
        ("9.9.9.9.in-addr.arpa", Ptr, "not ours"),
        (
            "8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Ptr,
            "dual.shop.svc.cluster.local",
        ),
    ] {
        assert_eq!(ask(name, kind), expected, "{name} {kind:?}");
    }
}

#[test]
fn srv_answers_carry_the_addresses_of_their_targets() {
    let Answer::Found { additional, .. } =
        answer(&view(), "_peer._tcp.db.shop.svc.cluster.local", QueryType::Srv)
    else {
        panic!("not found");
    };
    let names: Vec<_> = additional.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["db-0.db.shop.svc.cluster.local", "db-1.db.shop.svc.cluster.local"]);
}
