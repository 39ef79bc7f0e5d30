//! The certificate of this server: made at its start, made anew in its last third, without a restart.
//!
//! One certificate serves clients and tells other servers who calls. Connections that stand go on with
//! the one that they were made with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use balsa_log::{PeerTls, TransportConfig};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{Authority, IdentityError, Issued};
use super::server_id::ServerId;

/// What the certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) server: ServerId,
    pub(crate) names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// How long it is good for.
    pub(crate) life: Duration,
}

/// The certificate that is used now.
#[derive(Debug)]
pub(crate) struct Current {
    certified: Arc<CertifiedKey>,
    /// PEM.
    pub(crate) certificate: String,
    /// From when to when it is good.
    pub(crate) validity: (time::OffsetDateTime, time::OffsetDateTime),
    /// When it is made anew.
    pub(crate) renews: time::OffsetDateTime,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Certificates {
    authority: Arc<Authority>,
    wanted: Arc<Wanted>,
    transport: TransportConfig,
    current: Arc<ArcSwap<Current>>,
}

impl Certificates {
    /// Makes the first one; `transport` uses it from now on.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn start(
        authority: Arc<Authority>,
        wanted: Wanted,
    ) -> Result<(Self, TransportConfig), IdentityError> {
        let (current, tls) = make(&authority, &wanted)?;
        let transport = TransportConfig::tls(&tls);
        let current = Arc::new(ArcSwap::from_pointee(current));
        Ok((Self { authority, wanted: Arc::new(wanted), transport: transport.clone(), current }, transport))
    }

    /// What the listener asks for the certificate.
    pub(crate) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Resolver(self.current.clone()))
    }

    /// How long certificates are good for: the server's, and those of the nodes that it signs.
    pub(crate) fn life(&self) -> Duration {
        self.wanted.life
    }

    /// The certificate that is used now.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Makes it anew in time, for ever.
    pub(crate) async fn keep_fresh(self) {
        loop {
            let left = self.current().renews - time::OffsetDateTime::now_utc();
            let wait = Duration::try_from(left).unwrap_or(Duration::ZERO);
            // In pieces: the clock may be set, and sleeping does not see it.
            if wait > Duration::ZERO {
                tokio::time::sleep(wait.min(Duration::from_secs(3600))).await;
                continue;
            }
            match make(&self.authority, &self.wanted) {
                Ok((current, tls)) => {
                    self.current.store(Arc::new(current));
                    self.transport.replace_tls(&tls);
                    metrics::counter!("balsa_certificates_renewed_total").increment(1);
                    tracing::info!(until = %self.current().validity.1, "the server's certificate is renewed");
                }
                Err(error) => {
                    tracing::error!(%error, "the server's certificate cannot be renewed; trying again");
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            }
        }
    }
}

fn make(authority: &Authority, wanted: &Wanted) -> Result<(Current, PeerTls), IdentityError> {
    let issued = authority.issue_server(&wanted.server, &wanted.names, &wanted.addresses, wanted.life)?;
    let now = time::OffsetDateTime::now_utc();
    let current = Current {
        certified: Arc::new(certified(authority.certificate(), &issued)?),
        certificate: issued.certificate.clone(),
        validity: (now, now + wanted.life),
        renews: now + wanted.life * 2 / 3,
    };
    let tls =
        PeerTls { ca: authority.certificate().to_owned(), certificate: issued.certificate, key: issued.key };
    Ok((current, tls))
}

fn certified(ca: &str, identity: &Issued) -> Result<CertifiedKey, IdentityError> {
    let malformed = |error: &dyn std::fmt::Display| IdentityError::Malformed(error.to_string());
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| malformed(&e))?;
    let certificate =
        CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(|e| malformed(&e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| malformed(&e))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| malformed(&e))?;
    // With its issuer: whoever joins by a token knows the CA by its hash, and must see it.
    Ok(CertifiedKey::new(vec![certificate, ca], key))
}

#[derive(Debug)]
struct Resolver(Arc<ArcSwap<Current>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_certificate_is_replaced_before_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(directory.path()).unwrap());
        let wanted = Wanted {
            server: ServerId::new("c".to_owned(), "a"),
            names: vec!["localhost".to_owned()],
            addresses: Vec::new(),
            life: Duration::from_millis(600),
        };
        let (certificates, _) = Certificates::start(authority, wanted).unwrap();
        let first = certificates.current();
        let renewing = balsa_rt::spawn(balsa_rt::TaskKind::Test, certificates.clone().keep_fresh());
        while certificates.current().certificate == first.certificate {
            assert!(time::OffsetDateTime::now_utc() < first.validity.1 + Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        renewing.abort();
    }
}
