//! A user with a program of his own, written with kube-rs: discovery, typed and dynamic objects, patches,
//! watches, waiting, and commands over WebSocket.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::{Arc, Mutex};

use balsa_rt::TaskKind;
use balsa_testkit::{Cluster, wait_until};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{
    ApiResource, AttachParams, AttachedProcess, DeleteParams, DynamicObject, ListParams, LogParams, Patch,
    PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Expression;
use kube::discovery::{Discovery, Scope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use crate::user::{PATIENCE, Said, User};

pub(crate) struct KubeRs {
    runtime: Runtime,
    client: Client,
    discovery: Discovery,
    namespace: &'static str,
}

/// A cache of the namespace's pods, and the names of all that it ever saw.
pub(crate) struct Mirror {
    store: Store<Pod>,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl KubeRs {
    pub(crate) fn new(cluster: &Cluster, namespace: &'static str) -> Self {
        let runtime = Runtime::new().unwrap();
        let (client, discovery) = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            let client = Client::try_from(config).unwrap();
            let version = client.apiserver_version().await.unwrap();
            assert_eq!(version.major, "1", "{version:?}");
            let listed = Discovery::new(client.clone()).run().await.unwrap();
            let aggregated = Discovery::new(client.clone()).run_aggregated().await.unwrap();
            let groups = |all: &Discovery| all.groups().map(|g| g.name().to_owned()).collect::<BTreeSet<_>>();
            assert_eq!(groups(&listed), groups(&aggregated), "two ways of discovery");
            (client, aggregated)
        });
        Self { runtime, client, discovery, namespace }
    }

    /// Everything that the server has of a resource, by what discovery says about it.
    fn api(&self, resource: &str) -> Api<DynamicObject> {
        // What is measured goes by the names of what it is measured of.
        let groups = self.discovery.groups().filter(|group| group.name() != "metrics.k8s.io");
        let mut all = groups.flat_map(|group| group.recommended_resources());
        let found = all.find(|(found, _)| found.plural == resource);
        let (resource, capabilities) = found.unwrap_or_else(|| panic!("discovery knows no {resource}"));
        self.api_of(&resource, &capabilities.scope)
    }

    fn api_of(&self, resource: &ApiResource, scope: &Scope) -> Api<DynamicObject> {
        match scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), self.namespace, resource),
            Scope::Cluster => Api::all_with(self.client.clone(), resource),
        }
    }

    /// The same for a kind that is known when the program is built.
    fn typed<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    fn wait<K>(&self, api: Api<K>, name: &str, condition: impl Condition<K>)
    where
        K: Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + Resource + 'static,
    {
        let waiting = async { tokio::time::timeout(PATIENCE, await_condition(api, name, condition)).await };
        let waited = self.runtime.block_on(waiting);
        waited.unwrap_or_else(|_| panic!("{name} did not become what it should")).unwrap();
    }

    async fn put(&self, document: Value) -> kube::Result<()> {
        let object: DynamicObject = serde_json::from_value(document.clone()).unwrap();
        let (resource, capabilities) = self.discovery.resolve_object(&object).unwrap();
        let api = self.api_of(&resource, &capabilities.scope);
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let patch = Patch::Strategic(document);
                api.patch(&object.name_any(), &PatchParams::default(), &patch).await.map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    /// A cache that lists and watches, and one that has the list streamed to it.
    pub(crate) fn mirror(&self) -> [Mirror; 2] {
        let _inside = self.runtime.enter();
        [watcher::Config::default(), watcher::Config::default().streaming_lists()].map(|config| {
            let (store, writer) = reflector::store();
            let seen = Arc::new(Mutex::new(BTreeSet::new()));
            let noted = seen.clone();
            let stream = watcher(self.typed::<Pod>(), config).default_backoff().reflect(writer);
            balsa_rt::spawn(TaskKind::Test, async move {
                stream
                    .for_each(|event| {
                        if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event {
                            noted.lock().unwrap().insert(pod.name_any());
                        }
                        ready(())
                    })
                    .await;
            });
            Mirror { store, seen }
        })
    }

    /// Both caches saw the same pods, and know that all of them are gone.
    pub(crate) fn has_seen_everything(&self, mirrors: &[Mirror; 2]) {
        for mirror in mirrors {
            wait_until("the cache is empty", PATIENCE, || {
                let left: Vec<_> = mirror.store.state().iter().map(|pod| pod.name_any()).collect();
                if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
            });
        }
        let [listed, streamed] = mirrors.each_ref().map(|mirror| mirror.seen.lock().unwrap().clone());
        assert_eq!(listed, streamed);
        assert!(["client", "first", "second"].iter().all(|pod| listed.contains(*pod)), "{listed:?}");
        // Two, one more, three of the second image, three of the first again.
        assert!(listed.iter().filter(|pod| pod.starts_with("web-")).count() >= 9, "{listed:?}");
    }

    pub(crate) fn follows_a_log(&self) {
        let pod = (self as &dyn User).a_pod_of("app=web");
        let parameters = LogParams { follow: true, tail_lines: Some(5), ..LogParams::default() };
        self.runtime.block_on(async {
            let stream = self.typed::<Pod>().log_stream(&pod, &parameters).await.unwrap();
            let mut lines = stream.lines();
            let first = tokio::time::timeout(PATIENCE, lines.try_next()).await.unwrap().unwrap();
            assert_eq!(first.as_deref(), Some("serving"));
        });
    }

    pub(crate) fn is_told_what_is_wrong(&self) {
        let api = self.typed::<ConfigMap>();
        self.runtime.block_on(async {
            assert!(api.get_opt("nothing").await.unwrap().is_none());
            let current = api.get("web").await.unwrap();
            let mut stale = current.clone();
            stale.metadata.resource_version = Some("1".to_owned());
            let conflict = api.replace("web", &PostParams::default(), &stale).await;
            assert_eq!(refusal(conflict), (409, "Conflict".to_owned(), String::new()));
            let mut again = current.clone();
            again.metadata.resource_version = None;
            let twice = api.create(&PostParams::default(), &again).await;
            assert_eq!(refusal(twice), (409, "AlreadyExists".to_owned(), String::new()));
            let mut wrong = ConfigMap::default();
            wrong.metadata.name = Some("Bad_Name".to_owned());
            let invalid = api.create(&PostParams::default(), &wrong).await;
            assert_eq!(refusal(invalid), (422, "Invalid".to_owned(), "metadata.name".to_owned()));
            let kept = api.replace("web", &PostParams::default(), &current).await.unwrap();
            assert_eq!(kept.resource_version(), current.resource_version(), "nothing has changed");
        });
    }

    pub(crate) fn lists_in_pages(&self) {
        let api = self.typed::<Pod>();
        self.runtime.block_on(async {
            let all = api.list_metadata(&ListParams::default()).await.unwrap();
            let mut parameters = ListParams::default().limit(1);
            let mut paged = Vec::new();
            loop {
                let page = api.list(&parameters).await.unwrap();
                assert_eq!(page.items.len(), 1);
                paged.extend(page.items.iter().map(Pod::name_any));
                match page.metadata.continue_ {
                    Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
                    _ => break,
                }
            }
            assert_eq!(paged, all.items.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>());
            let web = Expression::In("app".to_owned(), ["web".to_owned(), "other".to_owned()].into());
            let some = api.list(&ListParams::default().labels_from(&web.into())).await.unwrap();
            assert_eq!(some.items.len(), 2);
        });
    }

    /// The template of the revision before the current one.
    async fn template_before(&self, deployment: &str) -> Value {
        let current = self.typed::<Deployment>().get(deployment).await.unwrap();
        let sets = self.typed::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
        let own = sets.iter().filter(|set| {
            set.owner_references().iter().any(|owner| Some(&owner.uid) == current.metadata.uid.as_ref())
        });
        let now = revision(current.annotations());
        let before = own.filter(|set| revision(set.annotations()) < now);
        let before = before.max_by_key(|set| revision(set.annotations())).expect("an earlier revision");
        let mut template = serde_json::to_value(before.spec.as_ref().unwrap().template.clone()).unwrap();
        template["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
        template
    }
}

fn revision(annotations: &std::collections::BTreeMap<String, String>) -> u64 {
    annotations["deployment.kubernetes.io/revision"].parse().unwrap()
}

/// Code, reason and the first field of an error.
fn refusal<T: std::fmt::Debug>(answer: kube::Result<T>) -> (u16, String, String) {
    match answer.unwrap_err() {
        kube::Error::Api(status) => {
            let field =
                status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.field.clone());
            (status.code, status.reason.clone(), field.into_iter().next().unwrap_or_default())
        }
        other => panic!("not an answer of the API: {other}"),
    }
}

