//! Who gets in. Pods that the scheduler sends here fit; one that names its node itself nobody has looked at, so
//! the node does, once, as a kubelet does: for pods, processors, memory and whatever else there is a number of; for
//! labels; for taints that put pods out; for ports of the machine. Who is refused is Failed, and says why.
//!
//! Who has begun here is never judged again, whatever has changed about the node meanwhile: it is known by its
//! status, or by what runs. Only when its containers are to have other sizes it is asked whether there is room for
//! them; until there is, the pod keeps those that it has.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use balsa_client::{Client, Informer, Subscription};
use balsa_model::Key;
use balsa_model::fits::{self, Room, Shortage};
use balsa_model::kinds::node;
use balsa_model::kinds::pod::{
    Requests, Sizes, given_sizes, is_active, is_extended_resource, is_terminal, resource_requests,
    wanted_sizes, with_sizes,
};
use balsa_runtime::Runtime;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;

use crate::config::AgentConfig;
use crate::node::facts::Machine;
use crate::pod::host_ports::HostPorts;
use crate::pod::observed::PutOut;
use crate::pod::resize::{self, Pending};

/// How long the server may take to tell the node as it is now.
const ASK: Duration = Duration::from_secs(3);

/// What the pods that are here have of the node, by their UIDs.
type Taken = HashMap<String, Place>;

/// What a pod has of the node.
struct Place {
    requests: Requests,
    sizes: Sizes,
}

impl Place {
    /// With these sizes.
    fn of(pod: &Pod, sizes: Sizes) -> Self {
        let requests = requests(&with_sizes(pod, &sizes));
        Self { requests, sizes }
    }
}

/// Which pods get in.
pub(crate) struct Admission {
    node_name: String,
    client: Client,
    /// The Node object.
    node: Informer,
    /// What the machine has, until the object says it.
    own: Requests,
    host_ports: HostPorts,
    /// Pods of which something ran before this process began.
    ran: OnceLock<HashSet<String>>,
    taken: Mutex<Taken>,
    /// Changes when a pod has less than before.
    room: watch::Sender<u64>,
}

