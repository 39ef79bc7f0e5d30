//! The typed face of a [`Backend`].

use std::marker::PhantomData;
use std::sync::Arc;

use balsa_model::kind::{kind_of, to_value};
use balsa_model::selector::Filter;
use balsa_model::strategy::{DeleteOptions, Part, Propagation};
use balsa_model::{Failure, Key, Kind, Object, Precondition, Reason};

use crate::backend::{Backend, DeleteQuery, ListQuery, WriteOptions};
use crate::informer::Informer;

/// How often [`Api::modify`] tries again after somebody else was faster.
const MODIFY_ATTEMPTS: usize = 8;

/// A cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    backend: Arc<dyn Backend>,
    options: WriteOptions,
}

impl Client {
    /// A client of `backend` whose writes are in the name of `field_manager`.
    pub fn new(backend: Arc<dyn Backend>, field_manager: &str) -> Self {
        let options = WriteOptions { dry_run: false, field_manager: field_manager.to_owned() };
        Self { backend, options }
    }

    /// What answers.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The objects of one kind.
    pub fn api<K: Kind>(&self) -> Api<K> {
        Api { client: self.clone(), kind: PhantomData }
    }

    /// A cache of the objects of one kind that match, kept up to date until `scope` ends.
    pub fn informer<K: Kind>(&self, filter: Filter, scope: &balsa_rt::Scope) -> Informer {
        Informer::start(self.backend.clone(), kind_of::<K>(), filter, scope)
    }
}

/// The objects of one kind.
#[derive(Clone)]
pub struct Api<K> {
    client: Client,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Api<K> {
    /// One object.
    ///
    /// # Errors
    /// `NotFound`, and what the backend says.
    pub async fn get(&self, key: &Key) -> Result<Arc<Object>, Failure> {
        self.client.backend.get(kind_of::<K>(), key).await
    }

    /// One object in its typed form, or `None` where there is none.
    ///
    /// # Errors
    /// What the backend says, but for `NotFound`.
    pub async fn find(&self, key: &Key) -> Result<Option<K>, Failure> {
        match self.get(key).await {
            Ok(object) => Ok(object.to_typed::<K>()),
            Err(failure) if failure.reason == Reason::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All objects that match.
    ///
    /// # Errors
    /// What the backend says.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Arc<Object>>, Failure> {
        Ok(self.client.backend.list(kind_of::<K>(), &ListQuery::matching(filter)).await?.items)
    }

    /// Creates `object` in the namespace that its metadata names.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, and what the backend says.
    pub async fn create(&self, object: &K) -> Result<Arc<Object>, Failure> {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        self.client.backend.create(kind_of::<K>(), &namespace, to_value(object), &self.client.options).await
    }

    /// Writes a part of `object`; its resourceVersion, when there, is a precondition.
    ///
    /// # Errors
    /// `Conflict`, `NotFound`, `Invalid`, and what the backend says.
    pub async fn update(&self, object: &K, part: Part) -> Result<Arc<Object>, Failure> {
        let meta = object.metadata();
        let key =
            Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        self.client.backend.update(kind_of::<K>(), &key, part, to_value(object), &self.client.options).await
    }

    /// Reads, changes and writes a part of an object, again when somebody else was faster. `change`
    /// answers whether there is anything to write. `Ok(None)`: there was not, or the object is gone.
    ///
    /// # Errors
    /// What the backend says, but for `NotFound`.
    pub async fn modify(
        &self,
        key: &Key,
        part: Part,
        mut change: impl FnMut(&mut K) -> bool + Send,
    ) -> Result<Option<Arc<Object>>, Failure> {
        let mut last = Failure::internal("no attempt was made");
        for _ in 0..MODIFY_ATTEMPTS {
            let Some(mut object) = self.find(key).await? else { return Ok(None) };
            if !change(&mut object) {
                return Ok(None);
            }
            match self.update(&object, part).await {
                Ok(written) => return Ok(Some(written)),
                Err(failure) if failure.reason == Reason::Conflict => last = failure,
                Err(failure) if failure.reason == Reason::NotFound => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    /// Deletes an object if it still is the one with `uid` (empty: whichever). One that is gone already is
    /// no failure.
    ///
    /// # Errors
    /// What the backend says, but for `NotFound` and a changed UID.
    pub async fn delete(&self, key: &Key, uid: &str, options: DeleteOptions) -> Result<(), Failure> {
        let precondition =
            Precondition { uid: (!uid.is_empty()).then(|| uid.to_owned()), ..Precondition::default() };
        let query = DeleteQuery { options, precondition, dry_run: false };
        match self.client.backend.delete(kind_of::<K>(), key, &query).await {
            Ok(_) => Ok(()),
            Err(failure) if matches!(failure.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Deletes an object in the background, as controllers do.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub async fn delete_in_background(&self, key: &Key, uid: &str) -> Result<(), Failure> {
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        self.delete(key, uid, options).await
    }
}
