//! Admission: what the cluster adds to an object, or refuses, before it is validated and proposed.
//!
//! A fixed chain of small steps, in one order. [`Admitted`] is the proof that an object passed; the
//! engine proposes nothing else.

mod addresses;
mod certificates;
mod ingresses;
mod limits;
mod namespaces;
mod nodes;
mod pod_security;
mod pods;
mod priorities;
mod quotas;
mod roles;
mod runtime_classes;
mod volumes;

use balsa_model::strategy::Part;
use balsa_model::{AnyObject, Failure, Mutation, Object, Subresource};
use balsa_state::State;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::authorize::Authorized;

pub(crate) use addresses::{is_address_collision, picks_addresses};
pub(crate) use quotas::Charge;

/// What of a cluster's configuration admission needs.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Where ClusterIPs come from.
    pub service_cidr: IpNet,
    /// Where node ports come from, both ends included.
    pub node_ports: (u16, u16),
}

/// Mutations that passed admission.
pub(crate) struct Admitted(Vec<Mutation>);

impl Admitted {
    pub(crate) fn into_mutations(self) -> Vec<Mutation> {
        self.0
    }

    pub(crate) fn join(parts: Vec<Self>) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }
}

/// The chain.
#[derive(Clone)]
pub struct Admission {
    state: State,
    config: AdmissionConfig,
}

impl Admission {
    /// A chain that reads from `state`.
    pub fn new(state: State, config: AdmissionConfig) -> Self {
        Self { state, config }
    }

    /// Completes an object that is about to be created; what the client should be told. To be asked twice changes
    /// nothing.
    ///
    /// # Errors
    /// When policy forbids it.
    pub fn admit_create(&self, who: &Authorized, object: &mut dyn AnyObject) -> Result<Vec<String>, Failure> {
        namespaces::require_active(&self.state, object)?;
        nodes::require_own(who, object)?;
        certificates::name_requestor(who, object);
        certificates::restrict_subject(object)?;
        certificates::require_request(object)?;
        roles::require_held(&self.state, who, object, None)?;
        priorities::require_one_default(&self.state, object)?;
        pods::complete(&self.state, object)?;
        limits::apply(&self.state, object)?;
        volumes::default_class(&self.state, object);
        ingresses::default_class(&self.state, object);
        volumes::protect(object);
        addresses::require_family(&self.config, object, None)?;
        addresses::allocate(&self.state, &self.config, object)?;
        pod_security::judge_new(&self.state, object)
    }

    /// Completes a new version of a part of an object; what the client should be told.
    ///
    /// # Errors
    /// When policy forbids it.
    pub fn admit_update(
        &self,
        who: &Authorized,
        object: &mut dyn AnyObject,
        old: &Object,
        part: Part,
        now: Timestamp,
    ) -> Result<Vec<String>, Failure> {
        certificates::date_conditions(object, old, now);
        roles::require_held(&self.state, who, object, Some(old))?;
        certificates::require_signer(&self.state, who, object, old)?;
        priorities::require_one_default(&self.state, object)?;
        pods::keep_tolerating(object);
        volumes::require_expandable(&self.state, object, old)?;
        addresses::require_family(&self.config, object, Some(old))?;
        addresses::allocate(&self.state, &self.config, object)?;
        match part {
            Part::Main | Part::Sub(Subresource::EphemeralContainers) => {
                pod_security::judge_change(&self.state, object, old)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Judges a deletion.
    ///
    /// # Errors
    /// When policy forbids it.
    pub fn admit_delete(&self, old: &Object) -> Result<(), Failure> {
        namespaces::protect(old)?;
        priorities::protect(old)
    }

    /// What quotas have to say of an object that is about to be created, or of a new version of one: the
    /// new versions of quotas that must be written first.
    ///
    /// # Errors
    /// When a quota is used up.
    pub(crate) fn charge(
        &self,
        object: &dyn AnyObject,
        old: Option<&Object>,
    ) -> Result<Vec<Charge>, Failure> {
        quotas::charge(&self.state, object, old)
    }

    /// The proof for a mutation that went through one of the steps above.
    pub(crate) fn admitted(&self, mutation: Mutation) -> Admitted {
        Admitted(vec![mutation])
    }
}