/// The error as the API put it.
fn told(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn completed(deployment: Option<&Deployment>) -> bool {
    let Some(deployment) = deployment else { return false };
    let (spec, status) = (deployment.spec.as_ref(), deployment.status.as_ref());
    let Some((spec, status)) = spec.zip(status) else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas == spec.replicas
        && status.replicas == spec.replicas
        && status.available_replicas == spec.replicas
        && conditions::is_deployment_completed().matches_object(Some(deployment))
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

async fn converse(mut process: AttachedProcess, input: &str) -> Result<Said, String> {
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let stdin = process.stdin();
    let status = process.take_status().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let feeding = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    };
    let ((), read_out, read_err, status) =
        tokio::join!(feeding, stdout.read_to_string(&mut out), stderr.read_to_string(&mut err), status);
    read_out.and(read_err).map_err(|error| error.to_string())?;
    let status = status.ok_or("no status came")?;
    let code = exit_code(&status).ok_or_else(|| status.message.clone().unwrap_or_default())?;
    Ok(Said { code, stdout: out, stderr: err })
}

fn exit_code(status: &Status) -> Option<i32> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    let code = causes.into_iter().flatten().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    code.message.as_ref()?.parse().ok()
}

impl User for KubeRs {
    fn apply(&self, manifest: &str) {
        self.runtime.block_on(async {
            for document in serde_yaml_ng::Deserializer::from_str(manifest) {
                let document = Value::deserialize(document).unwrap();
                self.put(document).await.unwrap();
            }
        });
    }

