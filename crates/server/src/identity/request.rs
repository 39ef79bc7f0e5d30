//! From a certificate signing request to a certificate whose subject is the request's own, to the last byte.
//!
//! rcgen has each attribute of a subject once; people are in several organizations, which some tools write one
//! after the other and some (Go's) as a set. So it makes the certificate without a subject, which is then put in, and
//! signed anew.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, Error, Issuer, KeyPair, SanType, SigningKey as _, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The certificate, PEM, for the key, the subject and the names of a request, PEM, that it has signed itself.
///
/// # Errors
/// When the request does not hold together, or asks for names that nobody gives.
pub(super) fn sign(
    request: &str,
    mut params: CertificateParams,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<String, Error> {
    let unreadable = |_| Error::CouldNotParseCertificationRequest;
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes())
        .map_err(|_| Error::CouldNotParseCertificationRequest)?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(unreadable)?;
    request.verify_signature().map_err(|_| Error::InvalidCertificationRequestSignature)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            params.subject_alt_names.push(alternative(name)?);
        }
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)?;
    let nameless = params.signed_by(&key, issuer)?;
    let certificate = with_subject(nameless.der(), info.subject.as_raw(), issuer.key())?;
    Ok(to_pem(&certificate))
}

fn alternative(name: &GeneralName<'_>) -> Result<SanType, Error> {
    Ok(match name {
        GeneralName::DNSName(name) => SanType::DnsName((*name).try_into()?),
        GeneralName::RFC822Name(name) => SanType::Rfc822Name((*name).try_into()?),
        GeneralName::URI(name) => SanType::URI((*name).try_into()?),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            SanType::IpAddress(address.map_err(|_| Error::InvalidIpAddressOctetLength(bytes.len()))?)
        }
        _ => return Err(Error::InvalidNameType),
    })
}

/// A certificate with another subject, signed anew. Both are DER.
fn with_subject(certificate: &[u8], subject: &[u8], key: &KeyPair) -> Result<Vec<u8>, Error> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::CouldNotParseCertificate)?;
    let (signed, old) = (parsed.tbs_certificate.as_ref(), parsed.tbs_certificate.subject.as_raw());
    // Both are parts of `certificate`.
    let place = |part: &[u8], of: &[u8]| part.as_ptr().addr().checked_sub(of.as_ptr().addr());
    let cut = || {
        let (start, body) = (place(old, signed)?, header(signed)?);
        let (before, after) = (signed.get(body..start)?, signed.get(start + old.len()..)?);
        let rest = certificate.get(place(signed, certificate)? + signed.len()..)?;
        // The algorithm: the signature is by the same key.
        let algorithm = rest.get(..header(rest)? + content(rest)?)?;
        Some((before, after, algorithm))
    };
    let (before, after, algorithm) = cut().ok_or(Error::CouldNotParseCertificate)?;
    let signed = wrap(SEQUENCE, &[before, subject, after]);
    let signature = wrap(BIT_STRING, &[&[0], &key.sign(&signed)?]);
    Ok(wrap(SEQUENCE, &[&signed, algorithm, &signature]))
}

/// How long the tag and the length of a DER value are.
fn header(value: &[u8]) -> Option<usize> {
    let first = usize::from(*value.get(1)?);
    Some(if first < 0x80 { 2 } else { 2 + (first & 0x7f) })
}

/// How long the content of a DER value is.
fn content(value: &[u8]) -> Option<usize> {
    match value.get(2..header(value)?)? {
        [] => value.get(1).map(|length| usize::from(*length)),
        bytes if bytes.len() <= 4 => Some(bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))),
        _ => None,
    }
}

/// A DER value of these parts.
fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        // At most eight of them.
        out.push(0x80 | significant.len() as u8);
    }
    out.extend_from_slice(significant);
    out.extend_from_slice(&content);
    out
}

fn to_pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_and_read_alike() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 70_000] {
            let value = wrap(SEQUENCE, &[&vec![7; length]]);
            assert_eq!((header(&value), content(&value)), (Some(value.len() - length), Some(length)));
        }
        assert_eq!((header(&[]), content(&[SEQUENCE, 0x85, 1, 1, 1, 1, 1])), (None, None));
    }
}
