//! CertificateSigningRequest: somebody asks for a certificate, somebody allows it, a signer makes it.
//! Invariants: what is asked for never changes; approvals and denials come by their own door, are never
//! taken back, and never both; a certificate is never replaced.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};

use super::cells::NONE;
use super::check::{json, one_of};
use crate::field::{CauseKind, FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::table::{Cell, Column, human_duration};

/// The signer of before there were names.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Shortest life of a certificate that may be asked for, in seconds.
const SHORTEST_LIFE: i32 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Kind for CertificateSigningRequest {
    const DESCRIPTOR: Descriptor = Descriptor {
        short_names: &["csr"],
        subresources: &[Subresource::Status, Subresource::Approval],
        field_labels: &["spec.signerName"],
        columns: &[
            Column::NAME,
            Column::AGE,
            Column::text("SignerName"),
            Column::text("Requestor"),
            Column::text("RequestedDuration"),
            Column::text("Condition"),
        ],
        ..Descriptor::cluster(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
            "certificates.v1.CertificateSigningRequest",
        )
    };

    fn prepare_create(&mut self) {
        self.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    /// Who allows writes conditions alone; who signs does not touch the words of who allows. More or fewer of those
    /// are left to validation.
    fn prepare_part(&mut self, old: &Self, part: Subresource) {
        self.spec.clone_from(&old.spec);
        if part == Subresource::Approval {
            let certificate = old.status.as_ref().and_then(|status| status.certificate.clone());
            self.status.get_or_insert_default().certificate = certificate;
            return;
        }
        let conditions = self.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten());
        for condition in conditions.filter(|condition| is_of_approval(&condition.type_)) {
            if let Some(before) = condition_of(old, &condition.type_) {
                condition.clone_from(before);
            }
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, spec) = (Path::new("spec"), &self.spec);
        if !is_request(&spec.request.0) {
            let shown = STANDARD.encode(&spec.request.0);
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            errors.push(CauseKind::Invalid, &path.child("request"), json(&shown).to_string(), detail);
        }
        if spec.usages.as_ref().is_none_or(Vec::is_empty) {
            errors.required(&path.child("usages"), "");
        }
        for (i, usage) in spec.usages.iter().flatten().enumerate() {
            one_of(errors, &path.child("usages").index(i), usage, USAGES);
        }
        validate_signer(&spec.signer_name, &path.child("signerName"), errors);
        if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < SHORTEST_LIFE) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
        validate_conditions(self, errors);
    }

    /// Those that are there already stay as they are.
    fn validate_create(&self, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let usages: Vec<&String> = self.spec.usages.iter().flatten().collect();
        for (i, usage) in usages.iter().enumerate() {
            if usages.get(..i).is_some_and(|before| before.contains(usage)) {
                errors.duplicate(&path.child("usages").index(i), usage.as_str());
            }
        }
        if self.spec.signer_name == LEGACY_SIGNER {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.invalid(&path.child("signerName"), LEGACY_SIGNER, detail);
        }
    }

    fn validate_status(&self, old: &Self, errors: &mut FieldErrors) {
        for type_ in ["Approved", "Denied"] {
            if has_condition(self, type_) && !has_condition(old, type_) {
                let detail = format!("updates may not add a condition of type \"{type_}\"");
                errors.forbidden(&Path::new("status").child("conditions"), detail);
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let path = Path::new("status");
        let certificate = |request: &Self| {
            let certificate = request.status.as_ref().and_then(|status| status.certificate.clone());
            certificate.map(|certificate| certificate.0).unwrap_or_default()
        };
        let (before, after) = (certificate(old), certificate(self));
        if before != after
            && let Err(why) = check_certificate(&after)
        {
            errors.invalid(&path.child("certificate"), "<certificate data>", why);
        }
        for type_ in ["Approved", "Denied", "Failed"] {
            if has_condition(old, type_) && !has_condition(self, type_) {
                let detail = format!("updates may not remove a condition of type \"{type_}\"");
                errors.forbidden(&path.child("conditions"), detail);
            }
        }
        if before != after && !before.is_empty() {
            errors
                .forbidden(&path.child("certificate"), "updates may not modify existing certificate content");
        }
    }

    fn field(&self, label: &str) -> String {
        match label {
            "spec.signerName" => self.spec.signer_name.clone(),
            _ => String::new(),
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let spec = &self.spec;
        let life = spec.expiration_seconds.map(|seconds| human_duration(i64::from(seconds)));
        vec![
            Cell::name(self.metadata()),
            Cell::age(self.metadata(), now),
            Cell::text(spec.signer_name.as_str()),
            Cell::text(spec.username.clone().unwrap_or_default()),
            Cell::text(life.unwrap_or_else(|| NONE.to_owned())),
            Cell::text(condition_text(self)),
        ]
    }
}

/// Whether a condition is the word of who may allow a certificate.
fn is_of_approval(type_: &str) -> bool {
    matches!(type_, "Approved" | "Denied")
}

/// Whether a request was allowed, and not denied.
pub fn is_approved(request: &CertificateSigningRequest) -> bool {
    has_condition(request, "Approved") && !has_condition(request, "Denied")
}

/// Whether one of its conditions is there: they are only ever `True`.
pub fn has_condition(request: &CertificateSigningRequest, name: &str) -> bool {
    condition_of(request, name).is_some()
}

fn condition_of<'a>(
    request: &'a CertificateSigningRequest,
    name: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let mut conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == name)
}

fn validate_conditions(request: &CertificateSigningRequest, errors: &mut FieldErrors) {
    let path = Path::new("status").child("conditions");
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions.enumerate() {
        let (path, type_) = (path.index(i), condition.type_.as_str());
        if type_.is_empty() {
            errors.required(&path.child("type"), "");
        }
        let known: &[&str] = match type_ {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if condition.status.is_empty() {
            errors.required(&path.child("status"), "");
        } else {
            one_of(errors, &path.child("status"), &condition.status, known);
        }
        let other = if type_ == "Approved" { "Denied" } else { "Approved" };
        if is_of_approval(type_) && seen.contains(&other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), type_, detail);
        }
        if seen.contains(&type_) {
            errors.duplicate(&path.child("type"), type_);
        }
        seen.push(type_);
    }
}

