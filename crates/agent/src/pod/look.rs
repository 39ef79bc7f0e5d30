//! The step that looks: what the runtime has of a pod, and the log collection of what it finds.

use balsa_model::Key;
use balsa_runtime::{ContainerState, ListFilter, labels};
use k8s_openapi::api::core::v1::Pod;

use crate::context::NodeContext;
use crate::metrics;
use crate::pod::container::message_file;
use crate::pod::observed::{Found, Observed, member};

/// Longest termination message.
const MESSAGE_MAX: usize = 4096;

/// What the runtime has of a pod.
pub(crate) async fn look(node: &NodeContext, pod: &Pod) -> Result<Observed, balsa_runtime::Error> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let filter = ListFilter::label(labels::POD_UID, uid)
        .and(labels::NODE, &node.config.node_name)
        .and(labels::CLUSTER, &node.config.cluster);
    let list = metrics::operation("list_containers", node.runtime.list(&filter)).await?;
    let inspections = list.iter().map(|summary| async {
        match node.runtime.inspect(&summary.id).await {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    });
    let states = futures::future::try_join_all(inspections).await?;
    let observed = Observed::new(states.into_iter().flatten().filter_map(|state| {
        let message = last_words(node, pod, &state);
        Found::new(state, message)
    }));
    for (name, found) in observed.all().filter(|(_, found)| !found.is_unstarted() && !found.failed_to_start())
    {
        node.logs.collect(&found.state.id, node.logs.path(&node.log_name(pod, name), found.attempt));
    }
    Ok(observed)
}

/// What a container that ended left in its termination message file, or, if it failed and its policy
/// says so, at the end of its log.
fn last_words(node: &NodeContext, pod: &Pod, state: &ContainerState) -> String {
    let label = |name: &str| state.labels.get(name).cloned().unwrap_or_default();
    if state.status.is_alive() || label(labels::KIND) != labels::KIND_CONTAINER {
        return String::new();
    }
    let (name, attempt) = (label(labels::CONTAINER_NAME), label(labels::ATTEMPT).parse().unwrap_or(0));
    let pod_dir = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let bytes = std::fs::read(message_file(&pod_dir, &name, attempt)).unwrap_or_default();
    let text = cut(&bytes, MESSAGE_MAX);
    let policy = member(pod, &name).and_then(|(_, container)| container.termination_message_policy.clone());
    if !text.is_empty() || state.exit_code == 0 || policy.as_deref() != Some("FallbackToLogsOnError") {
        return text;
    }
    let log =
        std::fs::read_to_string(node.logs.path(&node.log_name(pod, &name), attempt)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let last = lines[lines.len().saturating_sub(80)..].join("\n");
    let start = (last.len().saturating_sub(2048)..).find(|at| last.is_char_boundary(*at)).unwrap_or(0);
    last[start..].to_owned()
}

fn cut(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned()
}

/// The key of a pod.
pub(crate) fn key_of(pod: &Pod) -> Key {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Key::new(text(&pod.metadata.namespace), text(&pod.metadata.name))
}
