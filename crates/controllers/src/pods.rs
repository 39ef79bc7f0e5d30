//! Questions that several controllers ask about pods, beside those that the kind itself answers.

use std::time::Duration;

pub(crate) use balsa_model::kinds::pod::{condition, is_ready, is_terminal, phase};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// Since when it is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|time| time.0)
}

/// The node that it is bound to, or empty.
pub(crate) fn node_name(pod: &Pod) -> &str {
    balsa_model::kinds::pod::node_name(pod).unwrap_or_default()
}

/// Its addresses.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if listed.is_empty() { status.pod_ip.as_deref().into_iter().collect() } else { listed }
}

/// How long until a pod counts as available: zero when it does, `None` while it is not ready.
pub(crate) fn until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let at = balsa_model::kinds::pod::available_at(pod, min_ready_seconds)?;
    if at <= now {
        return Some(Duration::ZERO);
    }
    Some(now.duration_until(at).try_into().unwrap_or(Duration::ZERO))
}
