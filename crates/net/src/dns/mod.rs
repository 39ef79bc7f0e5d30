//! Cluster DNS on each node: names of services and endpoints from a view, the rest from upstream.
//!
//! ```text
//!   query ─▶ answer(view, name, type) ─┬─ ours: records, NODATA or NXDOMAIN
//!                                      └─ not ours ─▶ cache ─▶ forwarder ─▶ host's name servers
//! ```
//!
//! `answer` is a pure function on [`DnsView`]; the server swaps the view in one step, so that no
//! answer mixes two of them.

mod answer;
mod forward;
mod resolv;
mod server;
mod view;

pub use answer::{Answer, DnsRecord, QueryType, RecordData, answer};
pub use resolv::{DnsPolicy, HostResolv, PodDnsConfig, ResolvConf, resolv_conf};
pub use server::{DnsConfig, DnsServer};
pub use view::{DnsEndpoint, DnsPort, DnsService, DnsTarget, DnsView};
