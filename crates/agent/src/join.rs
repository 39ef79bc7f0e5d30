//! Joining: how a node gets its certificate, keeps it, and renews it.
//!
//! ```text
//!   <data_dir>/pki/node.key   0600     <data_dir>/pki/ca.crt
//!   <data_dir>/pki/node.crt            <data_dir>/pki/servers    <data_dir>/pki/ranges
//! ```
//!
//! The key never leaves the node: the server signs a request. Which server is spoken to is decided by
//! the hash of the CA in the token ([`balsa_client::remote::join`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use balsa_client::remote::join::{Joined, Joining, join as join_cluster, renew as renew_certificate};
use balsa_client::remote::{Identity, RemoteBackend, RemoteConfig};
use balsa_rt::{Backoff, Clock};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use x509_parser::pem::parse_x509_pem;

use crate::error::AgentError;
use crate::files::{write_file, write_private};

/// A certificate's age is looked at as often at least: the clock may be set, and sleeping does not see it.
const LOOK: Duration = Duration::from_secs(3600);
/// Between two looks at least.
const PAUSE: Duration = Duration::from_secs(1);

/// What a node says when it joins.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// The node's own directory.
    pub data_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// The servers, `host:port`.
    pub servers: Vec<String>,
    /// The bootstrap token; not needed by a node that has its certificate.
    pub token: Option<String>,
    /// The node's addresses.
    pub addresses: Vec<String>,
}

/// A node's certificate and what it leads to.
#[derive(Clone)]
pub struct NodeIdentity {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
    /// The cluster's CA, PEM.
    pub ca: String,
    /// The servers, `host:port`.
    pub servers: Vec<String>,
    /// From when to when the certificate is good.
    pub validity: (Timestamp, Timestamp),
    /// The cluster's addresses, as its servers say; none in the files of an older release.
    pub ranges: Option<Ranges>,
}

/// The addresses of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Those of Services.
    pub services: Ipv4Net,
    /// Those of pods.
    pub pods: Ipv4Net,
}

impl Ranges {
    /// Two lines of text: Services, then pods.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(|line| line.trim().parse().ok());
        Some(Self { services: lines.next()??, pods: lines.next()?? })
    }
}

impl NodeIdentity {
    /// How a client of the node reaches the cluster.
    pub fn remote(&self) -> RemoteConfig {
        RemoteConfig {
            servers: self.servers.clone(),
            ca_pem: self.ca.clone(),
            identity: Identity::Certificate { cert_pem: self.certificate.clone(), key_pem: self.key.clone() },
        }
    }

    /// How long it is until two thirds of its life are over; none: they are.
    fn fresh_for(&self, now: Timestamp) -> Option<Duration> {
        let (from, to) = self.validity;
        let left = to.duration_since(from) * 2 / 3 - now.duration_since(from);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    }
}

/// The node's certificate: the one it has, or, with the token, a new one.
///
/// # Errors
/// When there is neither a good certificate nor a good token, or no server with the token's CA answers.
pub async fn identity(config: &JoinConfig, clock: &Clock) -> Result<NodeIdentity, AgentError> {
    let directory = config.data_dir.join("pki");
    if let Ok(mut known) = load(&directory)
        && clock.now() < known.validity.1
    {
        let more = config.servers.iter().filter(|server| !known.servers.contains(server)).cloned();
        let more: Vec<String> = more.collect();
        known.servers.extend(more);
        if known.ranges.is_none() {
            // The servers say them along with a certificate.
            return renew(config, &known).await;
        }
        return Ok(known);
    }
    let token = config.token.clone().ok_or(AgentError::Token("there is none, and no certificate either"))?;
    let key = KeyPair::generate().map_err(certificate)?;
    let joining = joining(config, token, &key)?;
    let joined = join_cluster(&joining).await.map_err(|failure| AgentError::Refused(failure.message))?;
    store(&directory, &key.serialize_pem(), joined, &config.servers)
}

