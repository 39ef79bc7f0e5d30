//! The history: versions, what was when, and how it is trimmed.

use balsa_log::Table;

use super::*;
use crate::tables::{HISTORY_BYTES, HISTORY_FLOOR, Write, read_number};
use crate::{HistoryError, WatchError};

#[tokio::test]
async fn versions_can_be_told() {
    let mut bench = Bench::new().await;
    bench.must(create("a", "n1")).await;
    bench.must(create("ab", "n1")).await;
    bench.must(replace("a", "n2")).await;
    bench.must(remove("a")).await;
    bench.must(create("a", "n3")).await;
    let versions = bench.state.history(gadgets(), &key("a")).await.unwrap();
    let told: Vec<_> =
        versions.iter().map(|v| (v.revision.0, v.operation, v.previous.map(|p| p.0))).collect();
    assert_eq!(
        told,
        [
            (1, Operation::Create, None),
            (3, Operation::Replace, Some(1)),
            (4, Operation::Remove, Some(3)),
            (5, Operation::Create, None)
        ]
    );
    assert_eq!(versions[0].user.as_ref(), "tester");
    assert_eq!(versions[0].proposed_at_ms, 1_700_000_000_000);
    let at = async |revision| {
        let object = bench.state.object_at(gadgets(), &key("a"), Revision(revision)).await.unwrap();
        object.map(|object| object.revision().0)
    };
    assert_eq!([at(0).await, at(1).await, at(2).await], [None, Some(1), Some(1)]);
    assert_eq!([at(3).await, at(4).await, at(5).await], [Some(3), None, Some(5)]);
}

#[tokio::test]
async fn it_is_trimmed_and_what_is_left_still_adds_up() {
    let config = StateConfig { history_changes: 10, recent_changes: 2, ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    bench.must(create("still", "n1")).await;
    for round in 0..40 {
        bench.must(create("a", "n1")).await;
        bench.must(replace("a", if round % 2 == 0 { "n2" } else { "n1" })).await;
        bench.must(remove("a")).await;
    }
    let (floor, last) = (bench.state.oldest(), bench.state.revision());
    assert!(floor.0 > last.0 - 13 && floor.0 <= last.0 - 10, "{floor} of {last}");
    // A version and a pointer each, the versions before them, floor and size, and the object that stays.
    let rows = bench.tables.rows(Table::History).len();
    assert!(rows <= 2 * 12 + 4, "{rows}");
    let still = bench.state.object_at(gadgets(), &key("still"), floor).await.unwrap().unwrap();
    assert_eq!(still.revision(), Revision(1));
    let expired = bench.state.object_at(gadgets(), &key("a"), Revision(2)).await;
    assert!(matches!(expired, Err(HistoryError::Expired { .. })));

    let expired = bench.state.watch(request(Filter::everything(), Start::After(Revision(2)))).await;
    assert!(matches!(expired.err(), Some(WatchError::Expired { requested: Revision(2), .. })));
    for filter in filters() {
        let mut replica = Replica::default();
        for name in ["still", "a"] {
            let object = bench.state.object_at(gadgets(), &key(name), floor).await.unwrap();
            if let Some(object) = object.filter(|object| filter.matches(object)) {
                replica.objects.insert(key(name), object.bytes().clone());
            }
        }
        let listed = std::mem::take(&mut replica.objects);
        let mut replica = Replica::listed([], floor);
        replica.objects = listed;
        let mut watch = bench.state.watch(request(filter.clone(), Start::After(floor))).await.unwrap();
        replica.follow(&mut watch, last).await;
        assert_eq!(replica.objects, list(&bench.state, &filter), "{filter:?}");
    }
}

/// Bytes of the history as it says, and as they are.
fn bytes(bench: &Bench) -> (u64, u64) {
    let rows = bench.tables.rows(Table::History);
    let said = rows.get(HISTORY_BYTES).and_then(|value| read_number(value)).unwrap_or(0);
    let counted = rows.iter().filter(|(key, _)| ![HISTORY_BYTES, HISTORY_FLOOR].contains(&key.as_slice()));
    (said, counted.map(|(key, value)| (key.len() + value.len()) as u64).sum())
}

#[tokio::test]
async fn it_is_trimmed_by_its_bytes_too() {
    let config = StateConfig { history_bytes: 4000, ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    bench.must(create("still", "n1")).await;
    for round in 0..60 {
        bench.must(create("a", "n1")).await;
        bench.must(replace("a", if round % 2 == 0 { "n2" } else { "n1" })).await;
        bench.must(remove("a")).await;
        let (said, counted) = bytes(&bench);
        assert_eq!(said, counted);
        assert!(counted < 5000, "{counted}");
    }
    assert!(bench.state.oldest() > Revision(50));
    // A database of before it was counted.
    bench.tables.write(vec![Write::Delete(Table::History, HISTORY_BYTES.to_vec())]);
    let mut bench = bench.restart().await;
    bench.must(create("a", "n1")).await;
    let (said, counted) = bytes(&bench);
    assert_eq!(said, counted);
}

#[tokio::test]
async fn a_kind_without_history_is_told_from_memory_only() {
    let config = StateConfig { without_history: vec!["gadgets.test".to_owned()], ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    bench.must(create("a", "n1")).await;
    bench.must(replace("a", "n2")).await;
    assert!(bench.state.watch(request(Filter::everything(), Start::After(Revision(1)))).await.is_ok());
    let bench = bench.restart().await;
    assert_eq!(bench.tables.rows(Table::History).len(), 0);
    assert!(bench.state.watch(request(Filter::everything(), Start::After(Revision(2)))).await.is_ok());
    let expired = bench.state.watch(request(Filter::everything(), Start::After(Revision(1)))).await;
    assert!(matches!(expired.err(), Some(WatchError::Expired { oldest: Revision(2), .. })));
}
