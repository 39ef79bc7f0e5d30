//! The scenarios, one file each.

pub(crate) mod fanout;
pub(crate) mod gets;
pub(crate) mod list;
pub(crate) mod load;
pub(crate) mod objects;
pub(crate) mod patches;
mod pipeline;
pub(crate) mod pod_start;
pub(crate) mod watch;
pub(crate) mod writes;

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::rest::Target;

/// How long a namespace may take to come, or to go with tens of thousands of objects in it.
const PATIENCE: Duration = Duration::from_secs(600);

/// The namespace of a run.
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes it, and waits until pods can be made in it.
    pub(crate) async fn create(target: &Target, name: &str) -> anyhow::Result<Self> {
        let mut connection = target.connect().await?;
        let body = to_bytes(&json!({"metadata": {"name": name}}));
        connection.call(Method::POST, "/api/v1/namespaces", body).await?;
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        let deadline = Instant::now() + PATIENCE;
        while connection.call(Method::GET, &account, Bytes::new()).await.is_err() {
            if Instant::now() > deadline {
                bail!("namespace {name} got no default service account");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self(name.to_owned()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Deletes it with all that is in it, and waits until it is gone.
    pub(crate) async fn delete(self, target: &Target) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/{}", self.0);
        let mut connection = target.connect().await?;
        connection.call(Method::DELETE, &path, Bytes::new()).await?;
        let deadline = Instant::now() + PATIENCE;
        while connection.call(Method::GET, &path, Bytes::new()).await.is_ok() {
            if Instant::now() > deadline {
                bail!("namespace {} is still there", self.0);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

/// Connections that make what a scenario needs.
const MAKERS: usize = 32;

/// Posts `count` objects.
async fn make(
    target: &Target,
    path: &str,
    count: usize,
    object: impl Fn(usize) -> Bytes,
) -> anyhow::Result<()> {
    let shares = (0..MAKERS).map(|maker| {
        let object = &object;
        async move {
            let mut connection = target.connect().await?;
            for i in (maker..count).step_by(MAKERS) {
                connection.call(Method::POST, path, object(i)).await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(shares).await.map(drop)
}

/// JSON as a body.
fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