/// Renews the certificate in time, for ever. `renewed` hears of each new one; connections that are made
/// after it should use it.
pub async fn keep_renewed(
    config: JoinConfig,
    mut known: NodeIdentity,
    clock: Clock,
    renewed: impl Fn(&NodeIdentity) + Send,
) {
    let mut backoff = Backoff::new(PAUSE, LOOK);
    loop {
        if let Some(left) = known.fresh_for(clock.now()) {
            tokio::time::sleep(left.clamp(PAUSE, LOOK)).await;
            continue;
        }
        match renew(&config, &known).await {
            Ok(fresh) => {
                tracing::info!("node certificate renewed");
                backoff.reset();
                renewed(&fresh);
                known = fresh;
            }
            Err(error) => {
                tracing::warn!(%error, "node certificate not renewed; will try again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn renew(config: &JoinConfig, known: &NodeIdentity) -> Result<NodeIdentity, AgentError> {
    let key = KeyPair::generate().map_err(certificate)?;
    let remote = RemoteBackend::connect(&known.remote()).map_err(certificate)?;
    let joining = joining(config, String::new(), &key)?;
    let joined = renew_certificate(&remote, &joining).await;
    let joined = joined.map_err(|failure| AgentError::Refused(failure.message))?;
    store(&config.data_dir.join("pki"), &key.serialize_pem(), joined, &known.servers)
}

fn joining(config: &JoinConfig, token: String, key: &KeyPair) -> Result<Joining, AgentError> {
    let request = CertificateParams::default().serialize_request(key).map_err(certificate)?;
    Ok(Joining {
        servers: config.servers.clone(),
        token,
        node_name: config.node_name.clone(),
        certificate_request: request.pem().map_err(certificate)?,
        addresses: config.addresses.clone(),
    })
}

fn certificate(error: impl std::fmt::Display) -> AgentError {
    AgentError::Certificate(error.to_string())
}

/// Key and certificate are replaced one after the other; a pair that does not match after a crash in
/// between is refused by the servers, and the token joins anew.
fn store(
    directory: &Path,
    key: &str,
    joined: Joined,
    servers: &[String],
) -> Result<NodeIdentity, AgentError> {
    let servers = if joined.servers.is_empty() { servers.to_vec() } else { joined.servers };
    let write = |name: &str, text: &str, private: bool| {
        let path = directory.join(name);
        let written = if private {
            write_private(&path, text.as_bytes())
        } else {
            write_file(&path, text.as_bytes(), 0o644)
        };
        written.map_err(AgentError::file(path))
    };
    write("node.key", key, true)?;
    write("node.crt", &joined.certificate, false)?;
    write("ca.crt", &joined.ca, false)?;
    write("servers", &servers.join("\n"), false)?;
    write("ranges", &format!("{}\n{}\n", joined.service_cidr, joined.cluster_cidr), false)?;
    load(directory)
}

fn load(directory: &Path) -> Result<NodeIdentity, AgentError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(AgentError::file(path))
    };
    let pem = read("node.crt")?;
    Ok(NodeIdentity {
        validity: validity(&pem)?,
        certificate: pem,
        key: read("node.key")?,
        ca: read("ca.crt")?,
        servers: read("servers")?.lines().map(str::to_owned).collect(),
        ranges: read("ranges").ok().and_then(|text| Ranges::parse(&text)),
    })
}

fn validity(pem: &str) -> Result<(Timestamp, Timestamp), AgentError> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(certificate)?;
    let validity = pem.parse_x509().map_err(certificate)?.validity.clone();
    let time = |seconds: i64| Timestamp::from_second(seconds).map_err(certificate);
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn joined(key: &KeyPair) -> Joined {
        let certificate = CertificateParams::default().self_signed(key).unwrap().pem();
        Joined {
            ca: certificate.clone(),
            certificate,
            servers: vec!["a:6443".to_owned()],
            service_cidr: "10.97.0.0/16".to_owned(),
            cluster_cidr: "10.245.0.0/16".to_owned(),
        }
    }

    fn config(directory: &Path) -> JoinConfig {
        JoinConfig {
            data_dir: directory.to_owned(),
            node_name: "n".to_owned(),
            servers: vec!["b:6443".to_owned()],
            token: None,
            addresses: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_node_that_has_joined_needs_no_token() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(identity(&config(root.path()), &Clock::system()).await, Err(AgentError::Token(_))));
        let key = KeyPair::generate().unwrap();
        store(&root.path().join("pki"), &key.serialize_pem(), joined(&key), &[]).unwrap();
        let found = identity(&config(root.path()), &Clock::system()).await.unwrap();
        assert_eq!(found.servers, ["a:6443", "b:6443"]);
        let ranges = found.ranges.unwrap();
        assert_eq!(
            (ranges.services.to_string(), ranges.pods.to_string()),
            ("10.97.0.0/16".into(), "10.245.0.0/16".into())
        );
        let mode = fs::metadata(root.path().join("pki/node.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn certificates_are_renewed_in_their_last_third() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let identity = NodeIdentity {
            certificate: String::new(),
            key: String::new(),
            ca: String::new(),
            servers: Vec::new(),
            validity: (at(0), at(300)),
            ranges: None,
        };
        assert_eq!(identity.fresh_for(at(150)), Some(Duration::from_secs(50)));
        assert_eq!(identity.fresh_for(at(200)), None);
        assert_eq!(identity.fresh_for(at(1000)), None);
    }

    #[tokio::test]
    async fn a_malformed_token_is_refused_before_anything_is_sent() {
        let root = tempfile::tempdir().unwrap();
        let config = JoinConfig { token: Some("abc".to_owned()), ..config(root.path()) };
        let refused = identity(&config, &Clock::system()).await.err().unwrap();
        assert!(refused.to_string().contains("malformed"), "{refused}");
    }
}
