//! A controller as any author writes one with kube-rs: it owns what it makes, applies it on the server, cleans up
//! behind a finalizer, publishes events, and lets one of its replicas lead by a Lease. Three replicas, each at a
//! server of its own, work while the server that leads is killed with the leading replica's connection.
//!
//! Nothing may be missed: in the end every site has its page as it was last written, and whatever was deleted has
//! been cleaned up and has no page. Nothing may be doubled: no page is made twice, nobody who was deposed still
//! writes after his successor, and both surviving servers tell the same changes, each once and in order.

mod election;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use balsa_rt::TaskKind;
use balsa_testkit::{Rest, wait_until};
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::fleet::{Fleet, Member, PATIENCE};
use replica::{KIND, Ledger, NAMESPACE, Replica};

/// How many sites there will have been.
const SITES: usize = 60;
/// So many sites later one is changed or deleted: its page is there by then, or on its way.
const DELAY: usize = 6;
/// The last page of all.
const END: &str = "page-of-nobody";

/// A client of one server.
async fn client(fleet: &Fleet, member: &Member) -> Client {
    let kubeconfig = Kubeconfig::read_from(fleet.kubeconfig()).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.cluster_url = format!("https://{}", member.address).parse().unwrap();
    Client::try_from(config).unwrap()
}

/// Somebody who wants sites, and asks another server when one does not answer.
struct User {
    servers: Vec<Api<ConfigMap>>,
}

impl User {
    /// Does it at whichever server lets it be done. `done` says whether a refusal means that it is done already.
    async fn insist<T, F>(&self, ask: impl Fn(Api<ConfigMap>) -> F, done: impl Fn(u16) -> bool)
    where
        F: Future<Output = kube::Result<T>>,
    {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for server in self.servers.iter().cycle() {
            let told = match ask(server.clone()).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if done(status.code) => return,
                Err(error) => error,
            };
            assert!(tokio::time::Instant::now() < deadline, "nobody did it: {told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn create(&self, name: &str) {
        let site = json!({"metadata": {"name": name, "labels": {KIND: "site"}}, "data": {"text": "first"}});
        let site: ConfigMap = serde_json::from_value(site).unwrap();
        let parameters = PostParams::default();
        self.insist(|api| create(api, parameters.clone(), site.clone()), |code| code == 409).await;
    }

    async fn change(&self, name: &str) {
        let patch = json!({"data": {"text": "second"}});
        self.insist(|api| patched(api, name.to_owned(), patch.clone()), |_| false).await;
    }

    async fn delete(&self, name: &str) {
        self.insist(|api| deleted(api, name.to_owned()), |code| code == 404).await;
    }
}

async fn create(api: Api<ConfigMap>, parameters: PostParams, site: ConfigMap) -> kube::Result<()> {
    api.create(&parameters, &site).await.map(|_| ())
}

async fn patched(api: Api<ConfigMap>, name: String, patch: Value) -> kube::Result<()> {
    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}

async fn deleted(api: Api<ConfigMap>, name: String) -> kube::Result<()> {
    api.delete(&name, &DeleteParams::background()).await.map(|_| ())
}

/// What becomes of the n-th site: some are changed, some deleted.
fn fate(n: usize) -> &'static str {
    ["stays", "changes", "goes"][n % 3]
}

