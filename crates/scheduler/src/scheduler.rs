//! The loop around the planner: keeps the view, plans in batches, binds many pods in one call.
//!
//! One task owns the view and the waiting pods. A pod that was given a node is on the view from then
//! on, before the cluster confirms it; a refused binding takes it off again. What the task holds is
//! disposable: a new leader builds it from the cluster. It alone writes the condition PodScheduled.

use std::sync::Arc;

use balsa_client::{Changed, Client, Informer, Recorder, Subscription};
use balsa_model::kinds::pod;
use balsa_model::selector::Filter;
use balsa_model::{Failure, Kind, Reason};
use balsa_rt::{Clock, Scope, TaskKind};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::board::{Placement, plan};
use crate::needs::Needs;
use crate::preemption::preempt;
use crate::report::Reporter;
use crate::view::ClusterView;
use crate::waiting::Waiting;

/// The name that pods mean when they mean us.
const NAME: &str = "default-scheduler";
/// Pods planned, and bound, at once.
const BATCH: usize = 512;
/// Batches that are being bound at a time: while one is written the next is planned.
const IN_FLIGHT: usize = 2;

/// How a binding went.
struct Bound {
    pod: Arc<Needs>,
    node: String,
    result: Result<(), Failure>,
}

struct Scheduler {
    client: Client,
    reporter: Reporter,
    view: ClusterView,
    waiting: Waiting,
    in_flight: usize,
    results: mpsc::UnboundedSender<Vec<Bound>>,
}

/// What the loop hears.
struct Sources {
    pods: Subscription,
    nodes: Subscription,
    volumes: Subscription,
    claims: Subscription,
    classes: Subscription,
    namespaces: Subscription,
    budgets: Subscription,
    results: mpsc::UnboundedReceiver<Vec<Bound>>,
}

/// One thing that the loop has heard.
enum Heard {
    Pod(Changed),
    Node(Changed),
    Volume(Changed),
    Claim(Changed),
    Class(Changed),
    Namespace(Changed),
    Budget(Changed),
    Results(Vec<Bound>),
    Due,
}

/// Starts the scheduler; it stops when `scope` ends.
pub fn start(client: Client, clock: Clock, scope: &Scope) {
    let token = scope.token();
    scope.spawn(TaskKind::Controller, async move {
        let inner = Scope::under(&token);
        tokio::select! {
            () = token.cancelled() => {}
            () = run(client, clock, &inner) => {}
        }
    });
}

async fn subscribed<K: Kind>(client: &Client, scope: &Scope) -> (Informer, Subscription) {
    let informer = client.informer::<K>(Filter::everything(), scope);
    informer.synced().await;
    let subscription = informer.subscribe();
    (informer, subscription)
}

async fn run(client: Client, clock: Clock, scope: &Scope) {
    // Nodes and what is on them come before the first pod is placed.
    let (_nodes, nodes) = subscribed::<Node>(&client, scope).await;
    let (_volumes, volumes) = subscribed::<PersistentVolume>(&client, scope).await;
    let (_claims, claims) = subscribed::<PersistentVolumeClaim>(&client, scope).await;
    let (_classes, classes) = subscribed::<StorageClass>(&client, scope).await;
    let (_namespaces, namespaces) = subscribed::<Namespace>(&client, scope).await;
    let (_budgets, budgets) = subscribed::<PodDisruptionBudget>(&client, scope).await;
    let (_pods, pods) = subscribed::<Pod>(&client, scope).await;
    // One a binding under way.
    let (sender, results) = mpsc::unbounded_channel();
    let mut sources = Sources { pods, nodes, volumes, claims, classes, namespaces, budgets, results };
    let recorder = Recorder::new(client.clone(), NAME, clock.clone());
    let mut scheduler = Scheduler {
        reporter: Reporter::new(client.clone(), recorder, clock),
        client,
        view: ClusterView::default(),
        waiting: Waiting::default(),
        in_flight: 0,
        results: sender,
    };
    loop {
        let due = scheduler.waiting.next_due();
        let Some(heard) = sources.next(due).await else { return };
        scheduler.hear(heard);
        while let Some(heard) = sources.at_hand() {
            scheduler.hear(heard);
        }
        scheduler.work(scope);
    }
}

