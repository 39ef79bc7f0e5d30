//! Which of this node's pods Services lead to, as the proxies show it. A pod that ends is let go of first:
//! its containers hear of their end when nobody is led to them any more.
//!
//! ```text
//!   deleted ──▶ slices say so ──▶ this node's proxy shows it ──▶ all proxies do ──▶ SIGTERM
//! ```
//!
//! The wait is bounded: a proxy that is stuck, or a server that cannot be asked, does not keep a pod.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use balsa_model::Object;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;

use crate::session::SessionEndpoint;

/// How long the end of a pod waits for the node's own proxy, and for the news to come to it.
const HERE: Duration = Duration::from_secs(5);
/// How long it then waits for those of other nodes.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// What requests get to be answered that were led to the pod just before: not every program ends them itself.
const UNDER_WAY: Duration = Duration::from_millis(200);
/// Between two questions to a server that does not answer.
const AGAIN: Duration = Duration::from_millis(100);

/// What this node's proxy shows, of the pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// It holds every change of slices up to here.
    pub revision: u64,
    /// UIDs of pods that new connections are led to.
    led_to: HashSet<String>,
    /// UIDs of pods that are behind a Service, in whatever state.
    behind: HashSet<String>,
}

impl Picture {
    /// What `slices` say of the pods of `node`; `reached` is the revision that they are known to hold.
    pub(crate) fn of(slices: &[Arc<Object>], node: &str, reached: u64) -> Self {
        let mut picture = Self { revision: reached, ..Self::default() };
        for object in slices {
            // One stream, in order: who has this one has all before it.
            picture.revision = picture.revision.max(object.revision().0);
            let Some(slice) = object.typed::<EndpointSlice>() else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| e.node_name.as_deref() == Some(node)) {
                let Some(uid) = endpoint.target_ref.as_ref().and_then(|pod| pod.uid.clone()) else {
                    continue;
                };
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                if conditions.ready != Some(false) && conditions.terminating != Some(true) {
                    picture.led_to.insert(uid.clone());
                }
                picture.behind.insert(uid);
            }
        }
        picture
    }
}

/// What the proxies show.
pub(crate) struct Shown {
    picture: watch::Sender<Picture>,
    /// Who is asked about the other nodes; none where there are no others.
    session: Option<SessionEndpoint>,
}

impl Shown {
    pub(crate) fn new(session: Option<SessionEndpoint>) -> Arc<Self> {
        Arc::new(Self { picture: watch::Sender::new(Picture::default()), session })
    }

    /// This node's proxy shows something else.
    pub(crate) fn publish(&self, picture: Picture) {
        self.picture.send_if_modified(|known| {
            let changed = *known != picture;
            *known = picture;
            changed
        });
    }

    /// Hears of the pictures.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Picture> {
        self.picture.subscribe()
    }

    /// Waits until no proxy leads to that pod any more, for a while; not at all when no Service has it.
    pub(crate) async fn let_go(&self, uid: &str) {
        if !self.picture.borrow().behind.contains(uid) {
            return;
        }
        if tokio::time::timeout(HERE, self.gone_here(uid)).await.is_err() {
            tracing::warn!(uid, "the service proxy has not let go of a pod in time");
        } else if tokio::time::timeout(ELSEWHERE, self.gone_elsewhere()).await.is_err() {
            tracing::warn!(uid, "not every node's service proxy has let go of a pod in time");
        }
        tokio::time::sleep(UNDER_WAY).await;
    }

    async fn gone_here(&self, uid: &str) {
        let mut pictures = self.picture.subscribe();
        // The sender is this very value: it does not go.
        let _ = pictures.wait_for(|picture| !picture.led_to.contains(uid)).await;
    }

    async fn gone_elsewhere(&self) {
        let revision = self.picture.borrow().revision;
        let Some(session) = &self.session else { return };
        while let Err(error) = session.await_proxies(revision).await {
            tracing::debug!(error, "the other proxies cannot be asked");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn slice(revision: u64, pods: &[(&str, &str, bool)]) -> Arc<Object> {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(uid, node, ready)| {
                json!({"addresses": ["10.0.0.2"], "nodeName": node, "targetRef": {"kind": "Pod", "uid": uid},
                    "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
            })
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": "n", "uid": "s", "resourceVersion": revision.to_string()},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints});
        let kind = balsa_model::kind::kind_of::<EndpointSlice>();
        Arc::new(Object::received(kind, slice.to_string().into()).unwrap())
    }

    #[test]
    fn a_picture_shows_the_pods_of_the_node() {
        let slices = [slice(7, &[("a", "n1", true), ("b", "n1", false), ("c", "n2", true)])];
        let picture = Picture::of(&slices, "n1", 5);
        assert_eq!(picture.revision, 7);
        assert_eq!(picture.led_to, HashSet::from(["a".to_owned()]));
        assert_eq!(picture.behind, HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(Picture::of(&slices, "n1", 9).revision, 9);
    }

    /// The paused clock counts whole milliseconds.
    #[track_caller]
    fn took(began: tokio::time::Instant, expected: Duration) {
        let over = began.elapsed().checked_sub(expected);
        assert!(
            over.is_some_and(|over| over < Duration::from_millis(20)),
            "{:?}, {expected:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_for_the_proxy_and_not_for_ever() {
        let shown = Shown::new(None);
        let began = tokio::time::Instant::now();
        shown.let_go("a").await;
        took(began, Duration::ZERO);

        shown.publish(Picture::of(&[slice(1, &[("a", "n1", true)])], "n1", 0));
        let programmed = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            shown.publish(Picture::of(&[slice(2, &[("a", "n1", false)])], "n1", 0));
        };
        tokio::join!(shown.let_go("a"), programmed);
        took(began, Duration::from_millis(300) + UNDER_WAY);

        shown.publish(Picture::of(&[slice(3, &[("a", "n1", true)])], "n1", 0));
        let began = tokio::time::Instant::now();
        shown.let_go("a").await;
        took(began, HERE + UNDER_WAY);
    }
}