/// Makes sites one after the other, changes and deletes those before, and says how many there have been.
async fn live(user: User, told: mpsc::UnboundedSender<usize>) {
    for n in 0..SITES + DELAY {
        if n < SITES {
            user.create(&format!("site-{n}")).await;
        }
        if let Some(old) = n.checked_sub(DELAY) {
            match fate(old) {
                "changes" => user.change(&format!("site-{old}")).await,
                "goes" => user.delete(&format!("site-{old}")).await,
                _ => {}
            }
        }
        told.send(n).ok();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// Changes of pages, as one server tells them.
type Told = std::sync::Arc<std::sync::Mutex<Vec<Value>>>;

/// All changes after a revision.
async fn listen(rest: Rest, after: String, told: Told) {
    let selector = format!("{KIND}%3Dpage");
    let path = format!(
        "/api/v1/namespaces/{NAMESPACE}/configmaps?watch=1&resourceVersion={after}&labelSelector={selector}"
    );
    let mut watch = rest.watch(&path).await.unwrap();
    while let Some(event) = watch.next().await.unwrap() {
        told.lock().unwrap().push(event);
    }
    panic!("the watch has ended");
}

pub(crate) fn survives_the_leader() {
    let fleet = Fleet::start(3);
    let runtime = Runtime::new().unwrap();
    let leader = fleet.well(3);
    let members = fleet.members();
    // The first one leads, and its server does too: it is the one that will be cut off.
    let (victims, survivors): (Vec<Member>, Vec<Member>) =
        members.into_iter().partition(|member| member.name == leader.name);
    let order: Vec<Member> = victims.into_iter().chain(survivors.clone()).collect();
    let ledger = Ledger::default();
    let mut replicas = Vec::new();
    for member in &order {
        let client = runtime.block_on(client(&fleet, member));
        let replica = Replica { client, name: format!("at-{}", member.name), ledger: ledger.clone() };
        replicas.push(runtime.spawn(replica.run()));
        wait_until("the first replica leads", PATIENCE, || match ledger.leaders().first() {
            Some(first) if first.0 == format!("at-{}", leader.name) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let pages: Api<ConfigMap> = Api::namespaced(runtime.block_on(client(&fleet, &survivors[0])), NAMESPACE);
    let before = runtime.block_on(pages.list(&ListParams::default())).unwrap();
    let before = before.metadata.resource_version.unwrap();
    let told: Vec<Told> = survivors.iter().map(|_| Told::default()).collect();
    for (member, told) in survivors.iter().zip(&told) {
        let rest = Rest::from_kubeconfig(&fleet.kubeconfig()).unwrap().at(&member.address);
        let _guard = runtime.enter();
        balsa_rt::spawn(TaskKind::Test, listen(rest, before.clone(), told.clone()));
    }

    let servers = runtime.block_on(async {
        let clients = order.iter().map(|member| client(&fleet, member));
        let clients = futures::future::join_all(clients).await;
        clients.into_iter().map(|client| Api::namespaced(client, NAMESPACE)).collect()
    });
    let (tell, mut count) = mpsc::unbounded_channel();
    let living = runtime.spawn(live(User { servers }, tell));
    runtime.block_on(async { while count.recv().await.is_some_and(|n| n < SITES / 3) {} });
    fleet.signal(&leader, "-9");
    runtime.block_on(living).unwrap();
    wait_until("another replica leads", PATIENCE, || {
        let leaders = ledger.leaders();
        if leaders.len() > 1 { Ok(()) } else { Err(format!("{leaders:?}")) }
    });
    wait_until("all pages are as they should be", PATIENCE, || runtime.block_on(all_is_there(&pages)));
    fleet.restart(&leader.name);
    fleet.well(3);
    events_tell_it(&runtime, &pages);
    nothing_is_doubled(&told, runtime.block_on(mark_the_end(&pages)), &ledger);
    for replica in replicas {
        replica.abort();
    }
    drop(runtime);
    fleet.down();
}

/// The revision of a page that is nobody's, after all others.
async fn mark_the_end(api: &Api<ConfigMap>) -> u64 {
    let page = json!({"metadata": {"name": END, "labels": {KIND: "page"}}});
    let page: ConfigMap = serde_json::from_value(page).unwrap();
    api.create(&PostParams::default(), &page).await.unwrap().resource_version().unwrap().parse().unwrap()
}

/// Whether every site has its page as it was last written, and no other page is left.
async fn all_is_there(api: &Api<ConfigMap>) -> Result<(), String> {
    let list = |kind: &str| ListParams::default().labels(&format!("{KIND}={kind}"));
    let sites = api.list(&list("site")).await.map_err(|error| error.to_string())?;
    let pages = api.list(&list("page")).await.map_err(|error| error.to_string())?;
    let wanted: BTreeMap<String, &str> = (0..SITES)
        .filter(|n| fate(*n) != "goes")
        .map(|n| (format!("page-site-{n}"), if fate(n) == "changes" { "second" } else { "first" }))
        .collect();
    let text =
        |page: &ConfigMap| page.data.as_ref().and_then(|data| data.get("text").cloned()).unwrap_or_default();
    let found: BTreeMap<String, String> =
        pages.items.iter().map(|page| (page.name_any(), text(page))).collect();
    let missing: Vec<_> =
        wanted.iter().filter(|(name, text)| found.get(*name).map(String::as_str) != Some(**text)).collect();
    if !missing.is_empty() || found.len() != wanted.len() || sites.items.len() != wanted.len() {
        return Err(format!("{} sites, {} pages; missing: {missing:?}", sites.items.len(), found.len()));
    }
    Ok(())
}

/// Every page that is there was announced by an event about its site.
fn events_tell_it(runtime: &Runtime, pages: &Api<ConfigMap>) {
    let events: Api<Event> = Api::namespaced(pages.clone().into_client(), NAMESPACE);
    let list = ListParams::default().labels(&format!("{KIND}=page"));
    let (events, pages) = runtime.block_on(async {
        (events.list(&ListParams::default()).await.unwrap(), pages.list(&list).await.unwrap())
    });
    let about: BTreeSet<String> = events
        .items
        .iter()
        .filter(|event| event.reason.as_deref() == Some("Rendered"))
        .filter_map(|event| event.involved_object.name.clone())
        .collect();
    for page in pages.items {
        let site = page.name_any().trim_start_matches("page-").to_owned();
        assert!(about.contains(&site), "no event about {site}: {about:?}");
    }
}

fn nothing_is_doubled(told: &[Told], last: u64, ledger: &Ledger) {
    let heard: Vec<Vec<(u64, String)>> = told.iter().map(|told| heard(told, last)).collect();
    assert_eq!(heard[0], heard[1], "two servers tell the same changes");
    let mut terms = Vec::new();
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in told[0].lock().unwrap().iter() {
        let object = &event["object"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["type"].as_str() {
            _ if object["metadata"]["name"] == END => {}
            Some("ADDED") => {
                let uids = made.entry(text(&object["metadata"]["name"])).or_default();
                assert!(uids.insert(text(&object["metadata"]["uid"])), "told twice: {event}");
                terms.push(text(&object["data"]["term"]).parse::<i32>().unwrap());
            }
            Some("MODIFIED") => terms.push(text(&object["data"]["term"]).parse().unwrap()),
            _ => {}
        }
    }
    assert!(made.values().all(|uids| uids.len() == 1), "a page was made twice: {made:?}");
    assert!(terms.is_sorted(), "somebody wrote after his successor: {terms:?} {:?}", ledger.leaders());
    assert!(terms.first() < terms.last(), "the second leader had nothing to do: {terms:?}");
    // What was deleted before any controller had seen it needs no cleaning; what had a page does.
    let gone: BTreeSet<String> =
        (0..SITES).filter(|n| fate(*n) == "goes").map(|n| format!("site-{n}")).collect();
    let cleaned = ledger.cleaned();
    assert!(cleaned.is_subset(&gone), "only what was deleted is cleaned up: {cleaned:?}");
    for site in made.keys().map(|page| page.trim_start_matches("page-")).filter(|site| gone.contains(*site)) {
        assert!(cleaned.contains(site), "{site} was not cleaned up: {cleaned:?}");
    }
}

/// Revision and type of all changes up to a revision, which has to come.
fn heard(told: &Told, last: u64) -> Vec<(u64, String)> {
    let of = |event: &Value| -> (u64, String) {
        let revision = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        (revision, event["type"].as_str().unwrap().to_owned())
    };
    let all = wait_until("the watch is as far", PATIENCE, || {
        let all: Vec<_> = told.lock().unwrap().iter().map(of).collect();
        if all.iter().any(|(revision, _)| *revision >= last) {
            Ok(all)
        } else {
            Err(format!("{} events", all.len()))
        }
    });
    assert!(all.is_sorted_by(|a, b| a.0 < b.0), "out of order: {all:?}");
    all.into_iter().filter(|(revision, _)| *revision <= last).collect()
}
