//! Pods that somebody takes away from their owner: the pod says why before it goes.

use balsa_model::kinds::pod::is_terminal;
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Failure, Key};
use k8s_openapi::api::core::v1::Pod;

use crate::Api;

impl Api<Pod> {
    /// Writes on a pod's status why it goes, as `mark` does, and deletes it. Only the pod with `uid`: another one
    /// that has got its name meanwhile is left alone. One that is over is deleted without a word, as nothing is
    /// taken from its owner.
    ///
    /// # Errors
    /// As [`Self::modify`] and [`Self::delete`].
    pub async fn mark_and_delete(
        &self,
        key: &Key,
        uid: &str,
        mut mark: impl FnMut(&mut Pod) -> bool + Send,
        options: DeleteOptions,
    ) -> Result<(), Failure> {
        let mark_this =
            |pod: &mut Pod| pod.metadata.uid.as_deref() == Some(uid) && !is_terminal(pod) && mark(pod);
        self.modify(key, Part::Status, mark_this).await?;
        self.delete(key, uid, options).await
    }
}

#[cfg(test)]
mod tests {
    use balsa_model::kinds::pod::{has_condition, set_disrupted};
    use balsa_rt::Clock;
    use serde_json::json;

    use super::*;
    use crate::Client;
    use crate::memory::MemoryBackend;

    /// A pod that a finalizer keeps, so that its end can be looked at.
    async fn pod(phase: &str) -> (Api<Pod>, Key, Pod) {
        let api = Client::new(MemoryBackend::new(Clock::system()), "test").api::<Pod>();
        let pod = json!({"metadata": {"name": "p", "namespace": "default", "finalizers": ["test/look"]},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let created = api.create(&serde_json::from_value(pod).unwrap()).await.unwrap();
        let set_phase = |pod: &mut Pod| {
            pod.status.get_or_insert_default().phase = Some(phase.to_owned());
            true
        };
        api.modify(created.key(), Part::Status, set_phase).await.unwrap();
        (api.clone(), created.key().clone(), created.to_typed::<Pod>().unwrap())
    }

    /// Whether the pod is marked, and whether it is deleted.
    async fn after(phase: &str, uid: Option<&str>) -> (bool, bool) {
        let (api, key, created) = pod(phase).await;
        let mark = |pod: &mut Pod| set_disrupted(pod, "Test", "it is tested", Clock::system().now_seconds());
        let uid = uid.or(created.metadata.uid.as_deref()).unwrap();
        api.mark_and_delete(&key, uid, mark, DeleteOptions::default()).await.unwrap();
        let left = api.find(&key).await.unwrap().unwrap();
        (has_condition(&left, "DisruptionTarget"), left.metadata.deletion_timestamp.is_some())
    }

    #[tokio::test]
    async fn only_the_pod_that_is_meant_is_marked_and_goes() {
        assert_eq!(after("Running", None).await, (true, true));
        assert_eq!(after("Running", Some("of-its-predecessor")).await, (false, false));
        assert_eq!(after("Succeeded", None).await, (false, true));
    }
}
