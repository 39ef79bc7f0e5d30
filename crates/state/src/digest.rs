//! The digest of the state: one number over every object, kept up as objects change.
//!
//! It is the sum, modulo 2^128, of a hash of each row. So a change costs two hashes, of the row before and of
//! the row after; and the number follows from the rows alone: not from the order in which they came, nor
//! from restarts, snapshots or the release that computed it. The row before is hashed as it is in memory
//! now: one that has changed by itself since it was put there shows.
//!
//! It is there against faults, not against malice: whoever can write the tables can write the digest.

use bytes::Bytes;
use twox_hash::XxHash3_128;

use crate::view::Row;

/// What is hashed, and how. Digests of different formats are not compared.
const FORMAT: u8 = 1;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(u128);

impl Digest {
    /// Of one row of a resource. `buffer` is for the bytes that are hashed, so that no row needs its own.
    pub(crate) fn of_row(resource: &str, row: &Row, buffer: &mut Vec<u8>) -> Self {
        buffer.clear();
        let key = row.object.key();
        let claims = row.claims.iter().map(String::as_str);
        for text in [resource, &key.namespace, &key.name].into_iter().chain(claims) {
            buffer.extend_from_slice(&(text.len() as u64).to_be_bytes());
            buffer.extend_from_slice(text.as_bytes());
        }
        buffer.extend_from_slice(&row.object.revision().0.to_be_bytes());
        buffer.extend_from_slice(row.object.bytes());
        Self(XxHash3_128::oneshot(buffer))
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// As it is kept in the tables, beside the revision that it belongs to.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// What servers tell each other: with the last revision handed out, which is state as well.
    pub(crate) fn hash(self, revision: u64) -> Bytes {
        let mut state = self.to_bytes().to_vec();
        state.extend_from_slice(&revision.to_be_bytes());
        let hash = XxHash3_128::oneshot(&state).to_be_bytes();
        std::iter::once(FORMAT).chain(hash).collect()
    }
}

impl std::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(digests: I) -> Self {
        digests.fold(Self::default(), Self::plus)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of all releases must come to the same: the function is specified, and so is its input.
    #[test]
    fn the_first_format_is_frozen() {
        let digest = Digest(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let hash: String = digest.hash(7).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "0134c9a52c65a5677b74838ea449d78488");
    }
}
