//! The metrics of the agent, all in one place. Names are the kubelet's, so that its dashboards work.

use std::future::Future;
use std::time::Duration;

use balsa_runtime::Error;
use tokio::time::Instant;

const RUNNING_PODS: &str = "kubelet_running_pods";
const RUNNING_CONTAINERS: &str = "kubelet_running_containers";
const POD_START: &str = "kubelet_pod_start_duration_seconds";
const OPERATIONS: &str = "kubelet_runtime_operations_total";
const OPERATION_ERRORS: &str = "kubelet_runtime_operations_errors_total";
const OPERATION_DURATION: &str = "kubelet_runtime_operations_duration_seconds";

/// Gives every metric its help text; called once, after the recorder is installed.
pub fn describe() {
    metrics::describe_gauge!(RUNNING_PODS, "Pods with a running sandbox");
    metrics::describe_gauge!(RUNNING_CONTAINERS, "Running containers");
    metrics::describe_histogram!(
        POD_START,
        "Time from a pod's arrival at the node to its containers running"
    );
    metrics::describe_counter!(OPERATIONS, "Calls of the container runtime");
    metrics::describe_counter!(OPERATION_ERRORS, "Calls of the container runtime that failed");
    metrics::describe_histogram!(OPERATION_DURATION, "Duration of calls of the container runtime");
}

pub(crate) fn running(pods: usize, containers: usize) {
    metrics::gauge!(RUNNING_PODS).set(pods as f64);
    metrics::gauge!(RUNNING_CONTAINERS, "container_state" => "running").set(containers as f64);
}

pub(crate) fn pod_started(took: Duration) {
    metrics::histogram!(POD_START).record(took.as_secs_f64());
}

/// Counts and times a call of the runtime.
pub(crate) async fn operation<T>(
    name: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let start = Instant::now();
    let result = call.await;
    metrics::counter!(OPERATIONS, "operation_type" => name).increment(1);
    metrics::histogram!(OPERATION_DURATION, "operation_type" => name).record(start.elapsed().as_secs_f64());
    if result.is_err() {
        metrics::counter!(OPERATION_ERRORS, "operation_type" => name).increment(1);
    }
    result
}
