//! The resolver's sockets, and the way from a query to an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, LowerQuery, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use super::answer::{Answer, DnsRecord, QueryType, RecordData, answer};
use super::forward::{Forwarder, UDP_PAYLOAD};
use super::view::{DnsView, TTL};
use crate::error::NetError;
use crate::metrics;
use crate::netns::Netns;
use crate::proxy::{bind_tcp, bind_udp};

/// How long a TCP client may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for one TCP client; it asks one thing at a time.
const TCP_BUFFER: usize = 16;
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// ExternalName services that lead to each other end here.
const MAX_ALIASES: usize = 8;

/// Where the resolver listens, and whom it asks.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Addresses for UDP and TCP: the gateway address with port 53. Port 0 takes the same free
    /// port for both.
    pub listen: Vec<SocketAddr>,
    /// Name servers for names that are not the cluster's ([`super::HostResolv::upstreams`]). Those
    /// that are the resolver itself are left out.
    pub upstreams: Vec<SocketAddr>,
    /// Where the listening sockets are; anything but `Current` is for tests.
    pub netns: Netns,
}

/// A running resolver. Dropping it stops it.
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
    view: Arc<ArcSwap<DnsView>>,
    server: Server<Handler>,
}

impl DnsServer {
    /// Listens and answers from `view`.
    pub async fn start(config: DnsConfig, view: DnsView) -> Result<Self, NetError> {
        let mut bound = Vec::new();
        for address in config.listen {
            bound.push(config.netns.run(move || bind_both(address)).await?);
        }
        let addresses: Vec<_> = bound.iter().map(|(address, ..)| *address).collect();
        // The cluster DNS address is the resolver as well, whichever way it is led here.
        let service = view.dns_service.map(|ip| SocketAddr::from((ip, 53)));
        let own: Vec<_> = addresses.iter().copied().chain(service).collect();
        let view = Arc::new(ArcSwap::from_pointee(view));
        let handler = Handler { view: view.clone(), forwarder: Forwarder::new(&config.upstreams, &own) };
        let mut server = Server::new(handler);
        for (address, udp, tcp) in bound {
            let failed = |source| NetError::Listen { address, source };
            server.register_socket(UdpSocket::from_std(udp).map_err(failed)?);
            server.register_listener(TcpListener::from_std(tcp).map_err(failed)?, TCP_IDLE, TCP_BUFFER);
        }
        Ok(Self { addresses, view, server })
    }

