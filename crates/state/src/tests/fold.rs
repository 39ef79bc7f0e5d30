//! The fold by itself: verdicts, claims, and that nothing makes it panic or lose its invariants.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::codec::{EntryError, Kinds, Proposal, decode_entry};
use crate::fold::Table;
use crate::indexed::field_values;
use crate::refusal::Refusal;
use crate::view::Rows;

fn kinds() -> Kinds {
    Kinds::new(&[gadgets(), config_maps()])
}

fn proposal(mutation: &Mutation) -> Proposal {
    decode_entry(encode_entry([1; 16], 7, std::slice::from_ref(mutation)), &kinds())
        .unwrap()
        .proposals
        .remove(0)
}

struct Folding {
    table: Table,
    revision: u64,
}

impl Folding {
    fn new() -> Self {
        Self { table: Table::new(Rows::new(gadgets())), revision: 0 }
    }

    fn fold(&mut self, mutation: Mutation) -> Result<Revision, Refusal> {
        self.revision += 1;
        self.table.fold(&proposal(&mutation), Revision(self.revision)).map(|change| change.revision())
    }
}

#[test]
fn preconditions_are_judged() {
    let mut f = Folding::new();
    assert_eq!(f.fold(replace("a", "n1")), Err(Refusal::NotFound));
    assert_eq!(f.fold(remove("a")), Err(Refusal::NotFound));
    assert_eq!(f.fold(create("a", "n1")), Ok(Revision(3)), "refused ones leave gaps");
    assert_eq!(f.fold(create("a", "n1")), Err(Refusal::AlreadyExists));
    assert_eq!(f.fold(if_revision(2, replace("a", "n2"))), Err(Refusal::Conflict { current: Revision(3) }));
    assert_eq!(f.fold(if_revision(3, replace("a", "n2"))), Ok(Revision(6)));
    let mut other = remove("a");
    other.precondition = Precondition { uid: Some("other".to_owned()), revision: Some(Revision(1)) };
    assert_eq!(f.fold(other.clone()), Err(Refusal::UidMismatch { current: "uid-a".to_owned() }));
    other.precondition.uid = Some("uid-a".to_owned());
    assert_eq!(f.fold(other.clone()), Err(Refusal::Conflict { current: Revision(6) }));
    other.precondition.revision = Some(Revision(6));
    assert_eq!(f.fold(other), Ok(Revision(9)));
    assert_eq!(f.table.rows.len(), 0);
}

#[test]
fn what_the_cluster_has_one_of_has_one_owner() {
    let mut f = Folding::new();
    let refused = Refusal::Claimed {
        field: "spec.ip".to_owned(),
        value: "10.0.0.1".to_owned(),
        refusal: "it is taken".to_owned(),
    };
    let ip = "clusterip/10.0.0.1";
    f.fold(claiming(ip, create("a", "n1"))).unwrap();
    assert_eq!(f.fold(claiming(ip, create("b", "n1"))), Err(refused.clone()));
    f.fold(claiming(ip, replace("a", "n2"))).unwrap();
    f.fold(create("b", "n1")).unwrap();
    assert_eq!(f.fold(claiming(ip, replace("b", "n1"))), Err(refused));
    f.fold(replace("a", "n1")).unwrap();
    f.fold(claiming(ip, replace("b", "n1"))).expect("it was given up by an update");
    f.fold(remove("b")).unwrap();
    f.fold(claiming(ip, create("c", "n1"))).expect("it was given up by a removal");
}

