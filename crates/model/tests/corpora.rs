//! The fuzz targets' checks, on the corpora that are kept: fuzz/README.md.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/checks/model.rs"]
mod checks;

use std::path::Path;

#[test]
fn what_is_kept_is_good() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, _) in checks::CHECKS {
        let files: Vec<_> = std::fs::read_dir(corpora.join(name)).unwrap().flatten().collect();
        assert!(files.len() > 3, "the corpus of {name} has {} files", files.len());
        for file in files {
            println!("{name} {}", file.path().display());
            let bytes = std::fs::read(file.path()).unwrap();
            checks::run(name, &bytes);
            // And cut anywhere, as a body that did not arrive whole.
            (0..bytes.len()).step_by(7).for_each(|end| checks::run(name, &bytes[..end]));
        }
    }
}
