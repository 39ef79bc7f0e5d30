//! What Docker and the way to it answer, sorted into our families; and the count of it.

use bollard::errors::Error as Bollard;
use tokio::time::Instant;

use crate::{Error, Result};

/// Sorts an error of any request.
pub(super) fn failed(error: Bollard) -> Error {
    match error {
        Bollard::DockerResponseServerError { status_code, message } => answered(status_code, message),
        Bollard::RequestTimeoutError => {
            Error::Unavailable { message: "Docker did not answer in time".to_owned() }
        }
        Bollard::HyperLegacyError { .. }
        | Bollard::HyperResponseError { .. }
        | Bollard::IOError { .. }
        | Bollard::SocketNotFoundError(_) => Error::Unavailable { message: with_causes(&error) },
        Bollard::DockerStreamError { error } => Error::Other { message: error },
        other => Error::Other { message: with_causes(&other) },
    }
}

/// Sorts an error of a start: what Docker refuses then is the container's own fault.
pub(super) fn refused_start(error: Bollard) -> Error {
    match error {
        Bollard::DockerResponseServerError { status_code: 404, message }
            if message.starts_with("No such container") =>
        {
            Error::NotFound { message }
        }
        Bollard::DockerResponseServerError { status_code: 400 | 404 | 500.., message } => {
            Error::Start { message }
        }
        other => failed(other),
    }
}

fn answered(status_code: u16, message: String) -> Error {
    match status_code {
        404 if message.starts_with("No such image") => {
            let image = message.trim_start_matches("No such image:").trim().to_owned();
            Error::ImageNotFound { image }
        }
        404 => Error::NotFound { message },
        // 403 is what Docker says of networks that are in use or overlap.
        403 | 409 => Error::Conflict { message },
        400 => Error::Invalid { message },
        502..=504 => Error::Unavailable { message },
        _ => Error::Other { message },
    }
}

/// hyper says "client error" and leaves the reason to its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = inner.source();
    }
    message
}

/// Counts and times an operation under the names that a kubelet uses.
pub(super) async fn observed<T>(operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    let result = work.await;
    metrics::counter!("kubelet_runtime_operations_total", "operation_type" => operation).increment(1);
    metrics::histogram!("kubelet_runtime_operations_duration_seconds", "operation_type" => operation)
        .record(begun.elapsed().as_secs_f64());
    if result.is_err() {
        metrics::counter!("kubelet_runtime_operations_errors_total", "operation_type" => operation)
            .increment(1);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Bollard {
        Bollard::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn answers_fall_into_families() {
        let image = failed(answer(404, "No such image: nginx:nope"));
        assert_eq!(image, Error::ImageNotFound { image: "nginx:nope".to_owned() });
        assert!(failed(answer(404, "No such container: x")).is_not_found());
        assert!(failed(answer(409, "name is in use")).is_conflict());
        assert!(failed(answer(403, "network x has active endpoints")).is_conflict());
        assert!(matches!(failed(answer(400, "bad")), Error::Invalid { .. }));
        assert!(failed(Bollard::RequestTimeoutError).is_retryable());
        assert!(failed(Bollard::SocketNotFoundError("/x".to_owned())).is_retryable());
    }

    #[test]
    fn a_refused_start_is_the_containers_fault() {
        let message = "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH";
        assert!(matches!(refused_start(answer(400, message)), Error::Start { .. }));
        assert!(matches!(refused_start(answer(404, "network x not found")), Error::Start { .. }));
        assert!(refused_start(answer(404, "No such container: x")).is_not_found());
        assert!(refused_start(answer(409, "is marked for removal")).is_conflict());
    }
}
