//! `balsa.v1.ObjectService` as a [`Backend`], and the writes that need more than it offers.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_model::selector::Filter;
use balsa_model::strategy::{Part, Propagation};
use balsa_model::{Failure, Key, KindRef, Object, Revision, Subresource};
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use tonic::Status;

use super::channels::{Connection, MAX_MESSAGE, Repeat, unary};
use super::{RemoteBackend, incomplete};
use crate::backend::{
    Backend, DeleteQuery, ListQuery, ObjectList, Start, WatchEvent, WatchStream, WriteOptions,
};

/// How a write is made, with what people may say beyond [`WriteOptions`].
#[derive(Clone, Debug, Default)]
pub struct WriteDetails {
    /// Do everything but persist it.
    pub dry_run: bool,
    /// Who manages the fields, for the record.
    pub field_manager: String,
    /// `Ignore`, `Warn` (empty means this) or `Strict`: what to do about unknown and duplicate fields.
    pub field_validation: String,
}

/// What came of a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object, as it is now.
    pub object: Arc<Object>,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

fn client(connection: Connection) -> ObjectServiceClient<Connection> {
    ObjectServiceClient::new(connection).max_decoding_message_size(MAX_MESSAGE)
}

fn resource(kind: KindRef) -> Option<v1::Resource> {
    let descriptor = kind.descriptor();
    Some(v1::Resource {
        group: descriptor.group.to_owned(),
        plural: descriptor.plural.to_owned(),
        version: descriptor.version.to_owned(),
    })
}

fn place(key: &Key) -> Option<v1::ObjectKey> {
    Some(v1::ObjectKey { namespace: key.namespace.to_string(), name: key.name.to_string() })
}

fn selection(filter: &Filter) -> Option<v1::Selection> {
    let mut fields = filter.fields.to_string();
    if let Some(name) = &filter.name {
        let comma = if fields.is_empty() { "" } else { "," };
        fields = format!("{fields}{comma}metadata.name={name}");
    }
    Some(v1::Selection {
        namespace: filter.namespace.as_deref().unwrap_or_default().to_owned(),
        label_selector: filter.labels.to_string(),
        field_selector: fields,
    })
}

fn received(kind: KindRef, object: Option<v1::Object>) -> Result<Arc<Object>, Failure> {
    let object = object.ok_or_else(|| incomplete("object"))?;
    Object::received(kind, object.json).map(Arc::new).map_err(Failure::internal)
}

fn json(value: &Value) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Failure::internal)
}

fn part_of(part: Part) -> Result<v1::Part, Failure> {
    match part {
        Part::Main => Ok(v1::Part::Main),
        Part::Status => Ok(v1::Part::Status),
        Part::Sub(Subresource::EphemeralContainers) => Ok(v1::Part::EphemeralContainers),
        Part::Sub(Subresource::Resize) => Ok(v1::Part::Resize),
        Part::Sub(Subresource::Approval) => Ok(v1::Part::Approval),
        Part::Sub(Subresource::Finalize) => Ok(v1::Part::Finalize),
        Part::Sub(other) => Err(Failure::bad_request(format!("{} is no part to write", other.path()))),
        Part::Whole => {
            Err(Failure::bad_request("object and status cannot be written at once from outside the server"))
        }
    }
}

fn delete_options(query: &DeleteQuery) -> v1::DeleteOptions {
    let propagation = match query.options.propagation {
        None => v1::Propagation::Unspecified,
        Some(Propagation::Background) => v1::Propagation::Background,
        Some(Propagation::Foreground) => v1::Propagation::Foreground,
        Some(Propagation::Orphan) => v1::Propagation::Orphan,
    };
    v1::DeleteOptions {
        grace_period_seconds: query.options.grace_period_seconds,
        propagation: propagation.into(),
        revision: query.precondition.revision.map_or(0, |revision| revision.0),
        uid: query.precondition.uid.clone().unwrap_or_default(),
        dry_run: query.dry_run,
    }
}

impl From<&WriteOptions> for WriteDetails {
    fn from(options: &WriteOptions) -> Self {
        Self {
            dry_run: options.dry_run,
            field_manager: options.field_manager.clone(),
            field_validation: String::new(),
        }
    }
}