#[test]
fn an_object_under_another_key_is_refused() {
    let mut f = Folding::new();
    let wrong = Mutation { key: key("b"), ..create("a", "n1") };
    assert!(matches!(f.fold(wrong), Err(Refusal::Undecodable(_))));
    let nul = Mutation { key: key("a\0b"), ..create("a\0b", "n1") };
    assert!(matches!(f.fold(nul), Err(Refusal::Undecodable(_))));
    let rubbish = Mutation { object: Bytes::from_static(b"{"), ..create("a", "n1") };
    assert!(matches!(f.fold(rubbish), Err(Refusal::Undecodable(_))));
    let other_kind = Mutation { object: create_map("a").object, ..create("a", "n1") };
    assert!(matches!(f.fold(other_kind), Err(Refusal::Undecodable(_))));
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let names = prop::sample::select(vec!["a", "b", "c", "", "d\0e"]);
    let nodes = prop::sample::select(vec!["", "n1", "n2"]);
    let revision = prop::option::weighted(0.2, 0u64..60);
    let uid = prop::option::weighted(0.2, prop::sample::select(vec!["uid-a", "uid-b", ""]));
    let claims = prop::collection::vec(prop::sample::select(vec!["ip/1", "ip/2", "odd", ""]), 0..3);
    let rubbish = prop::option::weighted(0.1, prop::collection::vec(any::<u8>(), 0..40));
    (0..3usize, names, nodes, revision, uid, claims, rubbish).prop_map(
        |(operation, name, node, revision, uid, claims, rubbish)| {
            let mut mutation = create(name, node);
            mutation.operation = [Operation::Create, Operation::Replace, Operation::Remove][operation];
            if mutation.operation == Operation::Remove {
                mutation.object = Bytes::new();
            }
            if let Some(rubbish) = rubbish {
                mutation.object = rubbish.into();
            }
            mutation.precondition =
                Precondition { revision: revision.map(Revision), uid: uid.map(str::to_owned) };
            let claim =
                |token: &str| Claim { token: token.to_owned(), field: "spec.ip", refusal: "it is taken" };
            mutation.claims = claims.into_iter().map(claim).collect();
            mutation
        },
    )
}

/// Indexes and owners say what the rows say.
fn check(table: &Table) {
    let mut owners = HashMap::new();
    for row in table.rows.iter() {
        let key = row.object.key();
        assert_eq!(row.fields, field_values(&row.object));
        for token in row.claims.iter() {
            let other = owners.insert(token.clone(), key.clone());
            assert!(other.is_none_or(|other| other == *key), "{token} has two owners");
        }
    }
    assert_eq!(Table::new(table.rows.clone()).owners(), table.owners());
    assert_eq!(&owners, table.owners());
    let view = crate::view::KindView::new(Arc::new(table.rows.clone()), table.rows.changed);
    let indexed: usize =
        ["", "n1", "n2"].iter().map(|node| view.by_field("spec.nodeName", node).unwrap().count()).sum();
    assert_eq!(indexed, view.len());
    for filter in filters() {
        let selected: Vec<_> = view.select(&filter, None).map(|object| object.key().clone()).collect();
        let asked: Vec<_> =
            view.iter().filter(|o| filter.matches(o)).map(|object| object.key().clone()).collect();
        assert_eq!(selected, asked, "{filter:?}");
    }
}

proptest! {
    #[test]
    fn the_fold_never_panics_nor_contradicts_itself(mutations in prop::collection::vec(any_mutation(), 0..60)) {
        let mut f = Folding::new();
        for mutation in mutations {
            let before = f.table.rows.clone();
            let text = |rows: &Rows| format!("{:?}", rows.iter().collect::<Vec<_>>());
            let was = text(&before);
            if f.fold(mutation).is_err() {
                prop_assert_eq!(&was, &text(&f.table.rows), "a refusal changes nothing");
            }
            prop_assert_eq!(was, text(&before), "what was taken before stays");
            check(&f.table);
        }
    }

    #[test]
    fn rubbish_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_entry(bytes.into(), &kinds());
    }

    #[test]
    fn damaged_entries_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode_entry([3; 16], 7, &[claiming("ip/1", create("a", "n1")), remove("a")]).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut f = Folding::new();
        match decode_entry(bytes.into(), &kinds()) {
            Ok(entry) => for proposal in entry.proposals {
                let _ = f.table.fold(&proposal, Revision(1));
            },
            Err(EntryError::Newer(newer)) => prop_assert!(newer.to_string().contains("newer release")),
            Err(EntryError::Undecodable(_)) => {}
        }
    }
}
