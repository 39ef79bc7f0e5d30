//! What a watch tells: events with the bytes that go on the wire.
//!
//! A Change is made a line at most once for each type of event, whoever watches: the lines live in the
//! [`Version`] that all watchers share.

use std::sync::{Arc, OnceLock};

use balsa_model::kind::KindRef;
use balsa_model::{Change, Object, Revision};
use bytes::Bytes;

use crate::indexed::FieldValues;

/// One version of an object as watchers share it, with its lines.
#[derive(Debug)]
pub struct Version {
    object: Arc<Object>,
    /// [`Event::json_line`] of it as added, modified and deleted.
    lines: [OnceLock<Bytes>; 3],
}

impl Version {
    pub(crate) fn new(object: Arc<Object>) -> Arc<Self> {
        Arc::new(Self { object, lines: Default::default() })
    }

    /// The object.
    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is there now, as far as this watch is concerned.
    Added(Arc<Version>),
    /// The object has changed.
    Modified(Arc<Version>),
    /// The object is gone, or no longer matches the filter: its last state, under the revision of the
    /// change that took it away.
    Deleted(Arc<Version>),
    /// Everything up to this revision has been told.
    Bookmark(KindRef, Revision),
    /// The state at this revision has been told as `Added`; changes follow.
    InitialEnd(KindRef, Revision),
}

impl Event {
    /// The object, unless it is a bookmark.
    pub fn object(&self) -> Option<&Arc<Object>> {
        match self {
            Self::Added(version) | Self::Modified(version) | Self::Deleted(version) => Some(version.object()),
            Self::Bookmark(..) | Self::InitialEnd(..) => None,
        }
    }

    /// Its revision: where a watch that has seen it may go on.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Added(version) | Self::Modified(version) | Self::Deleted(version) => {
                version.object.revision()
            }
            Self::Bookmark(_, revision) | Self::InitialEnd(_, revision) => *revision,
        }
    }

    /// The same as `kind` shows it: another version of what is stored.
    #[must_use]
    pub(crate) fn shown_as(self, kind: KindRef) -> Self {
        let shown = |version: Arc<Version>| match kind.show(&version.object) {
            Some(object) => Version::new(object),
            // Stored objects decode; as a last resort they are shown as they are.
            None => version,
        };
        match self {
            Self::Added(version) => Self::Added(shown(version)),
            Self::Modified(version) => Self::Modified(shown(version)),
            Self::Deleted(version) => Self::Deleted(shown(version)),
            Self::Bookmark(_, revision) => Self::Bookmark(kind, revision),
            Self::InitialEnd(_, revision) => Self::InitialEnd(kind, revision),
        }
    }

    /// `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Added(_) => "ADDED",
            Self::Modified(_) => "MODIFIED",
            Self::Deleted(_) => "DELETED",
            Self::Bookmark(..) | Self::InitialEnd(..) => "BOOKMARK",
        }
    }

    /// Its line in a JSON watch, `{"type":…,"object":…}\n`. Made once for all watchers of an object's version.
    pub fn json_line(&self) -> Bytes {
        let (line, version) = match self {
            Self::Added(version) => (0, version),
            Self::Modified(version) => (1, version),
            Self::Deleted(version) => (2, version),
            Self::Bookmark(kind, revision) => return bookmark_line(*kind, *revision, ""),
            Self::InitialEnd(kind, revision) => {
                let end = ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}";
                return bookmark_line(*kind, *revision, end);
            }
        };
        version.lines[line].get_or_init(|| object_line(self.type_name(), version.object.bytes())).clone()
    }
}

fn object_line(type_name: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + type_name.len() + 24);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(type_name.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn bookmark_line(kind: KindRef, revision: Revision, annotations: &str) -> Bytes {
    let object = format!(
        "{}\"resourceVersion\":\"{revision}\",\"creationTimestamp\":null{annotations}}}}}",
        kind.prefix()
    );
    object_line("BOOKMARK", object.as_bytes())
}

/// A Change as the watchers of its kind and the history share it.
#[derive(Debug)]
pub(crate) struct SharedChange {
    pub(crate) change: Change,
    /// The indexed fields of the version before and of the one after; empty where there is none.
    pub(crate) old_fields: FieldValues,
    pub(crate) new_fields: FieldValues,
    pub(crate) proposed_at_ms: i64,
    new: Option<Arc<Version>>,
    /// The old version under the revision of the change, made when the first watcher sees it go.
    gone: OnceLock<Option<Arc<Version>>>,
}

impl SharedChange {
    /// Shares `change`; `last` is what watchers are shown of an object that was removed.
    pub(crate) fn new(
        change: Change,
        (old_fields, new_fields): (FieldValues, FieldValues),
        last: Option<Arc<Object>>,
        proposed_at_ms: i64,
    ) -> Arc<Self> {
        let new = change.new.clone().map(Version::new);
        let gone = last.map_or_else(OnceLock::new, |last| OnceLock::from(Some(Version::new(last))));
        Arc::new(Self { change, old_fields, new_fields, proposed_at_ms, new, gone })
    }

    /// What the history keeps: the new version, or of a removal the last one.
    pub(crate) fn kept(&self) -> Option<&Arc<Object>> {
        self.change.new.as_ref().or_else(|| self.gone.get()?.as_ref().map(|version| version.object()))
    }

    pub(crate) fn revision(&self) -> Revision {
        self.change.revision
    }

    /// The event for a watcher to whom the old and the new version belong or not.
    pub(crate) fn event(&self, old_matches: bool, new_matches: bool) -> Option<Event> {
        match (old_matches, new_matches) {
            (false, true) => self.new.clone().map(Event::Added),
            (true, true) => self.new.clone().map(Event::Modified),
            (true, false) => self.gone().map(Event::Deleted),
            (false, false) => None,
        }
    }

    fn gone(&self) -> Option<Arc<Version>> {
        let depart = || {
            let old = self.change.old.as_ref()?;
            reseal(old, self.change.revision).map(|object| Version::new(Arc::new(object)))
        };
        self.gone.get_or_init(depart).clone()
    }
}

/// The same content under another revision. `None` only if the object is not canonical, which sealing
/// excludes.
pub(crate) fn reseal(object: &Object, revision: Revision) -> Option<Object> {
    let prefix = object.kind().prefix();
    let rest = object.bytes().strip_prefix(prefix.as_bytes())?;
    let version = format!("\"resourceVersion\":\"{}\"", object.revision());
    let rest = rest.strip_prefix(version.as_bytes())?;
    let rest = rest.strip_prefix(b",").unwrap_or(rest);
    let mut canonical = Vec::with_capacity(prefix.len() + rest.len());
    canonical.extend_from_slice(prefix.as_bytes());
    canonical.extend_from_slice(rest);
    Object::seal(object.kind(), &canonical, revision).ok()
}
