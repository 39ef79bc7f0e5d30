//! Which pods this node shall have: from the server, or, until one answers, from the cache; and
//! what runs here that nobody wants any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_client::{Changed, Informer};
use balsa_model::Object;
use balsa_model::kinds::pod::host_ports;
use balsa_rt::{Backoff, CancellationToken, Scope, TaskKind};
use balsa_runtime::{ContainerEventKind, ContainerSummary, ListFilter, labels};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{mpsc, watch};

use crate::context::NodeContext;
use crate::pod::actor::{self, Desired, PodHandle, Running};
use crate::pod::cache::PodCache;
use crate::pod::observed::PutOut;

/// How long the server is waited for before the cache is used.
const SERVER_WAIT: Duration = Duration::from_secs(3);

/// The pods of this node.
pub(crate) struct Pods {
    node: Arc<NodeContext>,
    cache: PodCache,
    token: CancellationToken,
    actors: Mutex<HashMap<String, PodHandle>>,
    gone: mpsc::UnboundedSender<String>,
    /// Counts changes of pods with host ports.
    host_ports: watch::Sender<u64>,
}

impl Pods {
    /// Starts to follow the server's wishes and the runtime's events.
    pub(crate) fn start(
        node: Arc<NodeContext>,
        informer: Informer,
        objects_changed: mpsc::UnboundedReceiver<String>,
        scope: &Scope,
    ) -> Arc<Self> {
        // Each pod of the node ends once.
        let (gone, ended) = mpsc::unbounded_channel();
        let cache = PodCache::new(node.config.data_dir.join("pod-cache"));
        let (token, actors, host_ports) = (scope.token(), Mutex::default(), watch::Sender::new(0));
        let pods = Arc::new(Self { node, cache, token, actors, gone, host_ports });
        let token = scope.token();
        let this = pods.clone();
        scope.spawn(TaskKind::Agent, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = this.follow(informer, objects_changed, ended) => {}
            }
        });
        let (this, token) = (pods.clone(), scope.token());
        scope.spawn(TaskKind::Agent, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = this.listen() => {}
            }
        });
        pods
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, PodHandle>> {
        self.actors.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a pod is here.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// What is wanted and what runs of the pod of that name.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: &str) -> Option<(Arc<Pod>, Running)> {
        let actors = self.lock();
        let named = |handle: &&PodHandle| {
            let meta = handle.desired().pod.metadata.clone();
            meta.namespace.as_deref() == Some(namespace)
                && meta.name.as_deref() == Some(name)
                && (uid.is_empty() || meta.uid.as_deref() == Some(uid))
        };
        let handle = actors.values().find(named)?;
        Some((handle.desired().pod, handle.running.borrow().clone()))
    }

    /// Every pod that is wanted here.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        let all = self.lock();
        let wanted = all.values().map(PodHandle::desired).filter(|desired| !desired.orphaned);
        wanted.map(|desired| desired.pod).collect()
    }

    /// Every pod that is wanted here, and what runs of it.
    pub(crate) fn all_running(&self) -> Vec<(Arc<Pod>, Running)> {
        let all = self.lock();
        let wanted = all.values().filter(|handle| !handle.desired().orphaned);
        wanted.map(|handle| (handle.desired().pod, handle.running.borrow().clone())).collect()
    }

    /// Puts a pod out for a reason that its status will tell; false when that is under way already.
    pub(crate) fn evict(&self, uid: &str, why: &str) -> bool {
        self.lock().get(uid).is_some_and(|handle| handle.put_out(PutOut::evicted(why)))
    }

    /// Changes when a pod with host ports does.
    pub(crate) fn host_ports_changed(&self) -> watch::Receiver<u64> {
        self.host_ports.subscribe()
    }

    /// How many pods and containers run.
    pub(crate) fn running(&self) -> (usize, usize) {
        let actors = self.lock();
        let running = actors.values().map(|handle| handle.running.borrow());
        running.fold((0, 0), |(pods, containers), now| {
            (pods + usize::from(now.sandbox), containers + now.containers)
        })
    }

    async fn follow(
        &self,
        informer: Informer,
        mut objects_changed: mpsc::UnboundedReceiver<String>,
        mut ended: mpsc::UnboundedReceiver<String>,
    ) {
        let mut changes = informer.subscribe();
        let admission = &self.node.admission;
        let (mut room, mut node_changes) = (admission.room(), admission.node_changes());
        admission.remember(self.running_pods().await);
        let server = async { tokio::join!(informer.synced(), admission.knows_the_node()) };
        let mut synced = tokio::time::timeout(SERVER_WAIT, server).await.is_ok();
        if !synced {
            tracing::warn!("no server answers; going on with the pods that are known");
            let mut known = self.cache.load();
            // Those that ran have their place; whoever had not begun comes after them.
            known.sort_by_key(|pod| !self.node.admission.was_taken_up(pod));
            for pod in known {
                self.want(Arc::new(pod)).await;
            }
        }
        let mut swept = false;
        loop {
            if synced && !swept && changes.is_empty() {
                swept = self.sweep(&informer).await;
            }
            let wait = if swept { Duration::from_secs(300) } else { Duration::from_secs(1) };
            tokio::select! {
                changed = changes.recv() => match changed {
                    Some(changed) => self.on_changed(&changed, &informer).await,
                    None => return,
                },
                Some(uid) = objects_changed.recv() => self.poke(&uid),
                Some(uid) = ended.recv() => self.on_ended(&uid, &informer),
                Ok(()) = room.changed() => self.fit_again(),
                changed = node_changes.recv() => match changed {
                    Some(_) => self.fit_again(),
                    None => return,
                },
                () = informer.synced(), if !synced => synced = true,
                () = tokio::time::sleep(wait) => swept = false,
            }
        }
    }

    async fn on_changed(&self, changed: &Changed, informer: &Informer) {
        let (old, new) = (changed.old.as_ref(), changed.new.as_ref());
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.uid() != old.uid())) {
            self.unwant(old.uid());
        }
        let Some(object) = new else { return };
        match object.typed::<Pod>() {
            Some(pod) => {
                if old.is_none_or(|old| differs(old, object)) {
                    self.cache.keep(object.uid(), object.bytes());
                }
                if !self.has(object.uid()) {
                    self.adopt(informer);
                }
                self.want(pod).await;
            }
            None => tracing::error!(pod = %object.key(), "pod does not decode"),
        }
    }

    /// After a start pods come in any order: those that were taken up before keep their place.
    fn adopt(&self, informer: &Informer) {
        let (pods, admission) = (informer.list(), &self.node.admission);
        let known = pods.iter().filter_map(|object| object.typed::<Pod>());
        known.filter(|pod| admission.was_taken_up(pod)).for_each(|pod| admission.adopt(&pod));
    }

    async fn want(&self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let refused = if self.has(&uid) { None } else { self.refused(&pod).await };
        self.keep_actor(uid, pod.clone(), refused);
        self.tell_host_ports(&pod);
    }

    /// Something is new about a pod: whoever keeps the rules for host ports looks again, if it has any.
    fn tell_host_ports(&self, pod: &Pod) {
        if !host_ports(pod).is_empty() {
            self.host_ports.send_modify(|count| *count += 1);
        }
    }

    fn keep_actor(&self, uid: String, pod: Arc<Pod>, refused: Option<PutOut>) {
        let mut actors = self.lock();
        let (pod, pending) = self.node.admission.fit(pod);
        let desired = Desired { pod, pending, orphaned: false };
        match actors.get(&uid) {
            Some(handle) => handle.update(desired),
            None => {
                actors.insert(uid, self.spawn(desired, refused));
            }
        }
    }

    /// There may be more room: who waits for other sizes is looked at again, the one that came first before all.
    fn fit_again(&self) {
        let actors = self.lock();
        let mut waiting: Vec<(&PodHandle, Arc<Pod>)> =
            actors.values().filter_map(|handle| Some((handle, handle.desired().pending?.wanted))).collect();
        waiting.sort_by_key(|(_, pod)| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, pod.metadata.uid.clone())
        });
        for (handle, wanted) in waiting {
            let (pod, pending) = self.node.admission.fit(wanted);
            handle.update(Desired { pod, pending, orphaned: handle.desired().orphaned });
        }
    }

    fn spawn(&self, desired: Desired, refused: Option<PutOut>) -> PodHandle {
        actor::spawn(self.node.clone(), desired, refused, self.token.clone(), self.gone.clone())
    }

    /// Why a pod that is new here cannot be, if so.
    async fn refused(&self, pod: &Pod) -> Option<PutOut> {
        let refused = self.node.admission.admit(pod, &*self.node.runtime).await.err()?;
        self.node.event(pod, None, "Warning", &refused.reason, refused.why.clone());
        Some(refused)
    }

    /// The server has the pod no more. What is left of it ends, and keeps its place from nobody meanwhile: a
    /// successor would be refused for good.
    fn unwant(&self, uid: &str) {
        self.cache.forget(uid);
        self.node.board.forget(uid);
        self.node.admission.forget(uid);
        if let Some(handle) = self.lock().get(uid) {
            let desired = handle.desired();
            handle.update(Desired { orphaned: true, ..desired.clone() });
            self.tell_host_ports(&desired.pod);
        }
    }

    fn poke(&self, uid: &str) {
        if let Some(handle) = self.lock().get(uid) {
            handle.poke();
        }
    }

    /// Nothing of the pod is left. While the server still shows it, the last status waits to be written.
    fn on_ended(&self, uid: &str, informer: &Informer) {
        let was = self.lock().remove(uid);
        if let Some(was) = was {
            self.tell_host_ports(&was.desired().pod);
        }
        self.cache.forget(uid);
        if !informer.list().iter().any(|object| object.uid() == uid) {
            self.node.board.forget(uid);
            self.node.admission.forget(uid);
        }
    }

    /// What the runtime has of this node.
    async fn containers(&self) -> Result<Vec<ContainerSummary>, balsa_runtime::Error> {
        let filter = ListFilter::label(labels::NODE, &self.node.config.node_name)
            .and(labels::CLUSTER, &self.node.config.cluster);
        self.node.runtime.list(&filter).await
    }

    /// The pods of which the runtime has something.
    async fn running_pods(&self) -> HashSet<String> {
        let containers = self.containers().await.unwrap_or_default().into_iter();
        containers.filter_map(|mut container| container.labels.remove(labels::POD_UID)).collect()
    }

    /// Ends what runs here, or is kept here, of pods that nobody wants. True when it was carried out.
    async fn sweep(&self, informer: &Informer) -> bool {
        let wanted: HashSet<String> = informer.list().iter().map(|object| object.uid().to_owned()).collect();
        let stale: Vec<String> = self.lock().keys().filter(|uid| !wanted.contains(*uid)).cloned().collect();
        stale.iter().for_each(|uid| self.unwant(uid));
        let Ok(containers) = self.containers().await else { return false };
        let mut left: BTreeMap<String, Pod> = BTreeMap::new();
        for container in containers {
            let Some(uid) = container.labels.get(labels::POD_UID) else { continue };
            left.entry(uid.clone()).or_insert_with(|| pod_of_labels(&container.labels));
        }
        let directories =
            std::fs::read_dir(self.node.config.data_dir.join("pods")).into_iter().flatten().flatten();
        let directories = directories.filter_map(|entry| entry.file_name().into_string().ok());
        for uid in directories.chain(self.node.network.attached().await) {
            let meta = ObjectMeta { uid: Some(uid.clone()), ..ObjectMeta::default() };
            left.entry(uid).or_insert_with(|| Pod { metadata: meta, ..Pod::default() });
        }
        for (uid, pod) in left {
            if !wanted.contains(&uid) && !self.has(&uid) {
                tracing::info!(uid, "taking away what is left of a pod that is gone");
                let desired = Desired { pod: Arc::new(pod), pending: None, orphaned: true };
                let handle = self.spawn(desired, None);
                self.lock().insert(uid, handle);
            }
        }
        true
    }

    /// Hears from the runtime when containers end, and asks for the pod to be looked at.
    async fn listen(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let filter = [
            (labels::NODE.to_owned(), self.node.config.node_name.clone()),
            (labels::CLUSTER.to_owned(), self.node.config.cluster.clone()),
        ];
        loop {
            match self.node.runtime.events(&filter, None).await {
                Ok(mut events) => {
                    // What happened while nobody listened is found by looking.
                    self.lock().values().for_each(PodHandle::poke);
                    while let Some(Ok(event)) = events.next().await {
                        backoff.reset();
                        let ours = matches!(
                            event.kind,
                            ContainerEventKind::Died { .. }
                                | ContainerEventKind::Oom
                                | ContainerEventKind::Destroyed
                        );
                        if let Some(uid) = event.labels.get(labels::POD_UID).filter(|_| ours) {
                            self.poke(uid);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "runtime tells no events; will ask again"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}

/// More than the status has changed: statuses are our own and need not be kept.
fn differs(old: &Object, new: &Object) -> bool {
    let (old, new) = (old.typed::<Pod>(), new.typed::<Pod>());
    let key = |pod: &Pod| (pod.spec.clone(), pod.metadata.deletion_timestamp.clone(), container_ids(pod));
    match (old, new) {
        (Some(old), Some(new)) => key(&old) != key(&new),
        _ => true,
    }
}

/// Ids and readiness are what an agent that starts without a server takes over.
fn container_ids(pod: &Pod) -> Vec<(Option<String>, bool)> {
    let statuses =
        pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|status| (status.container_id.clone(), status.ready)).collect()
}

/// As much of a pod as is needed to end it.
fn pod_of_labels(all: &BTreeMap<String, String>) -> Pod {
    let label = |name: &str| all.get(name).cloned();
    let grace = label(labels::GRACE_PERIOD).and_then(|grace| grace.parse().ok());
    Pod {
        metadata: ObjectMeta {
            name: label(labels::POD_NAME),
            namespace: label(labels::POD_NAMESPACE),
            uid: label(labels::POD_UID),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { termination_grace_period_seconds: grace, ..PodSpec::default() }),
        status: None,
    }
}
