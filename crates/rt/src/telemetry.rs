//! Logs and metrics: installed once by the binary.

use std::io::{IsTerminal as _, Write};
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for log shippers.
    Json,
}

/// Sends `tracing` to standard error. `filter` is in the usual form (`info`, `balsa_log=debug,info`).
/// A second call changes nothing, so that tests may all call it.
pub fn install_logs(filter: &str, format: LogFormat) {
    let mut filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    if let Ok(always) = "balsa_rt::telemetry=error".parse() {
        // Panics and last errors are told whatever is asked for.
        filter = filter.add_directive(always);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lossy(std::io::stderr()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true);
    let installed = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if installed.is_ok() && FORMAT.set(format).is_ok() && format == LogFormat::Json {
        // A panic is told in the log's own form, too.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name().unwrap_or_default(), "{panic}");
        }));
    }
}

/// What is written as far as it can be. A log whose reader has gone, or whose disk is full, is no reason to stop working:
/// told of the failure, tracing would panic in whatever task has something to say.
struct Lossy(std::io::Stderr);

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// The form of the log, once it is installed.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Tells why the process ends, on standard error: as a line of the log where a log shipper reads it.
pub fn tell_end(error: &dyn std::fmt::Display) {
    match FORMAT.get() {
        Some(LogFormat::Json) => tracing::error!("{error:#}"),
        _ => drop(writeln!(std::io::stderr(), "error: {error:#}")),
    }
}

/// Upper bounds, in seconds, of the histograms whose names end in `_seconds`: Kubernetes' own for
/// request durations, so that existing dashboards' quantiles come out.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0,
    5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// How often what histograms have gathered is summed up. Until then, or until somebody asks for the metrics,
/// every single value is kept.
const SUM_UP: Duration = Duration::from_secs(5);

/// Installs the process's metrics recorder; the handle renders `/metrics`. To be called within a runtime,
/// which keeps the recorder small from then on.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .install_recorder()?;
    crate::task::count_failures();
    let recorder = handle.clone();
    drop(crate::spawn(crate::TaskKind::Helper, sum_up(recorder)));
    Ok(handle)
}

async fn sum_up(recorder: PrometheusHandle) {
    let mut ticks = tokio::time::interval(SUM_UP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

pub use metrics_exporter_prometheus::PrometheusHandle as MetricsHandle;