impl From<&WriteDetails> for v1::WriteOptions {
    fn from(details: &WriteDetails) -> Self {
        Self {
            dry_run: details.dry_run,
            field_manager: details.field_manager.clone(),
            field_validation: details.field_validation.clone(),
        }
    }
}

/// An event of the wire as ours; what a newer server may say beyond them is passed over.
fn event_of(kind: KindRef, event: v1::WatchEvent) -> Option<Result<WatchEvent, Failure>> {
    use v1::watch_event::Type;
    let revision = Revision(event.revision);
    Some(match event.r#type() {
        Type::Added | Type::Modified => received(kind, event.object).map(WatchEvent::Applied),
        Type::Deleted => received(kind, event.object).map(WatchEvent::Deleted),
        Type::Synced => Ok(WatchEvent::Synced(revision)),
        Type::Bookmark => Ok(WatchEvent::Bookmark(revision)),
        Type::Unspecified => return None,
    })
}

impl RemoteBackend {
    /// Puts a new object, and says what the server warns of.
    ///
    /// # Errors
    /// What the server says.
    pub async fn create_object(
        &self,
        kind: KindRef,
        namespace: &str,
        value: &Value,
        details: &WriteDetails,
    ) -> Result<Written, Failure> {
        let request = v1::CreateRequest {
            resource: resource(kind),
            namespace: namespace.to_owned(),
            json: json(value)?,
            options: Some(details.into()),
        };
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).create(request).await }
        };
        let answer = self.channels.call(Repeat::Unsent, make).await?;
        Ok(Written { object: received(kind, answer.object)?, warnings: answer.warnings })
    }

    /// Puts another version of a part of an object.
    ///
    /// # Errors
    /// What the server says.
    pub async fn update_object(
        &self,
        kind: KindRef,
        key: &Key,
        part: v1::Part,
        value: &Value,
        details: &WriteDetails,
    ) -> Result<Written, Failure> {
        let request = v1::UpdateRequest {
            resource: resource(kind),
            key: place(key),
            part: part.into(),
            json: json(value)?,
            options: Some(details.into()),
        };
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).update(request).await }
        };
        let answer = self.channels.call(Repeat::Unsent, make).await?;
        Ok(Written { object: received(kind, answer.object)?, warnings: answer.warnings })
    }

    /// Changes a part of an object by a patch. For [`v1::Part::Scale`] the answer is a Scale.
    ///
    /// # Errors
    /// What the server says.
    pub async fn patch(
        &self,
        kind: KindRef,
        key: &Key,
        part: v1::Part,
        (patch_type, patch): (v1::PatchType, &Value),
        details: &WriteDetails,
    ) -> Result<Written, Failure> {
        let request = v1::PatchRequest {
            resource: resource(kind),
            key: place(key),
            part: part.into(),
            r#type: patch_type.into(),
            patch: json(patch)?,
            options: Some(details.into()),
            force: false,
        };
        self.send_patch(kind, request).await
    }

    /// Server-side apply: makes an object what a configuration says, in the name of the field manager of
    /// `details`; creates it when it is not there. `force` takes fields that other managers own.
    ///
    /// # Errors
    /// `Conflict` when other managers own fields that the configuration wants otherwise, and what the
    /// server says.
    pub async fn apply(
        &self,
        kind: KindRef,
        key: &Key,
        part: v1::Part,
        (config, force): (&Value, bool),
        details: &WriteDetails,
    ) -> Result<Written, Failure> {
        let request = v1::PatchRequest {
            resource: resource(kind),
            key: place(key),
            part: part.into(),
            r#type: v1::PatchType::Apply.into(),
            patch: json(config)?,
            options: Some(details.into()),
            force,
        };
        self.send_patch(kind, request).await
    }

    async fn send_patch(&self, kind: KindRef, request: v1::PatchRequest) -> Result<Written, Failure> {
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).patch(request).await }
        };
        let answer = self.channels.call(Repeat::Unsent, make).await?;
        Ok(Written { object: received(kind, answer.object)?, warnings: answer.warnings })
    }

    /// The kinds that the servers know.
    ///
    /// # Errors
    /// What the server says.
    pub async fn kinds(&self) -> Result<Vec<v1::KindDescription>, Failure> {
        let make =
            |connection| async move { client(connection).list_kinds(unary(v1::ListKindsRequest {})).await };
        Ok(self.channels.call(Repeat::Always, make).await?.kinds)
    }
}

