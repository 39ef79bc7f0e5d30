//! Ids and random names. Drawn by whoever proposes; they travel in the log from there.

use rand::{Rng as _, RngExt as _};

use crate::Random;

/// Letters of generated names: no vowels, so that no word comes out, and nothing that is easily
/// misread. The alphabet Kubernetes uses for `metadata.generateName`.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A new random UUID in its usual text form.
pub fn new_uid() -> String {
    let mut bytes = [0; 16];
    Random.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Sixteen random bytes.
pub fn new_id() -> [u8; 16] {
    let mut bytes = [0; 16];
    Random.fill_bytes(&mut bytes);
    bytes
}

/// `length` random letters for a generated name.
pub fn random_suffix(length: usize) -> String {
    (0..length).map(|_| char::from(ALPHABET[Random.random_range(0..ALPHABET.len())])).collect()
}