    fn get(&self, resource: &str, name: &str) -> Result<Value, String> {
        let object = self.runtime.block_on(self.api(resource).get(name)).map_err(told)?;
        Ok(serde_json::to_value(object).unwrap())
    }

    fn list(&self, resource: &str, labels: &str) -> Result<Vec<Value>, String> {
        let parameters = ListParams::default().labels(labels);
        let list = self.runtime.block_on(self.api(resource).list(&parameters)).map_err(told)?;
        Ok(list.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect())
    }

    fn merge(&self, resource: &str, name: &str, patch: &Value) {
        let api = self.api(resource);
        self.runtime.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).unwrap();
    }

    fn ready(&self, pod: &str) {
        self.wait(self.typed::<Pod>(), pod, is_ready);
    }

    fn exec(&self, pod: &str, command: &[&str], input: &str) -> Result<Said, String> {
        let parameters =
            AttachParams::default().stdin(!input.is_empty()).stdout(true).stderr(true).tty(false);
        self.runtime.block_on(async {
            let process = self.typed::<Pod>().exec(pod, command.iter().copied(), &parameters).await;
            let talking = converse(process.map_err(told)?, input);
            tokio::time::timeout(PATIENCE, talking)
                .await
                .unwrap_or_else(|_| Err("it does not end".to_owned()))
        })
    }

    fn logs(&self, pod: &str, previous: bool) -> String {
        let parameters = LogParams { previous, ..LogParams::default() };
        self.runtime.block_on(self.typed::<Pod>().logs(pod, &parameters)).unwrap()
    }

    fn scale(&self, deployment: &str, replicas: u32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let api = self.typed::<Deployment>();
        let scale =
            self.runtime.block_on(api.patch_scale(deployment, &PatchParams::default(), &patch)).unwrap();
        assert_eq!(scale.spec.unwrap().replicas, i32::try_from(replicas).ok());
    }

    fn set_image(&self, deployment: &str, container: &str, image: &str) {
        let containers = json!([{"name": container, "image": image}]);
        let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let api = self.typed::<Deployment>();
        self.runtime.block_on(api.patch(deployment, &PatchParams::default(), &patch)).unwrap();
    }

    fn rolled_out(&self, deployment: &str) {
        self.wait(self.typed::<Deployment>(), deployment, completed);
    }

    fn undo(&self, deployment: &str) {
        let api = self.typed::<Deployment>();
        self.runtime.block_on(async {
            let template = self.template_before(deployment).await;
            let mut current = serde_json::to_value(api.get(deployment).await.unwrap()).unwrap();
            current["spec"]["template"] = template;
            let wanted: Deployment = serde_json::from_value(current).unwrap();
            api.replace(deployment, &PostParams::default(), &wanted).await.unwrap();
        });
    }

    fn delete(&self, resource: &str, name: &str) {
        let api = self.api(resource);
        let uid = self.runtime.block_on(async {
            let uid = api.get(name).await.unwrap().uid().unwrap();
            api.delete(name, &DeleteParams::default()).await.unwrap();
            uid
        });
        self.wait(api, name, conditions::is_deleted(&uid));
    }

    fn delete_all(&self, resource: &str) {
        let api = self.api(resource);
        let all = ListParams::default();
        self.runtime.block_on(api.delete_collection(&DeleteParams::background(), &all)).unwrap();
        wait_until(&format!("all {resource} are gone"), PATIENCE, || {
            let left = self.list(resource, "")?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}
