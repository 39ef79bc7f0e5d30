//! Charging quotas: see [`crate::admission`].

use balsa_model::kind::to_value;
use balsa_model::{AnyObject, Failure, Object, Operation, Precondition};

use super::{ATTEMPTS, Engine, refused};
use crate::admission::Admitted;
use crate::authorize::Authorized;

impl Engine {
    /// Charges the quotas of a namespace for an object that is about to be created, or for what a new
    /// version of one needs more. A dry run only asks whether there is enough.
    ///
    /// # Errors
    /// `Forbidden` when there is not.
    pub(super) async fn charge(
        &self,
        who: &Authorized,
        object: &dyn AnyObject,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<(), Failure> {
        let mut charged: Vec<String> = Vec::new();
        let mut last = Failure::internal("no attempt was made");
        for _ in 0..ATTEMPTS {
            let mut charges = self.admission.charge(object, old)?;
            charges.retain(|charge| !charged.iter().any(|name| *name == *charge.old.key().name));
            if charges.is_empty() || dry_run {
                return Ok(());
            }
            let mutation = |charge: &crate::admission::Charge| {
                let value = to_value(&charge.new);
                let old = &charge.old;
                let precondition =
                    Precondition { revision: Some(old.revision()), uid: Some(old.uid().to_owned()) };
                let form = (&value, old.managed_fields());
                let mutation = self.mutation(who, Operation::Replace, &charge.new, form, precondition);
                self.admission.admitted(mutation)
            };
            let admitted: Vec<Admitted> = charges.iter().map(mutation).collect();
            let verdicts = self.propose(who, Admitted::join(admitted)).await?;
            let mut late = false;
            for (charge, verdict) in charges.iter().zip(verdicts) {
                match verdict {
                    Ok(_) => charged.push(charge.old.key().name.to_string()),
                    Err(refusal) => {
                        late = true;
                        last = refused(charge.old.kind(), &charge.old.key().name, refusal);
                    }
                }
            }
            if !late {
                return Ok(());
            }
            // Somebody else was charged meanwhile.
            self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
        }
        Err(last)
    }
}
