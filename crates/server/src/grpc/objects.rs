//! `balsa.v1.ObjectService`: objects of every kind.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use balsa_model::fields;
use balsa_model::patch::PatchType;
use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::strategy::{DeleteOptions, Part, Propagation};
use balsa_model::{
    Descriptor, Failure, Key, KindRef, Object, Precondition, Reason, Revision, Subresource, kinds, schema,
};
use balsa_proto::v1::object_service_server::ObjectService;
use balsa_proto::{from_status, to_status, v1};
use balsa_state::{Event, Start, Watch};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::{authorize, key_of, kind_of};
use crate::authorize::{Attributes, Authorized};
use crate::engine::{
    Binding, Configuration, Listed, Page, Patch, SCALE, Wanted, Written, scale_of, watch_failed,
};
use crate::fairness::{Seated, Sort};
use crate::front::Front;
use crate::rest::body::{self, Decoded, FieldValidation};
use crate::rest::{self, Asked};

/// Objects in one message of a list, in bytes of JSON: well below what clients take at once, and all that is
/// copied of a list at a time.
const LIST_CHUNK_BYTES: usize = 64 * 1024;
/// How often a quiet watch tells how far it is.
const BOOKMARKS: Duration = Duration::from_secs(10);
/// Watches in one stream.
const WATCHES: usize = 4096;
/// How many of them are started at a time: they share what a follower must ask the leader first.
const WATCHES_STARTING: usize = 16;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Objects(pub(super) Front);

fn failed(failure: Failure) -> Status {
    to_status(&failure)
}

fn object(object: &Object) -> Option<v1::Object> {
    Some(v1::Object { revision: object.revision().0, json: object.bytes().clone() })
}

fn filter_of(selection: Option<v1::Selection>, kind: &Descriptor) -> Result<(Filter, Attributes), Status> {
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

/// An object from a request's JSON, and what the client should be told about it.
/// How new what is read must be.
fn freshness(stale_allowed: bool) -> Wanted {
    if stale_allowed { Wanted::Any } else { Wanted::Latest }
}

fn decode(kind: &Descriptor, json: &[u8], options: &v1::WriteOptions) -> Result<Decoded, Status> {
    let validation = FieldValidation::parse("WriteOptions", &options.field_validation).map_err(failed)?;
    let parsed = schema::parse_json(json).map_err(failed)?;
    body::check(kind, parsed, validation).map_err(failed)
}

/// The part of a URL over REST; empty for the object itself.
fn subresource_of(part: v1::Part) -> Option<Subresource> {
    match part {
        v1::Part::Unspecified | v1::Part::Main => None,
        v1::Part::Status => Some(Subresource::Status),
        v1::Part::Scale => Some(Subresource::Scale),
        v1::Part::EphemeralContainers => Some(Subresource::EphemeralContainers),
        v1::Part::Resize => Some(Subresource::Resize),
        v1::Part::Approval => Some(Subresource::Approval),
        v1::Part::Finalize => Some(Subresource::Finalize),
    }
}

/// The part of a kind's objects that a write covers.
fn part_of(part: v1::Part, kind: &Descriptor) -> Result<Part, Status> {
    match subresource_of(part) {
        None => Ok(Part::Main),
        Some(Subresource::Status) => Ok(Part::Status),
        Some(subresource) if kind.has(subresource) => Ok(Part::Sub(subresource)),
        Some(_) => Err(failed(Failure::generic(Reason::NotFound))),
    }
}

/// The rights that a write of a part needs.
fn write_attributes(verb: &str, kind: &Descriptor, key: &Key, part: v1::Part) -> Attributes {
    let attributes = Attributes::resource(verb, kind, &key.namespace, &key.name);
    attributes.part(subresource_of(part).map_or("", Subresource::path))
}

fn delete_options(options: &v1::DeleteOptions) -> (DeleteOptions, Precondition) {
    let propagation = match options.propagation() {
        v1::Propagation::Unspecified => None,
        v1::Propagation::Background => Some(Propagation::Background),
        v1::Propagation::Foreground => Some(Propagation::Foreground),
        v1::Propagation::Orphan => Some(Propagation::Orphan),
    };
    let precondition = Precondition {
        revision: (options.revision > 0).then_some(Revision(options.revision)),
        uid: (!options.uid.is_empty()).then(|| options.uid.clone()),
    };
    (DeleteOptions { grace_period_seconds: options.grace_period_seconds, propagation }, precondition)
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

fn event_message(event: &Event) -> v1::WatchEvent {
    use v1::watch_event::Type;
    let kind = match event {
        Event::Added(_) => Type::Added,
        Event::Modified(_) => Type::Modified,
        Event::Deleted(_) => Type::Deleted,
        Event::Bookmark(..) => Type::Bookmark,
        Event::InitialEnd(..) => Type::Synced,
    };
    v1::WatchEvent {
        r#type: kind.into(),
        revision: event.revision().0,
        object: event.object().and_then(|found| object(found)),
    }
}

/// `held` is let go when the stream ends.
fn watch_messages<T: Send + 'static>(watch: Watch, held: T) -> Messages<v1::WatchResponse> {
    futures::stream::unfold(Some((watch, held)), |watch| async {
        let (mut watch, held) = watch?;
        match watch.next_batch().await? {
            Ok(events) => {
                let events = events.iter().map(event_message).collect();
                Some((Ok(v1::WatchResponse { events }), Some((watch, held))))
            }
            Err(error) => Some((Err(to_status(&watch_failed(&error))), None)),
        }
    })
    .boxed()
}

/// What a watch is of, and what somebody wants who asks for it.
fn watch_of(watch: &v1::WatchRequest) -> Result<(KindRef, Filter, Attributes), Status> {
    let kind = kind_of(watch.resource.as_ref())?;
    let (filter, mut wanted) = filter_of(watch.selection.clone(), kind.descriptor())?;
    wanted.verb = "watch".to_owned();
    Ok((kind, filter, wanted))
}

/// Whoever writes, in the name of the field manager that they give, or of their program.
fn named<T>(who: Authorized, request: &Request<T>, options: Option<&v1::WriteOptions>) -> Authorized {
    let manager = options.map(|options| options.field_manager.as_str()).filter(|name| !name.is_empty());
    let program = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok());
    let program = || fields::manager_of_user_agent(program.unwrap_or_default());
    who.with_manager(&manager.map_or_else(program, str::to_owned))
}

