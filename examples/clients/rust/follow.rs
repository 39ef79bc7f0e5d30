//! Applies two ConfigMaps, and follows the ConfigMaps and Secrets of a namespace over gRPC:
//! `follow SERVER CA CERTIFICATE KEY NAMESPACE [LAST]`.
//!
//! `balsa_proto::v1` is nothing but what tonic generates of `proto/balsa/v1/api.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::pipeline_request::Call;
use balsa_proto::v1::watch_event::Type;
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const KINDS: [&str; 2] = ["configmaps", "secrets"];
const APPLIED: [&str; 2] = ["hello", "world"];
/// Lists come in messages of half a MiB, and an object may be larger than that.
const MAX_MESSAGE: usize = 32 << 20;

type Objects = ObjectServiceClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [server, ca, certificate, key, namespace, last @ ..] = words.as_slice() else {
        return Err(anyhow!("follow SERVER CA CERTIFICATE KEY NAMESPACE [LAST]"));
    };
    let mut objects = connect(server, [ca, certificate, key]).await?;
    apply(&mut objects, namespace).await?;
    let mut followed = KINDS.map(|plural| Followed::new(plural, namespace));
    let mut pause = Duration::from_millis(100);
    loop {
        let before = followed.each_ref().map(|one| one.revision);
        followed.iter_mut().for_each(|one| one.fresh.clear());
        match follow(&mut objects, &mut followed, last.first()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(status) => eprintln!("broken: {status}"),
        }
        // Where nothing came, wait longer each time.
        let moved = before != followed.each_ref().map(|one| one.revision);
        pause = if moved { Duration::from_millis(100) } else { (pause * 2).min(Duration::from_secs(10)) };
        tokio::time::sleep(pause).await;
    }
}

async fn connect(server: &str, files: [&String; 3]) -> anyhow::Result<Objects> {
    let read = |path: &String| std::fs::read(path).with_context(|| path.clone());
    let [ca, certificate, key] = files;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(ca)?))
        .identity(Identity::from_pem(read(certificate)?, read(key)?))
        .domain_name("kubernetes");
    let channel = Endpoint::from_shared(format!("https://{server}"))?.tls_config(tls)?.connect().await?;
    Ok(ObjectServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

fn resource(plural: &str) -> Option<v1::Resource> {
    Some(v1::Resource { group: String::new(), plural: plural.to_owned(), version: String::new() })
}

/// Server-side apply, many calls in one stream: the objects are there afterwards, whether they were before or not.
async fn apply(objects: &mut Objects, namespace: &str) -> anyhow::Result<()> {
    let calls = APPLIED.iter().zip(0..).map(|(name, id)| {
        let call = Some(Call::Patch(applied(namespace, name)));
        v1::PipelineRequest { id, call, ..Default::default() }
    });
    let calls = tokio_stream::iter(calls.collect::<Vec<_>>());
    let mut answers = objects.pipeline(calls).await?.into_inner();
    // In no order: their numbers say which they answer.
    while let Some(answer) = answers.message().await? {
        if let Some(error) = answer.error {
            return Err(anyhow!("{}: {}", error.reason, error.message));
        }
        let name = APPLIED[usize::try_from(answer.id)?];
        println!("applied configmaps/{name} at {}", answer.object.unwrap_or_default().revision);
    }
    Ok(())
}

fn applied(namespace: &str, name: &str) -> v1::PatchRequest {
    let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"from": "rust"}});
    v1::PatchRequest {
        resource: resource("configmaps"),
        key: Some(v1::ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }),
        r#type: v1::PatchType::Apply.into(),
        patch: wanted.to_string().into(),
        options: Some(v1::WriteOptions { field_manager: "example".to_owned(), ..Default::default() }),
        force: true,
        ..Default::default()
    }
}

/// What is known of one kind, and up to which revision.
struct Followed {
    plural: &'static str,
    namespace: String,
    known: BTreeMap<String, Value>,
    /// What came before SYNCED.
    fresh: BTreeMap<String, Value>,
    revision: u64,
}

impl Followed {
    fn new(plural: &'static str, namespace: &str) -> Self {
        let nothing = BTreeMap::new;
        Self { plural, namespace: namespace.to_owned(), known: nothing(), fresh: nothing(), revision: 0 }
    }

    fn request(&self) -> v1::WatchRequest {
        let selection = v1::Selection { namespace: self.namespace.clone(), ..Default::default() };
        v1::WatchRequest {
            resource: resource(self.plural),
            selection: Some(selection),
            after_revision: self.revision,
        }
    }

    /// The line to print, and the name that it is about.
    fn take(&mut self, event: &v1::WatchEvent) -> Option<(String, String)> {
        match event.r#type() {
            Type::Synced => {
                // Only now is it known what is gone.
                self.known = std::mem::take(&mut self.fresh);
                self.revision = event.revision;
                return Some((format!("SYNCED {}", self.plural), String::new()));
            }
            Type::Bookmark => {
                self.revision = self.revision.max(event.revision);
                return None;
            }
            _ => {}
        }
        let found: Value = serde_json::from_slice(&event.object.as_ref()?.json).ok()?;
        let name = found["metadata"]["name"].as_str()?.to_owned();
        let kind = event.r#type().as_str_name().trim_start_matches("TYPE_");
        let line = format!("{kind} {}/{name} {}", self.plural, event.revision);
        if self.revision == 0 {
            self.fresh.insert(name.clone(), found);
            return Some((line, name));
        }
        self.revision = event.revision;
        match event.r#type() {
            Type::Deleted => drop(self.known.remove(&name)),
            _ => drop(self.known.insert(name.clone(), found)),
        }
        Some((line, name))
    }

    /// It is too long ago: from the beginning.
    fn forget(&mut self) {
        self.known.clear();
        self.revision = 0;
    }
}

/// Until the stream ends; whether the last name has come.
async fn follow(
    objects: &mut Objects,
    followed: &mut [Followed],
    last: Option<&String>,
) -> Result<bool, tonic::Status> {
    let watches = followed.iter().map(Followed::request).collect();
    let mut stream =
        objects.watch_many(v1::WatchManyRequest { watches, ..Default::default() }).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let Some(one) = followed.get_mut(message.watch as usize) else { continue };
        if let Some(error) = message.error {
            if error.reason == "Expired" {
                one.forget();
            }
            return Ok(false);
        }
        for event in &message.events {
            let Some((line, name)) = one.take(event) else { continue };
            println!("{line}");
            if one.plural == KINDS[0] && last == Some(&name) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
