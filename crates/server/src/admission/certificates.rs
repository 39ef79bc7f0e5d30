//! Who asks for a certificate is who sent the request, whatever the request says; who allows or signs one
//! may speak for its signer.

use balsa_model::field::{FieldErrors, Path};
use balsa_model::kinds::certificate_signing_request::has_condition;
use balsa_model::{AnyObject, Failure, Object};
use balsa_state::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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

/// Nobody becomes one of those who may do everything by asking for a certificate.
pub(super) fn restrict_subject(object: &dyn AnyObject) -> Result<(), Failure> {
    let Some(request) = object.as_any().downcast_ref::<CertificateSigningRequest>() else { return Ok(()) };
    if request.spec.signer_name != signer::CLIENT {
        return Ok(());
    }
    let why = match signer::organizations(&request.spec.request.0) {
        Err(why) => format!("failed to parse CSR: {why}"),
        Ok(groups) if groups.iter().any(|group| group == MASTERS) => {
            format!("use of {} signer with {MASTERS} group is not allowed", signer::CLIENT)
        }
        Ok(_) => return Ok(()),
    };
    let name = object.meta().name.as_deref().unwrap_or_default();
    Err(Failure::forbidden(object.kind().descriptor(), name, why))
}

/// Refuses what is no request, or is not signed with the key that it asks for. What is no PEM is left to validation,
/// which has more to say then.
pub(super) fn require_request(object: &dyn AnyObject) -> Result<(), Failure> {
    let Some(request) = object.as_any().downcast_ref::<CertificateSigningRequest>() else { return Ok(()) };
    let asked = &request.spec.request.0;
    let why = match signer::check(asked) {
        Err(why) if why != signer::NO_REQUEST => why,
        _ => return Ok(()),
    };
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::new("spec").child("request"), STANDARD.encode(asked), why);
    let name = object.meta().name.as_deref().unwrap_or_default();
    Failure::invalid(object.kind().descriptor(), name, errors).map_or(Ok(()), Err)
}

/// Says of conditions when they came, where who writes them does not.
pub(super) fn date_conditions(object: &mut dyn AnyObject, old: &Object, now: Timestamp) {
    let Some(request) = object.as_any_mut().downcast_mut::<CertificateSigningRequest>() else { return };
    let old = old.typed::<CertificateSigningRequest>();
    let before: Vec<_> = old
        .iter()
        .flat_map(|old| &old.status)
        .flat_map(|status| status.conditions.iter().flatten())
        .collect();
    for condition in request.status.iter_mut().flat_map(|status| status.conditions.iter_mut().flatten()) {
        condition.last_update_time.get_or_insert(Time(now));
        let same = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status);
        let since = same.and_then(|old| old.last_transition_time.clone());
        condition.last_transition_time.get_or_insert(since.unwrap_or(Time(now)));
    }
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
