//! A node creates only its own Node and Lease.

use balsa_model::{AnyObject, Failure};

use crate::authorize::Authorized;

pub(super) fn require_own(who: &Authorized, object: &dyn AnyObject) -> Result<(), Failure> {
    let Some(node) = who.user().node() else { return Ok(()) };
    let descriptor = object.kind().descriptor();
    let name = object.meta().name.as_deref().unwrap_or_default();
    if matches!(descriptor.plural, "nodes" | "leases") && name != node {
        let why = format!("node \"{node}\" is not allowed to create {} \"{name}\"", descriptor.plural);
        return Err(Failure::forbidden(descriptor, name, why));
    }
    Ok(())
}
