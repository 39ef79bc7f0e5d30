//! The cluster's certificate authority and what it issues.
//!
//! Made at the first start of the first server and kept in `DIR/pki`. Files with private keys are
//! 0600. Invariant: the CA's key never leaves the servers.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest as _, Sha256};

use super::server_id::ServerId;

/// For how long the CA is good.
const CA: Duration = Duration::from_secs(3650 * DAY);
/// For how long certificates of people are good.
const LEAF: Duration = Duration::from_secs(365 * DAY);
/// Seconds of a day.
const DAY: u64 = 86_400;
/// Certificates are good from a moment ago, for machines whose clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// The group of servers, in their certificates.
pub(crate) const SERVERS: &str = "system:balsa-servers";
/// What the names of servers start with, in their certificates; their id follows.
pub(crate) const SERVER_USER: &str = "system:balsa-server:";

/// Keys or certificates cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or request is malformed, or cannot be signed.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key or certificate that was read is not one.
    #[error("{0}")]
    Malformed(String),
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The cluster's secrets. Invariant: they never leave its servers.
pub(crate) struct ClusterKeys {
    pub(crate) ca_certificate: String,
    pub(crate) ca_key: String,
    pub(crate) service_account_key: String,
}

/// The cluster's CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    directory: PathBuf,
}

impl Authority {
    /// Opens the CA in `directory`, or makes one there.
    ///
    /// # Errors
    /// When files cannot be read or written, or are not what they should be.
    pub fn open(directory: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(directory)
            .map_err(|source| IdentityError::File { path: directory.to_owned(), source })?;
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !certificate_path.exists() {
            let key = KeyPair::generate()?;
            let certificate = ca_params().self_signed(&key)?.pem();
            write_private(&key_path, &key.serialize_pem())?;
            write(&certificate_path, &certificate)?;
        }
        let certificate = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { issuer, certificate, directory: directory.to_owned() })
    }

    /// Puts the CA and the keys of a cluster that exists into `directory`.
    ///
    /// # Errors
    /// When files cannot be written, or there are other ones already.
    pub(crate) fn import(directory: &Path, keys: &ClusterKeys) -> Result<(), IdentityError> {
        fs::create_dir_all(directory)
            .map_err(|source| IdentityError::File { path: directory.to_owned(), source })?;
        let path = directory.join("ca.crt");
        if path.exists() && read(&path)? != keys.ca_certificate {
            let why = format!("{} is of another cluster; use an empty data directory", path.display());
            return Err(IdentityError::Malformed(why));
        }
        write_private(&directory.join("ca.key"), &keys.ca_key)?;
        write_private(&directory.join("sa.key"), &keys.service_account_key)?;
        write(&path, &keys.ca_certificate)
    }

    /// The CA and the keys, for a machine that becomes a server.
    ///
    /// # Errors
    /// When files cannot be read.
    pub(crate) fn export(&self) -> Result<ClusterKeys, IdentityError> {
        Ok(ClusterKeys {
            ca_certificate: self.certificate.clone(),
            ca_key: read(&self.directory.join("ca.key"))?,
            service_account_key: self.named_key("sa")?.serialize_pem(),
        })
    }

    /// The CA's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// SHA-256 of the CA's certificate (DER), hexadecimal: what join tokens carry, so that whoever
    /// joins knows the servers before it trusts them.
    ///
    /// # Errors
    /// When the certificate is not PEM.
    pub fn fingerprint(&self) -> Result<String, IdentityError> {
        use rustls_pki_types::pem::PemObject as _;
        let der = rustls_pki_types::CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| IdentityError::Malformed(format!("ca.crt: {error}")))?;
        Ok(Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A certificate for a person or a component: `user` in `groups`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(user, groups, LEAF);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// The serving certificate of a server, good for `names` and `addresses`; also a client
    /// certificate, with which servers know each other: it says which server of which cluster.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_server(
        &self,
        server: &ServerId,
        names: &[String],
        addresses: &[IpAddr],
        life: Duration,
    ) -> Result<Issued, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(&format!("{SERVER_USER}{}", server.id), &[SERVERS], life);
        params.distinguished_name.push(DnType::OrganizationalUnitName, server.cluster.as_str());
        params.subject_alt_names.push(SanType::DnsName(balsa_log::peer_name(server.id).as_str().try_into()?));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// Signs a node's request: the key is the node's, subject, names and `life` are ours.
    ///
    /// # Errors
    /// When the request is malformed.
    pub fn sign_node(
        &self,
        node: &str,
        request: &str,
        addresses: &[IpAddr],
        life: Duration,
    ) -> Result<String, IdentityError> {
        if is_reserved(node) {
            let why = format!("\"{node}\" is a name of servers; call the node differently");
            return Err(IdentityError::Malformed(why));
        }
        let mut request = CertificateSigningRequestParams::from_pem(request)?;
        let mut params = leaf_params(&format!("system:node:{node}"), &["system:nodes"], life);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(SanType::DnsName(node.try_into()?));
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Signs a request as it is, but for its life and its use. Whether it may be signed, the caller has
    /// checked.
    ///
    /// # Errors
    /// When the request is malformed, or asks for what nobody gets.
    pub fn sign_request(
        &self,
        request: &str,
        serving: bool,
        life: Duration,
    ) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let purpose =
            if serving { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, life);
        Ok(super::request::sign(request, params, &self.issuer)?)
    }

    /// A key pair of the cluster's own, made at first use: `name` becomes `DIR/pki/<name>.key`, PEM.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn named_key(&self, name: &str) -> Result<KeyPair, IdentityError> {
        let path = self.directory.join(format!("{name}.key"));
        if !path.exists() {
            write_private(&path, &KeyPair::generate()?.serialize_pem())?;
        }
        Ok(KeyPair::from_pem(&read(&path)?)?)
    }
}

/// Names by which servers are known: no node may be called so.
fn is_reserved(node: &str) -> bool {
    node == "localhost"
        || node == "kubernetes"
        || node.starts_with("kubernetes.default")
        || node.ends_with(".balsa.internal")
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("balsa-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, CA);
    params
}

fn leaf_params(user: &str, groups: &[&str], life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(user, groups);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, life);
    params
}

fn subject(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for group in groups {
        name.push(DnType::OrganizationName, *group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn valid_for(params: &mut CertificateParams, life: Duration) {
    let now = rcgen_now();
    // Of a short life the beginning must stay a part: who renews in time reckons with the whole.
    params.not_before = now - BACKDATED.min(life / 2);
    params.not_after = now + life;
}

fn rcgen_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), IdentityError> {
    write_with_mode(path, text, 0o644)
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    write_with_mode(path, text, 0o600)
}

/// Through a temporary file and a rename, so that a crash leaves the old file or the new one.
fn write_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_guards_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::open(directory.path()).unwrap();
        let again = Authority::open(directory.path()).unwrap();
        assert_eq!(first.fingerprint().unwrap(), again.fingerprint().unwrap());
        let mode = fs::metadata(directory.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_nodes_request_gets_our_subject_not_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("admin", &["system:masters"]);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = authority.sign_node("n1", &request, &[], LEAF).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert!(certificate.subject().to_string().contains("CN=system:node:n1"));
        assert!(!certificate.subject().to_string().contains("masters"));
        for reserved in ["kubernetes", "localhost", "server-1.servers.balsa.internal"] {
            assert!(authority.sign_node(reserved, &request, &[], LEAF).is_err(), "{reserved}");
        }
    }
}
