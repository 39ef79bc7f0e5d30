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

    /// Changes.
    ///
    /// # Errors
    /// `Expired` when the start is kept no longer; `Timeout` when it is not reached in time.
    pub async fn watch(
        &self,
        _who: &Authorized,
        kind: KindRef,
        filter: Filter,
        start: Start,
        bookmarks: Option<Duration>,
    ) -> Result<Watch, Failure> {
        self.in_service()?;
        match start {
            Start::After(revision) => self.reach(revision).await?,
            Start::Initial => {
                self.store.read_barrier().await.map_err(|error| read_failed(&error))?;
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

    /// Waits until this server is as far as `revision`.
    ///
    /// # Errors
    /// `Timeout` when that takes too long.
    pub(crate) async fn reach(&self, revision: Revision) -> Result<(), Failure> {
        if tokio::time::timeout(TOO_NEW_PATIENCE, self.state().wait_for(revision)).await.is_ok() {
            return Ok(());
        }
        let message =
            format!("Timeout: Too large resource version: {revision}, current: {}", self.state().revision());
        Err(Failure::new(Reason::Timeout, message)
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1))
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
