//! What tools for gRPC ask any server: which services it has, whether it is well; and what its metrics say of requests.

use balsa_testkit::Cluster;
use http::Method;
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

/// Services that tools have to find.
const SERVICES: [&str; 5] = [
    "balsa.v1.ClusterService",
    "balsa.v1.MemberService",
    "balsa.v1.ObjectService",
    "balsa.v1.PodService",
    "grpc.health.v1.Health",
];

pub(crate) async fn find_their_way(channel: Channel) {
    let found = services(channel.clone()).await;
    let older = older_services(channel.clone()).await;
    for service in SERVICES {
        assert!(found.iter().any(|name| name == service), "{service} of {found:?}");
        assert!(older.iter().any(|name| name == service), "{service} of {older:?}");
    }
    let mut health = HealthClient::new(channel);
    for service in SERVICES.into_iter().take(4).chain([""]) {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "balsa.v1.Zoo".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

async fn services(channel: Channel) -> Vec<String> {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let question = MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let stream = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    match stream.into_inner().message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|one| one.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn older_services(channel: Channel) -> Vec<String> {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let question = MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let stream = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    match stream.into_inner().message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|one| one.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// After everything: each verb was counted, with Kubernetes' labels and codes.
pub(crate) async fn see_every_request(cluster: &Cluster) {
    let answer = cluster.rest().call(Method::GET, "/metrics", &Value::Null).await.unwrap();
    let text = answer.body.as_str().unwrap();
    let counted = |parts: &[&str]| {
        let mut series = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        assert!(
            series.any(|line| parts.iter().all(|part| line.contains(part))),
            "{parts:?} is not in\n{text}"
        );
    };
    counted(&["verb=\"POST\"", "resource=\"configmaps\"", "version=\"v1\"", "code=\"200\""]);
    counted(&["verb=\"LIST\"", "resource=\"configmaps\"", "code=\"200\""]);
    counted(&["verb=\"DELETE\"", "resource=\"configmaps\"", "scope=\"resource\"", "code=\"409\""]);
    // Several watches in one stream are one request: for the first of them.
    counted(&["verb=\"WATCH\"", "resource=\"configmaps\""]);
}
