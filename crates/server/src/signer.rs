//! The signers of `kubernetes.io/…`: a certificate signing request that was allowed becomes a certificate,
//! if it asks for what its signer gives; else it says why not.
//!
//! Reads requests; alone writes `status.certificate` and the condition `Failed` of the signers named here.
//! One key a request; a second call finds the certificate and does nothing. What somebody else's signer is
//! to sign is left alone.

mod cleaner;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, feed};
use balsa_model::kind::kind_of;
use balsa_model::kinds::certificate_signing_request::{has_condition, is_approved};
use balsa_model::selector::Filter;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::{Clock, Scope};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, GeneralName, ParsedExtension};

use crate::authorize::MASTERS;
use crate::identity::{Authority, SERVERS};

/// The longest life that is given, in seconds: a year.
const LONGEST_LIFE: u64 = 365 * 86_400;
/// The signer of clients' certificates.
pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What a signer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signer {
    Client,
    Kubelet,
    Serving,
}

impl Signer {
    fn of(name: &str) -> Option<Self> {
        match name {
            CLIENT => Some(Self::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::Kubelet),
            "kubernetes.io/kubelet-serving" => Some(Self::Serving),
            _ => None,
        }
    }

    /// The use that its certificates have.
    fn usage(self) -> &'static str {
        if self == Self::Serving { "server auth" } else { "client auth" }
    }
}

/// What a request asks for, as far as signers look at it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    name: String,
    groups: Vec<String>,
    /// Names and addresses for serving.
    hosts: usize,
    /// Anything else that would name its holder.
    others: usize,
}

impl Asked {
    fn read(pem: &[u8]) -> Result<Self, String> {
        let unreadable = |why: String| format!("unable to parse the request: {why}");
        parsed(pem, Self::of).map_err(unreadable)
    }

    fn of(request: &X509CertificationRequest<'_>) -> Result<Self, String> {
        let subject = &request.certification_request_info.subject;
        let text = |part: &AttributeTypeAndValue<'_>| {
            // The certificate says what the request says: what cannot be read cannot be judged.
            part.as_str().map(str::to_owned).map_err(|_| "a part of the subject is no text".to_owned())
        };
        let mut asked = Self {
            name: subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default(),
            groups: subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) | GeneralName::IPAddress(_) => asked.hosts += 1,
                    _ => asked.others += 1,
                }
            }
        }
        Ok(asked)
    }
}

/// What is said of a request that is not one in PEM.
pub(crate) const NO_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";

