//! The metrics of this crate, all in one place. Names are those of kube-proxy and CoreDNS, so that
//! their dashboards work.

use std::time::Duration;

/// Time from a changed input to rules in the kernel, in seconds.
pub const SYNC_PROXY_RULES: &str = "kubeproxy_sync_proxy_rules_duration_seconds";
/// Failed transactions of the service proxy.
pub const SYNC_PROXY_FAILURES: &str = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
/// Queries that reached the resolver.
pub const DNS_REQUESTS: &str = "coredns_dns_requests_total";
/// How long answers took, in seconds.
pub const DNS_DURATION: &str = "coredns_dns_request_duration_seconds";
/// Answers by response code.
pub const DNS_RESPONSES: &str = "coredns_dns_responses_total";
/// Answers from the cache of forwarded names.
pub const DNS_CACHE_HITS: &str = "coredns_cache_hits_total";
/// Forwarded names that were not in the cache.
pub const DNS_CACHE_MISSES: &str = "coredns_cache_misses_total";

/// Gives every metric its help text; called once, after the recorder is installed.
pub fn describe() {
    metrics::describe_histogram!(SYNC_PROXY_RULES, "Time to bring changed services into the kernel");
    metrics::describe_counter!(SYNC_PROXY_FAILURES, "Transactions of the service proxy that failed");
    metrics::describe_counter!(DNS_REQUESTS, "DNS queries by zone, type and protocol");
    metrics::describe_histogram!(DNS_DURATION, "Time to answer DNS queries");
    metrics::describe_counter!(DNS_RESPONSES, "DNS answers by zone and response code");
    metrics::describe_counter!(DNS_CACHE_HITS, "Forwarded names answered from the cache");
    metrics::describe_counter!(DNS_CACHE_MISSES, "Forwarded names asked upstream");
}

pub(crate) fn proxy_synced(took: Duration) {
    metrics::histogram!(SYNC_PROXY_RULES).record(took.as_secs_f64());
}

pub(crate) fn proxy_failed() {
    metrics::counter!(SYNC_PROXY_FAILURES).increment(1);
}

pub(crate) fn dns_answered(
    zone: String,
    proto: &'static str,
    kind: &'static str,
    rcode: &'static str,
    took: Duration,
) {
    metrics::counter!(DNS_REQUESTS, "zone" => zone.clone(), "proto" => proto, "type" => kind).increment(1);
    metrics::counter!(DNS_RESPONSES, "zone" => zone.clone(), "rcode" => rcode).increment(1);
    metrics::histogram!(DNS_DURATION, "zone" => zone).record(took.as_secs_f64());
}

pub(crate) fn dns_cache(hit: bool) {
    metrics::counter!(if hit { DNS_CACHE_HITS } else { DNS_CACHE_MISSES }).increment(1);
}
