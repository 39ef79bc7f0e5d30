//! Events of an object that differ in nothing but their message, such as the names of pods that could not be made:
//! the first few are told one by one, the rest as one whose message is that of the latest.

use std::collections::{HashMap, HashSet, VecDeque};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Entry, Identity, REMEMBERED, shortened};

/// With so many different messages they become one.
const MANY: usize = 10;
/// After so long without another they are told one by one again.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);
const COMBINED: &str = "(combined from similar events): ";

/// The messages of late, by all else that their events say. The oldest are forgotten first; that costs nothing but
/// a few more Events.
#[derive(Default)]
pub(super) struct Similar {
    seen: HashMap<Identity, Seen>,
    order: VecDeque<Identity>,
}

struct Seen {
    messages: HashSet<String>,
    at: Timestamp,
}

impl Similar {
    /// The event as it is to be told.
    pub(super) fn combine(&mut self, mut entry: Entry, now: Timestamp) -> Entry {
        let message = std::mem::take(&mut entry.identity.message);
        if self.are_many(&entry.identity, &message, now) {
            entry.message = shortened(format!("{COMBINED}{}", entry.message));
            entry.identity.message = COMBINED.to_owned();
        } else {
            entry.identity.message = message;
        }
        entry
    }

    fn are_many(&mut self, but_message: &Identity, message: &str, now: Timestamp) -> bool {
        let fresh = || Seen { messages: HashSet::new(), at: now };
        if !self.seen.contains_key(but_message) {
            self.order.push_back(but_message.clone());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        }
        let seen = self.seen.entry(but_message.clone()).or_insert_with(fresh);
        if now.duration_since(seen.at) > WINDOW {
            *seen = fresh();
        }
        seen.at = now;
        if seen.messages.contains(message) {
            return false;
        }
        if seen.messages.len() + 1 >= MANY {
            return true;
        }
        seen.messages.insert(message.to_owned());
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    #[test]
    fn the_tenth_message_is_told_with_those_after_it() {
        let mut similar = Similar::default();
        let mut tell = |message: &str, minute: i64| {
            let identity = Identity {
                kind: "ReplicaSet".to_owned(),
                namespace: "n".to_owned(),
                name: "web".to_owned(),
                uid: "u".to_owned(),
                part: String::new(),
                type_: "Warning",
                reason: "FailedCreate".to_owned(),
                message: message.to_owned(),
            };
            let entry =
                Entry { identity, reference: ObjectReference::default(), message: message.to_owned() };
            let told = similar.combine(entry, Timestamp::from_second(minute * 60).unwrap());
            (told.message, told.identity.message)
        };
        for i in 0..9 {
            let message = format!("pod {i}");
            assert_eq!(tell(&message, 0), (message.clone(), message));
        }
        let combined = |message: &str| (format!("{COMBINED}{message}"), COMBINED.to_owned());
        assert_eq!(tell("pod 9", 1), combined("pod 9"));
        assert_eq!(tell("pod 10", 11), combined("pod 10"));
        assert_eq!(tell("pod 3", 12).0, "pod 3", "what was told by itself is counted");
        assert_eq!(tell("pod 11", 23).0, "pod 11", "long after that, it is new");
    }
}