/// What `read` makes of a request, or why it is none.
fn parsed<T>(
    pem: &[u8],
    read: impl FnOnce(&X509CertificationRequest<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let pem = x509_parser::pem::parse_x509_pem(pem).map(|(_, pem)| pem);
    let pem = pem.ok().filter(|pem| pem.label == "CERTIFICATE REQUEST").ok_or(NO_REQUEST)?;
    match X509CertificationRequest::from_der(&pem.contents) {
        Ok(([], request)) => read(&request),
        Ok(_) => Err("asn1: syntax error: trailing data".to_owned()),
        Err(x509_parser::nom::Err::Incomplete(_)) => Err("asn1: syntax error: data truncated".to_owned()),
        Err(error) => Err(format!("asn1: structure error: {error}")),
    }
}

/// That something is a request, signed with the key that it is for. A kind of key that is not known here is somebody
/// else's signer's to judge.
pub(crate) fn check(request: &[u8]) -> Result<(), String> {
    parsed(request, |request| match request.verify_signature() {
        Err(X509Error::SignatureVerificationError) => Err(wrong_signature(request).to_owned()),
        _ => Ok(()),
    })
}

fn wrong_signature(request: &X509CertificationRequest<'_>) -> &'static str {
    let key = &request.certification_request_info.subject_pki.algorithm.algorithm;
    if *key == OID_KEY_TYPE_EC_PUBLIC_KEY {
        "x509: ECDSA verification failure"
    } else if *key == OID_SIG_ED25519 {
        "x509: Ed25519 verification failure"
    } else {
        "crypto/rsa: verification error"
    }
}

/// The groups that a request asks for.
pub(crate) fn organizations(request: &[u8]) -> Result<Vec<String>, String> {
    parsed(request, Asked::of).map(|asked| asked.groups)
}

/// Why a signer does not give what is asked for; `None`: it does.
fn refusal(signer: Signer, spec: &CertificateSigningRequestSpec, asked: &Asked) -> Option<String> {
    let usages: Vec<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    let allowed = ["digital signature", "key encipherment", signer.usage()];
    if !usages.contains(&signer.usage()) || usages.iter().any(|usage| !allowed.contains(usage)) {
        return Some(format!("usages did not match {}", allowed.join(",")));
    }
    let told = |why: &str| Some(why.to_owned());
    // Whoever had such a certificate would be a server of the cluster, or could do everything.
    if asked.groups.iter().any(|group| group == SERVERS || group == MASTERS) {
        return told("the organization of the subject is the cluster's own");
    }
    if signer == Signer::Client {
        return None;
    }
    if asked.groups != [NODES] {
        return told("subject organization is not system:nodes");
    }
    if !asked.name.starts_with(NODE_PREFIX) {
        return told("subject common name does not begin with system:node:");
    }
    match signer {
        Signer::Kubelet if asked.hosts + asked.others > 0 => {
            told("DNS, IP, email and URI SANs are not allowed")
        }
        Signer::Serving if asked.others > 0 => told("email and URI SANs are not allowed"),
        Signer::Serving if asked.hosts == 0 => told("DNS or IP subjectAltName is required"),
        _ => None,
    }
}

struct Signers {
    client: Client,
    requests: Informer,
    authority: Arc<Authority>,
    clock: Clock,
}

/// Starts the signers.
pub(crate) fn start(client: Client, authority: Arc<Authority>, clock: Clock, scope: &Scope) {
    let kind = kind_of::<CertificateSigningRequest>();
    let requests = Informer::start(client.backend().clone(), kind, Filter::everything(), scope);
    let queue: Queue<Key> = Queue::new();
    feed(&requests, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    cleaner::start(client.clone(), requests.clone(), clock.clone(), scope);
    let signers = Signers { client, requests, authority, clock };
    balsa_client::run(Arc::new(signers), queue, 1, scope);
}

impl Signers {
    /// The certificate, or why there will be none.
    fn sign(&self, signer: Signer, spec: &CertificateSigningRequestSpec) -> Result<String, String> {
        let asked = Asked::read(&spec.request.0)?;
        if let Some(why) = refusal(signer, spec, &asked) {
            return Err(why);
        }
        let wanted = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let life = Duration::from_secs(wanted.unwrap_or(LONGEST_LIFE).min(LONGEST_LIFE));
        let request = String::from_utf8_lossy(&spec.request.0);
        let signed = self.authority.sign_request(&request, signer == Signer::Serving, life);
        signed.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Reconciler for Signers {
    type Key = Key;

    fn name(&self) -> &'static str {
        "signers"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.requests.get(key) else { return Ok(Next::Wait) };
        let Some(request) = object.typed::<CertificateSigningRequest>() else { return Ok(Next::Wait) };
        let signed = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
        let Some(signer) = Signer::of(&request.spec.signer_name) else { return Ok(Next::Wait) };
        if signed || !is_approved(&request) || has_condition(&request, "Failed") {
            return Ok(Next::Wait);
        }
        let mut wanted = CertificateSigningRequest::clone(&request);
        let status = wanted.status.get_or_insert_default();
        match self.sign(signer, &request.spec) {
            Ok(certificate) => status.certificate = Some(ByteString(certificate.into_bytes())),
            Err(why) => {
                let now = Some(Time(self.clock.now_seconds()));
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(why),
                    last_transition_time: now.clone(),
                    last_update_time: now,
                });
            }
        }
        self.client.api::<CertificateSigningRequest>().update(&wanted, Part::Status).await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn spec(usages: &[&str]) -> CertificateSigningRequestSpec {
        CertificateSigningRequestSpec {
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        }
    }

    fn asked(name: &str, groups: &[&str], hosts: usize) -> Asked {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Asked { name: name.to_owned(), groups, hosts, others: 0 }
    }

    #[test]
    fn each_signer_gives_what_is_its_own() {
        let (client, serving) = (spec(&["client auth", "digital signature"]), spec(&["server auth"]));
        for (signer, spec, asked, fine) in [
            (Signer::Client, &client, asked("jane", &["developers"], 0), true),
            (Signer::Client, &serving, asked("jane", &[], 0), false),
            (Signer::Client, &client, asked("jane", &["system:masters"], 0), false),
            (Signer::Client, &client, asked("x", &[SERVERS], 0), false),
            (Signer::Client, &client, asked("jane", &["a", "b"], 0), true),
            (Signer::Client, &client, asked("jane", &["a", "system:masters"], 0), false),
            (Signer::Kubelet, &client, asked("system:node:n", &[NODES, "a"], 0), false),
            (Signer::Kubelet, &client, asked("system:node:n", &[NODES], 0), true),
            (Signer::Kubelet, &client, asked("system:node:n", &[NODES], 1), false),
            (Signer::Kubelet, &client, asked("n", &[NODES], 0), false),
            (Signer::Serving, &serving, asked("system:node:n", &[NODES], 1), true),
            (Signer::Serving, &serving, asked("system:node:n", &[NODES], 0), false),
            (Signer::Serving, &serving, asked("system:node:n", &[], 1), false),
        ] {
            assert_eq!(refusal(signer, spec, &asked).is_none(), fine, "{signer:?} {asked:?}");
        }
    }

    #[test]
    fn requests_are_read_and_signed() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["n.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "developers");
        // The same attribute by another name: rcgen itself has each once.
        let organization = rcgen::DnType::CustomDnType(vec![2, 5, 4, 10]);
        params.distinguished_name.push(organization, "admirals");
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(Asked::read(request.as_bytes()).unwrap(), asked("jane", &["developers", "admirals"], 1));
        assert!(Asked::read(b"no request").is_err());
        assert_eq!(check(request.as_bytes()), Ok(()));
        assert_eq!(check(b"no request"), Err(NO_REQUEST.to_owned()));
        // The last byte of the signature is another one.
        let (_, mut pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
        *pem.contents.last_mut().unwrap() ^= 1;
        let encoded = |der: &[u8]| {
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
        };
        assert_eq!(
            check(encoded(&pem.contents).as_bytes()),
            Err("x509: ECDSA verification failure".to_owned())
        );
        for rubbish in [&b"rubbish"[..], &[0; 3], &pem.contents[..20]] {
            let why = check(encoded(rubbish).as_bytes()).unwrap_err();
            assert!(why.starts_with("asn1: "), "{why}");
        }
        let pem = authority.sign_request(&request, false, Duration::from_secs(600)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert!(certificate.subject().to_string().contains("CN=jane"));
        let groups: Vec<&str> =
            certificate.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(groups, ["developers", "admirals"]);
        let (_, ca) = x509_parser::pem::parse_x509_pem(authority.certificate().as_bytes()).unwrap();
        certificate.verify_signature(Some(ca.parse_x509().unwrap().public_key())).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::DNSName("n.example")]);
        assert!(!certificate.is_ca());
        let life =
            certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
        assert!((600..=3600 + 660).contains(&life), "{life}");
    }
}
