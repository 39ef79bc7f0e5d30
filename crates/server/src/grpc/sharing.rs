//! Events that several watches of one stream are told at the same time, once for all of them.
//!
//! A thousand watches that see one change would be a thousand messages with the same object. Here they are one, which
//! names all of them. What a watch is told, and in which order, is the same as without.

use std::collections::HashMap;

use balsa_proto::v1::{ErrorDetails, WatchEvent, WatchManyResponse};

/// An event by what it is: of one object's version there is one copy of its bytes, whoever watches.
type Identity = (i32, u64, Option<(*const u8, usize)>);

fn identity(event: &WatchEvent) -> Identity {
    let bytes = event.object.as_ref().map(|object| (object.json.as_ptr(), object.json.len()));
    (event.r#type, event.revision, bytes)
}

/// Puts messages of single watches (`also` is empty) together where they tell the same.
pub(super) fn share(messages: Vec<WatchManyResponse>) -> Vec<WatchManyResponse> {
    let mut shared = Shared::default();
    for message in messages {
        for event in message.events {
            shared.tell(message.watch, event);
        }
        if let Some(error) = message.error {
            shared.end(message.watch, error);
        }
    }
    joined(shared.told)
}

/// Messages of one event each, or of an error.
#[derive(Default)]
struct Shared {
    told: Vec<WatchManyResponse>,
    /// Where each event was told last.
    events: HashMap<Identity, usize>,
    /// Where each watch was told something last.
    watches: HashMap<u32, usize>,
}

impl Shared {
    fn tell(&mut self, watch: u32, event: WatchEvent) {
        let identity = identity(&event);
        let last = self.watches.get(&watch);
        // Never before what the watch was told already: its order stays.
        let known = self.events.get(&identity).filter(|at| last.is_none_or(|last| last < at));
        let at = known.copied().unwrap_or(self.told.len());
        match self.told.get_mut(at) {
            Some(message) => message.also.push(watch),
            None => {
                self.told.push(WatchManyResponse { watch, events: vec![event], ..Default::default() });
                self.events.insert(identity, at);
            }
        }
        self.watches.insert(watch, at);
    }

    fn end(&mut self, watch: u32, error: ErrorDetails) {
        self.watches.insert(watch, self.told.len());
        self.told.push(WatchManyResponse { watch, error: Some(error), ..Default::default() });
    }
}

/// Messages that follow each other and are for the same watches, as one.
fn joined(messages: Vec<WatchManyResponse>) -> Vec<WatchManyResponse> {
    let mut joined: Vec<WatchManyResponse> = Vec::new();
    for message in messages {
        let same = |last: &&mut WatchManyResponse| {
            let lasting = last.error.is_none() && message.error.is_none();
            lasting && last.watch == message.watch && last.also == message.also
        };
        match joined.last_mut().filter(same) {
            Some(last) => last.events.extend(message.events),
            None => joined.push(message),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use balsa_proto::v1::Object;
    use balsa_proto::v1::watch_event::Type;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn added(revision: u64, json: &Bytes) -> WatchEvent {
        let object = Some(Object { revision, json: json.clone() });
        WatchEvent { r#type: Type::Added.into(), revision, object }
    }

    fn message(watch: u32, events: impl IntoIterator<Item = WatchEvent>) -> WatchManyResponse {
        WatchManyResponse { watch, events: events.into_iter().collect(), ..Default::default() }
    }

    /// What each watch is told, in order.
    fn told(messages: &[WatchManyResponse]) -> BTreeMap<u32, Vec<(Option<Identity>, bool)>> {
        let mut told: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for message in messages {
            for watch in std::iter::once(&message.watch).chain(&message.also) {
                let own = told.entry(*watch).or_default();
                own.extend(message.events.iter().map(|event| (Some(identity(event)), false)));
                own.extend(message.error.iter().map(|_| (None, true)));
            }
        }
        told
    }

    #[test]
    fn one_event_for_all_is_one_message() {
        let json = Bytes::from_static(b"{}");
        let messages: Vec<_> = (0..100).map(|watch| message(watch, [added(7, &json)])).collect();
        let shared = share(messages.clone());
        assert_eq!(shared.len(), 1);
        assert_eq!(shared[0].events.len(), 1);
        assert_eq!(told(&shared), told(&messages));
    }

    #[test]
    fn what_begins_for_one_watch_stays_one_message() {
        let objects: Vec<_> = (1..=50).map(|i| Bytes::from(format!("{{\"a\":{i}}}"))).collect();
        let events = (1..).zip(&objects).map(|(revision, json)| added(revision, json));
        assert_eq!(share(vec![message(3, events.clone())]), vec![message(3, events)]);
    }

    #[test]
    fn objects_that_only_look_alike_are_not_shared() {
        let (one, other) = (Bytes::copy_from_slice(b"{}"), Bytes::copy_from_slice(b"{}"));
        assert_eq!(share(vec![message(0, [added(7, &one)]), message(1, [added(7, &other)])]).len(), 2);
    }

    proptest! {
        /// Whatever comes at the same time: each watch is told the same in the same order.
        #[test]
        fn order_stays(messages in prop::collection::vec(
            (0u32..4, prop::collection::vec(0usize..6, 0..5), prop::bool::weighted(0.1)), 0..40,
        )) {
            let objects: Vec<_> = (0..6).map(|i| Bytes::from(i.to_string())).collect();
            let messages: Vec<_> = messages
                .into_iter()
                .map(|(watch, events, ends)| WatchManyResponse {
                    error: ends.then(ErrorDetails::default),
                    ..message(watch, events.into_iter().map(|i| added(i as u64, &objects[i])))
                })
                .collect();
            let mut before = told(&messages);
            before.retain(|_, own| !own.is_empty());
            prop_assert_eq!(told(&share(messages)), before);
        }
    }
}