impl Sources {
    /// The next thing to hear; `None` when there will be none.
    async fn next(&mut self, due: Option<Instant>) -> Option<Heard> {
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            heard = self.nodes.recv() => heard.map(Heard::Node),
            heard = self.volumes.recv() => heard.map(Heard::Volume),
            heard = self.claims.recv() => heard.map(Heard::Claim),
            heard = self.classes.recv() => heard.map(Heard::Class),
            heard = self.namespaces.recv() => heard.map(Heard::Namespace),
            heard = self.budgets.recv() => heard.map(Heard::Budget),
            heard = self.results.recv() => heard.map(Heard::Results),
            heard = self.pods.recv() => heard.map(Heard::Pod),
            () = due => Some(Heard::Due),
        }
    }

    /// What is there without waiting.
    fn at_hand(&mut self) -> Option<Heard> {
        let node = self.nodes.try_recv().ok().map(Heard::Node);
        node.or_else(|| self.volumes.try_recv().ok().map(Heard::Volume))
            .or_else(|| self.claims.try_recv().ok().map(Heard::Claim))
            .or_else(|| self.classes.try_recv().ok().map(Heard::Class))
            .or_else(|| self.namespaces.try_recv().ok().map(Heard::Namespace))
            .or_else(|| self.budgets.try_recv().ok().map(Heard::Budget))
            .or_else(|| self.results.try_recv().ok().map(Heard::Results))
            .or_else(|| self.pods.try_recv().ok().map(Heard::Pod))
    }
}

/// A kind's name and new version, typed.
fn parts<K: Kind>(change: &Changed) -> Option<(String, Option<K>)> {
    let name = change.object()?.key().name.to_string();
    Some((name, change.new.as_ref().and_then(|new| new.to_typed::<K>())))
}