impl Objects {
    /// One of several watches: its events, and why it ended. One that has expired is told so in the stream: it has to
    /// begin anew, and nobody could tell which if all were refused for it.
    async fn one_of_many(
        &self,
        request: &Request<v1::WatchManyRequest>,
        number: usize,
    ) -> Result<Messages<v1::WatchManyResponse>, Status> {
        let watch = &request.get_ref().watches[number];
        let (kind, filter, wanted) = watch_of(watch)?;
        let who = self.prove(request, &wanted)?;
        let messages = match self.watched(&who, kind, filter, watch.after_revision).await {
            Err(status) if from_status(&status).reason == Reason::Expired => {
                futures::stream::iter([Err(status)]).boxed()
            }
            started => started?,
        };
        let watch = u32::try_from(number).unwrap_or(u32::MAX);
        let message = move |message| match message {
            Ok(v1::WatchResponse { events }) => Ok(v1::WatchManyResponse { watch, events, error: None }),
            Err(status) => {
                let error = Some(v1::ErrorDetails::from(&from_status(&status)));
                Ok(v1::WatchManyResponse { watch, events: Vec::new(), error })
            }
        };
        Ok(messages.map(message).boxed())
    }

    /// One watch.
    async fn watched(
        &self,
        who: &Authorized,
        kind: KindRef,
        filter: Filter,
        after_revision: u64,
    ) -> Result<Messages<v1::WatchResponse>, Status> {
        let watching = self.0.fairness.watch(who.user()).map_err(failed)?;
        let start = match after_revision {
            0 => Start::Initial,
            revision => Start::After(Revision(revision)),
        };
        let watch = self.0.engine.watch(who, kind, filter, start, Some(BOOKMARKS)).await.map_err(failed)?;
        let counted = rest::Watching::begin(kind.descriptor().plural);
        Ok(watch_messages(watch, (watching, counted)))
    }

    /// The proof that whoever asks may, and the seat to be worked on.
    async fn admit<T: Sync>(
        &self,
        request: &Request<T>,
        wanted: &Attributes,
    ) -> Result<(Authorized, Seated), Status> {
        let who = self.prove(request, wanted)?;
        let ticket = self.0.fairness.classify(who.user(), wanted);
        let seat = self.0.fairness.seat(&ticket, Sort::of(&wanted.verb)).await.map_err(failed)?;
        Ok((who, seat))
    }

    /// The proof alone.
    fn prove<T>(&self, request: &Request<T>, wanted: &Attributes) -> Result<Authorized, Status> {
        if let Some(asked) = request.extensions().get::<Asked>() {
            asked.tell(wanted);
        }
        authorize(&self.0, request, wanted)
    }

