//! What StatefulSets and DaemonSets remember of their templates: ControllerRevisions.
//!
//! A revision holds a patch that puts its template back; that is what `kubectl rollout undo` sends. Two
//! versions of an owner with the same template share one revision, which takes the latest number again.

use std::sync::Arc;

use balsa_client::{Client, Informer};
use balsa_model::kinds::pod_spec::template;
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Object, Reason};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::caches::settle;
use crate::owner::{claim, controller_reference, controller_uid, key_of, settle_claims};

/// The label that tells pods and revisions of one template from those of another.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// A kind that remembers its templates.
pub(crate) trait Revisioned: Kind {
    /// The label of a revision that carries its hash.
    const REVISION_LABEL: &'static str;
    /// Which pods and revisions are its own.
    fn selector(&self) -> LabelSelector;
    /// Its present template.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How often a hash was taken by another template.
    fn collisions(&self) -> i32;
    /// Counts one more.
    fn collide(&mut self);
    /// How many revisions that no pod uses are kept.
    fn history_limit(&self) -> usize;
}

/// All revisions of an owner, the oldest first.
pub(crate) struct History {
    /// The revision of the present template.
    pub(crate) update: ControllerRevision,
    /// All, the present one included, by number.
    pub(crate) all: Vec<ControllerRevision>,
}

impl History {
    /// The revision of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&ControllerRevision> {
        self.all.iter().find(|revision| revision.metadata.name.as_deref() == Some(name))
    }
}

/// The hash that a revision carries.
pub(crate) fn hash_of<O: Revisioned>(revision: &ControllerRevision) -> String {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(O::REVISION_LABEL)).cloned().unwrap_or_default()
}

/// The template that a revision remembers.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    template::from_value(template).ok()
}

fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = template::to_value(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// FNV-1a over the patch and the count of collisions, in letters that are safe in names.
fn hash(data: &Value, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = serde_json::to_vec(data).unwrap_or_default();
    if collisions > 0 {
        bytes.extend(collisions.to_le_bytes());
    }
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Claims the revisions of `owner` and makes sure that its present template has one, with the highest
/// number.
pub(crate) async fn settle_history<O: Revisioned>(
    client: &Client,
    cache: &Informer,
    owner: &O,
) -> Result<History, Failure> {
    let namespace = owner.metadata().namespace.as_deref().unwrap_or_default();
    let claims = claim(owner.metadata(), &owner.selector(), cache.list_in(namespace));
    let owned: Vec<Arc<Object>> = settle_claims::<O, ControllerRevision>(client, owner, claims).await?;
    let mut all: Vec<ControllerRevision> =
        owned.iter().filter_map(|object| object.to_typed::<ControllerRevision>()).collect();
    all.sort_by_key(|revision| {
        (revision.revision, revision.metadata.creation_timestamp.as_ref().map(|t| t.0))
    });
    let template = owner.template().cloned().unwrap_or_default();
    let data = data_of(&template);
    let highest = all.last().map_or(0, |revision| revision.revision);
    let same = all.iter().rposition(|revision| revision.data.as_ref().is_some_and(|has| has.0 == data));
    let update = match same {
        Some(place) if all[place].revision == highest => all[place].clone(),
        Some(place) => {
            let mut renewed = all.remove(place);
            renewed.revision = highest + 1;
            let written = client.api::<ControllerRevision>().update(&renewed, Part::Main).await?;
            settle(cache, written.revision()).await;
            let renewed = written.to_typed::<ControllerRevision>().unwrap_or(renewed);
            all.push(renewed.clone());
            renewed
        }
        None => {
            let created = create(client, cache, owner, &template, data, highest + 1).await?;
            all.push(created.clone());
            created
        }
    };
    Ok(History { update, all })
}

async fn create<O: Revisioned>(
    client: &Client,
    cache: &Informer,
    owner: &O,
    template: &PodTemplateSpec,
    data: Value,
    number: i64,
) -> Result<ControllerRevision, Failure> {
    let hash = hash(&data, owner.collisions());
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(O::REVISION_LABEL.to_owned(), hash.clone());
    let meta = owner.metadata();
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone().map(|mut annotations| {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                annotations
            }),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    };
    let api = client.api::<ControllerRevision>();
    match api.create(&revision).await {
        Ok(created) => {
            settle(cache, created.revision()).await;
            Ok(created.to_typed::<ControllerRevision>().unwrap_or(revision))
        }
        Err(failure) if failure.reason == Reason::AlreadyExists => {
            let found = api.get(&key_of(&revision.metadata)).await?;
            let same = found.typed::<ControllerRevision>().filter(|found| {
                found.data == revision.data
                    && controller_uid(&found.metadata) == meta.uid.as_deref().unwrap_or_default()
            });
            if let Some(same) = same {
                settle(cache, found.revision()).await;
                return Ok(Arc::unwrap_or_clone(same));
            }
            // Another template has the same hash: the next run counts one more and gets another.
            let mut changed = owner.clone();
            changed.collide();
            client.api::<O>().update(&changed, Part::Status).await?;
            Err(Failure::conflict(
                &ControllerRevision::DESCRIPTOR,
                &found.key().name,
                "the template's hash is taken",
            ))
        }
        Err(failure) => Err(failure),
    }
}

/// Deletes the oldest revisions beyond the owner's limit that are not `in_use`.
pub(crate) async fn forget_old<O: Revisioned>(
    client: &Client,
    owner: &O,
    history: &History,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Failure> {
    let spare: Vec<&ControllerRevision> = history
        .all
        .iter()
        .filter(|revision| revision.metadata.name != history.update.metadata.name && !in_use(revision))
        .collect();
    let surplus = spare.len().saturating_sub(owner.history_limit());
    for revision in spare.into_iter().take(surplus) {
        let key: Key = key_of(&revision.metadata);
        let uid = revision.metadata.uid.as_deref().unwrap_or_default();
        client.api::<ControllerRevision>().delete_in_background(&key, uid).await?;
    }
    Ok(())
}
