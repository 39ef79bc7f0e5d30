//! Views: they stay as they were, and all kinds show one revision.

use super::*;
use crate::refusal::Refusal;

#[tokio::test]
async fn an_old_view_stays_as_it_was() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    let old = bench.state.view(gadgets());
    bench.must(replace("a", "n2")).await;
    bench.must(create("b", "n1")).await;
    bench.must(remove("a")).await;
    assert_eq!(old.len(), 1);
    assert_eq!(old.get(&key("a")).unwrap().revision(), Revision(1));
    assert_eq!(old.by_field("spec.nodeName", "n1").unwrap().count(), 1);
    let new = bench.state.view(gadgets());
    let names: Vec<_> = new.iter().map(|object| object.key().name.to_string()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(new.by_field("spec.nodeName", "n2").unwrap().count(), 0);
    assert!(new.by_field("spec.other", "").is_none());
}

#[tokio::test]
async fn all_kinds_show_one_revision() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    bench.must(create_map("m")).await;
    let views = bench.state.views(&[gadgets(), config_maps()]);
    assert_eq!(views[0].revision(), Revision(2));
    assert_eq!(views[1].revision(), Revision(2));
    assert_eq!((views[0].changed(), views[1].changed()), (Revision(1), Revision(2)));
    bench.state.wait_for(Revision(2)).await;
    assert_eq!(bench.state.reached().borrow().revision, Revision(2));
}

#[tokio::test]
async fn pages_come_from_the_view_of_the_first() {
    let mut bench = Bench::new().await;
    for name in ["a", "b", "c", "d"] {
        bench.must(create(name, "n1")).await;
    }
    let everything = Filter::everything();
    let first = bench.state.view(gadgets());
    let page: Vec<_> = first.select(&everything, None).take(2).cloned().collect();
    bench.state.pin(&first);
    let at = first.revision();
    drop(first);
    bench.must(remove("c")).await;
    let later = bench.state.list_at(gadgets(), at).await.unwrap();
    let rest: Vec<_> =
        later.select(&everything, Some(page[1].key())).map(|o| o.key().name.to_string()).collect();
    assert_eq!(rest, ["c", "d"]);
    let names: Vec<_> = later.iter_after(&key("a")).map(|o| o.key().name.to_string()).collect();
    assert_eq!(names, ["b", "c", "d"]);
    assert_eq!(later.list_after(&key("c")).count(), 1);
    assert!(
        bench.state.list_at(config_maps(), Revision(2)).await.is_ok(),
        "nothing of that kind has changed"
    );
}

#[tokio::test]
async fn verdicts_come_in_the_order_of_the_mutations() {
    let mut bench = Bench::new().await;
    let verdicts = bench
        .apply(vec![create("a", "n1"), create_map("m"), create("a", "n1"), remove("a"), create_map("n")])
        .await;
    assert_eq!(
        verdicts,
        [Ok(Revision(1)), Ok(Revision(2)), Err(Refusal::AlreadyExists), Ok(Revision(4)), Ok(Revision(5)),]
    );
}

#[tokio::test]
async fn an_entry_proposed_twice_is_applied_once() {
    let mut bench = Bench::new().await;
    let entry = bench.entry(&[create("a", "n1"), create("a", "n1")]);
    let replies = bench.commit(vec![entry.clone(), entry.clone()]).await;
    assert_eq!(replies[0], replies[1], "within a batch");
    let again = bench.commit(vec![entry.clone()]).await;
    assert_eq!(again[0], replies[0], "later");
    assert_eq!(bench.state.revision(), Revision(2));
    let mut bench = bench.restart().await;
    assert_eq!(bench.commit(vec![entry]).await[0], replies[0], "after a restart");
    assert_eq!(bench.must(create("b", "n1")).await, Revision(3));
}

#[tokio::test]
async fn what_a_newer_release_wrote_stops_the_server_and_rubbish_does_not() {
    let mut bench = Bench::new().await;
    let mut newer = bench.entry(&[create("a", "n1")]).to_vec();
    assert_eq!(newer[..2], [8, 1]);
    newer[1] = 2;
    let error = bench.try_commit(newer.into()).await.unwrap_err();
    assert_eq!(
        error,
        "the log holds an entry of format 2, which a newer release wrote; start that release or a later one"
    );
    let reply = bench.commit(vec![Bytes::from_static(b"rubbish")]).await.remove(0);
    assert!(matches!(decode_reply(&reply).unwrap()[..], [Err(Refusal::Undecodable(_))]));
}

#[tokio::test]
async fn every_revision_that_the_history_has_can_be_listed() {
    // A ring of two: most of it comes from the tables.
    let config = StateConfig { recent_changes: 2, history_changes: 12, ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    let mut shown = Vec::new();
    for round in 0..80 {
        let name = ["a", "b", "c"][round % 3];
        match round % 4 {
            3 => bench.apply(vec![remove(name)]).await,
            2 => bench.apply(vec![replace(name, &format!("n{round}"))]).await,
            _ => bench.apply(vec![create(name, &format!("n{round}"))]).await,
        };
        let view = bench.state.view(gadgets());
        shown.push((bench.state.revision(), bytes_of(&view)));
    }
    let floor = bench.state.oldest();
    assert!(floor > Revision(0), "something was trimmed");
    for (revision, expected) in shown {
        match bench.state.list_at(gadgets(), revision).await {
            Ok(view) => {
                assert_eq!((view.revision(), bytes_of(&view)), (revision, expected));
                let on = view.by_field("spec.nodeName", "n1").unwrap().count();
                assert_eq!(on, view.iter().filter(|o| o.bytes().windows(4).any(|w| w == b"\"n1\"")).count());
            }
            Err(_) => assert!(revision < floor, "{revision} is refused and {floor} is the floor"),
        }
    }
}

fn bytes_of(view: &crate::KindView) -> Vec<bytes::Bytes> {
    view.iter().map(|object| object.bytes().clone()).collect()
}
