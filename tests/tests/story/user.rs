//! Somebody who works with a cluster by means of one client, in one namespace.

use balsa_testkit::wait_until;
use serde_json::Value;
use std::time::Duration;

/// Enough for a slow machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a command in a container did.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What all clients can do. Resources are named by their plural; what goes wrong panics, unless it is
/// returned.
pub(crate) trait User {
    /// Makes the cluster hold what a manifest says.
    fn apply(&self, manifest: &str);
    /// An object.
    fn get(&self, resource: &str, name: &str) -> Result<Value, String>;
    /// The objects with these labels; all of them if there are none.
    fn list(&self, resource: &str, labels: &str) -> Result<Vec<Value>, String>;
    /// Changes some fields of an object.
    fn merge(&self, resource: &str, name: &str, patch: &Value);
    /// Waits until a pod is Ready.
    fn ready(&self, pod: &str);
    /// Runs a command in a pod, with something on its standard input.
    fn exec(&self, pod: &str, command: &[&str], input: &str) -> Result<Said, String>;
    /// What a pod's container wrote, or the one before its last restart.
    fn logs(&self, pod: &str, previous: bool) -> String;
    /// Sets how many replicas a Deployment has.
    fn scale(&self, deployment: &str, replicas: u32);
    /// Starts a rollout of another image.
    fn set_image(&self, deployment: &str, container: &str, image: &str);
    /// Waits until a rollout is complete.
    fn rolled_out(&self, deployment: &str);
    /// Goes back to what was before the last rollout.
    fn undo(&self, deployment: &str);
    /// Deletes an object and waits until it is gone.
    fn delete(&self, resource: &str, name: &str);
    /// Deletes all objects of a kind and waits until they are gone.
    fn delete_all(&self, resource: &str);
}

impl dyn User + '_ {
    /// A shell script in a pod; it has to succeed.
    #[track_caller]
    pub(crate) fn in_pod(&self, pod: &str, script: &str) -> String {
        let said = self.exec(pod, &["sh", "-c", script], "").unwrap();
        assert!(said.code == 0, "{script}: {said:?}");
        said.stdout
    }

    /// One of the running pods with these labels.
    #[track_caller]
    pub(crate) fn a_pod_of(&self, labels: &str) -> String {
        let pods = self.list("pods", labels).unwrap();
        let living = |pod: &&Value| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let pod = pods.iter().find(living).unwrap_or_else(|| panic!("no pod of {labels} runs: {pods:?}"));
        pod["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Waits until an object is there and is what it should be.
    #[track_caller]
    pub(crate) fn until(&self, resource: &str, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) {
        wait_until(&format!("{resource} {name}: {what}"), PATIENCE, || {
            let object = self.get(resource, name)?;
            if is_so(&object) { Ok(()) } else { Err(object.to_string()) }
        });
    }
}
