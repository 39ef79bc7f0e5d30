//! The end-to-end suites, and what holds the workspace to its design.
//!
//! Everything is under `tests/`; this library is empty. `floors` reads the manifests: who imports whom,
//! and which crate alone may use a heavy dependency.
