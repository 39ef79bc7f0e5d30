//! Watchers that resume on one server after another and remember all that they were told.

use std::time::Duration;

use balsa_model::selector::Filter;
use balsa_model::{Key, Revision};
use balsa_rt::Random;
use balsa_state::{Event, Start, State, Watch, WatchError, WatchRequest};
use rand::RngExt as _;

use crate::world::{World, kind};

/// What a watcher was told, in the order in which it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) events: Vec<(Revision, Key, &'static str)>,
}

impl Memory {
    /// The last revision it was told of.
    pub(crate) fn resume(&self) -> Revision {
        self.events.last().map_or(Revision(0), |event| event.0)
    }
}

/// A watcher in the care of a server. When the server dies, another one takes care of it.
struct Care {
    memory: Memory,
    world: World,
}

impl Drop for Care {
    fn drop(&mut self) {
        self.world.shared().idle_watchers.push(std::mem::take(&mut self.memory));
    }
}

/// Serves one watcher after another that nobody else serves, each for a while.
pub(crate) async fn serve(state: State, world: World) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Some(memory) = take(&world) else { continue };
        let mut care = Care { memory, world: world.clone() };
        let patience = Duration::from_millis(Random.random_range(100..3000));
        // A watcher that knows more than this server waits here until the server has caught up.
        let _ = tokio::time::timeout(patience, watch(&state, &mut care)).await;
    }
}

/// A watcher that has not seen enough.
fn take(world: &World) -> Option<Memory> {
    let mut shared = world.shared();
    let goal = shared.goal.unwrap_or(Revision(u64::MAX));
    let place = shared.idle_watchers.iter().position(|memory| memory.resume() < goal)?;
    Some(shared.idle_watchers.remove(place))
}

async fn watch(state: &State, care: &mut Care) {
    let mut watch = match open(state, care.memory.resume()).await {
        Ok(watch) => watch,
        Err(error) => return care.world.fail(format!("a watch could not resume: {error}")),
    };
    while care.world.shared().goal.is_none_or(|goal| care.memory.resume() < goal) {
        let Some(told) = watch.next().await else { return };
        match told {
            Ok(event) => {
                let key = event.object().unwrap().key().clone();
                care.memory.events.push((event.revision(), key, event.type_name()));
            }
            // A server that was sent a snapshot lets go of its watchers; they come back and miss nothing.
            Err(WatchError::Expired { .. }) => return,
            Err(error) => return care.world.fail(format!("a watch ended: {error}")),
        }
    }
}

async fn open(state: &State, after: Revision) -> Result<Watch, WatchError> {
    // A front door does the same for a client that comes from another server.
    state.wait_for(after).await;
    state.watch(request(after)).await
}

fn request(after: Revision) -> WatchRequest {
    WatchRequest { kind: kind(), filter: Filter::default(), start: Start::After(after), bookmarks: None }
}

/// All changes there ever were, up to a revision: a bookmark tells that it is passed.
pub(crate) async fn all_changes(state: &State, upto: Revision) -> Result<Vec<Event>, WatchError> {
    let bookmarks = Some(Duration::from_millis(10));
    let mut watch = state.watch(WatchRequest { bookmarks, ..request(Revision(0)) }).await?;
    let mut events: Vec<Event> = Vec::new();
    loop {
        match watch.next().await.ok_or(WatchError::Closed)?? {
            Event::Bookmark(_, passed) if passed >= upto => return Ok(events),
            Event::Bookmark(..) => {}
            event => events.push(event),
        }
    }
}
