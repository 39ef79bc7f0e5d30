//! What must hold of any path and any token that a client sends: run by fuzz targets (fuzz/README.md), and by a test
//! on the corpora that are kept. Not there in ordinary builds.

use balsa_model::{Key, Revision};

use crate::engine::{decode_token, encode_token};
use crate::rest::path;

/// A subject, and what is looked at.
pub type Check = fn(&[u8]);

/// All of them, by the name of target and corpus.
pub const CHECKS: [(&str, Check); 2] = [("path", path), ("continue_token", continue_token)];

/// Runs the check of that name.
///
/// # Panics
/// When what must hold does not, or there is no such check.
pub fn run(name: &str, bytes: &[u8]) {
    let found = CHECKS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no check {name}")).1(bytes);
}

/// A path is taken apart the same way with and without a slash behind it.
fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let parsed = path::parse(text);
    assert_eq!(path::parse(&format!("{text}/")), parsed);
}

/// A token that is taken is the one that is given for the same place.
fn continue_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok((at, key)) = decode_token(text) {
        assert_eq!(decode_token(&encode_token(at, &key)).ok(), Some((at, key)));
    }
    let Some((namespace, name)) = text.split_once('/') else { return };
    if !text.contains('\0') {
        let place = (Some(Revision(bytes.len() as u64)), Key::new(namespace, name));
        assert_eq!(decode_token(&encode_token(place.0, &place.1)).ok(), Some(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_good() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, check) in CHECKS {
            let files: Vec<_> = std::fs::read_dir(corpora.join(name)).unwrap().flatten().collect();
            assert!(files.len() > 3, "the corpus of {name} has {} files", files.len());
            for file in files {
                let bytes = std::fs::read(file.path()).unwrap();
                (0..=bytes.len()).for_each(|end| check(&bytes[..end]));
            }
        }
    }
}
