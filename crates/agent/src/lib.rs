//! A node: pods become containers, services become rules, logs are kept.
