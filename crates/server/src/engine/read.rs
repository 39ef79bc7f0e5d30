//! Get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use balsa_model::selector::Filter;
use balsa_model::{Failure, Key, KindRef, Object, Reason, Revision};
use balsa_state::{KindView, Start, Watch, WatchError, WatchRequest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Engine, read_failed, shown};
use crate::authorize::Authorized;

/// How long a read waits for a revision that this server has not reached.
const TOO_NEW_PATIENCE: Duration = Duration::from_secs(3);

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All that was acknowledged before.
    Latest,
    /// Whatever is here.
    Any,
    /// At least that revision.
    NotOlderThan(Revision),
    /// Just that revision.
    Exact(Revision),
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResourceVersionMatch {
    /// `NotOlderThan`.
    NotOlderThan,
    /// `Exact`.
    Exact,
}

/// One page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// At most so many; 0: all.
    pub limit: usize,
    /// Where the page before ended.
    pub continue_token: String,
}

/// From where, and how, changes are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    /// The first of them.
    pub(crate) start: Start,
    /// How fresh the beginning must be.
    pub(crate) at_least: Revision,
    /// How long a server is waited for that is behind; `None`: for ever.
    pub(crate) patience: Option<Duration>,
    /// How often to tell how far the watch has come.
    pub(crate) bookmarks: Option<Duration>,
}

impl Begin {
    /// For programs that may ask another server.
    pub(crate) fn at(start: Start, bookmarks: Duration) -> Self {
        let patience = Some(TOO_NEW_PATIENCE);
        Self { start, at_least: Revision(0), patience, bookmarks: Some(bookmarks) }
    }
}

/// What a list shows.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The objects, by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// The revision of all pages.
    pub revision: Revision,
    /// Where the next page starts; empty after the last.
    pub continue_token: String,
    /// How many come after this page, where that is known without looking.
    pub remaining: Option<usize>,
}

impl Engine {
    /// One object.
    ///
    /// # Errors
    /// `NotFound`, or that it cannot be read now.
    pub async fn get(
        &self,
        _who: &Authorized,
        kind: KindRef,
        key: &Key,
        wanted: Wanted,
    ) -> Result<Arc<Object>, Failure> {
        let view = self.view(kind, wanted).await?;
        let found = view.get(key).ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))?;
        shown(kind, found)
    }

    /// Many objects.
    ///
    /// # Errors
    /// `Expired` for a revision or a page that is kept no longer.
    pub async fn list(
        &self,
        _who: &Authorized,
        kind: KindRef,
        filter: &Filter,
        wanted: Wanted,
        page: &Page,
    ) -> Result<Listed, Failure> {
        let (view, cursor) = if page.continue_token.is_empty() {
            (self.view(kind, wanted).await?, None)
        } else {
            let (at, cursor) = decode_token(&page.continue_token)?;
            let view = match at {
                Some(revision) => {
                    self.state().list_at(kind.stored(), revision).await.map_err(|_| expired_page(&cursor))?
                }
                // The rest of a list whose revision has expired.
                None => self.view(kind, Wanted::Latest).await?,
            };
            (view, Some(cursor))
        };
        let mut listed = Listed { revision: view.revision(), ..Listed::default() };
        let filter = &filter.clone().of_stored(kind);
        if page.limit == 0 {
            listed.items = all_shown(kind, view.select(filter, cursor.as_ref()).cloned().collect())?;
            return Ok(listed);
        }
        let mut rest = view.select(filter, cursor.as_ref());
        listed.items = rest.by_ref().take(page.limit).cloned().collect();
        let more = rest.count();
        if more > 0
            && let Some(last) = listed.items.last()
        {
            listed.continue_token = encode_token(Some(view.revision()), last.key());
            let counted = filter.labels.selects_all() && filter.fields.selects_all();
            listed.remaining = counted.then_some(more);
            self.state().pin(&view);
        }
        listed.items = all_shown(kind, listed.items)?;
        Ok(listed)
    }

    /// Changes. Who asks for them from a revision waits for a server that is behind, as long as `patience` has it.
    ///
    /// # Errors
    /// `Expired` when the start is kept no longer, or never was; `Timeout` when it is not reached in time.
    pub(crate) async fn watch(
        &self,
        _who: &Authorized,
        kind: KindRef,
        filter: Filter,
        begin: Begin,
    ) -> Result<Watch, Failure> {
        self.in_service()?;
        let Begin { start, at_least, patience, bookmarks } = begin;
        match start {
            Start::After(revision) => self.reach_to_watch(revision.max(at_least), patience).await?,
            Start::Initial => {
                self.store.read_barrier().await.map_err(|error| read_failed(&error))?;
                // All is here that there is: what is not will not come.
                if self.state().revision() < at_least {
                    return Err(self.too_large(at_least));
                }
            }
            Start::Now => {}
        }
        let request = WatchRequest { kind, filter: filter.of_stored(kind), start, bookmarks };
        self.state().watch(request).await.map_err(|error| watch_failed(&error))
    }

    async fn view(&self, kind: KindRef, wanted: Wanted) -> Result<KindView, Failure> {
        self.in_service()?;
        match wanted {
            Wanted::Any => {}
            Wanted::Latest => {
                self.store.read_barrier().await.map_err(|error| read_failed(&error))?;
            }
            Wanted::NotOlderThan(revision) => self.reach(revision).await?,
            Wanted::Exact(revision) => {
                self.reach(revision).await?;
                let listed = self.state().list_at(kind.stored(), revision).await;
                return listed.map_err(|error| match error {
                    WatchError::Expired { .. } => {
                        Failure::expired("The resourceVersion for the provided list is too old.")
                    }
                    other => watch_failed(&other),
                });
            }
        }
        Ok(self.state().view(kind.stored()))
    }

    /// Waits until this server is as far as `revision`, to show what is there then. Clients list without a revision
    /// when they hear that theirs is too large.
    ///
    /// # Errors
    /// `Timeout`, at once when this cluster has never come so far.
    async fn reach(&self, revision: Revision) -> Result<(), Failure> {
        match tokio::time::timeout(TOO_NEW_PATIENCE, self.store.reaches(revision)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(read_failed(&error)),
            Ok(Ok(false)) | Err(_) => Err(self.too_large(revision)),
        }
    }

    /// Waits until this server is as far as `revision`, to tell what comes after it.
    ///
    /// Kubernetes waits for ever, also for a revision of another cluster, or of this one before it was restored, and
    /// what happens until as much has happened again is never told. `Expired` is what every client lists again for:
    /// most would come back with the same revision after any other refusal.
    async fn reach_to_watch(&self, revision: Revision, patience: Option<Duration>) -> Result<(), Failure> {
        let reaching = self.store.reaches(revision);
        let reached = match patience {
            Some(patience) => tokio::time::timeout(patience, reaching).await,
            None => Ok(reaching.await),
        };
        match reached {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                let current = self.state().revision();
                Err(Failure::expired(format!("Too large resource version: {revision}, current: {current}")))
            }
            Ok(Err(error)) => Err(read_failed(&error)),
            Err(_) => Err(self.too_large(revision)),
        }
    }

    fn too_large(&self, revision: Revision) -> Failure {
        let current = self.state().revision();
        let message = format!("Timeout: Too large resource version: {revision}, current: {current}");
        Failure::new(Reason::Timeout, message)
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }
}