#[async_trait]
impl Backend for RemoteBackend {
    async fn get(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure> {
        let request = v1::GetRequest { resource: resource(kind), key: place(key), stale_allowed: false };
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).get(request).await }
        };
        received(kind, self.channels.call(Repeat::Always, make).await?.object)
    }

    async fn list(&self, kind: KindRef, query: &ListQuery) -> Result<ObjectList, Failure> {
        let request = v1::ListRequest {
            resource: resource(kind),
            selection: selection(&query.filter),
            limit: u32::try_from(query.limit).unwrap_or(u32::MAX),
            continue_token: query.continue_token.clone(),
            stale_allowed: query.stale_allowed,
        };
        let (server, _) = self.channels.current();
        let make = |connection| {
            let request = request.clone();
            async move { client(connection).list(request).await }
        };
        let mut messages = self.channels.call(Repeat::Always, make).await?;
        let mut list = ObjectList::default();
        let broken = |status: Status| self.channels.failure(&status, server);
        while let Some(message) = messages.message().await.map_err(broken)? {
            list.revision = Revision(message.revision);
            list.continue_token = message.continue_token;
            for object in message.objects {
                list.items.push(received(kind, Some(object))?);
            }
        }
        Ok(list)
    }

    async fn watch(&self, kind: KindRef, filter: &Filter, start: Start) -> Result<WatchStream, Failure> {
        let request = v1::WatchRequest {
            resource: resource(kind),
            selection: selection(filter),
            after_revision: match start {
                Start::Initial => 0,
                Start::After(revision) => revision.0,
            },
        };
        let make = |connection| {
            let request = request.clone();
            async move { client(connection).watch(request).await }
        };
        let messages = self.channels.call(Repeat::Always, make).await?;
        let (server, _) = self.channels.current();
        let channels = self.channels.clone();
        let events = messages.flat_map(move |message| {
            let events: Vec<_> = match message {
                Ok(message) => message.events.into_iter().filter_map(|e| event_of(kind, e)).collect(),
                Err(status) => {
                    let failure = channels.failure(&status, server);
                    if status.code() == tonic::Code::Unavailable {
                        channels.skip(server);
                    }
                    vec![Err(failure)]
                }
            };
            futures::stream::iter(events)
        });
        Ok(events.boxed())
    }

    async fn create(
        &self,
        kind: KindRef,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        Ok(self.create_object(kind, namespace, &value, &options.into()).await?.object)
    }

    async fn update(
        &self,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        Ok(self.update_object(kind, key, part_of(part)?, &value, &options.into()).await?.object)
    }

    async fn delete(&self, kind: KindRef, key: &Key, query: &DeleteQuery) -> Result<Arc<Object>, Failure> {
        let request = v1::DeleteRequest {
            resource: resource(kind),
            key: place(key),
            options: Some(delete_options(query)),
        };
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).delete(request).await }
        };
        received(kind, self.channels.call(Repeat::Unsent, make).await?.object)
    }

    async fn bind(&self, bindings: Vec<(Key, String, String)>) -> Vec<Result<(), Failure>> {
        let count = bindings.len();
        let bindings: Vec<_> = bindings
            .into_iter()
            .map(|(pod, uid, node)| v1::Binding { pod: place(&pod), uid, node })
            .collect();
        let request = v1::BindRequest { bindings };
        let make = |connection| {
            let request = unary(request.clone());
            async move { client(connection).bind(request).await }
        };
        let results = match self.channels.call(Repeat::Unsent, make).await {
            Ok(answer) if answer.results.len() == count => answer.results,
            Ok(_) => return vec![Err(incomplete("result for each binding")); count],
            Err(failure) => return vec![Err(failure); count],
        };
        results.into_iter().map(|r| if r.code == 0 { Ok(()) } else { Err(Failure::from(r)) }).collect()
    }
}
