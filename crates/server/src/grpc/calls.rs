//! What is done to one object: get, create, update, patch, delete. Each is a call of its own, or one of many in a stream
//! ([`super::pipeline`]).

use balsa_model::fields;
use balsa_model::patch::PatchType;
use balsa_model::strategy::{DeleteOptions, Part, Propagation};
use balsa_model::{
    Descriptor, Failure, Key, KindRef, Object, Precondition, Reason, Revision, Subresource, schema,
};
use balsa_proto::{to_status, v1};
use http::{Extensions, HeaderMap};
use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::objects::Objects;
use super::{key_of, kind_of, missing};
use crate::authorize::{Attributes, Authorized};
use crate::engine::{Configuration, Patch, SCALE, Wanted, Written, scale_of};
use crate::fairness::{Seated, Sort};
use crate::front::{Front, Peer};
use crate::identity::Authenticated;
use crate::rest::Asked;
use crate::rest::body::{self, Decoded, FieldValidation};

pub(super) fn failed(failure: Failure) -> Status {
    to_status(&failure)
}

pub(super) fn object(object: &Object) -> Option<v1::Object> {
    Some(v1::Object { revision: object.revision().0, json: object.bytes().clone() })
}

/// How new what is read must be.
pub(super) fn freshness(stale_allowed: bool) -> Wanted {
    if stale_allowed { Wanted::Any } else { Wanted::Latest }
}

/// Who calls, as far as the connection and the headers of the call say.
pub(super) struct Caller<'a> {
    peer: Option<&'a Peer>,
    headers: &'a HeaderMap,
    /// Where it is written down what the call is for.
    asked: Option<&'a Asked>,
}

impl<'a> Caller<'a> {
    /// Out of the parts of a request.
    pub(super) fn new(metadata: &'a MetadataMap, extensions: &'a Extensions) -> Self {
        Self { peer: extensions.get(), headers: metadata.as_ref(), asked: extensions.get() }
    }

    /// That of a request.
    pub(super) fn of<T>(request: &'a Request<T>) -> Self {
        Self::new(request.metadata(), request.extensions())
    }

    /// The same, in one of many calls, of which each is counted.
    pub(super) fn of_call(self, asked: &'a Asked) -> Self {
        Self { asked: Some(asked), ..self }
    }

    /// Who it is.
    pub(super) fn authenticate(&self, front: &Front) -> Result<Authenticated, Status> {
        let nobody = Peer::default();
        front.authenticate(self.peer.unwrap_or(&nobody), self.headers).map_err(failed)
    }

    /// Whoever writes, in the name of the field manager that they give, or of their program.
    fn named(&self, who: Authorized, options: &v1::WriteOptions) -> Authorized {
        if !options.field_manager.is_empty() {
            return who.with_manager(&options.field_manager);
        }
        let program = self.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        who.with_manager(&fields::manager_of_user_agent(program.unwrap_or_default()))
    }
}

/// What a call comes to: the object, if it is told, and what the client should be told besides.
pub(super) struct Answer {
    pub(super) object: Option<v1::Object>,
    pub(super) warnings: Vec<String>,
}

impl Answer {
    /// The object as it is.
    fn shows(found: &Object) -> Self {
        Self { object: object(found), warnings: Vec::new() }
    }

    /// What was written, and what there was to say of the request.
    fn written(written: &Written, mut warnings: Vec<String>) -> Self {
        warnings.extend(written.warnings.iter().cloned());
        Self { object: object(&written.object), warnings }
    }

    /// The Scale of what was written, as [`Self::written`].
    fn scale(written: &Written, warnings: Vec<String>) -> Result<Self, Status> {
        let scale = scale_of(&written.object).map_err(failed)?;
        let json = serde_json::to_vec(&scale).map_err(|error| failed(Failure::internal(error)))?;
        let shown = v1::Object { revision: written.object.revision().0, json: json.into() };
        Ok(Self { object: Some(shown), ..Self::written(written, warnings) })
    }
}

/// An object from a request's JSON, and what the client should be told about it.
fn decode(kind: &Descriptor, json: &[u8], options: &v1::WriteOptions) -> Result<Decoded, Status> {
    let parsed = schema::parse_json(json).map_err(failed)?;
    body::check(kind, parsed, validation(options)?).map_err(failed)
}

