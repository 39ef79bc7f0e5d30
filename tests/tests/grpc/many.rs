//! Thousands of watches in one stream, each of an object of its own.

use std::collections::BTreeMap;

use balsa_proto::v1;
use balsa_proto::v1::watch_event::Type;
use serde_json::json;
use tonic::Code;

use crate::{Objects, PATIENCE, create, reason, resource};

const MANY: u32 = 2000;

fn watch(number: u32) -> v1::WatchRequest {
    let selection =
        v1::Selection { namespace: "default".into(), field_selector: field(number), ..Default::default() };
    v1::WatchRequest { resource: resource("", "configmaps"), selection: Some(selection), after_revision: 0 }
}

fn name(number: u32) -> String {
    format!("one-of-many-{number}")
}

fn field(number: u32) -> String {
    format!("metadata.name={}", name(number))
}

/// Each hears of its own object, once, and of no other.
pub(crate) async fn watches_share_a_stream(objects: &mut Objects) {
    let request = v1::WatchManyRequest { watches: (0..MANY).map(watch).collect() };
    let mut stream = objects.watch_many(request).await.unwrap().into_inner();
    let wanted: Vec<u32> = (0..MANY).step_by(97).collect();
    for number in &wanted {
        create(objects, "configmaps", json!({"metadata": {"name": name(*number)}}), false).await;
    }
    let (mut synced, mut told) = (0, BTreeMap::<u32, Vec<String>>::new());
    while synced < MANY || told.len() < wanted.len() {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        for event in message.events {
            synced += u32::from(event.r#type() == Type::Synced);
            if let Some(object) = event.object {
                let object: serde_json::Value = serde_json::from_slice(&object.json).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                told.entry(message.watch).or_default().push(name);
            }
        }
    }
    let own = wanted.iter().map(|number| (*number, vec![name(*number)])).collect();
    assert_eq!(told, own);
    let too_many = v1::WatchManyRequest { watches: (0..5000).map(watch).collect() };
    let refused = objects.watch_many(too_many).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "BadRequest"));
    assert_eq!(refused.message(), "at most 4096 watches in one stream");
}
