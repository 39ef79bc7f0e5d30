//! Flow schemas say whether the priority level that they name is missing, and those that every cluster must have
//! are made again when somebody has deleted them.
//!
//! Reads FlowSchemas and PriorityLevelConfigurations; writes the status of schemas, and creates `exempt` and
//! `catch-all` again. One key a schema; a second call changes nothing. That they are there at all is for the
//! server's first objects; servers follow these objects themselves.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, feed};
use balsa_model::kinds::flow_schema::{self, DANGLING};
use balsa_model::kinds::priority_level_configuration;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Reason};
use balsa_rt::{Clock, Scope};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::caches::{Caches, settle};

const UPDATED_BY_US: &str = "apf.kubernetes.io/autoupdate-spec";

struct Schemas {
    client: Client,
    schemas: Informer,
    levels: Informer,
    clock: Clock,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, clock: Clock, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    feed(&caches.flow_schemas, &queue, scope, |change| change.object().map(|object| object.key().clone()));
    let schemas = caches.flow_schemas.clone();
    feed(&caches.priority_levels, &queue, scope, move |change| {
        let Some(level) = change.object().map(|object| object.key().name.clone()) else { return Vec::new() };
        let of_level =
            schemas.list().into_iter().filter(|schema| schema.is(|schema| level_of(schema) == &*level));
        // One that must be there has the name of its level.
        of_level.map(|schema| schema.key().clone()).chain([Key::new("", level.to_string())]).collect()
    });
    let (schemas, levels) = (caches.flow_schemas.clone(), caches.priority_levels.clone());
    balsa_client::run(Arc::new(Schemas { client, schemas, levels, clock }), queue, 1, scope);
}

fn level_of(schema: &FlowSchema) -> &str {
    schema.spec.as_ref().map_or("", |spec| spec.priority_level_configuration.name.as_str())
}

/// What a schema says of its level.
fn dangling(level: &str, is_there: bool) -> FlowSchemaCondition {
    let (status, reason, what) = if is_there {
        ("False", "Found", "and it exists")
    } else {
        ("True", "NotFound", "but there is no such object")
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}");
    FlowSchemaCondition {
        type_: Some(DANGLING.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

#[async_trait]
impl Reconciler for Schemas {
    type Key = Key;

    fn name(&self) -> &'static str {
        "flow_schemas"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let name = &*key.name;
        if self.levels.get(key).is_none()
            && let Some(spec) = priority_level_configuration::mandatory(name)
        {
            let level =
                PriorityLevelConfiguration { metadata: kept(name), spec: Some(spec), ..Default::default() };
            self.create(&self.levels, &level).await?;
        }
        let Some(object) = self.schemas.get(key) else {
            if let Some(spec) = flow_schema::mandatory(name) {
                let schema = FlowSchema { metadata: kept(name), spec: Some(spec), ..Default::default() };
                self.create(&self.schemas, &schema).await?;
            }
            return Ok(Next::Wait);
        };
        let Some(present) = object.typed::<FlowSchema>() else { return Ok(Next::Wait) };
        let level = level_of(&present);
        let mut wanted = dangling(level, self.levels.get(&Key::new("", level)).is_some());
        let mut schema = FlowSchema::clone(&present);
        let conditions = schema.status.get_or_insert_default().conditions.get_or_insert_default();
        let told = conditions.iter().find(|condition| condition.type_ == wanted.type_);
        if let Some(told) = told {
            wanted.last_transition_time.clone_from(&told.last_transition_time);
            if *told == wanted {
                return Ok(Next::Wait);
            }
        }
        if told.is_none_or(|told| told.status != wanted.status) {
            wanted.last_transition_time = Some(Time(self.clock.now_seconds()));
        }
        conditions.retain(|condition| condition.type_ != wanted.type_);
        conditions.push(wanted);
        let written = self.client.api::<FlowSchema>().update(&schema, Part::Status).await?;
        settle(&self.schemas, written.revision()).await;
        Ok(Next::Wait)
    }
}

/// The metadata of an object that is kept as it must be.
fn kept(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some([(UPDATED_BY_US.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

impl Schemas {
    async fn create<K: Kind>(&self, cache: &Informer, object: &K) -> Result<(), Failure> {
        match self.client.api::<K>().create(object).await {
            Ok(written) => settle(cache, written.revision()).await,
            Err(failure) if failure.reason == Reason::AlreadyExists => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let told = |is_there| {
            let condition = dangling("mine", is_there);
            (condition.status.unwrap_or_default(), condition.message.unwrap_or_default())
        };
        let start = "This FlowSchema references the PriorityLevelConfiguration object named \"mine\"";
        assert_eq!(told(true), ("False".to_owned(), format!("{start} and it exists")));
        assert_eq!(told(false), ("True".to_owned(), format!("{start} but there is no such object")));
    }
}
