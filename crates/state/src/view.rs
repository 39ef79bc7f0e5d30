//! A picture of one kind at a revision: cheap to take, safe to keep.
//!
//! A view is a handle on persistent (structurally shared) maps: the actor goes on changing its own and
//! the views it has given out stay as they were. Invariant: every index names exactly the rows that
//! are in `rows`, with the values their objects have.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use balsa_model::kind::KindRef;
use balsa_model::selector::Filter;
use balsa_model::{Key, Object, Revision};
use imbl::{OrdMap, OrdSet};
use smallvec::SmallVec;

use crate::indexed::FieldValues;

/// A key as it is sorted by: namespace, a zero byte (which no namespace has in it), name. Most fit without a
/// pointer.
type SortKey = SmallVec<[u8; 48]>;

fn sort_key(key: &Key) -> SortKey {
    let mut bytes = SortKey::with_capacity(key.namespace.len() + 1 + key.name.len());
    bytes.extend_from_slice(key.namespace.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.name.as_bytes());
    bytes
}

/// What is kept of one object.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    key: SortKey,
    pub(crate) object: Arc<Object>,
    pub(crate) fields: FieldValues,
    /// The tokens it claims.
    pub(crate) claims: Arc<[String]>,
}

impl Row {
    pub(crate) fn new(object: Arc<Object>, fields: FieldValues, claims: Arc<[String]>) -> Self {
        Self { key: sort_key(object.key()), object, fields, claims }
    }
}

/// One pointer, so that the maps' nodes are small and quickly copied; the key right behind it, so that a search
/// goes no further than that for each step.
#[derive(Clone, Debug)]
struct Keyed(Arc<Row>);

impl Keyed {
    fn row(&self) -> &Row {
        &self.0
    }
}

impl Borrow<[u8]> for Keyed {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// Rows by the value of a field, and key.
type Index = OrdMap<(Arc<str>, Key), Arc<Row>>;

/// The rows of one kind and their indexes. Cloning shares everything.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) kind: KindRef,
    rows: OrdSet<Keyed>,
    /// One a field of `Descriptor::indexed_fields`: value and key → row.
    indexes: Vec<Index>,
    /// No change of this kind is later: see [`KindView::changed`].
    pub(crate) changed: Revision,
    /// Of the objects' JSON.
    bytes: usize,
}

impl Rows {
    pub(crate) fn new(kind: KindRef) -> Self {
        let indexes = kind.descriptor().indexed_fields.iter().map(|_| OrdMap::new()).collect();
        Self { kind, rows: OrdSet::new(), indexes, changed: Revision(0), bytes: 0 }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Row> {
        self.rows.get(&*sort_key(key)).map(Keyed::row)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of the objects' JSON.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().map(Keyed::row)
    }

    fn range(&self, from: Bound<&Key>) -> impl Iterator<Item = &Row> + Send + use<'_> {
        let from = from.map(sort_key);
        let from = from.as_ref().map(|key| key.as_slice());
        self.rows.range::<_, [u8]>((from, Bound::Unbounded)).map(Keyed::row)
    }

    /// Puts a row, and hands back the one that it replaces.
    pub(crate) fn insert(&mut self, row: Row) -> Option<Arc<Row>> {
        let row = Arc::new(row);
        let old = self.rows.insert(Keyed(row.clone())).map(|old| old.0);
        self.bytes += row.object.bytes().len();
        self.bytes -= old.as_ref().map_or(0, |old| old.object.bytes().len());
        for (i, index) in self.indexes.iter_mut().enumerate() {
            let key = row.object.key();
            if let Some(old) = old.as_ref().filter(|old| old.fields[i] != row.fields[i]) {
                index.remove(&(old.fields[i].clone(), key.clone()));
            }
            index.insert((row.fields[i].clone(), key.clone()), row.clone());
        }
        old
    }

    /// Takes a row away.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Row>> {
        let old = self.rows.remove(&*sort_key(key))?.0;
        self.bytes -= old.object.bytes().len();
        for (index, value) in self.indexes.iter_mut().zip(old.fields.iter()) {
            index.remove(&(value.clone(), key.clone()));
        }
        Some(old)
    }
}

/// An immutable picture of one kind at a revision of the cluster.
#[derive(Clone, Debug)]
pub struct KindView {
    rows: Arc<Rows>,
    revision: Revision,
}

impl KindView {
    pub(crate) fn new(rows: Arc<Rows>, revision: Revision) -> Self {
        Self { rows, revision }
    }

    /// The kind.
    pub fn kind(&self) -> KindRef {
        self.rows.kind
    }

    /// The revision of the cluster that it shows: the resourceVersion of a list made from it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// No change of this kind that it shows is later; at or before [`Self::revision`]. Of a state that was rebuilt
    /// and has not changed since, this is the revision of then: nothing tells what the last change was.
    pub fn changed(&self) -> Revision {
        self.rows.changed
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.rows.get(key).map(|row| &row.object)
    }

