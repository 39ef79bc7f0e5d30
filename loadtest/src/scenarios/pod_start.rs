//! Pod starts: from the creation of a pod to Running in the API, one after another, beside `docker run`
//! of the same image in the same run.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use super::to_bytes;
use crate::rest::{Connection, Target};
use crate::summary::milliseconds;

/// How long a pod may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many pods, of what.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Size {
    /// How many pods.
    #[arg(long, default_value_t = 50)]
    pub(crate) pods: usize,
    /// An image that every node has, with a busybox in /bin.
    #[arg(long, default_value = "phippy:1")]
    pub(crate) image: String,
}

/// Starts pods and as many plain containers, by turns.
pub(crate) async fn run(target: &Target, namespace: &str, size: &Size) -> anyhow::Result<Value> {
    let Size { pods, ref image } = *size;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut connection = target.connect().await?;
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for i in 0..pods {
        ours.push(pod(target, &mut connection, &path, &format!("p{i}"), image).await?);
        plain.push(docker_run(image).await?);
    }
    Ok(json!({
        "scenario": "pod-start", "pods": pods, "created_to_running_ms": milliseconds(ours),
        "docker_run_ms": milliseconds(plain),
    }))
}

async fn pod(
    target: &Target,
    connection: &mut Connection,
    path: &str,
    name: &str,
    image: &str,
) -> anyhow::Result<Duration> {
    let container = json!({
        "name": "c", "image": image, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "3600"],
    });
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container]});
    let start = Instant::now();
    let body = to_bytes(&json!({"metadata": {"name": name}, "spec": spec}));
    connection.call(Method::POST, path, body).await?;
    tokio::time::timeout(PATIENCE, running(target, path, name))
        .await
        .with_context(|| format!("pod {name} was not Running in time"))??;
    let took = start.elapsed();
    connection.call(Method::DELETE, &format!("{path}/{name}"), Bytes::new()).await?;
    Ok(took)
}

/// Watches a pod until it is Running.
async fn running(target: &Target, path: &str, name: &str) -> anyhow::Result<()> {
    let mut connection = target.connect().await?;
    let url = format!("{path}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut body = connection.send(Method::GET, &url, Bytes::new()).await?.into_body();
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            if event.pointer("/object/status/phase").and_then(Value::as_str) == Some("Running") {
                return Ok(());
            }
        }
    }
    bail!("the watch of pod {name} ended")
}

async fn docker_run(image: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let output = Command::new("docker")
        .args(["run", "--detach", "--entrypoint", "/bin/busybox", image, "sleep", "3600"])
        .output()
        .await?;
    let took = start.elapsed();
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("docker run: {}", String::from_utf8_lossy(&output.stderr));
    }
    Command::new("docker").args(["rm", "--force", &id]).output().await?;
    Ok(took)
}
