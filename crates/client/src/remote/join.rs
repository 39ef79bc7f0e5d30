//! Joining: a bootstrap token and a certificate request become a node's certificate.
//!
//! The token carries the hash of the cluster's CA. Servers show their CA in the handshake; one whose
//! CA has another hash is not spoken to, so the token's secret is never told to a stranger.

use std::sync::Arc;

use balsa_model::{Failure, Reason};
use balsa_proto::agent::JoinRequest;
pub use balsa_proto::agent::JoinResponse as Joined;
use balsa_proto::agent::agent_service_client::AgentServiceClient;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};

use super::channels::{Channels, Trust};
use super::{Credentials, Identity, RemoteBackend, RemoteConfig};

/// How tokens start.
const PREFIX: &str = "BALSA1";
/// What the handshake ends with at a server of another cluster than the token's.
const OTHER_CLUSTER: &str = "its CA is not the one that the token is for";

/// What a node asks when it joins.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The servers, `host:port`.
    pub servers: Vec<String>,
    /// The bootstrap token.
    pub token: String,
    /// The node's name.
    pub node_name: String,
    /// PKCS#10, PEM; subject and names are the server's to set.
    pub certificate_request: String,
    /// Addresses for the certificate.
    pub addresses: Vec<String>,
}

/// The hash of the CA that a token is for, hexadecimal.
///
/// # Errors
/// When it is no token.
pub fn fingerprint(token: &str) -> Result<&str, Failure> {
    let wrong = || {
        let message = "the bootstrap token is malformed; make one with `balsa token create`";
        Failure::new(Reason::Unauthorized, message)
    };
    let parts: Vec<&str> = token.split('.').collect();
    match parts.as_slice() {
        [PREFIX, id, secret, hash] if !id.is_empty() && !secret.is_empty() => {
            let good = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            if good { Ok(hash) } else { Err(wrong()) }
        }
        _ => Err(wrong()),
    }
}

/// The same hash, of a CA that is at hand, PEM. Clusters are told apart by it.
///
/// # Errors
/// When it is no certificate.
pub fn fingerprint_of(ca_pem: &str) -> Result<String, Failure> {
    use rustls::pki_types::pem::PemObject as _;
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes());
    der.map(|der| hash(&der)).map_err(|error| Failure::bad_request(format!("the cluster's CA: {error}")))
}

/// Joins with a bootstrap token.
///
/// # Errors
/// When the token is malformed, wrong or expired, or no server with the token's CA answers.
pub async fn join(joining: &Joining) -> Result<Joined, Failure> {
    let joined = request(&by_token(&joining.servers, &joining.token)?, joining).await;
    joined.map_err(|failure| of_another_cluster(failure, &joining.servers, "balsa token create"))
}

/// A server that shows another CA can be reached well: it is the token, or the address, that is wrong.
fn of_another_cluster(failure: Failure, servers: &[String], command: &str) -> Failure {
    if !failure.message.ends_with(OTHER_CLUSTER) {
        return failure;
    }
    let message = format!(
        "the bootstrap token is for another cluster than that of {}; make one there with `{command}`",
        servers.join(", ")
    );
    Failure::new(Reason::Unauthorized, message)
}

/// Servers that show the CA whose hash the token carries.
fn by_token(servers: &[String], token: &str) -> Result<RemoteBackend, Failure> {
    let provider = Arc::new(ring::default_provider());
    let fingerprint = fingerprint(token)?.to_lowercase();
    let trust = Trust::Verifier(Arc::new(ByFingerprint { fingerprint, provider }));
    let config = RemoteConfig {
        servers: servers.to_vec(),
        ca_pem: String::new(),
        identity: Identity::Token(token.to_owned()),
    };
    let channels =
        Channels::with_trust(&config, &trust).map_err(|error| Failure::bad_request(error.to_string()))?;
    Ok(RemoteBackend { channels })
}

/// What a machine asks that becomes a server.
#[derive(Clone, Debug)]
pub struct ServerJoining {
    /// Servers of the cluster, `host:port`.
    pub servers: Vec<String>,
    /// A bootstrap token for servers.
    pub token: String,
    /// Who it will be.
    pub request: balsa_proto::peer::JoinRequest,
}

/// Fetches the cluster's keys for a machine that becomes a server.
///
/// # Errors
/// As [`join`], and when the token is not for servers.
pub async fn join_server(joining: &ServerJoining) -> Result<balsa_proto::peer::JoinResponse, Failure> {
    use balsa_proto::peer::peer_service_client::PeerServiceClient;
    let remote = by_token(&joining.servers, &joining.token)?;
    let make = |connection: tonic::service::interceptor::InterceptedService<_, Credentials>| {
        let request = super::channels::unary(joining.request.clone());
        async move { PeerServiceClient::new(connection).join(request).await }
    };
    let joined = remote.channels.call(super::channels::Repeat::Always, make).await;
    let command = "balsa token create --usage server";
    joined.map_err(|failure| of_another_cluster(failure, &joining.servers, command))
}

/// Renews a node's certificate, with the one that is about to end.
///
/// # Errors
/// What the server says.
pub async fn renew(remote: &RemoteBackend, joining: &Joining) -> Result<Joined, Failure> {
    request(remote, joining).await
}

async fn request(remote: &RemoteBackend, joining: &Joining) -> Result<Joined, Failure> {
    let message = JoinRequest {
        node_name: joining.node_name.clone(),
        certificate_request: joining.certificate_request.clone(),
        addresses: joining.addresses.clone(),
    };
    let make = |connection: tonic::service::interceptor::InterceptedService<_, Credentials>| {
        let request = super::channels::unary(message.clone());
        async move { AgentServiceClient::new(connection).join(request).await }
    };
    // Again does no harm: a certificate whose answer was lost is used by nobody.
    remote.channels.call(super::channels::Repeat::Always, make).await
}

/// Trusts the servers of the CA with that hash.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_ours = |certificate: &&CertificateDer<'_>| hash(certificate) == self.fingerprint;
        let ca = intermediates
            .iter()
            .find(is_ours)
            .ok_or_else(|| rustls::Error::General(OTHER_CLUSTER.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| general(&error))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn hash(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_reached_but_is_another_is_told_from_who_is_not_reached() {
        let told = |message: &str| {
            let failure = Failure::new(Reason::ServiceUnavailable, message);
            of_another_cluster(failure, &["a:1".to_owned()], "balsa token create")
        };
        let failure = told(&format!("cannot reach the server a:1: unexpected error: {OTHER_CLUSTER}"));
        assert_eq!(failure.reason, Reason::Unauthorized);
        assert!(failure.message.contains("another cluster than that of a:1"), "{failure}");
        assert_eq!(told("cannot reach the server a:1: refused").reason, Reason::ServiceUnavailable);
    }

    #[test]
    fn tokens_name_their_ca() {
        let hash = "ab".repeat(32);
        assert_eq!(fingerprint(&format!("BALSA1.id.secret.{hash}")).unwrap(), hash);
        for wrong in
            ["", "BALSA1.id.secret", "BALSA2.id.secret.00", &format!("BALSA1..s.{hash}"), "BALSA1.i.s.zz"]
        {
            assert_eq!(fingerprint(wrong).unwrap_err().reason, Reason::Unauthorized, "{wrong}");
        }
    }
}
