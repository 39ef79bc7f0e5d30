//! Why a Mutation was not applied. A refusal is a value: it goes back to whoever proposed, and leaves
//! no trace but a gap in the revisions.

use balsa_model::Revision;

/// Why a Mutation was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is an object with that key.
    #[error("it exists already")]
    AlreadyExists,
    /// There is no object with that key.
    #[error("it does not exist")]
    NotFound,
    /// The object was changed since the proposer read it.
    #[error("it was changed by revision {current} in the meantime")]
    Conflict {
        /// The revision that last changed it.
        current: Revision,
    },
    /// Another object has that key now.
    #[error("its uid is {current}")]
    UidMismatch {
        /// The UID of the object that is there.
        current: String,
    },
    /// Another object owns something of which the cluster has one.
    #[error("{field}: {value}: {refusal}")]
    Claimed {
        /// The field that claims it.
        field: String,
        /// What is claimed.
        value: String,
        /// What Kubernetes says to it.
        refusal: String,
    },
    /// The bytes are no object of the kind with that key.
    #[error("it does not decode: {0}")]
    Undecodable(String),
}
