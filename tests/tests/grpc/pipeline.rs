//! Many calls in one stream.

use std::collections::{BTreeMap, BTreeSet};

use balsa_proto::v1;
use balsa_proto::v1::pipeline_request::Call;
use balsa_rt::TaskKind;
use balsa_testkit::Cluster;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::{Objects, PATIENCE, key, parsed, patch, resource};

/// More than are worked on at a time.
const MANY: u64 = 600;

struct Pipeline {
    asking: UnboundedSender<v1::PipelineRequest>,
    answers: Streaming<v1::PipelineResponse>,
}

impl Pipeline {
    /// Opened by the cluster's administrator, as whoever is named.
    async fn open(objects: &mut Objects, as_user: Option<&'static str>) -> Self {
        let (asking, asked) = unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(asked));
        if let Some(user) = as_user {
            request.metadata_mut().insert("impersonate-user", user.parse().unwrap());
        }
        let answers = objects.pipeline(request).await.unwrap().into_inner();
        Self { asking, answers }
    }

    fn ask(&self, id: u64, call: Call) {
        self.asking.send(v1::PipelineRequest { id, call: Some(call), ..Default::default() }).unwrap();
    }

    async fn next(&mut self) -> Result<Option<v1::PipelineResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.answers.message()).await.unwrap()
    }

    /// One call, waited for.
    async fn call(&mut self, call: Call) -> v1::PipelineResponse {
        self.ask(7, call);
        let answer = self.next().await.unwrap().unwrap();
        assert_eq!(answer.id, 7);
        answer
    }
}

fn creation(name: &str) -> Call {
    Call::Create(v1::CreateRequest {
        resource: resource("", "configmaps"),
        namespace: "default".to_owned(),
        json: json!({"metadata": {"name": name}}).to_string().into(),
        options: None,
    })
}

fn get(name: &str) -> Call {
    Call::Get(v1::GetRequest { resource: resource("", "configmaps"), key: key(name), stale_allowed: false })
}

/// All are answered, each by its number and once, and then the stream ends as it was asked to.
pub(crate) async fn answers_every_call(objects: &mut Objects) {
    let mut pipeline = Pipeline::open(objects, None).await;
    let name = |id: u64| format!("piped-{id}");
    for id in 0..MANY {
        pipeline.ask(id, creation(&name(id)));
    }
    drop(std::mem::replace(&mut pipeline.asking, unbounded_channel().0));
    let mut answered = BTreeMap::new();
    while let Some(answer) = pipeline.next().await.unwrap() {
        assert_eq!(answer.error, None);
        let object = answer.object.unwrap();
        assert_eq!(parsed(Some(object.clone()))["metadata"]["name"], name(answer.id));
        assert_eq!(answered.insert(answer.id, object.revision), None);
    }
    assert_eq!(answered.keys().copied().collect::<Vec<_>>(), (0..MANY).collect::<Vec<_>>());
    assert_eq!(answered.values().collect::<BTreeSet<_>>().len(), answered.len(), "a revision each");
}

