//! What a server does when it is asked for too much: a storage quota that makes the cluster read-only and
//! is lifted by itself, users who do not starve each other, queues that end, and a history that does;
//! and how watches tell how far they are in it.
#![allow(clippy::unwrap_used)]

mod bookmarks;
mod history;
mod levels;
mod pressure;
mod quota;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