impl Admission {
    pub(crate) fn new(
        config: &AgentConfig,
        client: &Client,
        node: Informer,
        machine: &Machine,
        host_ports: HostPorts,
    ) -> Self {
        host_ports.share(config);
        Self {
            node_name: config.node_name.clone(),
            client: client.clone(),
            node,
            own: Requests::of(&machine.capacity(config)),
            host_ports,
            ran: OnceLock::new(),
            taken: Mutex::default(),
            room: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells the pods of which something runs already.
    pub(crate) fn remember(&self, ran: HashSet<String>) {
        // The first stays: there is one start.
        let _ = self.ran.set(ran);
    }

    /// Waits until the server has told the node.
    pub(crate) async fn knows_the_node(&self) {
        self.node.synced().await;
    }

    /// An agent of this node has begun with the pod already, and it is not over.
    pub(crate) fn was_taken_up(&self, pod: &Pod) -> bool {
        let told = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let ran = || self.ran.get().is_some_and(|ran| ran.contains(uid(pod)));
        (told || ran()) && !is_terminal(pod)
    }

    /// Gives a pod the place that it has already.
    pub(crate) fn adopt(&self, pod: &Pod) {
        if self.host_ports.is_over(uid(pod)) {
            return;
        }
        self.host_ports.adopt(pod);
        self.lock().entry(uid(pod).to_owned()).or_insert_with(|| Place::of(pod, given_sizes(pod)));
    }

    /// Gives a pod that is new here its place, or tells why it has none.
    pub(crate) async fn admit(&self, pod: &Pod, runtime: &dyn Runtime) -> Result<(), PutOut> {
        if self.was_taken_up(pod) {
            self.adopt(pod);
            return Ok(());
        }
        if is_active(pod) {
            self.judge(pod).await?;
            self.host_ports.look_around(pod, runtime).await?;
        }
        self.host_ports.claim(pod)?;
        if !is_terminal(pod) && !self.host_ports.is_over(uid(pod)) {
            self.lock().insert(uid(pod).to_owned(), Place::of(pod, wanted_sizes(pod)));
        }
        Ok(())
    }

    /// A pod that is here, or comes: as it is to be worked on, with the sizes that there is room for; and those
    /// that it wants otherwise.
    pub(crate) fn fit(&self, pod: Arc<Pod>) -> (Arc<Pod>, Option<Pending>) {
        if is_terminal(&pod) {
            self.release(uid(&pod));
            return (pod, None);
        }
        let wanted = wanted_sizes(&pod);
        let (capacity, mut taken) = (self.capacity(), self.lock());
        let used = used(taken.iter().filter(|(other, _)| *other != uid(&pod)).map(|(_, place)| place));
        let Some(place) = taken.get_mut(uid(&pod)).filter(|place| place.sizes != wanted) else {
            return (pod, None);
        };
        let asked = requests(&pod);
        if let Some((reason, message)) = resize::refused(&asked, &place.requests, &capacity, &used) {
            let given = Arc::new(with_sizes(&pod, &place.sizes));
            return (given, Some(Pending { wanted: pod, reason, message }));
        }
        *place = Place { requests: asked, sizes: wanted };
        self.room.send_modify(|count| *count += 1);
        (pod, None)
    }

    /// Changes when there may be more room than before.
    pub(crate) fn room(&self) -> watch::Receiver<u64> {
        self.room.subscribe()
    }

    /// The pod is over, and needs its place no more.
    pub(crate) fn release(&self, uid: &str) {
        self.host_ports.release(uid);
        self.leave(uid);
    }

    /// The server has the pod no more: it blocks nobody, though it may still be on its way out.
    pub(crate) fn forget(&self, uid: &str) {
        self.host_ports.forget(uid);
        self.leave(uid);
    }

    fn leave(&self, uid: &str) {
        if self.lock().remove(uid).is_some() {
            self.room.send_modify(|count| *count += 1);
        }
    }

    /// What there is for pods, as far as it is known.
    fn capacity(&self) -> Requests {
        let known = self.node.get(&Key::new("", self.node_name.as_str())).and_then(|node| node.typed());
        capacity_of(known.as_deref(), &self.own)
    }

    /// The node as the server tells it, changed.
    pub(crate) fn node_changes(&self) -> Subscription {
        self.node.subscribe()
    }

    async fn judge(&self, pod: &Pod) -> Result<(), PutOut> {
        let key = Key::new("", self.node_name.as_str());
        let known = self.node.get(&key).and_then(|node| node.typed());
        let Err(refused) = judge(pod, known.as_deref(), &self.own, &self.lock()) else { return Ok(()) };
        // The node may have changed, and word of it come later than the pod.
        let api = self.client.api::<Node>();
        match tokio::time::timeout(ASK, api.find(&key)).await {
            Ok(Ok(node)) => judge(pod, node.as_ref(), &self.own, &self.lock()),
            _ => Err(refused),
        }
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn requests(pod: &Pod) -> Requests {
    pod.spec.as_ref().map(resource_requests).unwrap_or_default()
}

/// Whether a node has a place for a pod beside those that are there. While nobody has told the node, nothing
/// is held against the pod but what the machine itself lacks.
fn judge(pod: &Pod, node: Option<&Node>, own: &Requests, taken: &Taken) -> Result<(), PutOut> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != std::env::consts::OS) {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(PutOut::refused("PodOSNotSupported", why));
    }
    let mut capacity = capacity_of(node, own);
    let max_pods = fits::max_pods(&mut capacity);
    let mut asked = requests(pod);
    // A device that no node has may be one of the cluster: whoever sent the pod here knows.
    asked.other.retain(|name, _| !is_extended_resource(name) || capacity.other.contains_key(name));
    let used = used(taken.values());
    let pods = (i64::try_from(taken.len()).unwrap_or(i64::MAX), max_pods);
    let short = fits::shortages(&asked, Room { pods, capacity: &capacity, used: &used });
    if let Some(short) = short.into_iter().next() {
        return Err(out_of(&short));
    }
    let Some(node) = node else { return Ok(()) };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if !fits::is_selected(spec.node_selector.as_ref(), fits::required_nodes(spec), name, &labels) {
        return Err(failed("NodeAffinity", fits::UNSELECTED));
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    // Others keep pods from being sent here, and put nobody out.
    match fits::untolerated(node::taints(node), tolerations, &["NoExecute"]).next() {
        Some(_) => Err(failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")),
        None => Ok(()),
    }
}

/// What a node has for pods, as far as somebody has told it.
fn capacity_of(node: Option<&Node>, own: &Requests) -> Requests {
    let told = node.filter(|node| node.status.as_ref().is_some_and(|status| status.allocatable.is_some()));
    told.map_or_else(|| own.clone(), node::allocatable)
}

fn used<'a>(places: impl Iterator<Item = &'a Place>) -> Requests {
    let mut used = Requests::default();
    places.for_each(|place| used.add(&place.requests));
    used
}

/// What is said where there is too little just now.
pub(super) fn not_enough(short: &Shortage) -> String {
    let Shortage { resource, requested, used, capacity } = short;
    format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    )
}

fn out_of(short: &Shortage) -> PutOut {
    PutOut::refused(format!("OutOf{}", short.resource), not_enough(short))
}

fn failed(predicate: &'static str, why: &str) -> PutOut {
    PutOut::refused(predicate, format!("Predicate {predicate} failed: {why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap()
    }

    fn wants(requests: &Value) -> Pod {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
    }

    fn node() -> Node {
        from_value(json!({
            "metadata": {"name": "here", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1"}},
        }))
        .unwrap()
    }

    fn taken(pods: &[Value]) -> Taken {
        let place = |asks: &Value| Place::of(&wants(asks), wanted_sizes(&wants(asks)));
        pods.iter().enumerate().map(|(at, asks)| (at.to_string(), place(asks))).collect()
    }

    /// Reason and message, or nothing.
    fn judged(pod: &Pod, node: Option<&Node>, taken: &Taken) -> Option<(String, String)> {
        let own = Requests { cpu_milli: 1000, memory: 1 << 20, ..Requests::default() };
        let refused = judge(pod, node, &own, taken).err()?;
        Some((refused.reason.to_string(), refused.message().into_owned()))
    }

    #[test]
    fn who_asks_for_more_than_is_left_is_told_by_how_much() {
        let others = taken(&[json!({"cpu": "500m"}), json!({"memory": "1Gi"})]);
        for (asks, reason, amounts) in [
            (json!({"cpu": "99"}), "OutOfcpu", "cpu, requested: 99000, used: 500, capacity: 2000"),
            (json!({"cpu": "1501m"}), "OutOfcpu", "cpu, requested: 1501, used: 500, capacity: 2000"),
            (
                json!({"memory": "1"}),
                "OutOfmemory",
                "memory, requested: 1, used: 1073741824, capacity: 1073741824",
            ),
            (
                json!({"example.com/gpu": "2"}),
                "OutOfexample.com/gpu",
                "example.com/gpu, requested: 2, used: 0, capacity: 1",
            ),
        ] {
            let message = format!("Pod was rejected: Node didn't have enough resource: {amounts}");
            let expected = Some((reason.to_owned(), message));
            assert_eq!(judged(&wants(&asks), Some(&node()), &others), expected, "{asks}");
        }
        for asks in [json!({"cpu": "1500m"}), json!({}), json!({"example.org/elsewhere": "9"})] {
            assert_eq!(judged(&wants(&asks), Some(&node()), &others), None, "{asks}");
        }
        let full = taken(&[json!({}), json!({}), json!({})]);
        let (reason, message) = judged(&wants(&json!({})), Some(&node()), &full).unwrap();
        assert_eq!(reason, "OutOfpods");
        assert!(message.ends_with("pods, requested: 1, used: 3, capacity: 3"), "{message}");
    }

    #[test]
    fn labels_and_taints_that_put_out_count() {
        let mut node = node();
        let elsewhere = pod(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}));
        let why = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let expected = Some(("NodeAffinity".to_owned(), why.to_owned()));
        assert_eq!(judged(&elsewhere, Some(&node), &Taken::new()), expected);
        let affinity = |name: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}})
        };
        let there = pod(json!({"containers": [], "affinity": affinity("there")}));
        assert_eq!(judged(&there, Some(&node), &Taken::new()), expected);
        let here =
            pod(json!({"containers": [], "affinity": affinity("here"), "nodeSelector": {"disk": "ssd"}}));
        assert_eq!(judged(&here, Some(&node), &Taken::new()), None);
        // Of a node that nobody has told, it is not known what it is like.
        assert_eq!(judged(&elsewhere, None, &Taken::new()), None);
        assert_eq!(judged(&wants(&json!({"cpu": "2"})), None, &Taken::new()).unwrap().0, "OutOfcpu");

        let taints = |effect: &str| {
            from_value(json!({"taints": [{"key": "moving", "value": "house", "effect": effect}]})).unwrap()
        };
        node.spec = Some(taints("NoSchedule"));
        assert_eq!(judged(&here, Some(&node), &Taken::new()), None, "that is the scheduler's");
        node.spec = Some(taints("NoExecute"));
        let why = "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        let expected = Some(("TaintToleration".to_owned(), why.to_owned()));
        assert_eq!(judged(&here, Some(&node), &Taken::new()), expected);
        let hardy = pod(json!({"containers": [], "tolerations": [{"key": "moving", "operator": "Exists"}]}));
        assert_eq!(judged(&hardy, Some(&node), &Taken::new()), None);
        let windows = pod(json!({"containers": [], "os": {"name": "windows"}}));
        assert_eq!(judged(&windows, Some(&node), &Taken::new()).unwrap().0, "PodOSNotSupported");
    }
}