impl Scheduler {
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Pod(change) => self.on_pod(&change),
            Heard::Node(change) => self.on_node(&change),
            Heard::Volume(change) => {
                if let Some((name, volume)) = parts(&change) {
                    self.view.set_volume(&name, volume);
                    self.waiting.wake();
                }
            }
            Heard::Claim(change) => {
                let Some(object) = change.object() else { return };
                let claim = change.new.as_ref().and_then(|new| new.to_typed::<PersistentVolumeClaim>());
                self.view.set_claim(object.key(), claim);
                self.waiting.wake();
            }
            Heard::Class(change) => {
                if let Some((name, class)) = parts(&change) {
                    self.view.set_class(&name, class);
                    self.waiting.wake();
                }
            }
            Heard::Namespace(change) => {
                let Some(object) = change.object() else { return };
                let labels = change.new.as_ref().map(|new| new.meta().labels.clone().unwrap_or_default());
                self.view.set_namespace(&object.key().name, labels);
            }
            Heard::Budget(change) => {
                let Some(object) = change.object() else { return };
                let budget = change.new.as_ref().and_then(|new| new.typed::<PodDisruptionBudget>());
                self.view.set_budget(object.key(), budget.as_deref());
            }
            Heard::Results(results) => self.on_results(results),
            Heard::Due => {}
        }
    }

    fn on_node(&mut self, change: &Changed) {
        let Some(object) = change.object() else { return };
        let Some(node) = change.new.as_ref().and_then(|new| new.typed::<Node>()) else {
            return self.view.remove_node(&object.key().name);
        };
        let old = change.old.as_ref().and_then(|old| old.typed::<Node>());
        // Most changes of a node are its heartbeat, and change nothing here.
        let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
        let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
        let same = |old: &Node| {
            old.spec == node.spec
                && old.metadata.labels == node.metadata.labels
                && allocatable(old) == allocatable(&node)
        };
        let same = old.as_deref().is_some_and(same);
        if !same || old.is_some_and(|old| images(&old) != images(&node)) {
            self.view.set_node(&node);
        }
        if !same {
            self.waiting.wake();
        }
    }

    fn on_pod(&mut self, change: &Changed) {
        if let Some(old) =
            change.old.as_ref().filter(|old| change.new.as_ref().is_none_or(|new| new.uid() != old.uid()))
        {
            self.forget(old.key(), old.uid());
        }
        let Some(object) = &change.new else { return };
        let Some(pod) = object.typed::<Pod>() else { return };
        if pod::is_terminal(&pod) {
            return self.forget(object.key(), object.uid());
        }
        let old = change.old.as_ref().and_then(|old| old.typed::<Pod>());
        let same = old.is_some_and(|old| {
            old.metadata.uid == pod.metadata.uid
                && old.spec == pod.spec
                && old.metadata.labels == pod.metadata.labels
                && old.metadata.deletion_timestamp == pod.metadata.deletion_timestamp
                && is_too_large(&old) == is_too_large(&pod)
        });
        if same {
            return;
        }
        if let Some(node) = pod::node_name(&pod) {
            self.waiting.remove(object.key());
            self.view.forget_nomination(object.uid());
            self.view.place_pod(Arc::new(Needs::of(&pod)), node);
            // It may be the company that others wait for.
            self.waiting.wake();
        } else if pod::is_deleting(&pod) || pod::is_gated(&pod) || !is_ours(&pod) {
            self.waiting.remove(object.key());
            self.view.forget_nomination(object.uid());
        } else if !self.view.has_pod(object.uid()) {
            let needs = Arc::new(Needs::of(&pod));
            let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
            if let Some(node) = nominated.filter(|node| !node.is_empty()) {
                // What an earlier leader has begun.
                self.view.nominate(needs.clone(), node, &[]);
            }
            self.waiting.add(needs);
        }
    }

    fn forget(&mut self, key: &balsa_model::Key, uid: &str) {
        if self.waiting.has(key, uid) {
            self.waiting.remove(key);
        }
        self.view.forget_nomination(uid);
        if self.view.remove_pod(uid) {
            self.waiting.wake();
        }
    }

    fn on_results(&mut self, results: Vec<Bound>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for Bound { pod, node, result } in results {
            match result {
                Ok(()) => {
                    self.waiting.remove(&pod.key);
                    self.reporter.scheduled(&pod, &node);
                }
                Err(failure) => {
                    self.view.remove_pod(&pod.uid);
                    if failure.reason == Reason::NotFound {
                        self.waiting.remove(&pod.key);
                    } else {
                        tracing::debug!(pod = %pod.key, node, %failure, "not bound; will try again");
                        self.waiting.retry(&pod.key, Instant::now());
                    }
                }
            }
        }
    }

    /// Plans and binds as long as somebody waits whose turn it is.
    fn work(&mut self, scope: &Scope) {
        while self.in_flight < IN_FLIGHT {
            let now = Instant::now();
            let batch = self.waiting.take(now, BATCH);
            if batch.is_empty() {
                break;
            }
            let start = Instant::now();
            let decisions = plan(&self.view, &batch);
            metrics::histogram!("scheduler_scheduling_algorithm_duration_seconds").record(start.elapsed());
            let (mut bindings, mut failed) = (Vec::new(), Vec::new());
            for decision in decisions {
                match decision.outcome {
                    Ok(Placement { node, claims }) if claims.is_empty() => {
                        self.view.place_pod(decision.pod.clone(), &node);
                        bindings.push((decision.pod, node));
                    }
                    Ok(Placement { node, claims }) => {
                        // Its volumes come first; the claims wake it when they are bound.
                        self.waiting.failed(&decision.pod.key, "", now);
                        scope.spawn(TaskKind::Helper, select_node(self.client.clone(), claims, node));
                    }
                    Err(mut reasons) => {
                        if reasons.is_hopeful() && self.make_way(&decision.pod, scope) {
                            reasons.note_preemption();
                        }
                        let message = reasons.to_string();
                        if self.waiting.failed(&decision.pod.key, &message, now) {
                            failed.push((decision.pod, message));
                        }
                    }
                }
            }
            self.reporter.unschedulable(failed, scope);
            self.bind(bindings, scope);
        }
        metrics::gauge!("scheduler_pending_pods").set(self.waiting.len() as f64);
    }

    /// Has lighter pods make way for one that found no node; whether there are such.
    fn make_way(&mut self, pod: &Arc<Needs>, scope: &Scope) -> bool {
        let Some(preemption) = preempt(&self.view, pod) else { return false };
        metrics::counter!("scheduler_preemption_attempts_total").increment(1);
        metrics::histogram!("scheduler_preemption_victims").record(preemption.victims.len() as f64);
        self.view.nominate(pod.clone(), &preemption.node, &preemption.victims);
        self.reporter.preempt(pod, preemption, scope);
        true
    }

    fn bind(&mut self, bindings: Vec<(Arc<Needs>, String)>, scope: &Scope) {
        if bindings.is_empty() {
            return;
        }
        self.in_flight += 1;
        let (client, results) = (self.client.clone(), self.results.clone());
        scope.spawn(TaskKind::Helper, async move {
            let start = Instant::now();
            let asked = bindings.iter().map(|(pod, node)| (pod.key.clone(), pod.uid.clone(), node.clone()));
            let answers = client.backend().bind(asked.collect()).await;
            metrics::histogram!("balsa_scheduler_bind_duration_seconds").record(start.elapsed());
            let bound = bindings.into_iter().zip(answers);
            let bound = bound.map(|((pod, node), result)| Bound { pod, node, result });
            let _ = results.send(bound.collect());
        });
    }
}

/// Whether a pod wants more than its node can ever give, so that it has less than its spec says.
fn is_too_large(pod: &Pod) -> bool {
    pod::condition(pod, pod::PENDING).is_some_and(|why| why.reason.as_deref() == Some(pod::INFEASIBLE))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    name.is_empty() || name == NAME
}

/// Tells claims the node that their volumes are for.
async fn select_node(client: Client, claims: Vec<balsa_model::Key>, node: String) -> Result<(), Failure> {
    let api = client.api::<PersistentVolumeClaim>();
    for key in claims {
        api.modify(&key, balsa_model::strategy::Part::Main, |claim| {
            let annotations = claim.metadata.annotations.get_or_insert_default();
            let selected = crate::filters::volume_binding::SELECTED_NODE;
            if annotations.contains_key(selected) {
                return false;
            }
            annotations.insert(selected.to_owned(), node.clone());
            true
        })
        .await?;
    }
    Ok(())
}