/// Stored objects as the kind that was asked for has them.
fn all_shown(kind: KindRef, items: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Failure> {
    match kind.face() {
        Some(_) => items.iter().map(|item| shown(kind, item)).collect(),
        None => Ok(items),
    }
}

/// A watch that cannot start or go on, as the client sees it.
pub(crate) fn watch_failed(error: &WatchError) -> Failure {
    match error {
        WatchError::Expired { .. } => Failure::expired(error.to_string()),
        WatchError::NotServed(_) => Failure::new(Reason::NotFound, error.to_string()),
        WatchError::Closed => Failure::new(Reason::ServiceUnavailable, error.to_string()).retry_after(1),
        WatchError::Table(_) => Failure::internal(error),
    }
}

fn expired_page(cursor: &Key) -> Failure {
    let mut failure = Failure::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    failure.continue_token = encode_token(None, cursor);
    failure
}

/// A token that says where a list goes on, and at which revision: none for whatever is newest.
pub(crate) fn encode_token(at: Option<Revision>, last: &Key) -> String {
    let at = at.map(|revision| revision.to_string()).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(format!("1\0{at}\0{}\0{}", last.namespace, last.name))
}

pub(crate) fn decode_token(token: &str) -> Result<(Option<Revision>, Key), Failure> {
    let wrong = || Failure::bad_request("continue key is not valid: it is no token of this server's");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let parts: Vec<&str> = text.split('\0').collect();
    let ["1", at, namespace, name] = parts.as_slice() else { return Err(wrong()) };
    let at = if at.is_empty() { None } else { Some(at.parse().map_err(|_| wrong())?) };
    Ok((at, Key::new(*namespace, *name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_and_rubbish_is_refused() {
        let key = Key::new("ns", "name");
        for at in [Some(Revision(7)), None] {
            assert_eq!(decode_token(&encode_token(at, &key)).unwrap(), (at, key.clone()));
        }
        for token in ["", "x", "////", "MQ"] {
            assert!(decode_token(token).is_err(), "{token}");
        }
    }
}