/// What a call by itself does, and what it is refused for.
pub(crate) async fn does_what_calls_do(objects: &mut Objects) {
    let mut pipeline = Pipeline::open(objects, None).await;
    let made = parsed(pipeline.call(creation("piped")).await.object);
    assert_eq!(made["metadata"]["managedFields"], Value::Null, "nothing is said of no fields");
    let error = |answer: v1::PipelineResponse| {
        let error = answer.error.unwrap();
        (error.code, error.reason, error.name)
    };
    let (own, named) = ("piped".to_owned(), |reason: &str| reason.to_owned());
    let refused = error(pipeline.call(creation("piped")).await);
    assert_eq!(refused, (409, named("AlreadyExists"), own.clone()));
    let merge = patch("configmaps", "piped", v1::PatchType::Merge, r#"{"data":{"a":"1"}}"#);
    let changed = parsed(pipeline.call(Call::Patch(merge)).await.object);
    assert_eq!(changed["data"], json!({"a": "1"}));
    let over = |from: &Value| {
        Call::Update(v1::UpdateRequest {
            resource: resource("", "configmaps"),
            key: key("piped"),
            json: from.to_string().into(),
            ..Default::default()
        })
    };
    let refused = error(pipeline.call(over(&made)).await);
    assert_eq!(refused, (409, named("Conflict"), own.clone()), "made is the version before");
    let mut odd = changed.clone();
    odd["datum"] = json!(1);
    let told = pipeline.call(over(&odd)).await;
    assert_eq!(told.warnings, ["unknown field \"datum\""]);
    assert_eq!(parsed(pipeline.call(get("piped")).await.object)["data"]["a"], "1");
    let (resource, key) = (resource("", "configmaps"), key("piped"));
    pipeline.call(Call::Delete(v1::DeleteRequest { resource, key, options: None })).await;
    assert_eq!(error(pipeline.call(get("piped")).await), (404, named("NotFound"), own));
    let call = Some(creation("told-briefly"));
    pipeline.asking.send(v1::PipelineRequest { id: 8, call, revision_only: true }).unwrap();
    let brief = pipeline.next().await.unwrap().unwrap().object.unwrap();
    assert!(brief.revision > 0 && brief.json.is_empty(), "{brief:?}");
    // Nothing at all, which ends nothing either.
    pipeline.asking.send(v1::PipelineRequest { id: 9, ..Default::default() }).unwrap();
    let answer = pipeline.next().await.unwrap().unwrap();
    assert_eq!((answer.id, error(answer).1), (9, named("BadRequest")));
}

/// Every call is judged by itself.
pub(crate) async fn knows_who_asks(objects: &mut Objects) {
    let mut pipeline = Pipeline::open(objects, Some("nobody-in-particular")).await;
    let error = pipeline.call(creation("forbidden")).await.error.unwrap();
    assert_eq!((error.code, error.reason.as_str()), (403, "Forbidden"));
    assert!(error.message.contains("User \"nobody-in-particular\" cannot create"), "{}", error.message);
}

/// A server that stops answers what it has read, and what has no answer was not done.
pub(crate) async fn leaves_nothing_in_doubt(objects: &mut Objects, cluster: &mut Cluster) {
    let pipeline = Pipeline::open(objects, None).await;
    let (begun, begins) = oneshot::channel();
    let calling = balsa_rt::spawn(TaskKind::Test, call_until_it_ends(pipeline, begun));
    begins.await.unwrap();
    tokio::task::block_in_place(|| cluster.stop());
    let (done, status) = calling.await.unwrap().unwrap().unwrap();
    let why = "the server is stopping; calls without an answer were not begun";
    assert_eq!((status.code(), status.message()), (Code::Unavailable, why));
    let list = tokio::task::block_in_place(|| {
        cluster.restart();
        cluster.read("/api/v1/namespaces/default/configmaps").unwrap()
    });
    let items = list["items"].as_array().unwrap().iter();
    let names = items.filter_map(|item| item["metadata"]["name"].as_str());
    let there: BTreeSet<_> = names.filter(|name| name.starts_with("in-doubt-")).map(str::to_owned).collect();
    assert_eq!(there, done);
}

/// Creates objects, 64 at a time, until the stream ends: which were answered, and how it ended.
async fn call_until_it_ends(
    mut pipeline: Pipeline,
    begun: oneshot::Sender<()>,
) -> Result<(BTreeSet<String>, Status), String> {
    let name = |id: u64| format!("in-doubt-{id}");
    let (mut done, mut begun) = (BTreeSet::new(), Some(begun));
    for id in 0..64 {
        pipeline.ask(id, creation(&name(id)));
    }
    for next in 64.. {
        match pipeline.next().await {
            Ok(Some(answer)) => {
                assert_eq!(answer.error, None);
                done.insert(name(answer.id));
                // Nobody listens once it has ended.
                let call = Some(creation(&name(next)));
                let _ = pipeline.asking.send(v1::PipelineRequest { id: next, call, ..Default::default() });
            }
            Ok(None) => return Err("it has ended without a word".to_owned()),
            Err(status) => return Ok((done, status)),
        }
        if let Some(begun) = begun.take_if(|_| done.len() > 100) {
            begun.send(()).unwrap();
        }
    }
    unreachable!("numbers do not end")
}
