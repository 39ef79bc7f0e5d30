//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
};

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{one_of, optional_non_negative, port, port_or_name};

const HEADER_RULE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// What is done to a container: exactly one of these.
#[derive(Clone, Copy, Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// Which probe it is: their rules differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Kills, or holds back the others: one success decides.
    LivenessOrStartup,
    /// Takes out of service.
    Readiness,
}

/// Checks a probe.
pub(super) fn validate_probe(
    probe: Option<&Probe>,
    which: Which,
    grace: i64,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(probe) = probe else { return };
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    validate_handler(handler, grace, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        optional_non_negative(errors, &path.child(field), value);
    }
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = probe.termination_grace_period_seconds {
        if which == Which::Readiness {
            errors.invalid(&grace_path, seconds, "must not be set for readinessProbes");
        } else if seconds <= 0 {
            errors.invalid(&grace_path, seconds, "must be greater than 0");
        }
    }
    if which == Which::LivenessOrStartup
        && let Some(threshold) = probe.success_threshold.filter(|t| *t != 1)
    {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

/// Checks what is done after a container's start and before its stop.
pub(super) fn validate_lifecycle(
    lifecycle: Option<&Lifecycle>,
    grace: i64,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(lifecycle) = lifecycle else { return };
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(handler) = handler else { continue };
        let handler = Handler {
            exec: handler.exec.as_ref(),
            http_get: handler.http_get.as_ref(),
            tcp_socket: handler.tcp_socket.as_ref(),
            grpc: None,
            sleep: handler.sleep.as_ref(),
        };
        validate_handler(handler, grace, &path.child(field), errors);
    }
}

fn validate_handler(handler: Handler<'_>, grace: i64, path: &Path, errors: &mut FieldErrors) {
    let mut seen = false;
    let mut first = |field: &str, errors: &mut FieldErrors| {
        if seen {
            errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
        !std::mem::replace(&mut seen, true)
    };
    if let Some(exec) = handler.exec
        && first("exec", errors)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.required(&path.child("exec").child("command"), "");
    }
    if let Some(get) = handler.http_get
        && first("httpGet", errors)
    {
        validate_http_get(get, &path.child("httpGet"), errors);
    }
    if let Some(tcp) = handler.tcp_socket
        && first("tcpSocket", errors)
    {
        port_or_name(errors, &path.child("tcpSocket").child("port"), &tcp.port);
    }
    if let Some(grpc) = handler.grpc
        && first("grpc", errors)
    {
        port(errors, &path.child("grpc").child("port"), grpc.port);
    }
    if let Some(sleep) = handler.sleep
        && first("sleep", errors)
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(&path.child("sleep"), sleep.seconds, detail);
    }
    if !seen {
        errors.required(path, "must specify a handler type");
    }
}

fn validate_http_get(get: &HTTPGetAction, path: &Path, errors: &mut FieldErrors) {
    if get.path.as_deref().is_none_or(str::is_empty) {
        errors.required(&path.child("path"), "");
    }
    port_or_name(errors, &path.child("port"), &get.port);
    one_of(errors, &path.child("scheme"), get.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        let name = header.name.as_str();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            errors.invalid(&path.child("httpHeaders"), name, HEADER_RULE);
        }
    }
}
