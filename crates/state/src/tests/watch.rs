//! Watches: order, transitions, bytes, bookmarks, and those that do not keep up.

use super::*;
use crate::WatchError;

/// The next event that is no bookmark.
async fn next_event(watch: &mut Watch) -> Event {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        match event.expect("the watch stands still").unwrap().unwrap() {
            Event::Bookmark(..) => {}
            event => return event,
        }
    }
}

/// The next event as `TYPE name@revision`.
async fn next(watch: &mut Watch) -> String {
    let event = next_event(watch).await;
    let name = event.object().map(|object| object.key().name.to_string()).unwrap_or_default();
    format!("{} {name}@{}", event.type_name(), event.revision())
}

#[tokio::test]
async fn what_is_there_then_a_marker_then_changes() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    bench.must(create("b", "n1")).await;
    bench.must(create_map("m")).await;
    let mut watch = bench.state.watch(request(Filter::everything(), Start::Initial)).await.unwrap();
    bench.must(replace("a", "n2")).await;
    bench.must(remove("b")).await;
    assert_eq!(next(&mut watch).await, "ADDED a@1");
    assert_eq!(next(&mut watch).await, "ADDED b@2");
    assert_eq!(next(&mut watch).await, "BOOKMARK @3");
    assert_eq!(next(&mut watch).await, "MODIFIED a@4");
    assert_eq!(next(&mut watch).await, "DELETED b@5");
}

#[tokio::test]
async fn objects_enter_and_leave_a_filter() {
    for filter in [on_node("n1"), labelled("n1")] {
        let mut bench = Bench::new().await;
        bench.must(create("a", "n1")).await;
        let mut watch = bench.state.watch(request(filter, Start::Now)).await.unwrap();
        bench.must(replace("a", "n1")).await;
        bench.must(replace("a", "n2")).await;
        bench.must(replace("a", "n3")).await;
        bench.must(replace("a", "n1")).await;
        bench.must(remove("a")).await;
        assert_eq!(next(&mut watch).await, "MODIFIED a@2");
        let Event::Deleted(last) = next_event(&mut watch).await else { panic!() };
        assert_eq!(last.object().revision(), Revision(3));
        assert_eq!(last.object().typed::<Gadget>().unwrap().spec.node_name, "n1", "what it was");
        assert_eq!(next(&mut watch).await, "ADDED a@5");
        assert_eq!(next(&mut watch).await, "DELETED a@6");
    }
}

#[tokio::test]
async fn bytes_are_made_once_and_shared() {
    let mut bench = Bench::new().await;
    let mut first = bench.state.watch(request(Filter::everything(), Start::Now)).await.unwrap();
    let mut second = bench.state.watch(request(on_node("n1"), Start::Now)).await.unwrap();
    bench.must(create("a", "n1")).await;
    let (one, two) = (next_event(&mut first).await, next_event(&mut second).await);
    assert_eq!(one.json_line().as_ptr(), two.json_line().as_ptr());
    let line: serde_json::Value = serde_json::from_slice(&one.json_line()).unwrap();
    assert_eq!(line["type"], "ADDED");
    assert_eq!(line["object"]["metadata"]["resourceVersion"], "1");
    assert!(one.json_line().ends_with(b"}\n"));
    assert_eq!(
        Event::InitialEnd(gadgets(), Revision(7)).json_line(),
        "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Gadget\",\"apiVersion\":\"test/v1\",\"metadata\":{\
         \"resourceVersion\":\"7\",\"creationTimestamp\":null,\
         \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n"
    );
}

#[tokio::test]
async fn a_removal_may_bring_the_last_version() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    let mut watch = bench.state.watch(request(Filter::everything(), Start::Now)).await.unwrap();
    bench.must(Mutation { object: create("a", "last").object, ..remove("a") }).await;
    let Event::Deleted(last) = next_event(&mut watch).await else { panic!() };
    assert_eq!(last.object().typed::<Gadget>().unwrap().spec.node_name, "last");
    assert_eq!(last.object().meta().resource_version.as_deref(), Some("2"));
}

#[tokio::test]
async fn bookmarks_tell_of_progress_elsewhere() {
    let mut bench = Bench::new().await;
    let mut watch = bench.state.watch(request(on_node("n1"), Start::Now)).await.unwrap();
    bench.must(create("other", "n2")).await;
    bench.must(create_map("m")).await;
    let mut replica = Replica::listed([], Revision(0));
    replica.follow(&mut watch, Revision(2)).await;
    assert!(replica.objects.is_empty());
    assert_eq!(watch.bookmark().unwrap().revision(), Revision(2));
}

#[tokio::test]
async fn whoever_does_not_keep_up_is_cut_off_and_nobody_waits() {
    let config = StateConfig { watch_queue: 4, ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    let mut slow = bench.state.watch(request(Filter::everything(), Start::Now)).await.unwrap();
    let mut spared = bench.state.watch(request(named("g9"), Start::Now)).await.unwrap();
    for i in 0..10 {
        bench.must(create(&format!("g{i}"), "n1")).await;
    }
    for i in 0..4 {
        assert_eq!(next(&mut slow).await, format!("ADDED g{i}@{}", i + 1));
    }
    let end = slow.next().await.unwrap().unwrap_err();
    assert!(matches!(end, WatchError::Expired { requested: Revision(4), .. }), "{end}");
    assert!(slow.next().await.is_none());
    assert_eq!(next(&mut spared).await, "ADDED g9@10");
    let mut back = bench.state.watch(request(Filter::everything(), Start::After(Revision(4)))).await.unwrap();
    assert_eq!(next(&mut back).await, "ADDED g4@5");
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_forgotten() {
    let bench = Bench::new().await;
    let watch = bench.state.watch(request(Filter::everything(), Start::Now)).await.unwrap();
    assert_eq!(bench.state.observe().await[0].watchers, 1);
    drop(watch);
    assert_eq!(bench.state.observe().await[0].watchers, 0);
}

#[tokio::test]
async fn a_watch_resumes_from_memory_and_after_a_restart_from_the_history() {
    let mut bench = Bench::new().await;
    for mutation in [create("a", "n1"), create("b", "n2"), replace("a", "n2"), remove("b"), create("c", "n1")]
    {
        bench.must(mutation).await;
    }
    let told = ["MODIFIED a@3", "DELETED b@4", "ADDED c@5"];
    let after = request(Filter::everything(), Start::After(Revision(2)));
    let mut watch = bench.state.watch(after.clone()).await.unwrap();
    for told in told {
        assert_eq!(next(&mut watch).await, told);
    }
    let mut bench = bench.restart().await;
    let mut watch = bench.state.watch(after).await.unwrap();
    bench.must(remove("c")).await;
    for told in told {
        assert_eq!(next(&mut watch).await, told);
    }
    assert_eq!(next(&mut watch).await, "DELETED c@6");
    let mut watch = bench.state.watch(request(on_node("n1"), Start::After(Revision(2)))).await.unwrap();
    assert_eq!(next(&mut watch).await, "DELETED a@3");
}

#[tokio::test]
async fn a_watch_from_the_future_begins_there() {
    let mut bench = Bench::new().await;
    let mut watch =
        bench.state.watch(request(Filter::everything(), Start::After(Revision(2)))).await.unwrap();
    for name in ["a", "b", "c"] {
        bench.must(create(name, "n1")).await;
    }
    assert_eq!(next(&mut watch).await, "ADDED c@3");
}
