//! Watching is as good as listing: whatever happens, whenever a watch starts, what it told adds up to
//! what a list shows.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u8),
    Replace(u8, u8),
    Remove(u8),
    Map(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (name, node) = (0..5u8, 0..3u8);
    let step = prop_oneof![
        4 => (name.clone(), node.clone()).prop_map(|(name, node)| Step::Create(name, node)),
        4 => (name.clone(), node).prop_map(|(name, node)| Step::Replace(name, node)),
        3 => name.clone().prop_map(Step::Remove),
        1 => name.prop_map(Step::Map),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

fn mutation_of(step: &Step) -> Option<Mutation> {
    Some(match step {
        Step::Create(name, node) => create(&format!("g{name}"), &format!("n{node}")),
        Step::Replace(name, node) => replace(&format!("g{name}"), &format!("n{node}")),
        Step::Remove(name) => remove(&format!("g{name}")),
        Step::Map(name) => create_map(&format!("m{name}")),
        Step::Restart => return None,
    })
}

async fn play(steps: Vec<Step>, recent_changes: usize) {
    let config = StateConfig { recent_changes, history_changes: 1000, ..StateConfig::default() };
    let mut bench = Bench::with(config).await;
    // What a list with each filter showed at each revision.
    let mut lists = Vec::new();
    for step in &steps {
        lists.push(bench.state.view(gadgets()));
        match mutation_of(step) {
            Some(mutation) => drop(bench.apply(vec![mutation]).await),
            None => bench = bench.restart().await,
        }
    }
    let last = bench.state.revision();
    for filter in filters() {
        let expected = list(&bench.state, &filter);
        let mut watch = bench.state.watch(request(filter.clone(), Start::Initial)).await.unwrap();
        let mut replica = Replica::default();
        replica.follow(&mut watch, last).await;
        assert_eq!(replica.objects, expected, "{filter:?} from the beginning");
        for view in lists.iter().step_by(3) {
            let start = Start::After(view.revision());
            let mut watch = bench.state.watch(request(filter.clone(), start)).await.unwrap();
            let mut replica = Replica::listed(view.select(&filter, None).cloned(), view.revision());
            replica.follow(&mut watch, last).await;
            assert_eq!(replica.objects, expected, "{filter:?} after {}", view.revision());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn replaying_a_watch_gives_the_list(steps in steps(), recent in 1usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps, recent));
    }
}

/// Watches that start at any moment while another thread writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_told_twice_while_others_write() {
    const ROUNDS: u64 = 400;
    let mut bench = Bench::with(StateConfig { recent_changes: 50, ..StateConfig::default() }).await;
    let state = bench.state.clone();
    let writer = balsa_rt::spawn(balsa_rt::TaskKind::Test, async move {
        for round in 0..ROUNDS {
            let (name, node) = (format!("g{}", round % 7), format!("n{}", round % 3));
            let mutations =
                vec![create(&name, &node), replace(&name, "n1"), create_map(&format!("m{round}"))];
            bench.apply(mutations).await;
            if round % 5 == 4 {
                bench.apply(vec![remove(&format!("g{}", (round / 5) % 7))]).await;
            }
        }
        Ok::<_, String>(bench.state.revision())
    });
    let mut followers = Vec::new();
    for i in 0..120 {
        let filter = filters().remove(i % filters().len());
        let view = state.view(gadgets());
        let (start, mut replica) = if i % 2 == 0 {
            (Start::Initial, Replica::default())
        } else {
            let listed = view.select(&filter, None).cloned();
            (Start::After(view.revision()), Replica::listed(listed, view.revision()))
        };
        let mut watch = state.watch(request(filter.clone(), start)).await.unwrap();
        let state = state.clone();
        followers.push(balsa_rt::spawn(balsa_rt::TaskKind::Test, async move {
            let last = ROUNDS * 3 + ROUNDS / 5;
            replica.follow(&mut watch, Revision(last)).await;
            assert_eq!(replica.objects, list(&state, &filter), "{filter:?} from {start:?}");
        }));
        tokio::task::yield_now().await;
    }
    assert_eq!(writer.await.unwrap(), Some(Ok(Revision(ROUNDS * 3 + ROUNDS / 5))));
    for follower in followers {
        assert!(follower.await.unwrap().is_some(), "a follower panicked");
    }
}
