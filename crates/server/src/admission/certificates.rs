//! Who asks for a certificate is who sent the request, whatever the request says.

use balsa_model::AnyObject;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

use crate::authorize::Authorized;

pub(super) fn name_requestor(who: &Authorized, object: &mut dyn AnyObject) {
    let Some(request) = object.as_any_mut().downcast_mut::<CertificateSigningRequest>() else { return };
    let (user, spec) = (who.user(), &mut request.spec);
    spec.username = Some(user.user().to_string());
    spec.groups = Some(user.groups().to_vec());
    spec.uid = None;
    spec.extra = None;
}
