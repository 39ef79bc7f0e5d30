//! Kubernetes objects and kinds: metadata, selectors, quantities, patches, Status, validation. Pure.
