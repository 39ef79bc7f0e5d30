//! A release's life, told by the binary of Helm 3: install, test, upgrade, a hook that fails, rollback, uninstall.

use balsa_testkit::{Cluster, wait_until};
use serde_json::Value;

use crate::clients::{Clients, PATIENCE};

const NAMESPACE: &str = "helm3";
const NAME: &str = "shop";
const WAIT: [&str; 2] = ["--wait", "--timeout=120s"];

/// Somebody with Helm in his hands.
struct Helm<'a> {
    cluster: &'a Cluster,
    clients: &'a Clients,
    chart: String,
}

impl Helm<'_> {
    fn run(&self, words: &[&str]) -> balsa_testkit::Output {
        let mut all = words.to_vec();
        all.extend(["--namespace", NAMESPACE]);
        // Its caches belong to this cluster, and not to whoever runs the tests.
        let home = self.cluster.kubeconfig().parent().and_then(|data| data.parent()).unwrap().join("helm");
        self.cluster.program(&self.clients.helm3(), all, &[("HOME", home.as_path())])
    }

    /// Puts the chart there with these values, and waits until it is.
    fn put(&self, how: &[&str], values: &[String]) -> balsa_testkit::Output {
        let sets = values.iter().flat_map(|value| ["--set", value.as_str()]);
        let words: Vec<&str> =
            how.iter().copied().chain([NAME, self.chart.as_str()]).chain(WAIT).chain(sets).collect();
        self.run(&words)
    }

    /// The revisions and what became of them.
    fn history(&self) -> Vec<(u64, String)> {
        let text = self.run(&["history", NAME, "-o", "json"]).ok();
        let revisions: Vec<Value> = serde_json::from_str(&text).unwrap();
        let of = |one: &Value| {
            (one["revision"].as_u64().unwrap(), one["status"].as_str().unwrap_or_default().to_owned())
        };
        revisions.iter().map(of).collect()
    }

    fn page(&self) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}");
        self.cluster.read(&path).unwrap()["data"]["index.html"].as_str().unwrap().to_owned()
    }

    /// The image that is asked for, and how many pods of it are available.
    #[track_caller]
    fn runs(&self, image: &str, available: &str) {
        let value = |path: &str| self.cluster.value(NAMESPACE, "deployment/shop", path).unwrap();
        assert_eq!(value("{.spec.template.spec.containers[0].image}"), image);
        // Helm has waited, so nobody else needs to.
        assert_eq!(value("{.status.availableReplicas}"), available);
    }
}

pub(crate) fn tells(cluster: &Cluster, clients: &Clients, images: &[String; 2]) {
    let helm = Helm { cluster, clients, chart: clients.file("chart") };
    let [first, second] = images;
    let version = helm.run(&["version", "--short"]).ok();
    assert!(version.starts_with("v3."), "{version}");
    helm.run(&["lint", &helm.chart]).ok();

    let made = helm.put(&["install", "--create-namespace"], &[format!("image={first}")]).ok();
    assert!(made.contains("STATUS: deployed"), "{made}");
    helm.runs(first, "2");
    assert_eq!(helm.page(), "good morning from revision 1");
    let again = helm.put(&["install"], &[format!("image={first}")]).fails();
    assert!(again.contains("in use"), "{again}");

    let tested = helm.run(&["test", NAME, "--logs", "--timeout=120s"]).ok();
    assert!(tested.contains("good morning from revision 1"), "{tested}");

    let values = [format!("image={second}"), "replicas=1".to_owned(), "greeting=good evening".to_owned()];
    helm.put(&["upgrade", "--install"], &values).ok();
    helm.runs(second, "1");
    assert_eq!(helm.page(), "good evening from revision 2");
    let failed = [format!("image={first}"), "greeting=fail".to_owned()];
    let told = helm.put(&["upgrade"], &failed).fails();
    assert!(told.contains("pre-upgrade hooks failed"), "{told}");
    helm.runs(second, "1");

    let back: Vec<&str> = ["rollback", NAME, "1"].into_iter().chain(WAIT).collect();
    helm.run(&back).ok();
    helm.runs(first, "2");
    assert_eq!(helm.page(), "good morning from revision 1");
    let states = [(1, "superseded"), (2, "superseded"), (3, "failed"), (4, "deployed")];
    assert_eq!(helm.history(), states.map(|(revision, state)| (revision, state.to_owned())));
    let values: Value = serde_json::from_str(&helm.run(&["get", "values", NAME, "-o", "json"]).ok()).unwrap();
    assert_eq!(values["image"], *first);

    let gone = helm.run(&["uninstall", NAME, "--wait"]).ok();
    assert!(gone.contains("uninstalled"), "{gone}");
    let told = helm.run(&["status", NAME]).fails();
    assert!(told.contains("not found"), "{told}");
    for what in ["deployments", "services", "secrets", "replicasets"] {
        wait_until(&format!("no {what} are left"), PATIENCE, || {
            let left = cluster.balsa(["get", what, "-n", NAMESPACE, "-o", "name"]).result()?;
            if left.trim().is_empty() { Ok(()) } else { Err(left) }
        });
    }
}