    /// All objects, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.rows.iter().map(|row| &row.object)
    }

    /// The objects after `cursor`, by namespace and name: the next page of a list.
    pub fn iter_after(&self, cursor: &Key) -> impl Iterator<Item = &Arc<Object>> {
        self.rows.range(Bound::Excluded(cursor)).map(|row| &row.object)
    }

    /// The objects of a namespace, by name.
    pub fn list(&self, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.within(&Key::new(namespace, ""), Bound::Included)
    }

    /// The objects of the cursor's namespace after it, by name.
    pub fn list_after(&self, cursor: &Key) -> impl Iterator<Item = &Arc<Object>> {
        self.within(cursor, Bound::Excluded)
    }

    fn within<'k>(
        &self,
        from: &'k Key,
        bound: fn(&'k Key) -> Bound<&'k Key>,
    ) -> impl Iterator<Item = &Arc<Object>> + use<'_> {
        let namespace = from.namespace.clone();
        self.rows
            .range(bound(from))
            .map(|row| &row.object)
            .take_while(move |object| object.key().namespace == namespace)
    }

    /// The objects whose indexed field `label` has `value`, by namespace and name; `None` when the kind
    /// does not index that field.
    pub fn by_field(&self, label: &str, value: &str) -> Option<impl Iterator<Item = &Arc<Object>>> {
        let field = self.kind().descriptor().indexed_fields.iter().position(|indexed| *indexed == label)?;
        Some(self.indexed(field, value.into()).map(|row| &row.object))
    }

    /// The objects that `filter` keeps, by namespace and name, after `cursor` if one is given. It looks at
    /// as few objects as the indexes allow.
    pub fn select<'a>(
        &'a self,
        filter: &'a Filter,
        cursor: Option<&Key>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let after = cursor.cloned();
        let rows: Box<dyn Iterator<Item = &'a Row> + Send + 'a> = match Narrow::of(self.kind(), filter) {
            Narrow::Object(key) => Box::new(self.rows.get(&key).into_iter()),
            Narrow::Field(field, value) => Box::new(self.indexed(field, value)),
            Narrow::Namespace(namespace) => {
                let from = after.clone().filter(|after| after.namespace >= namespace);
                let from = from.unwrap_or_else(|| Key::new(namespace.clone(), ""));
                let rows = self.rows.range(Bound::Included(&from));
                Box::new(rows.take_while(move |row| row.object.key().namespace == namespace))
            }
            Narrow::Nothing => {
                Box::new(self.rows.range(after.as_ref().map_or(Bound::Unbounded, Bound::Excluded)))
            }
        };
        let is_after = move |row: &&Row| after.as_ref().is_none_or(|after| row.object.key() > after);
        let rows = rows.filter(is_after).filter(|row| selects(filter, &row.object, &row.fields));
        Box::new(rows.map(|row| &row.object))
    }

    fn indexed(&self, field: usize, value: Arc<str>) -> impl Iterator<Item = &Row> + Send {
        self.rows.indexes[field]
            .range((Bound::Included((value.clone(), Key::default())), Bound::Unbounded))
            .take_while(move |((found, _), _)| *found == value)
            .map(|(_, row)| &**row)
    }

    pub(crate) fn rows(&self) -> &Arc<Rows> {
        &self.rows
    }
}

/// The best that the indexes can do for a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Narrow {
    /// One object, if any.
    Object(Key),
    /// Those with this value of an indexed field, given by its place in the descriptor.
    Field(usize, Arc<str>),
    /// Those of this namespace.
    Namespace(Arc<str>),
    /// Whatever there is.
    Nothing,
}

impl Narrow {
    pub(crate) fn of(kind: KindRef, filter: &Filter) -> Self {
        let exact = |own: &Option<Arc<str>>, label: &str| -> Option<Arc<str>> {
            own.clone().or_else(|| filter.fields.exact(label).map(Into::into))
        };
        let namespace = if kind.descriptor().is_namespaced() {
            exact(&filter.namespace, "metadata.namespace")
        } else {
            Some("".into())
        };
        let fields = kind.descriptor().indexed_fields;
        let field =
            fields.iter().enumerate().find_map(|(i, label)| Some((i, filter.fields.exact(label)?.into())));
        match (namespace, exact(&filter.name, "metadata.name"), field) {
            (Some(namespace), Some(name), _) => Self::Object(Key { namespace, name }),
            (_, _, Some((field, value))) => Self::Field(field, value),
            (Some(namespace), _, _) if !namespace.is_empty() => Self::Namespace(namespace),
            _ => Self::Nothing,
        }
    }
}

/// What [`Filter::matches`] says, without decoding the object for fields that are indexed.
pub(crate) fn selects(filter: &Filter, object: &Object, fields: &FieldValues) -> bool {
    let key = object.key();
    if filter.namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace)
        || filter.name.as_ref().is_some_and(|name| *name != key.name)
        || !filter.labels.matches(object.meta().labels.as_ref())
    {
        return false;
    }
    let labels = object.kind().descriptor().indexed_fields;
    let mut typed = None;
    filter.fields.selects_all()
        || filter.fields.matches_with(|label| {
            match labels.iter().zip(fields.iter()).find(|(l, _)| **l == label) {
                Some((_, value)) => value.as_ref().to_owned(),
                None if label == "metadata.name" => key.name.as_ref().to_owned(),
                None if label == "metadata.namespace" => key.namespace.as_ref().to_owned(),
                None => {
                    let typed = typed.get_or_insert_with(|| object.decode());
                    typed.as_ref().map_or_else(String::new, |typed| typed.field(label))
                }
            }
        })
}