    /// Answers from another view from now on.
    pub fn update(&self, view: DnsView) {
        self.view.store(Arc::new(view));
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening and lets answers in flight go out.
    pub async fn shutdown(mut self) {
        match tokio::time::timeout(SHUTDOWN_LIMIT, self.server.shutdown_gracefully()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the resolver did not end well"),
            Err(_) => tracing::warn!("the resolver did not end in time"),
        }
    }
}

type Bound = (SocketAddr, std::net::UdpSocket, std::net::TcpListener);

/// UDP and TCP on one port. A free port for one may be taken for the other: then another is tried.
fn bind_both(address: SocketAddr) -> Result<Bound, NetError> {
    let attempts = if address.port() == 0 { 16 } else { 1 };
    let mut last = Err(NetError::WorkerGone);
    for _ in 0..attempts {
        let udp = bind_udp(address)?;
        let actual = udp.local_addr().map_err(|source| NetError::Listen { address, source })?;
        last = bind_tcp(actual).map(|tcp| (actual, udp, tcp));
        if last.is_ok() {
            break;
        }
    }
    last
}

struct Handler {
    view: Arc<ArcSwap<DnsView>>,
    forwarder: Forwarder,
}

/// An answer, ready to be written.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let started = Instant::now();
        let view = self.view.load_full();
        let reply = self.reply(&view, request).await;
        let zone = if reply.authoritative { format!("{}.", view.domain) } else { ".".to_owned() };
        let kind = request.queries.queries().first().map_or(RecordType::ZERO, LowerQuery::query_type);
        let proto = if request.protocol() == Protocol::Udp { "udp" } else { "tcp" };
        metrics::dns_answered(zone, proto, label(kind), reply.code.to_str(), started.elapsed());

        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD));
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = builder.build(metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        out.send_response(response).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot send an answer");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

impl Handler {
    async fn reply(&self, view: &DnsView, request: &Request) -> Reply {
        let refuse = |code| Reply { code, ..Reply::default() };
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return refuse(ResponseCode::FormErr) };
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return refuse(ResponseCode::Refused);
        }
        let turn = usize::from(request.metadata.id);
        self.resolve(view, query, turn).await.unwrap_or_else(|| refuse(ResponseCode::ServFail))
    }

    /// Follows aliases to the end. `None` where a name cannot be written as a DNS name.
    async fn resolve(&self, view: &DnsView, query: &LowerQuery, turn: usize) -> Option<Reply> {
        let mut reply = Reply::default();
        let mut name = query.name().to_string();
        for _ in 0..MAX_ALIASES {
            match answer(view, &name, query_type(query.query_type())) {
                Answer::Alias { target } => {
                    reply.authoritative = true;
                    let cname = RData::CNAME(CNAME(absolute(&target)?));
                    reply.answers.push(Record::from_rdata(absolute(&name)?, TTL, cname));
                    if matches!(query.query_type(), RecordType::CNAME) {
                        return Some(reply);
                    }
                    name = target;
                }
                Answer::Found { mut records, additional } => {
                    reply.authoritative = true;
                    // Clients take the first; each should be first in turn.
                    let count = records.len().max(1);
                    records.rotate_left(turn % count);
                    if records.is_empty() {
                        reply.authorities.push(soa(view)?);
                    }
                    for record in &records {
                        reply.answers.push(wire(view, record)?);
                    }
                    for record in &additional {
                        reply.additionals.push(wire(view, record)?);
                    }
                    return Some(reply);
                }
                Answer::NxDomain => {
                    reply.authoritative = true;
                    reply.code = ResponseCode::NXDomain;
                    reply.authorities.push(soa(view)?);
                    return Some(reply);
                }
                Answer::NotOurs => {
                    let forwarded = self.forwarder.ask(&absolute(&name)?, query.query_type()).await;
                    reply.code = forwarded.code;
                    reply.answers.extend(forwarded.answers);
                    reply.authorities = forwarded.authorities;
                    return Some(reply);
                }
            }
        }
        None
    }
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn soa(view: &DnsView) -> Option<Record> {
    wire(view, &DnsRecord { name: view.domain.clone(), data: RecordData::Soa })
}

fn wire(view: &DnsView, record: &DnsRecord) -> Option<Record> {
    let data = match &record.data {
        RecordData::A(ip) => RData::A(A(*ip)),
        RecordData::Aaaa(ip) => RData::AAAA(AAAA(*ip)),
        RecordData::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, absolute(target)?))
        }
        RecordData::Ptr(name) => RData::PTR(PTR(absolute(name)?)),
        RecordData::Cname(name) => RData::CNAME(CNAME(absolute(name)?)),
        RecordData::Ns(name) => RData::NS(NS(absolute(name)?)),
        RecordData::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        RecordData::Soa => {
            let (server, mailbox) = (
                absolute(&format!("ns.dns.{}", view.domain))?,
                absolute(&format!("hostmaster.{}", view.domain))?,
            );
            RData::SOA(SOA::new(server, mailbox, view.serial, 7200, 1800, 86_400, TTL))
        }
    };
    Some(Record::from_rdata(absolute(&record.name)?, TTL, data))
}

fn query_type(kind: RecordType) -> QueryType {
    match kind {
        RecordType::A => QueryType::A,
        RecordType::AAAA => QueryType::Aaaa,
        RecordType::SRV => QueryType::Srv,
        RecordType::PTR => QueryType::Ptr,
        RecordType::CNAME => QueryType::Cname,
        RecordType::SOA => QueryType::Soa,
        RecordType::NS => QueryType::Ns,
        RecordType::TXT => QueryType::Txt,
        RecordType::ANY => QueryType::Any,
        _ => QueryType::Other,
    }
}

/// The types that have a series of their own; the rest is one, so that nobody can make thousands.
fn label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::SRV => "SRV",
        RecordType::PTR => "PTR",
        RecordType::CNAME => "CNAME",
        RecordType::SOA => "SOA",
        RecordType::NS => "NS",
        RecordType::TXT => "TXT",
        RecordType::MX => "MX",
        _ => "other",
    }
}
