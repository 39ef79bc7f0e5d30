//! Names that are not the cluster's: asked of the host's name servers, and kept for a short time.
//!
//! The cache is small, disposable, and never keeps anything longer than half a minute, so that a
//! name server's change shows as fast as a service's. A query goes out from a port and with an id
//! of its own; an answer that does not repeat the question is not taken.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::metrics;

const TRY_LIMIT: Duration = Duration::from_secs(2);
const MAX_TTL: u32 = 30;
const CACHE_ENTRIES: usize = 10_000;
/// Questions under way. At two seconds each this is more than a node's pods ask in earnest.
const IN_FLIGHT: usize = 1_000;
/// Fits one packet on every path, so that answers are not fragmented.
pub(super) const UDP_PAYLOAD: u16 = 1232;

/// What a name server said.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

impl Forwarded {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new() }
    }
}

/// Asks the upstream servers.
pub(super) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    preferred: AtomicUsize,
    cache: Mutex<HashMap<(Name, RecordType), Kept>>,
    in_flight: Semaphore,
}

struct Kept {
    answer: Forwarded,
    since: Instant,
    until: Instant,
}

impl Forwarder {
    /// `own` are the resolver's addresses: asking itself would go round for ever.
    pub(super) fn new(upstreams: &[SocketAddr], own: &[SocketAddr]) -> Self {
        let is_own = |upstream: &SocketAddr| {
            own.iter().any(|own| own.port() == upstream.port() && own.ip() == upstream.ip())
        };
        Self {
            upstreams: upstreams.iter().filter(|upstream| !is_own(upstream)).copied().collect(),
            preferred: AtomicUsize::new(0),
            cache: Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
        }
    }

    /// Refuses where there is nobody to ask; fails where nobody answers.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Forwarded {
        if self.upstreams.is_empty() {
            return Forwarded::failed(ResponseCode::Refused);
        }
        let key = (name.to_lowercase(), kind);
        if let Some(kept) = self.kept(&key, Instant::now()) {
            metrics::dns_cache(true);
            return kept;
        }
        metrics::dns_cache(false);
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return Forwarded::failed(ResponseCode::Refused);
        };
        let first = self.preferred.load(Ordering::Relaxed);
        for number in (0..self.upstreams.len()).map(|turn| (first + turn) % self.upstreams.len()) {
            match ask_one(self.upstreams[number], name, kind).await {
                Ok(answer) if !matches!(answer.code, ResponseCode::ServFail | ResponseCode::Refused) => {
                    self.preferred.store(number, Ordering::Relaxed);
                    self.keep(key, &answer, Instant::now());
                    return answer;
                }
                Ok(answer) => {
                    tracing::debug!(upstream = %self.upstreams[number], code = %answer.code, "name server gave up")
                }
                Err(error) => {
                    tracing::debug!(upstream = %self.upstreams[number], %error, "name server did not answer")
                }
            }
        }
        Forwarded::failed(ResponseCode::ServFail)
    }

    fn kept(&self, key: &(Name, RecordType), now: Instant) -> Option<Forwarded> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = cache.get(key).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(MAX_TTL);
        let mut answer = kept.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn keep(&self, key: (Name, RecordType), answer: &Forwarded, now: Instant) {
        let Some(ttl) = lifetime(answer) else { return };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, kept| now < kept.until);
        }
        if cache.len() >= CACHE_ENTRIES {
            cache.clear();
        }
        let until = now + Duration::from_secs(ttl.into());
        cache.insert(key, Kept { answer: answer.clone(), since: now, until });
    }
}

/// How long an answer may be kept: as its shortest record says; a negative one as its SOA says.
fn lifetime(answer: &Forwarded) -> Option<u32> {
    let ttl = match answer.code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            answer.answers.iter().map(|record| record.ttl).min()
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            answer.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })
        }
        _ => None,
    };
    ttl.map(|ttl| ttl.min(MAX_TTL)).filter(|ttl| *ttl > 0)
}

async fn ask_one(upstream: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Forwarded> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    let question = message.to_vec().map_err(std::io::Error::other)?;
    let limited = async |exchange: &mut (dyn Future<Output = std::io::Result<Message>> + Send + Unpin)| {
        tokio::time::timeout(TRY_LIMIT, exchange).await?
    };
    let mut answer = limited(&mut Box::pin(over_udp(upstream, &question, &message))).await?;
    if answer.metadata.truncation {
        answer = limited(&mut Box::pin(over_tcp(upstream, &question, &message))).await?;
    }
    let code = answer.metadata.response_code;
    Ok(Forwarded { code, answers: answer.answers, authorities: answer.authorities })
}

async fn over_udp(upstream: SocketAddr, question: &[u8], asked: &Message) -> std::io::Result<Message> {
    let any: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question may be forged; the right one may still come.
        if let Some(answer) =
            Message::from_vec(&buffer[..length]).ok().filter(|answer| belongs(answer, asked))
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, question: &[u8], asked: &Message) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
    if belongs(&answer, asked) {
        Ok(answer)
    } else {
        Err(std::io::Error::other("the answer is to another question"))
    }
}

fn belongs(answer: &Message, asked: &Message) -> bool {
    answer.metadata.id == asked.metadata.id && answer.queries == asked.queries
}
