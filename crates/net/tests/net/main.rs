//! The node's network in real kernels' namespaces: bridges, rules and resolver as pods see them.
//!
//! Everything happens in namespaces of the test's own; the machine's rules are not touched.
//! Needs root, `ip`, `nft` and `iptables`; without them the tests fail and say so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod dns;
mod lab;
mod pods;
mod services;
mod userspace;
