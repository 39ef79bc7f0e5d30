//! A user with an unmodified kubectl.

use balsa_testkit::{Cluster, Output};
use serde_json::Value;

use crate::user::{Said, User};

pub(crate) struct Kubectl<'a> {
    cluster: &'a Cluster,
    namespace: &'static str,
}

impl<'a> Kubectl<'a> {
    pub(crate) fn new(cluster: &'a Cluster, namespace: &'static str) -> Self {
        Self { cluster, namespace }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        self.cluster.kubectl_with(["-n", self.namespace].iter().chain(arguments), input)
    }

    /// It has to succeed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments, "").ok()
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.run(&[arguments, &["-o", "json"]].concat(), "").result()?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// A second `apply` says so. (kubectl always sends something for a pod with a mounted token and for
    /// `stringData`, which is write-only.)
    pub(crate) fn sees_what_is_unchanged(&self, manifest: &str) {
        // An act has changed the greeting; what was applied last is not what is there.
        self.run(&["apply", "-f", "-"], manifest).ok();
        let said = self.run(&["apply", "-f", "-"], manifest).ok();
        assert_eq!(said.matches(" unchanged").count(), 5, "{said}");
    }

    /// What people look at: tables, JSONPath, logs of several pods, the history of a rollout.
    pub(crate) fn reads_tables_and_logs(&self) {
        let rows = self.ok(&["get", "pods", "-l", "app=web", "--no-headers"]);
        assert_eq!(rows.lines().count(), 2, "{rows}");
        assert!(rows.lines().all(|row| row.contains("1/1") && row.contains("Running")), "{rows}");
        let images =
            self.ok(&["get", "deploy", "-o", "jsonpath={.items[*].spec.template.spec.containers[0].image}"]);
        assert!(images.ends_with(":1"), "{images}");
        let said = self.ok(&["logs", "-l", "app=web", "--tail=1", "--prefix"]);
        assert_eq!(said.lines().count(), 2, "{said}");
        let said = self.ok(&["describe", "pod", "client"]);
        assert!(said.contains("Started container client"), "{said}");
        let history = self.ok(&["rollout", "history", "deployment/web"]);
        assert!(history.lines().any(|row| row.starts_with('1')), "{history}");
    }
}

impl User for Kubectl<'_> {
    fn apply(&self, manifest: &str) {
        self.run(&["apply", "-f", "-"], manifest).ok();
    }

    fn get(&self, resource: &str, name: &str) -> Result<Value, String> {
        self.json(&["get", resource, name])
    }

    fn list(&self, resource: &str, labels: &str) -> Result<Vec<Value>, String> {
        let mut list = self.json(&["get", resource, "-l", labels])?;
        serde_json::from_value(list["items"].take()).map_err(|error| error.to_string())
    }

    fn merge(&self, resource: &str, name: &str, patch: &Value) {
        self.ok(&["patch", resource, name, "--type=merge", "-p", &patch.to_string()]);
    }

    fn ready(&self, pod: &str) {
        self.ok(&["wait", "pod", pod, "--for=condition=Ready", "--timeout=120s"]);
    }

    fn exec(&self, pod: &str, command: &[&str], input: &str) -> Result<Said, String> {
        let stdin: &[&str] = if input.is_empty() { &[] } else { &["-i"] };
        let Output { code, stdout, stderr, .. } =
            self.run(&[&["exec"], stdin, &[pod, "--"], command].concat(), input);
        Ok(Said { code, stdout, stderr })
    }

    fn logs(&self, pod: &str, previous: bool) -> String {
        self.ok(&["logs", pod, if previous { "--previous" } else { "--previous=false" }])
    }

    fn scale(&self, deployment: &str, replicas: u32) {
        let said = self.ok(&["scale", "deployment", deployment, &format!("--replicas={replicas}")]);
        assert!(said.contains("scaled"), "{said}");
    }

    fn set_image(&self, deployment: &str, container: &str, image: &str) {
        self.ok(&["set", "image", &format!("deployment/{deployment}"), &format!("{container}={image}")]);
    }

    fn rolled_out(&self, deployment: &str) {
        let said = self.ok(&["rollout", "status", "deployment", deployment, "--timeout=180s"]);
        assert!(said.contains("successfully rolled out"), "{said}");
    }

    fn undo(&self, deployment: &str) {
        self.ok(&["rollout", "undo", "deployment", deployment]);
    }

    fn delete(&self, resource: &str, name: &str) {
        self.ok(&["delete", resource, name, "--timeout=180s"]);
    }

    fn delete_all(&self, resource: &str) {
        self.ok(&["delete", resource, "--all", "--timeout=120s"]);
    }
}
