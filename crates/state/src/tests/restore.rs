//! What is rebuilt from the tables is what was there.

use super::*;
use crate::refusal::Refusal;

#[tokio::test]
async fn a_restart_brings_the_same_views_and_claims() {
    let mut bench = Bench::new().await;
    bench.must(claiming("ip/1", create("a", "n1"))).await;
    bench.must(create("b", "n1")).await;
    bench.must(claiming("ip/2", create("c", "n2"))).await;
    bench.must(create_map("m")).await;
    bench.must(remove("b")).await;
    let before: Vec<_> = filters().iter().map(|filter| list(&bench.state, filter)).collect();
    let revision = bench.state.revision();

    let mut bench = bench.restart().await;
    let after: Vec<_> = filters().iter().map(|filter| list(&bench.state, filter)).collect();
    assert_eq!(before, after);
    assert_eq!(bench.state.revision(), revision);
    assert_eq!(bench.state.view(config_maps()).len(), 1);
    let verdicts = bench.apply(vec![claiming("ip/2", create("d", "n1"))]).await;
    assert!(matches!(verdicts[..], [Err(Refusal::Claimed { .. })]));
    let next = bench.must(claiming("ip/3", replace("a", "n1"))).await;
    assert_eq!(next, Revision(revision.0 + 2), "revisions go on, gaps included");
    bench.must(claiming("ip/1", create("d", "n1"))).await;
}

#[tokio::test]
async fn damage_is_not_started_with() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    let key = crate::tables::object_key(gadgets(), &key("a"));
    bench.tables.write(vec![crate::tables::Write::Put(
        balsa_log::Table::Objects,
        key,
        b"\x12\x01{".to_vec(),
    )]);
    let state = State::start(&[gadgets(), config_maps()], StateConfig::default());
    let error = Applier::new(state).restore(Arc::new(bench.tables), None).await.unwrap_err();
    assert!(error.to_string().contains("a stored Gadget"), "{error}");
}

#[tokio::test]
async fn tables_that_are_not_what_was_folded_are_not_started_with() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    bench.must(claiming("ip/1", create("b", "n1"))).await;
    bench.must(create_map("m")).await;
    let row = crate::tables::object_key(gadgets(), &key("b"));
    bench.tables.write(vec![crate::tables::Write::Delete(balsa_log::Table::Objects, row)]);
    let state = State::start(&[gadgets(), config_maps()], StateConfig::default());
    let error = Applier::new(state).restore(Arc::new(bench.tables), None).await.unwrap_err();
    assert!(matches!(error, crate::applier::RestoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn servers_that_folded_the_same_say_the_same_of_it() {
    let (mut one, mut other) = (Bench::new().await, Bench::new().await);
    for round in 0..300 {
        let name = format!("g{}", round % 7);
        let mutations = vec![create(&name, "n1"), replace(&name, &format!("n{round}")), create_map("m")];
        let removal = vec![remove(&name)];
        let entries = [one.entry(&mutations), one.entry(&removal)];
        // In one batch, and one by one with a restart now and then.
        one.commit(entries.to_vec()).await;
        for entry in entries {
            other.commit(vec![entry]).await;
        }
        if round == 200 {
            other = other.restart().await;
        }
    }
    let (one, other) = (one.state.checks(), other.state.checks());
    assert_eq!(one.iter().map(|check| check.index).collect::<Vec<_>>(), [128, 256, 384, 512]);
    assert_eq!(other, one[3..], "from the restart on");
    assert_ne!(one[0].hash, one[1].hash, "revisions are part of it");
}

#[tokio::test]
async fn a_kind_that_is_not_known_is_not_started_with() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    let state = State::start(&[config_maps()], StateConfig::default());
    let error = Applier::new(state).restore(Arc::new(bench.tables), None).await.unwrap_err();
    assert!(error.to_string().contains("newer release"), "{error}");
}

#[tokio::test]
async fn a_snapshot_replaces_the_state_and_watches_come_back() {
    let mut ahead = Bench::new().await;
    let mut behind = Bench::new().await;
    for bench in [&mut ahead, &mut behind] {
        bench.must(create("a", "n1")).await;
    }
    let mut watch = behind.state.watch(request(Filter::everything(), Start::Initial)).await.unwrap();
    let mut replica = Replica::default();
    replica.follow(&mut watch, Revision(1)).await;
    ahead.must(create("b", "n1")).await;
    ahead.must(remove("a")).await;
    behind.restore(&ahead.tables).await;
    let end = loop {
        match watch.next().await.expect("it ends with an error") {
            Ok(event) => replica.see(&event),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, crate::WatchError::Expired { .. }));
    assert!(watch.next().await.is_none());

    let mut watch =
        behind.state.watch(request(Filter::everything(), Start::After(replica.last))).await.unwrap();
    replica.follow(&mut watch, Revision(3)).await;
    assert_eq!(replica.objects, list(&behind.state, &Filter::everything()));
}