/// That a text holds certificates in PEM and no other blocks, if it holds anything.
fn check_certificate(text: &[u8]) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(text);
    let mut blocks = text.split("-----BEGIN ").skip(1).peekable();
    if blocks.peek().is_none() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    blocks.try_for_each(|block| {
        let (label, rest) = block.split_once("-----").unwrap_or((block, ""));
        if label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {label:?}"));
        }
        let body = rest.split_once("-----END CERTIFICATE-----").map_or("", |(body, _)| body);
        if body.contains(':') {
            return Err("no PEM block headers are permitted".to_owned());
        }
        let bytes = STANDARD.decode(body.split_whitespace().collect::<String>()).unwrap_or_default();
        // The tag of a sequence, which every certificate is.
        if bytes.first() == Some(&0x30) { Ok(()) } else { Err("x509: malformed certificate".to_owned()) }
    })
}

fn condition_text(request: &CertificateSigningRequest) -> String {
    let mut words: Vec<&str> = Vec::new();
    for (type_, word) in [("Approved", "Approved"), ("Denied", "Denied"), ("Failed", "Failed")] {
        if has_condition(request, type_) {
            words.push(word);
        }
    }
    if words.is_empty() {
        words.push("Pending");
    }
    let issued = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    if issued.is_some_and(|certificate| !certificate.0.is_empty()) {
        words.push("Issued");
    }
    words.join(",")
}

fn is_request(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    let text = text.trim();
    text.contains("-----BEGIN CERTIFICATE REQUEST-----")
        && text.ends_with("-----END CERTIFICATE REQUEST-----")
}

/// `domain/path`
pub(crate) fn validate_signer(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/') else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, detail);
    };
    for wrong in crate::meta::dns1123_subdomain(domain) {
        errors.invalid(path, name, format!("invalid domain: {wrong}"));
    }
    if !domain.contains('.') {
        errors.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    if rest.is_empty() {
        errors.invalid(path, name, "should be of the form 'example.com/signer-name'");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(extra: Value, status: Value) -> CertificateSigningRequest {
        let pem =
            STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n");
        let mut spec = json!({"request": pem, "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"], "username": "jane"});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn wrong_ones() {
        for (extra, wanted) in [
            (json!({}), vec![]),
            (json!({"request": ""}), vec!["spec.request"]),
            (json!({"usages": ["be nice"]}), vec!["spec.usages[0]"]),
            (json!({"signerName": "me"}), vec!["spec.signerName"]),
            (json!({"expirationSeconds": 5}), vec!["spec.expirationSeconds"]),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate(&request(extra, json!({})), &mut errors);
            assert_eq!(errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn no_usage_stands_twice_and_signers_have_names() {
        for (extra, wanted) in [
            (json!({"usages": ["client auth", "signing", "client auth"]}), "spec.usages[2]"),
            (json!({"signerName": LEGACY_SIGNER}), "spec.signerName"),
        ] {
            let mut errors = FieldErrors::new();
            Kind::validate_create(&request(extra, json!({})), &mut errors);
            assert_eq!(errors.into_vec()[0].field, wanted);
        }
    }

    #[test]
    fn a_status_holds_certificates_and_no_approval() {
        let pem = |label: &str, body: &str| {
            STANDARD.encode(format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"))
        };
        let said = |status: Value| {
            let (mut errors, new) = (FieldErrors::new(), request(json!({}), status));
            let old = request(json!({}), json!({}));
            Kind::validate_status(&new, &old, &mut errors);
            Kind::validate_update(&new, &old, &mut errors);
            errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        let not_added = "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"";
        assert_eq!(said(approved), [not_added]);
        assert_eq!(said(json!({"certificate": pem("CERTIFICATE", "MAA=")})), [""; 0]);
        for (certificate, why) in [
            (STANDARD.encode("text"), "must contain at least one CERTIFICATE PEM block"),
            (pem("KEY", "MAA="), "only CERTIFICATE PEM blocks are allowed, found \"KEY\""),
            (pem("CERTIFICATE", "a: b\n\nMAA="), "no PEM block headers are permitted"),
            (pem("CERTIFICATE", "AAAA"), "x509: malformed certificate"),
        ] {
            let wanted = format!("status.certificate: Invalid value: \"<certificate data>\": {why}");
            assert_eq!(said(json!({"certificate": certificate})), [wanted]);
        }
    }

    #[test]
    fn approvals_stay_and_rows_tell() {
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "QQ=="});
        let old = request(json!({"expirationSeconds": 3600}), approved);
        let mut errors = FieldErrors::new();
        Kind::validate_update(&request(json!({}), json!({})), &old, &mut errors);
        assert_eq!(errors.into_vec().len(), 2);
        let cells: Vec<_> = Kind::row(&old, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(
            cells[2..],
            [
                json!("kubernetes.io/kube-apiserver-client"),
                json!("jane"),
                json!("60m"),
                json!("Approved,Issued")
            ]
        );
    }
}
