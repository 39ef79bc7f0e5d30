//! `balsa.v1.ObjectService`: objects of every kind.

use std::collections::BTreeMap;
use std::pin::Pin;

use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{Descriptor, Key, KindRef, kinds};
use balsa_proto::v1;
use balsa_proto::v1::object_service_server::ObjectService;
use balsa_rt::CancellationToken;
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::calls::{Answer, Caller, delete_options, failed, freshness, object};
use super::{authorize, kind_of, pipeline};
use crate::authorize::Attributes;
use crate::engine::{Binding, Listed, Page};
use crate::front::Front;
use crate::listener::EndsItself;

/// Objects in one message of a list, in bytes of JSON: well below what clients take at once, and all that is
/// copied of a list at a time.
const LIST_CHUNK_BYTES: usize = 64 * 1024;

/// What a call is answered with, message by message.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Objects {
    pub(super) front: Front,
    /// Cancelled when the server stops.
    pub(super) stopping: CancellationToken,
}

/// What a selection selects, and what somebody wants who asks for it.
pub(super) fn filter_of(
    selection: Option<v1::Selection>,
    kind: &Descriptor,
) -> Result<(Filter, Attributes), Status> {
    let selection = selection.unwrap_or_default();
    let mut filter = Filter::everything();
    if !selection.namespace.is_empty() {
        filter.namespace = Some(selection.namespace.as_str().into());
    }
    filter.labels = LabelSelector::parse(&selection.label_selector).map_err(failed)?;
    filter.fields = FieldSelector::parse(&selection.field_selector, kind).map_err(failed)?;
    let mut attributes = Attributes::resource("", kind, &selection.namespace, "");
    attributes.field_selector = selection.field_selector;
    Ok((filter, attributes))
}

/// Cuts a list into messages, each made when the one before is on its way; the last one says where the next
/// page starts.
fn list_messages(listed: Listed) -> impl Iterator<Item = v1::ListResponse> {
    let revision = listed.revision.0;
    let (mut items, mut continue_token) = (listed.items.into_iter(), Some(listed.continue_token));
    std::iter::from_fn(move || {
        // Taken with the last message.
        continue_token.as_ref()?;
        let mut message = v1::ListResponse { revision, ..Default::default() };
        let mut size = 0;
        while size <= LIST_CHUNK_BYTES
            && let Some(item) = items.next()
        {
            size += item.bytes().len();
            message.objects.extend(object(&item));
        }
        if items.as_slice().is_empty() {
            message.continue_token = continue_token.take().unwrap_or_default();
        }
        Some(message)
    })
}