fn validation(options: &v1::WriteOptions) -> Result<FieldValidation, Status> {
    FieldValidation::parse("WriteOptions", &options.field_validation).map_err(failed)
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

pub(super) fn delete_options(options: &v1::DeleteOptions) -> (DeleteOptions, Precondition) {
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

impl Objects {
    /// The proof that whoever calls may, and the seat to be worked on.
    pub(super) async fn admit(
        &self,
        caller: &Caller<'_>,
        wanted: &Attributes,
    ) -> Result<(Authorized, Seated), Status> {
        let who = self.prove(caller, wanted)?;
        let ticket = self.front.fairness.classify(who.user(), wanted);
        let seat = self.front.fairness.seat(&ticket, Sort::of(&wanted.verb)).await.map_err(failed)?;
        Ok((who, seat))
    }

    /// The proof alone.
    pub(super) fn prove(&self, caller: &Caller<'_>, wanted: &Attributes) -> Result<Authorized, Status> {
        if let Some(asked) = caller.asked {
            asked.tell(wanted);
        }
        let user = caller.authenticate(&self.front)?;
        self.front.authorize(&user, wanted).map_err(failed)
    }

    pub(super) async fn get_one(
        &self,
        caller: &Caller<'_>,
        request: v1::GetRequest,
    ) -> Result<Answer, Status> {
        let kind = kind_of(request.resource.as_ref())?;
        let key = key_of(request.key, kind.descriptor())?;
        let wanted = Attributes::resource("get", kind.descriptor(), &key.namespace, &key.name);
        let (who, _seat) = self.admit(caller, &wanted).await?;
        let freshness = freshness(request.stale_allowed);
        let found = self.front.engine.get(&who, kind, &key, freshness).await.map_err(failed)?;
        Ok(Answer::shows(&found))
    }

    pub(super) async fn create_one(
        &self,
        caller: &Caller<'_>,
        request: v1::CreateRequest,
    ) -> Result<Answer, Status> {
        let kind = kind_of(request.resource.as_ref())?;
        let namespace = request.namespace;
        let wanted = Attributes::resource("create", kind.descriptor(), &namespace, "");
        let (who, _seat) = self.admit(caller, &wanted).await?;
        let options = request.options.unwrap_or_default();
        let who = caller.named(who, &options);
        let decoded = decode(kind.descriptor(), &request.json, &options)?;
        let written = self.front.engine.create(&who, kind, &namespace, decoded.value, options.dry_run).await;
        Ok(Answer::written(&written.map_err(failed)?, decoded.warnings))
    }

    pub(super) async fn update_one(
        &self,
        caller: &Caller<'_>,
        request: v1::UpdateRequest,
    ) -> Result<Answer, Status> {
        let part = request.part();
        let kind = kind_of(request.resource.as_ref())?;
        let key = key_of(request.key, kind.descriptor())?;
        let wanted = write_attributes("update", kind.descriptor(), &key, part);
        let (who, _seat) = self.admit(caller, &wanted).await?;
        let options = request.options.unwrap_or_default();
        let who = caller.named(who, &options);
        if part == v1::Part::Scale {
            let decoded = decode(&SCALE, &request.json, &options)?;
            let new_scale = |_: &Value| Ok(decoded.value.clone());
            let written = self.front.engine.update_scale(&who, kind, &key, options.dry_run, new_scale).await;
            return Answer::scale(&written.map_err(failed)?, decoded.warnings);
        }
        let part = part_of(part, kind.descriptor())?;
        let decoded = decode(kind.descriptor(), &request.json, &options)?;
        let written = self.front.engine.update(&who, kind, &key, part, decoded.value, options.dry_run).await;
        Ok(Answer::written(&written.map_err(failed)?, decoded.warnings))
    }

    pub(super) async fn patch_one(
        &self,
        caller: &Caller<'_>,
        request: v1::PatchRequest,
    ) -> Result<Answer, Status> {
        let part = request.part();
        let kind = kind_of(request.resource.as_ref())?;
        let key = key_of(request.key.clone(), kind.descriptor())?;
        let wanted = write_attributes("patch", kind.descriptor(), &key, part);
        let (who, _seat) = self.admit(caller, &wanted).await?;
        let language = match request.r#type() {
            v1::PatchType::Json => PatchType::Json,
            v1::PatchType::Merge => PatchType::Merge,
            v1::PatchType::Strategic => PatchType::Strategic,
            v1::PatchType::Apply => return self.apply(who, kind, &key, request).await,
            v1::PatchType::Unspecified => return Err(missing("type")),
        };
        let options = request.options.unwrap_or_default();
        let who = caller.named(who, &options);
        let validation = validation(&options)?;
        let patch = Patch { kind: language, body: request.patch };
        let engine = &self.front.engine;
        if part == v1::Part::Scale {
            let written = engine.patch_scale(&who, kind, &key, &patch, validation, options.dry_run).await;
            return Answer::scale(&written.map_err(failed)?, Vec::new());
        }
        let part = part_of(part, kind.descriptor())?;
        let written = engine.patch(&who, kind, &key, part, &patch, validation, options.dry_run).await;
        Ok(Answer::written(&written.map_err(failed)?, Vec::new()))
    }

    /// Server-side apply.
    async fn apply(
        &self,
        who: Authorized,
        kind: KindRef,
        key: &Key,
        request: v1::PatchRequest,
    ) -> Result<Answer, Status> {
        let create = Attributes::resource("create", kind.descriptor(), &key.namespace, &key.name);
        let may_create = self.front.authorize(who.user(), &create).map(drop);
        let part = request.part();
        let options = request.options.unwrap_or_default();
        if options.field_manager.is_empty() {
            return Err(missing("options.field_manager"));
        }
        let who = who.with_manager(&options.field_manager);
        let (value, duplicates) = schema::parse_yaml(&request.patch).map_err(failed)?;
        let warnings = body::judge_applied(duplicates, validation(&options)?).map_err(failed)?;
        let config = Configuration { value, force: request.force, may_create };
        let engine = &self.front.engine;
        if part == v1::Part::Scale {
            let written = engine.apply_scale(&who, kind, key, &config, options.dry_run).await;
            return Answer::scale(&written.map_err(failed)?, warnings);
        }
        let part = part_of(part, kind.descriptor())?;
        let written = engine.apply(&who, kind, key, part, &config, options.dry_run).await;
        Ok(Answer::written(&written.map_err(failed)?, warnings))
    }

    pub(super) async fn delete_one(
        &self,
        caller: &Caller<'_>,
        request: v1::DeleteRequest,
    ) -> Result<Answer, Status> {
        let kind = kind_of(request.resource.as_ref())?;
        let key = key_of(request.key, kind.descriptor())?;
        let wanted = Attributes::resource("delete", kind.descriptor(), &key.namespace, &key.name);
        let (who, _seat) = self.admit(caller, &wanted).await?;
        let request = request.options.unwrap_or_default();
        let (options, precondition) = delete_options(&request);
        let deleted =
            self.front.engine.delete(&who, kind, &key, &options, &precondition, request.dry_run).await;
        Ok(Answer::shows(&deleted.map_err(failed)?.object))
    }
}
