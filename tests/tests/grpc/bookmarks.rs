//! How a watch tells how far it is while nothing happens to it, and what validation of fields is asked for.

use balsa_proto::v1;
use balsa_proto::v1::watch_event::Type;
use serde_json::json;
use tonic::Code;

use crate::{Objects, PATIENCE, applied, create, patch, patched, resource};

/// Quiet watches are told something every few seconds.
pub(crate) async fn tell_how_far_a_quiet_watch_is(objects: &mut Objects) {
    let labels = json!({"of": "bookmarks"});
    let quiet = v1::WatchRequest {
        resource: resource("", "secrets"),
        selection: Some(v1::Selection {
            namespace: "default".to_owned(),
            label_selector: "of=bookmarks".to_owned(),
            ..Default::default()
        }),
        after_revision: 0,
    };
    let secret = json!({"metadata": {"name": "quiet", "labels": labels}});
    create(objects, "secrets", secret, false).await;
    let mut stream = objects.watch(quiet.clone()).await.unwrap().into_inner();
    let first = events(&mut stream, 2).await;
    assert_eq!(first.iter().map(v1::WatchEvent::r#type).collect::<Vec<_>>(), [Type::Added, Type::Synced]);
    assert!(first[1].object.is_none() && first[1].revision >= first[0].revision, "{first:?}");

    let elsewhere = create(objects, "configmaps", json!({"metadata": {"name": "elsewhere"}}), false).await;
    let elsewhere: u64 = elsewhere["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let mut seen = first[1].revision;
    while seen < elsewhere {
        let event = events(&mut stream, 1).await.remove(0);
        assert!(event.r#type() == Type::Bookmark && event.object.is_none(), "{event:?}");
        assert!(event.revision >= seen, "it never goes back: {event:?}");
        seen = event.revision;
    }
    // Whoever goes on from there is told what is new, and nothing of before.
    let resumed = v1::WatchRequest { after_revision: seen, ..quiet };
    let mut stream = objects.watch(resumed).await.unwrap().into_inner();
    let secret = json!({"metadata": {"name": "loud", "labels": labels}});
    let made = create(objects, "secrets", secret, false).await;
    let event = loop {
        let event = events(&mut stream, 1).await.remove(0);
        if event.r#type() != Type::Bookmark {
            break event;
        }
    };
    assert_eq!(event.r#type(), Type::Added);
    assert_eq!(event.revision.to_string(), made["metadata"]["resourceVersion"].as_str().unwrap());
}

/// At least so many events.
async fn events(stream: &mut tonic::Streaming<v1::WatchResponse>, count: usize) -> Vec<v1::WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        events.extend(message.events);
    }
    events
}

/// The same words as over REST, in the options of a write.
pub(crate) async fn odd_fields_are_told_or_refused(objects: &mut Objects) {
    let options = |validation: &str| {
        let field_validation = validation.to_owned();
        Some(v1::WriteOptions { field_validation, dry_run: true, ..Default::default() })
    };
    let text = r#"{"metadata":{"name":"odd"},"datum":{},"data":{"a":"1","a":"2"}}"#;
    let (twice, unknown) = ("duplicate field \"data.a\"", "unknown field \"datum\"");
    let odd = |validation: &str| v1::CreateRequest {
        resource: resource("", "configmaps"),
        namespace: "default".to_owned(),
        json: text.to_owned().into(),
        options: options(validation),
    };
    for (validation, wanted) in [("Ignore", &[][..]), ("Warn", &[twice, unknown]), ("", &[twice, unknown])] {
        let told = objects.create(odd(validation)).await.unwrap().into_inner().warnings;
        assert_eq!(told, wanted, "{validation:?}");
    }
    let refused = objects.create(odd("Strict")).await.unwrap_err();
    assert!(refused.message().contains(twice) && refused.message().contains(unknown), "{refused}");
    assert_eq!(objects.create(odd("Loud")).await.unwrap_err().code(), Code::InvalidArgument);

    create(objects, "configmaps", json!({"metadata": {"name": "even"}, "data": {"a": "1"}}), false).await;
    let merge = |validation: &str| {
        let request =
            patch("configmaps", "even", v1::PatchType::Merge, r#"{"datum":{},"data":{"a":"1","a":"2"}}"#);
        v1::PatchRequest { options: options(validation), ..request }
    };
    let told = objects.patch(merge("Warn")).await.unwrap().into_inner().warnings;
    assert_eq!(told, [twice, unknown]);
    let refused = patched(objects, merge("Strict")).await.unwrap_err();
    assert!(refused.message().contains(twice) && refused.message().contains(unknown), "{refused}");

    // What a manager applies: a field that nobody knows cannot be owned, so only the other one is asked about.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied-odd}\ndata:\n  a: '1'\n  a: '2'\n";
    let apply = |validation: &str| {
        let mut request = applied("one", false, yaml);
        request.key.as_mut().unwrap().name = "applied-odd".to_owned();
        let options = request.options.as_mut().unwrap();
        (options.field_validation, options.dry_run) = (validation.to_owned(), true);
        request
    };
    let line = "line 6: key \"a\" already set in map";
    for (validation, wanted) in [("Ignore", &[][..]), ("Warn", &[line])] {
        let told = objects.patch(apply(validation)).await.unwrap().into_inner().warnings;
        assert_eq!(told, wanted, "{validation:?}");
    }
    let refused = patched(objects, apply("Strict")).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains(line), "{refused}");
}
