//! A watch from a revision that the history does not reach back to.

use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_testkit::{Cluster, Options};
use serde_json::json;
use tonic::Code;

use crate::{Credentials, Objects, PATIENCE, connect, create, patch, patched, reason, resource};

const KEPT: usize = 50;

#[test]
fn what_is_too_old_to_go_on_from_is_told() {
    let cluster = Cluster::start(Options::nodes(0).with(&["--history-changes", &KEPT.to_string()]));
    let credentials = Credentials::of(&cluster);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut objects = ObjectServiceClient::new(connect(&cluster, &credentials).await);
        let made = create(&mut objects, "configmaps", json!({"metadata": {"name": "often"}}), false).await;
        let start = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        for n in 0..KEPT * 3 {
            let change = patch("configmaps", "often", v1::PatchType::Merge, &data(n));
            patched(&mut objects, change).await.unwrap();
        }
        is_refused(&mut objects, start).await;
        is_told_in_the_stream_of_several(&mut objects, start).await;
    });
    drop(runtime);
    cluster.down();
}

fn data(n: usize) -> String {
    json!({"data": {"count": n.to_string()}}).to_string()
}

fn watch(after_revision: u64) -> v1::WatchRequest {
    v1::WatchRequest { resource: resource("", "configmaps"), selection: None, after_revision }
}

async fn is_refused(objects: &mut Objects, start: u64) {
    // In the answer or in the stream's end: both are read as one.
    let refused = async { objects.watch(watch(start)).await?.into_inner().message().await };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap().unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "Expired"), "{refused}");
    assert!(refused.message().starts_with("too old resource version: "), "{refused}");
}

/// One that cannot go on does not end the others.
async fn is_told_in_the_stream_of_several(objects: &mut Objects, start: u64) {
    let secrets = v1::WatchRequest { resource: resource("", "secrets"), ..watch(0) };
    let request = v1::WatchManyRequest { watches: vec![watch(start), secrets], ..Default::default() };
    let mut stream = objects.watch_many(request).await.unwrap().into_inner();
    let (mut refused, mut synced) = (None, false);
    while refused.is_none() || !synced {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        match message.error {
            Some(error) => refused = Some((message.watch, error.reason)),
            None => {
                let ends = |event: &v1::WatchEvent| event.r#type() == v1::watch_event::Type::Synced;
                synced |= message.watch == 1 && message.events.iter().any(ends);
            }
        }
    }
    assert_eq!(refused, Some((0, "Expired".to_owned())));
}
