//! The controller itself: for every ConfigMap that is a site, a ConfigMap that is its page.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::watcher;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::election::Election;

pub(super) const NAMESPACE: &str = "default";
/// The label that says what a ConfigMap is: `site` or `page`.
pub(super) const KIND: &str = "example.test/kind";
const FINALIZER: &str = "example.test/cleanup";
const MANAGER: &str = "sites";

/// What the replicas did, in the world outside the cluster.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    leaders: Vec<(String, i32)>,
    cleaned: BTreeSet<String>,
}

impl Ledger {
    /// Who led, in which term.
    pub(super) fn leaders(&self) -> Vec<(String, i32)> {
        self.0.lock().unwrap().leaders.clone()
    }

    /// The sites that were cleaned up.
    pub(super) fn cleaned(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().cleaned.clone()
    }
}

/// One of several processes that do the same.
pub(super) struct Replica {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) ledger: Ledger,
}

type Trouble = finalizer::Error<kube::Error>;

/// What a reconciliation has at hand.
struct Context {
    client: Client,
    recorder: Recorder,
    term: i32,
    ledger: Ledger,
}

impl Replica {
    /// Works whenever it leads, for ever.
    pub(super) async fn run(self) {
        let mut election = Election::new(self.client.clone(), NAMESPACE, &self.name);
        loop {
            let term = election.win().await;
            self.ledger.0.lock().unwrap().leaders.push((self.name.clone(), term));
            tokio::select! {
                () = election.keep() => {}
                () = self.lead(term) => {}
            }
        }
    }

    async fn lead(&self, term: i32) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let of = |kind: &str| watcher::Config::default().labels(&format!("{KIND}={kind}"));
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(self.name.clone()) };
        let context = Context {
            client: self.client.clone(),
            recorder: Recorder::new(self.client.clone(), reporter),
            term,
            ledger: self.ledger.clone(),
        };
        Controller::new(api.clone(), of("site"))
            .owns(api, of("page"))
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(500)), Arc::new(context))
            .for_each(|_| std::future::ready(()))
            .await;
    }
}

async fn reconcile(site: Arc<ConfigMap>, context: Arc<Context>) -> Result<Action, Trouble> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), NAMESPACE);
    finalizer(&api.clone(), FINALIZER, site, |event| async move {
        match event {
            finalizer::Event::Apply(site) => render(&api, &site, &context).await,
            finalizer::Event::Cleanup(site) => {
                context.ledger.0.lock().unwrap().cleaned.insert(site.name_any());
                Ok(Action::await_change())
            }
        }
    })
    .await
}

/// Tells that there is something new, and applies the page. In this order: of what is there somebody was told.
async fn render(api: &Api<ConfigMap>, site: &ConfigMap, context: &Context) -> kube::Result<Action> {
    let name = format!("page-{}", site.name_any());
    let text = site.data.as_ref().and_then(|data| data.get("text").cloned()).unwrap_or_default();
    let before = api.get_opt(&name).await?;
    // Who made the page this text stays its author: the next leader does not write what is there already.
    if before.as_ref().and_then(|page| page.data.as_ref()).and_then(|data| data.get("text")) == Some(&text) {
        return Ok(Action::await_change());
    }
    let page = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {KIND: "page"},
            "ownerReferences": [site.controller_owner_ref(&())],
        },
        "data": {"text": text, "term": context.term.to_string()},
    });
    tell(site, &format!("{name} says {text}"), context).await?;
    api.patch(&name, &PatchParams::apply(MANAGER), &Patch::Apply(page)).await?;
    Ok(Action::await_change())
}

/// Publishes an event about a site.
async fn tell(site: &ConfigMap, message: &str, context: &Context) -> kube::Result<()> {
    let event = Event {
        type_: EventType::Normal,
        reason: "Rendered".to_owned(),
        note: Some(message.to_owned()),
        action: "Render".to_owned(),
        secondary: None,
    };
    context.recorder.publish(&event, &site.object_ref(&())).await
}
