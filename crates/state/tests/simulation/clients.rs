//! Clients: each reads and writes a few objects through its server, as fast as it is answered.

use std::time::Duration;

use balsa_log::{NodeId, ProposeError};
use balsa_model::{Key, Mutation, Object, Operation, Precondition, Revision};
use balsa_rt::Random;
use balsa_state::Store;
use rand::RngExt as _;
use serde_json::json;

use crate::world::{Call, Did, Told, World, key, kind};

const KEYS: u64 = 5;
/// An object that is there and stays as it is.
pub(crate) const BYSTANDER: &str = "bystander";
/// A reader gives up after this.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn run(server: NodeId, client: u64, store: Store, world: World) {
    // Values name who wrote them, and which of its lives that was.
    let life = world.now().as_millis();
    for number in 0u64.. {
        tokio::time::sleep(Duration::from_millis(Random.random_range(5..120))).await;
        if world.shared().quiet {
            return;
        }
        let key = key(&format!("key-{}", Random.random_range(0..KEYS)));
        if Random.random_bool(0.4) {
            read(&store, &world, key).await;
        } else {
            write(&store, &world, key, format!("{server}/{client}/{life}/{number}")).await;
        }
    }
}

async fn read(store: &Store, world: &World, key: Key) {
    let started = world.now();
    // A failed read tells nobody anything.
    if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, store.read_barrier()).await {
        let view = store.state().view(kind());
        let found = view.get(&key).map(|object| object.revision());
        let did = Did::Read { picture: view.revision(), found };
        world.begin(Call { key, started, ended: Some(world.now()), did });
    }
}

/// Counts a write while it is under way, however it ends.
struct Writing(World);

impl Writing {
    fn begin(world: &World) -> Self {
        world.shared().writing += 1;
        Self(world.clone())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.shared().writing -= 1;
    }
}

async fn write(store: &Store, world: &World, key: Key, value: String) {
    let _writing = Writing::begin(world);
    // What is here may be old: then the precondition fails, or the object is there already.
    let current = store.state().get(kind(), &key).map(|object| object.revision());
    let (mutation, expected) = change(&key, current, &value);
    let wrote = (mutation.operation != Operation::Remove).then_some(value);
    let did = |told| Did::Write { wrote: wrote.clone(), expected, told };
    let call = world.begin(Call { key, started: world.now(), ended: None, did: did(Told::Unknown) });
    let told = match store.propose(vec![mutation]).await.map(|mut verdicts| verdicts.remove(0)) {
        Ok(Ok(revision)) => Told::Done(revision),
        Ok(Err(_)) => Told::Refused,
        Err(ProposeError::Unknown | ProposeError::Fatal(_)) => Told::Unknown,
        Err(_) => Told::Refused,
    };
    world.end(call, did(told));
}

/// Makes the object that nobody changes.
pub(crate) async fn create_bystander(store: Store) {
    let (mutation, _) = change(&key(BYSTANDER), None, BYSTANDER);
    while store.propose(vec![mutation.clone()]).await.is_err() {
        // A log that has stopped says so at once: without a pause no time would pass in which it is started again.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn change(key: &Key, current: Option<Revision>, value: &str) -> (Mutation, Option<Revision>) {
    let (operation, expected) = match (current, Random.random_range(0..10)) {
        (None, _) => (Operation::Create, None),
        (Some(_), 0) => (Operation::Remove, None),
        (Some(revision), 1..=6) => (Operation::Replace, Some(revision)),
        (Some(_), _) => (Operation::Replace, None),
    };
    let object = match operation {
        Operation::Remove => Vec::new(),
        _ => Object::canonical(
            kind(),
            &json!({
                "metadata": {"name": key.name, "namespace": "default", "uid": format!("uid-{}", key.name)},
                "data": {"value": value},
            }),
        ),
    };
    let mutation = Mutation {
        operation,
        kind: kind(),
        key: key.clone(),
        object: object.into(),
        precondition: Precondition { revision: expected, uid: None },
        claims: Vec::new(),
        user: "simulation".into(),
    };
    (mutation, expected)
}