#[tonic::async_trait]
impl ObjectService for Objects {
    type ListStream = Messages<v1::ListResponse>;
    type WatchStream = Messages<v1::WatchResponse>;
    type WatchManyStream = Messages<v1::WatchManyResponse>;
    type PipelineStream = Messages<v1::PipelineResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::new(&metadata, &extensions);
        let Answer { object, .. } = self.get_one(&caller, message).await?;
        Ok(Response::new(v1::GetResponse { object }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let (filter, mut wanted) = filter_of(request.get_ref().selection.clone(), kind.descriptor())?;
        wanted.verb = "list".to_owned();
        let (who, _seat) = self.admit(&Caller::of(&request), &wanted).await?;
        let request = request.into_inner();
        let page = Page { limit: request.limit as usize, continue_token: request.continue_token };
        let freshness = freshness(request.stale_allowed);
        let listed = self.front.engine.list(&who, kind, &filter, freshness, &page).await.map_err(failed)?;
        Ok(Response::new(futures::stream::iter(list_messages(listed)).map(Ok).boxed()))
    }

    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::new(&metadata, &extensions);
        let Answer { object, warnings } = self.create_one(&caller, message).await?;
        Ok(Response::new(v1::CreateResponse { object, warnings }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::new(&metadata, &extensions);
        let Answer { object, warnings } = self.update_one(&caller, message).await?;
        Ok(Response::new(v1::UpdateResponse { object, warnings }))
    }

    async fn patch(&self, request: Request<v1::PatchRequest>) -> Result<Response<v1::PatchResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::new(&metadata, &extensions);
        let Answer { object, warnings } = self.patch_one(&caller, message).await?;
        Ok(Response::new(v1::PatchResponse { object, warnings }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::new(&metadata, &extensions);
        let Answer { object, .. } = self.delete_one(&caller, message).await?;
        Ok(Response::new(v1::DeleteResponse { object }))
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let (filter, mut wanted) = filter_of(request.get_ref().selection.clone(), kind.descriptor())?;
        wanted.verb = "deletecollection".to_owned();
        let (who, _seat) = self.admit(&Caller::of(&request), &wanted).await?;
        let request = request.into_inner().options.unwrap_or_default();
        let (options, _) = delete_options(&request);
        let engine = &self.front.engine;
        let deleted = engine.delete_collection(&who, kind, &filter, &options, request.dry_run).await;
        let count = u32::try_from(deleted.map_err(failed)?.len()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::DeleteCollectionResponse { count }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(self.watch_one(&request).await?))
    }

    async fn watch_many(
        &self,
        request: Request<v1::WatchManyRequest>,
    ) -> Result<Response<Self::WatchManyStream>, Status> {
        Ok(Response::new(self.watch_all(&request).await?))
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let mut response = Response::new(pipeline::answers(self.clone(), request).boxed());
        response.extensions_mut().insert(EndsItself);
        Ok(response)
    }

    async fn bind(&self, request: Request<v1::BindRequest>) -> Result<Response<v1::BindResponse>, Status> {
        let wanted =
            Attributes { verb: "create".to_owned(), resource: "pods".to_owned(), ..Attributes::default() };
        let (who, _seat) = self.admit(&Caller::of(&request), &wanted.part("binding")).await?;
        let bindings = request.into_inner().bindings.into_iter().map(|binding| {
            let pod = binding.pod.unwrap_or_default();
            let pod = Key::new(pod.namespace, pod.name);
            Binding {
                pod,
                precondition: Binding::of_uid(binding.uid),
                node: binding.node,
                annotations: BTreeMap::new(),
            }
        });
        let answers = self.front.engine.bind(&who, bindings.collect()).await;
        let results = answers.iter().map(|answer| match answer {
            Ok(()) => v1::ErrorDetails::default(),
            Err(failure) => failure.into(),
        });
        Ok(Response::new(v1::BindResponse { results: results.collect() }))
    }

    async fn list_kinds(
        &self,
        request: Request<v1::ListKindsRequest>,
    ) -> Result<Response<v1::ListKindsResponse>, Status> {
        let wanted = Attributes { verb: "get".to_owned(), path: "/apis".to_owned(), ..Attributes::default() };
        authorize(&self.front, &request, &wanted)?;
        // Of a kind that is served in several versions the one that is stored.
        let preferred = |kind: &KindRef| {
            kinds::by_resource(kind.descriptor().group, kind.descriptor().plural) == Some(*kind)
        };
        let kinds = kinds::served().filter(preferred).map(|kind| describe(kind.descriptor())).collect();
        Ok(Response::new(v1::ListKindsResponse { kinds }))
    }
}

fn describe(kind: &Descriptor) -> v1::KindDescription {
    const VERBS: [&str; 8] =
        ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    v1::KindDescription {
        resource: Some(v1::Resource {
            group: kind.group.to_owned(),
            plural: kind.plural.to_owned(),
            version: kind.version.to_owned(),
        }),
        version: kind.version.to_owned(),
        kind: kind.kind.to_owned(),
        namespaced: kind.is_namespaced(),
        short_names: texts(kind.short_names),
        categories: texts(kind.categories),
        verbs: texts(&VERBS),
    }
}
