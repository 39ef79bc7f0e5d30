//! When the tokens in Secrets were last used: a label with the day, so that somebody can tell which nobody needs any more.
//!
//! Requests do not wait for it, and of thousands with one token in a day one writes: the others see the label. What is
//! not written, because there is more to write than is borne, is written with a later request.

use std::collections::BTreeSet;

use balsa_client::Client;
use balsa_model::Key;
use balsa_model::strategy::Part;
use balsa_rt::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use tokio::sync::mpsc;

/// The day of the last use.
const LABEL: &str = "kubernetes.io/legacy-token-last-used";
/// Uses that wait to be written.
const WAITING: usize = 256;

/// Takes note of uses.
#[derive(Clone)]
pub(crate) struct LastUse(mpsc::Sender<Key>);

/// What was taken note of.
pub(crate) type Uses = mpsc::Receiver<Key>;

impl LastUse {
    pub(crate) fn new() -> (Self, Uses) {
        let (uses, written) = mpsc::channel(WAITING);
        (Self(uses), written)
    }

    /// The token of a Secret is used now.
    pub(super) fn note(&self, key: &Key, secret: &Secret, now: Timestamp) {
        if !is_told(secret, now) {
            let _ = self.0.try_send(key.clone());
        }
    }
}

/// Writes what is taken note of, until nobody does any more.
pub(crate) async fn run(client: Client, clock: Clock, mut uses: Uses) {
    let mut some = Vec::new();
    while uses.recv_many(&mut some, WAITING).await > 0 {
        for key in some.drain(..).collect::<BTreeSet<Key>>() {
            let now = clock.now();
            let tell = |secret: &mut Secret| tell(secret, now);
            if let Err(failure) = client.api::<Secret>().modify(&key, Part::Main, tell).await {
                tracing::debug!(%failure, ?key, "the last use of a token was not written");
            }
        }
    }
}

/// Whether there was anything to tell.
fn tell(secret: &mut Secret, now: Timestamp) -> bool {
    let is_news = !is_told(secret, now);
    if is_news {
        secret.metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), day(now));
    }
    is_news
}

/// A server whose clock is ahead may have told tomorrow: that stays.
fn is_told(secret: &Secret, now: Timestamp) -> bool {
    let told = secret.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL));
    let tomorrow = now.saturating_add(jiff::SignedDuration::from_hours(24)).unwrap_or(now);
    told.is_some_and(|told| *told == day(now) || *told == day(tomorrow))
}

fn day(now: Timestamp) -> String {
    now.strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_of_once_a_day() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut secret = Secret::default();
        assert!(tell(&mut secret, at("2026-02-28T23:59:59Z")));
        assert_eq!(secret.metadata.labels.as_ref().unwrap()[LABEL], "2026-02-28");
        assert!(!tell(&mut secret, at("2026-02-28T00:00:00Z")));
        assert!(!tell(&mut secret, at("2026-02-27T23:00:00Z")), "its clock is behind");
        assert!(tell(&mut secret, at("2026-03-01T00:00:01Z")));
        assert_eq!(secret.metadata.labels.unwrap()[LABEL], "2026-03-01");
    }

    #[tokio::test]
    async fn who_has_too_much_to_write_drops_it() {
        let (last_use, mut uses) = LastUse::new();
        let now = Timestamp::UNIX_EPOCH;
        let mut secret = Secret::default();
        for _ in 0..2 * WAITING {
            last_use.note(&Key::new("n", "s"), &secret, now);
        }
        assert_eq!(uses.len(), WAITING);
        while uses.try_recv().is_ok() {}
        tell(&mut secret, now);
        last_use.note(&Key::new("n", "s"), &secret, now);
        assert!(uses.is_empty(), "the label is there");
    }
}
