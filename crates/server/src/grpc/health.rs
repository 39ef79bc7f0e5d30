//! `grpc.health.v1.Health`: whether clients should come to this server, for all and for each public service.

use balsa_log::Log;
use balsa_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What can be asked about; the empty name is the server as a whole.
const SERVICES: [&str; 5] = [
    "",
    v1::cluster_service_server::SERVICE_NAME,
    v1::member_service_server::SERVICE_NAME,
    v1::object_service_server::SERVICE_NAME,
    v1::pod_service_server::SERVICE_NAME,
];

/// Tells it until the server stops: it serves while it knows a leader, and no longer once it is stopping.
pub(crate) async fn follow(reporter: HealthReporter, log: Log, token: CancellationToken) {
    let mut leadership = log.leadership();
    loop {
        let has_leader = leadership.borrow_and_update().leader.is_some();
        tell(&reporter, if has_leader { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            () = token.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
        }
    }
    tell(&reporter, ServingStatus::NotServing).await;
}

async fn tell(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