    /// Server-side apply.
    async fn apply(
        &self,
        who: Authorized,
        kind: KindRef,
        key: &Key,
        request: Request<v1::PatchRequest>,
    ) -> Result<Response<v1::PatchResponse>, Status> {
        let create = Attributes::resource("create", kind.descriptor(), &key.namespace, &key.name);
        let may_create = self.0.authorize(who.user(), &create).map(drop);
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        if options.field_manager.is_empty() {
            return Err(super::missing("options.field_manager"));
        }
        let who = who.with_manager(&options.field_manager);
        let validation = FieldValidation::parse("WriteOptions", &options.field_validation).map_err(failed)?;
        let (value, duplicates) = schema::parse_yaml(&request.patch).map_err(failed)?;
        let warnings = body::judge_applied(duplicates, validation).map_err(failed)?;
        let config = Configuration { value, force: request.force, may_create };
        let part = v1::Part::try_from(request.part).unwrap_or_default();
        let engine = &self.0.engine;
        if part == v1::Part::Scale {
            let written = engine.apply_scale(&who, kind, key, &config, options.dry_run).await;
            let (object, warnings) = answered_scale(&written.map_err(failed)?, warnings)?;
            return Ok(Response::new(v1::PatchResponse { object, warnings }));
        }
        let part = part_of(part, kind.descriptor())?;
        let written = engine.apply(&who, kind, key, part, &config, options.dry_run).await;
        let (object, warnings) = answered(&written.map_err(failed)?, warnings);
        Ok(Response::new(v1::PatchResponse { object, warnings }))
    }
}

/// The Scale of what was written, as [`answered`].
fn answered_scale(
    written: &Written,
    mut warnings: Vec<String>,
) -> Result<(Option<v1::Object>, Vec<String>), Status> {
    let scale = scale_of(&written.object).map_err(failed)?;
    let json = serde_json::to_vec(&scale).map_err(|error| failed(Failure::internal(error)))?;
    warnings.extend(written.warnings.iter().cloned());
    Ok((Some(v1::Object { revision: written.object.revision().0, json: json.into() }), warnings))
}

fn answered(written: &Written, mut warnings: Vec<String>) -> (Option<v1::Object>, Vec<String>) {
    warnings.extend(written.warnings.iter().cloned());
    (object(&written.object), warnings)
}

