//! What a server does when it is asked for too much: a storage quota that makes the cluster read-only and
//! is lifted by itself, users who do not starve each other, and queues that end.
#![allow(clippy::unwrap_used)]

mod pressure;
mod quota;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
