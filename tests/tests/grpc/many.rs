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
    let request = v1::WatchManyRequest { watches: (0..MANY).map(watch).collect(), ..Default::default() };
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
    let too_many = v1::WatchManyRequest { watches: (0..5000).map(watch).collect(), ..Default::default() };
    let refused = objects.watch_many(too_many).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "BadRequest"));
    assert_eq!(refused.message(), "at most 4096 watches in one stream");
}

/// Where a client allows it, what several watches are told is one message, and each is told what it would be by itself.
pub(crate) async fn an_event_comes_once_for_all_it_is_for(objects: &mut Objects) {
    const ALL: u32 = 100;
    let of = |label_selector: &str| v1::WatchRequest {
        resource: resource("", "configmaps"),
        selection: Some(v1::Selection {
            namespace: "default".into(),
            label_selector: label_selector.into(),
            ..Default::default()
        }),
        after_revision: 0,
    };
    // The last two see a part of it, one of them for a while.
    let mut watches = vec![of("shared"); ALL as usize];
    watches.extend([of("shared=yes"), of("shared=no")]);
    let count = u32::try_from(watches.len()).unwrap();
    let request = v1::WatchManyRequest { watches, shared: true };
    let mut stream = objects.watch_many(request).await.unwrap().into_inner();
    let named = |shared: &str| json!({"metadata": {"name": "for-all", "labels": {"shared": shared}}});
    create(objects, "configmaps", named("yes"), false).await;
    let update = v1::UpdateRequest {
        resource: resource("", "configmaps"),
        key: crate::key("for-all"),
        json: named("no").to_string().into(),
        ..Default::default()
    };
    objects.update(update).await.unwrap();
    let (mut messages, mut synced, mut told) = (0, 0, BTreeMap::<u32, Vec<Type>>::new());
    while synced < count || told.values().map(Vec::len).sum::<usize>() < 2 * ALL as usize + 3 {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        let changes = message.events.iter().filter(|event| event.object.is_some());
        messages += u32::from(changes.clone().next().is_some());
        for watch in std::iter::once(&message.watch).chain(&message.also) {
            let synced_now = message.events.iter().filter(|event| event.r#type() == Type::Synced);
            synced += u32::try_from(synced_now.count()).unwrap();
            told.entry(*watch).or_default().extend(changes.clone().map(|event| event.r#type()));
        }
    }
    told.retain(|_, events| !events.is_empty());
    let mut expected: BTreeMap<_, _> =
        (0..ALL).map(|watch| (watch, vec![Type::Added, Type::Modified])).collect();
    expected.extend([(ALL, vec![Type::Added, Type::Deleted]), (ALL + 1, vec![Type::Added])]);
    assert_eq!(told, expected);
    assert!(messages < ALL, "{messages} messages for two changes and {count} watches");
}
