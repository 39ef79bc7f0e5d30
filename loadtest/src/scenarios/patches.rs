//! Changes per second: each client changes an object of its own, one change after another.

use http::Method;
use serde_json::{Value, json};

use super::load::{Caller, Load, measure};
use super::{make, to_bytes};
use crate::rest::{Connection, Target};

struct Patcher {
    connection: Connection,
    client: usize,
    path: String,
    apply: bool,
}

fn name(client: usize) -> String {
    format!("p{client}")
}

fn object(client: usize, turn: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(client)},
        "data": {"payload": "x".repeat(1024), "turn": turn},
    })
}

impl Caller for Patcher {
    async fn call(&mut self, i: usize) -> anyhow::Result<()> {
        let turn = i.to_string();
        let (kind, body) = if self.apply {
            ("application/apply-patch+yaml", object(self.client, &turn))
        } else {
            ("application/merge-patch+json", json!({"data": {"turn": turn}}))
        };
        self.connection.call_with(Method::PATCH, &self.path, kind, to_bytes(&body)).await.map(drop)
    }
}

/// Changes ConfigMaps of 1 KiB through REST: by merge patches, or by server-side apply of the whole object.
pub(crate) async fn rest(
    target: &Target,
    namespace: &str,
    apply: bool,
    load: &Load,
) -> anyhow::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    make(target, &path, load.clients, |client| to_bytes(&object(client, ""))).await?;
    // Forced: whoever made the object owns the fields, too.
    let options = if apply { "?fieldManager=loadtest&force=true" } else { "" };
    let mut patchers = Vec::new();
    for client in 0..load.clients {
        let path = format!("{path}/{}{options}", name(client));
        patchers.push(Patcher { connection: target.connect().await?, client, path, apply });
    }
    let mut line = measure(load, patchers).await?;
    line["scenario"] = if apply { "applies" } else { "patches" }.into();
    Ok(line)
}
