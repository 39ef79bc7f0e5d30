//! What several commands need: where manifests' objects are, and waiting for an object to become
//! something or to go.

use std::time::Duration;

use anyhow::{anyhow, bail};
use balsa_client::{Backend as _, Start, WatchEvent};
use balsa_model::selector::Filter;
use balsa_model::{Failure, Key, KindRef, Object, Reason};
use balsa_rt::Backoff;
use futures::StreamExt as _;

use crate::connect::Session;
use crate::manifest::{Files, Manifest};
use crate::output;
use crate::target::{self, Select, Target};

/// Between attempts to watch again.
pub(crate) fn patience() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
}

/// Whether a watch that ended so goes on where it was.
pub(crate) fn may_resume(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::ServiceUnavailable | Reason::Timeout | Reason::ServerTimeout)
}

/// The places of manifests' objects.
pub(crate) fn places(session: &Session, manifests: &[Manifest]) -> anyhow::Result<Vec<(KindRef, Key)>> {
    manifests.iter().map(|manifest| Ok((manifest.kind, place(session, manifest)?))).collect()
}

/// The objects that a command means: those of manifests, or those that its words name or select.
pub(crate) async fn meant(
    session: &Session,
    files: &Files,
    words: &[String],
    (select, all): (&Select, bool),
) -> anyhow::Result<Vec<(KindRef, Key)>> {
    if !files.files.is_empty() {
        return places(session, &files.read().await?);
    }
    if matches!(target::parse(words)?, Target::All(_)) && !all && !select.selects() {
        bail!("resource(s) were provided, but no name was specified; name them, or select with -l or --all");
    }
    target::resolve(session, words, select).await
}

/// The place of a manifest's object: the namespace it says, or else the session's.
pub(crate) fn place(session: &Session, manifest: &Manifest) -> anyhow::Result<Key> {
    if !manifest.kind.descriptor().is_namespaced() {
        return Ok(Key::new("", manifest.name.as_str()));
    }
    match &manifest.namespace {
        Some(own) if session.namespace_given && *own != session.namespace => bail!(
            "the namespace from the provided object \"{own}\" does not match the namespace \"{}\"; pass --namespace={own} to perform this operation",
            session.namespace
        ),
        Some(own) => Ok(Key::new(own.as_str(), manifest.name.as_str())),
        None => Ok(session.key(manifest.kind, &manifest.name)),
    }
}

/// Waits until `is_so` holds of an object (`None`: it is not there).
pub(crate) async fn until(
    session: &Session,
    (kind, key): (KindRef, &Key),
    limit: Option<Duration>,
    is_so: impl Fn(Option<&Object>) -> bool,
) -> anyhow::Result<()> {
    let late = || {
        let name = output::named(kind.descriptor(), &key.name);
        anyhow!("timed out waiting for the condition on {name}")
    };
    match limit {
        None => wait(session, (kind, key), is_so).await,
        // No time to wait is time for a look.
        Some(Duration::ZERO) => match session.remote.get(kind, key).await {
            Ok(object) if is_so(Some(&object)) => Ok(()),
            Err(failure) if failure.reason == Reason::NotFound && is_so(None) => Ok(()),
            Err(failure) if failure.reason != Reason::NotFound => Err(failure.into()),
            _ => Err(late()),
        },
        Some(limit) => {
            let waiting = wait(session, (kind, key), is_so);
            tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| Err(late()))
        }
    }
}

async fn wait(
    session: &Session,
    (kind, key): (KindRef, &Key),
    is_so: impl Fn(Option<&Object>) -> bool,
) -> anyhow::Result<()> {
    let mut filter = Filter::namespaced(&key.namespace);
    filter.name = Some(key.name.clone());
    let mut backoff = patience();
    loop {
        let mut stream = session.remote.watch(kind, &filter, Start::Initial).await?;
        let mut seen = false;
        while let Some(event) = stream.next().await {
            let met = match event {
                Ok(WatchEvent::Applied(object)) => {
                    seen = true;
                    is_so(Some(&object))
                }
                Ok(WatchEvent::Deleted(_)) => is_so(None),
                Ok(WatchEvent::Synced(_)) => !seen && is_so(None),
                Ok(WatchEvent::Bookmark(_)) => false,
                Err(failure) if may_resume(&failure) || failure.reason == Reason::Expired => break,
                Err(failure) => return Err(failure.into()),
            };
            if met {
                return Ok(());
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Reads `30s`, `5m`, `1h30m`, or plain seconds. What is negative means: without end.
pub(crate) fn duration(text: &str) -> Result<Option<Duration>, String> {
    let wrong = || format!("\"{text}\" is no duration; write it like 30s, 5m or 1h30m");
    if text.starts_with('-') {
        return Ok(None);
    }
    if let Ok(seconds) = text.parse() {
        return Ok(Some(Duration::from_secs(seconds)));
    }
    let (mut total, mut number) = (0.0, String::new());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character.is_ascii_digit() || character == '.' {
            number.push(character);
            continue;
        }
        let seconds = match character {
            'm' if characters.next_if_eq(&'s').is_some() => 0.001,
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            'd' => 86_400.0,
            _ => return Err(wrong()),
        };
        total += number.parse::<f64>().map_err(|_| wrong())? * seconds;
        number.clear();
    }
    if !number.is_empty() || text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(total).map(Some).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in
            [("30s", 30_000), ("1h30m", 5_400_000), ("250ms", 250), ("7", 7000), ("1.5m", 90_000)]
        {
            assert_eq!(duration(text).unwrap(), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(duration("-1s").unwrap(), None);
        for wrong in ["", "s", "5x", "1h5", "1..2s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