#[tonic::async_trait]
impl ObjectService for Objects {
    type ListStream = Messages<v1::ListResponse>;
    type WatchStream = Messages<v1::WatchResponse>;
    type WatchManyStream = Messages<v1::WatchManyResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let key = key_of(request.get_ref().key.clone(), kind.descriptor())?;
        let wanted = Attributes::resource("get", kind.descriptor(), &key.namespace, &key.name);
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let freshness = freshness(request.get_ref().stale_allowed);
        let found = self.0.engine.get(&who, kind, &key, freshness).await.map_err(failed)?;
        Ok(Response::new(v1::GetResponse { object: object(&found) }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let (filter, mut wanted) = filter_of(request.get_ref().selection.clone(), kind.descriptor())?;
        wanted.verb = "list".to_owned();
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let request = request.into_inner();
        let page = Page { limit: request.limit as usize, continue_token: request.continue_token };
        let freshness = freshness(request.stale_allowed);
        let listed = self.0.engine.list(&who, kind, &filter, freshness, &page).await.map_err(failed)?;
        Ok(Response::new(futures::stream::iter(list_messages(listed)).map(Ok).boxed()))
    }

    async fn create(
        &self,
        request: Request<v1::CreateRequest>,
    ) -> Result<Response<v1::CreateResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let namespace = request.get_ref().namespace.clone();
        let wanted = Attributes::resource("create", kind.descriptor(), &namespace, "");
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let who = named(who, &request, request.get_ref().options.as_ref());
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        let decoded = decode(kind.descriptor(), &request.json, &options)?;
        let written = self.0.engine.create(&who, kind, &namespace, decoded.value, options.dry_run).await;
        let (object, warnings) = answered(&written.map_err(failed)?, decoded.warnings);
        Ok(Response::new(v1::CreateResponse { object, warnings }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let key = key_of(request.get_ref().key.clone(), kind.descriptor())?;
        let part = request.get_ref().part();
        let wanted = write_attributes("update", kind.descriptor(), &key, part);
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let who = named(who, &request, request.get_ref().options.as_ref());
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        if part == v1::Part::Scale {
            let decoded = decode(&SCALE, &request.json, &options)?;
            let new_scale = |_: &Value| Ok(decoded.value.clone());
            let written = self.0.engine.update_scale(&who, kind, &key, options.dry_run, new_scale).await;
            let (object, warnings) = answered_scale(&written.map_err(failed)?, decoded.warnings)?;
            return Ok(Response::new(v1::UpdateResponse { object, warnings }));
        }
        let part = part_of(part, kind.descriptor())?;
        let decoded = decode(kind.descriptor(), &request.json, &options)?;
        let written = self.0.engine.update(&who, kind, &key, part, decoded.value, options.dry_run).await;
        let (object, warnings) = answered(&written.map_err(failed)?, decoded.warnings);
        Ok(Response::new(v1::UpdateResponse { object, warnings }))
    }

    async fn patch(&self, request: Request<v1::PatchRequest>) -> Result<Response<v1::PatchResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let key = key_of(request.get_ref().key.clone(), kind.descriptor())?;
        let part = request.get_ref().part();
        let wanted = write_attributes("patch", kind.descriptor(), &key, part);
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let language = match request.get_ref().r#type() {
            v1::PatchType::Json => PatchType::Json,
            v1::PatchType::Merge => PatchType::Merge,
            v1::PatchType::Strategic => PatchType::Strategic,
            v1::PatchType::Apply => return self.apply(who, kind, &key, request).await,
            v1::PatchType::Unspecified => return Err(super::missing("type")),
        };
        let who = named(who, &request, request.get_ref().options.as_ref());
        let request = request.into_inner();
        let options = request.options.unwrap_or_default();
        let validation = FieldValidation::parse("WriteOptions", &options.field_validation).map_err(failed)?;
        let patch = Patch { kind: language, body: request.patch };
        let engine = &self.0.engine;
        if part == v1::Part::Scale {
            let written = engine.patch_scale(&who, kind, &key, &patch, validation, options.dry_run).await;
            let (object, warnings) = answered_scale(&written.map_err(failed)?, Vec::new())?;
            return Ok(Response::new(v1::PatchResponse { object, warnings }));
        }
        let part = part_of(part, kind.descriptor())?;
        let written = engine.patch(&who, kind, &key, part, &patch, validation, options.dry_run).await;
        let (object, warnings) = answered(&written.map_err(failed)?, Vec::new());
        Ok(Response::new(v1::PatchResponse { object, warnings }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let key = key_of(request.get_ref().key.clone(), kind.descriptor())?;
        let wanted = Attributes::resource("delete", kind.descriptor(), &key.namespace, &key.name);
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let request = request.into_inner().options.unwrap_or_default();
        let (options, precondition) = delete_options(&request);
        let deleted = self.0.engine.delete(&who, kind, &key, &options, &precondition, request.dry_run).await;
        Ok(Response::new(v1::DeleteResponse { object: object(&deleted.map_err(failed)?.object) }))
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionResponse>, Status> {
        let kind = kind_of(request.get_ref().resource.as_ref())?;
        let (filter, mut wanted) = filter_of(request.get_ref().selection.clone(), kind.descriptor())?;
        wanted.verb = "deletecollection".to_owned();
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let request = request.into_inner().options.unwrap_or_default();
        let (options, _) = delete_options(&request);
        let engine = &self.0.engine;
        let deleted = engine.delete_collection(&who, kind, &filter, &options, request.dry_run).await;
        let count = u32::try_from(deleted.map_err(failed)?.len()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::DeleteCollectionResponse { count }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (kind, filter, wanted) = watch_of(request.get_ref())?;
        let (who, _seat) = self.admit(&request, &wanted).await?;
        let messages = self.watched(&who, kind, filter, request.get_ref().after_revision).await?;
        Ok(Response::new(messages))
    }

    async fn watch_many(
        &self,
        request: Request<v1::WatchManyRequest>,
    ) -> Result<Response<Self::WatchManyStream>, Status> {
        let watches = request.get_ref().watches.len();
        let Some(first) = request.get_ref().watches.first() else {
            return Err(super::missing("watches"));
        };
        if watches > WATCHES {
            return Err(failed(Failure::bad_request(format!("at most {WATCHES} watches in one stream"))));
        }
        // One call, and so one seat: that of its first watch.
        let (_, _, wanted) = watch_of(first)?;
        let (_, _seat) = self.admit(&request, &wanted).await?;
        let starting = futures::stream::iter((0..watches).map(|number| self.one_of_many(&request, number)));
        let streams: Vec<_> = starting.buffered(WATCHES_STARTING).try_collect().await?;
        Ok(Response::new(futures::stream::select_all(streams).boxed()))
    }

    async fn bind(&self, request: Request<v1::BindRequest>) -> Result<Response<v1::BindResponse>, Status> {
        let wanted =
            Attributes { verb: "create".to_owned(), resource: "pods".to_owned(), ..Attributes::default() };
        let (who, _seat) = self.admit(&request, &wanted.part("binding")).await?;
        let bindings = request.into_inner().bindings.into_iter().map(|binding| {
            let pod = binding.pod.unwrap_or_default();
            let pod = Key::new(pod.namespace, pod.name);
            Binding { pod, uid: binding.uid, node: binding.node, annotations: BTreeMap::new() }
        });
        let answers = self.0.engine.bind(&who, bindings.collect()).await;
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
        authorize(&self.0, &request, &wanted)?;
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
