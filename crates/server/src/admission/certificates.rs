//! Who asks for a certificate is who sent the request, whatever the request says; who allows or signs one
//! may speak for its signer.

use balsa_model::kinds::certificate_signing_request::has_condition;
use balsa_model::{AnyObject, Failure, Object};
use balsa_state::State;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::authorize::{Attributes, Authorized, Authorizer, MASTERS};
use crate::signer;

pub(super) fn name_requestor(who: &Authorized, object: &mut dyn AnyObject) {
    let Some(request) = object.as_any_mut().downcast_mut::<CertificateSigningRequest>() else { return };
    let (user, spec) = (who.user(), &mut request.spec);
    spec.username = Some(user.user().to_string());
    spec.groups = Some(user.groups().to_vec());
    spec.uid = None;
    spec.extra = None;
}

/// Nobody becomes one of those who may do everything by asking for a certificate. What cannot be read is left to
/// validation.
pub(super) fn restrict_subject(object: &dyn AnyObject) -> Result<(), Failure> {
    let Some(request) = object.as_any().downcast_ref::<CertificateSigningRequest>() else { return Ok(()) };
    let groups = signer::organizations(&request.spec.request.0);
    if request.spec.signer_name != signer::CLIENT || !groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let name = object.meta().name.as_deref().unwrap_or_default();
    let why = format!("use of {} signer with {MASTERS} group is not allowed", signer::CLIENT);
    Err(Failure::forbidden(object.kind().descriptor(), name, why))
}

/// Who allows or denies a request, or signs it, must be allowed to speak for its signer.
pub(super) fn require_signer(
    state: &State,
    who: &Authorized,
    object: &dyn AnyObject,
    old: &Object,
) -> Result<(), Failure> {
    let (Some(new), Some(old)) = (
        object.as_any().downcast_ref::<CertificateSigningRequest>(),
        old.typed::<CertificateSigningRequest>(),
    ) else {
        return Ok(());
    };
    let approval = |request: &CertificateSigningRequest| {
        ["Approved", "Denied"].map(|type_| has_condition(request, type_))
    };
    let signed = |request: &CertificateSigningRequest| {
        let certificate = request.status.as_ref().and_then(|status| status.certificate.clone());
        (certificate, has_condition(request, "Failed"))
    };
    let verb = if approval(new) != approval(&old) {
        "approve"
    } else if signed(new) != signed(&old) {
        "sign"
    } else {
        return Ok(());
    };
    let signer = new.spec.signer_name.as_str();
    let domain = signer.split('/').next().unwrap_or_default();
    let authorizer = Authorizer::new(state.clone());
    let may = |name: &str| {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            resource: "signers".to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        authorizer.allows(who.user(), &attributes)
    };
    if may(signer) || may(&format!("{domain}/*")) {
        return Ok(());
    }
    let name = object.meta().name.as_deref().unwrap_or_default();
    let why = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(Failure::forbidden(object.kind().descriptor(), name, why))
}
