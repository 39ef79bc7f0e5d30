//! The gRPC API as its users have it: pages, dry runs, parts of objects, every kind of patch and server-side apply,
//! several kinds in one stream; and the documented example clients, in Python and in Rust, as they are.
#![allow(clippy::unwrap_used)]

mod bookmarks;
mod examples;
mod expired;
mod many;
mod pipeline;
mod tools;

use std::path::{Path, PathBuf};
use std::time::Duration;

use balsa_proto::v1;
use balsa_proto::v1::object_service_client::ObjectServiceClient;
use balsa_proto::v1::watch_event::Type;
use balsa_testkit::{Cluster, Options};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);

type Objects = ObjectServiceClient<Channel>;

/// The files that docs/grpc.md takes out of the kubeconfig.
struct Credentials(PathBuf);

impl Credentials {
    fn of(cluster: &Cluster) -> Self {
        let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
        let config: Value = serde_yaml_ng::from_str(&text).unwrap();
        let folder = cluster.data_dir().parent().unwrap().to_owned();
        for (file, pointer) in [
            ("ca.crt", "/clusters/0/cluster/certificate-authority-data"),
            ("me.crt", "/users/0/user/client-certificate-data"),
            ("me.key", "/users/0/user/client-key-data"),
        ] {
            let encoded = config.pointer(pointer).and_then(Value::as_str).unwrap();
            let decode = balsa_testkit::decode_base64(encoded);
            std::fs::write(folder.join(file), decode).unwrap();
        }
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

async fn connect(cluster: &Cluster, credentials: &Credentials) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&credentials.file("ca.crt"))))
        .identity(Identity::from_pem(read(&credentials.file("me.crt")), read(&credentials.file("me.key"))))
        .domain_name("kubernetes");
    let endpoint = Endpoint::from_shared(format!("https://{}", cluster.address())).unwrap();
    endpoint.tls_config(tls).unwrap().timeout(PATIENCE).connect().await.unwrap()
}

fn resource(group: &str, plural: &str) -> Option<v1::Resource> {
    Some(v1::Resource { group: group.to_owned(), plural: plural.to_owned(), version: String::new() })
}

fn key(name: &str) -> Option<v1::ObjectKey> {
    Some(v1::ObjectKey { namespace: "default".to_owned(), name: name.to_owned() })
}

fn parsed(object: Option<v1::Object>) -> Value {
    serde_json::from_slice(&object.unwrap().json).unwrap()
}

/// The reason of a refusal, as REST would have given it.
fn reason(status: &Status) -> String {
    balsa_proto::details_of(status).unwrap().reason
}

async fn create(objects: &mut Objects, plural: &str, object: Value, dry_run: bool) -> Value {
    let group = if plural == "deployments" { "apps" } else { "" };
    let request = v1::CreateRequest {
        resource: resource(group, plural),
        namespace: "default".to_owned(),
        json: object.to_string().into(),
        options: Some(v1::WriteOptions { dry_run, ..Default::default() }),
    };
    parsed(objects.create(request).await.unwrap().into_inner().object)
}

#[test]
fn what_rest_can_do_grpc_can() {
    let mut cluster = Cluster::start(Options::nodes(0));
    let credentials = Credentials::of(&cluster);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = connect(&cluster, &credentials).await;
        tools::find_their_way(channel.clone()).await;
        let mut objects = ObjectServiceClient::new(channel);
        pages_show_one_revision(&mut objects).await;
        dry_runs_leave_nothing(&mut objects).await;
        patches_of_every_kind(&mut objects).await;
        apply_knows_owners(&mut objects).await;
        parts_are_written_apart(&mut objects).await;
        deletions_have_preconditions(&mut objects).await;
        several_kinds_come_in_one_stream(&mut objects).await;
        many::watches_share_a_stream(&mut objects).await;
        many::an_event_comes_once_for_all_it_is_for(&mut objects).await;
        conflicts_say_what_is_there(&mut objects).await;
        bookmarks::odd_fields_are_told_or_refused(&mut objects).await;
        bookmarks::tell_how_far_a_quiet_watch_is(&mut objects).await;
        pipeline::answers_every_call(&mut objects).await;
        pipeline::does_what_calls_do(&mut objects).await;
        pipeline::knows_who_asks(&mut objects).await;
        tools::see_every_request(&cluster).await;
    });
    examples::follow(&cluster, &credentials);
    runtime.block_on(async {
        let mut objects = ObjectServiceClient::new(connect(&cluster, &credentials).await);
        pipeline::leaves_nothing_in_doubt(&mut objects, &mut cluster).await;
    });
    drop(runtime);
    cluster.down();
}

async fn pages_show_one_revision(objects: &mut Objects) {
    for n in 0..7 {
        let name = format!("page-{n}");
        let labels = json!({"of": "pages"});
        create(objects, "configmaps", json!({"metadata": {"name": name, "labels": labels}}), false).await;
    }
    let request = v1::ListRequest {
        resource: resource("", "configmaps"),
        selection: Some(v1::Selection { label_selector: "of=pages".to_owned(), ..Default::default() }),
        limit: 3,
        ..Default::default()
    };
    let (mut names, mut revisions, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListRequest { continue_token: token, ..request.clone() };
        let mut stream = objects.list(request).await.unwrap().into_inner();
        token = String::new();
        while let Some(message) = stream.message().await.unwrap() {
            names.extend(
                message.objects.iter().map(|one| parsed(Some(one.clone()))["metadata"]["name"].clone()),
            );
            revisions.push(message.revision);
            token = message.continue_token;
        }
        // What comes between two pages is on none of them.
        let between = json!({"metadata": {"generateName": "page-between-", "labels": {"of": "pages"}}});
        create(objects, "configmaps", between, false).await;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|n| json!(format!("page-{n}"))).collect::<Vec<_>>());
    assert!(revisions.windows(2).all(|two| two[0] == two[1]), "{revisions:?}");
    let wrong = v1::ListRequest { continue_token: "nonsense".to_owned(), ..request };
    assert_eq!(objects.list(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

async fn dry_runs_leave_nothing(objects: &mut Objects) {
    let dry = create(objects, "configmaps", json!({"metadata": {"name": "dry"}}), true).await;
    assert!(dry["metadata"]["uid"].is_string(), "{dry}");
    let get = v1::GetRequest { resource: resource("", "configmaps"), key: key("dry"), stale_allowed: false };
    assert_eq!(objects.get(get.clone()).await.unwrap_err().code(), Code::NotFound);
    let made =
        create(objects, "configmaps", json!({"metadata": {"name": "dry"}, "data": {"a": "1"}}), false).await;
    let dry_run = Some(v1::WriteOptions { dry_run: true, ..Default::default() });
    let mut other = made.clone();
    other["data"]["a"] = json!("2");
    let update = v1::UpdateRequest {
        resource: resource("", "configmaps"),
        key: key("dry"),
        json: other.to_string().into(),
        options: dry_run.clone(),
        ..Default::default()
    };
    assert_eq!(parsed(objects.update(update).await.unwrap().into_inner().object)["data"]["a"], "2");
    let patch = patch("configmaps", "dry", v1::PatchType::Merge, r#"{"data":{"a":"3"}}"#);
    let patch = v1::PatchRequest { options: dry_run, ..patch };
    assert_eq!(parsed(objects.patch(patch).await.unwrap().into_inner().object)["data"]["a"], "3");
    let options = Some(v1::DeleteOptions { dry_run: true, ..Default::default() });
    let delete = v1::DeleteRequest { resource: resource("", "configmaps"), key: key("dry"), options };
    objects.delete(delete).await.unwrap();
    assert_eq!(parsed(objects.get(get).await.unwrap().into_inner().object), made);
}

fn patch(plural: &str, name: &str, kind: v1::PatchType, text: &str) -> v1::PatchRequest {
    v1::PatchRequest {
        resource: resource(if plural == "deployments" { "apps" } else { "" }, plural),
        key: key(name),
        r#type: kind.into(),
        patch: text.to_owned().into(),
        ..Default::default()
    }
}

async fn patched(objects: &mut Objects, request: v1::PatchRequest) -> Result<Value, Status> {
    Ok(parsed(objects.patch(request).await?.into_inner().object))
}

async fn patches_of_every_kind(objects: &mut Objects) {
    let spec = json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": "d"}},
        "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "one", "image": "registry.test/one"}]},
        },
    });
    create(objects, "deployments", json!({"metadata": {"name": "d"}, "spec": spec}), false).await;
    let image =
        |object: &Value, n: usize| object["spec"]["template"]["spec"]["containers"][n]["image"].clone();
    let json = r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "registry.test/two"}]"#;
    let made = patched(objects, patch("deployments", "d", v1::PatchType::Json, json)).await.unwrap();
    assert_eq!(image(&made, 0), "registry.test/two");
    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"more","image":"registry.test/more"}]}}}}"#;
    let made =
        patched(objects, patch("deployments", "d", v1::PatchType::Strategic, strategic)).await.unwrap();
    // Containers are merged by name, not replaced.
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let mut images: Vec<&str> = containers.iter().filter_map(|one| one["image"].as_str()).collect();
    images.sort_unstable();
    assert_eq!(images, ["registry.test/more", "registry.test/two"]);
    let merge = strategic.replace("more", "only");
    let made = patched(objects, patch("deployments", "d", v1::PatchType::Merge, &merge)).await.unwrap();
    assert_eq!(made["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);
    let strict = Some(v1::WriteOptions { field_validation: "Strict".to_owned(), ..Default::default() });
    let unknown = patch("deployments", "d", v1::PatchType::Merge, r#"{"spec":{"replicsa":2}}"#);
    let refused =
        patched(objects, v1::PatchRequest { options: strict, ..unknown.clone() }).await.unwrap_err();
    assert!(refused.message().contains("replicsa"), "{refused}");
    let nothing =
        patched(objects, patch("deployments", "nothing", v1::PatchType::Merge, "{}")).await.unwrap_err();
    assert_eq!((nothing.code(), reason(&nothing)), (Code::NotFound, "NotFound".to_owned()));
}

fn applied(manager: &str, force: bool, text: &str) -> v1::PatchRequest {
    let options = v1::WriteOptions { field_manager: manager.to_owned(), ..Default::default() };
    let request = patch("configmaps", "applied", v1::PatchType::Apply, text);
    v1::PatchRequest { options: Some(options), force, ..request }
}

async fn apply_knows_owners(objects: &mut Objects) {
    // YAML is taken too.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1', b: '1'}\n";
    let made = patched(objects, applied("one", false, yaml)).await.unwrap();
    let again = patched(objects, applied("one", false, yaml)).await.unwrap();
    assert_eq!(made, again, "the same again changes nothing");
    let other = yaml.replace("a: '1', b: '1'", "a: '2'");
    let refused = patched(objects, applied("two", false, &other)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, "Conflict".to_owned()));
    assert!(refused.message().contains("conflict with \"one\": .data.a"), "{refused}");
    let forced = patched(objects, applied("two", true, &other)).await.unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    // What nobody owns any more goes away.
    let less = yaml.replace("a: '1', b: '1'", "");
    let left = patched(objects, applied("one", false, &less)).await.unwrap();
    assert_eq!(left["data"], json!({"a": "2"}));
    let nameless = patched(objects, applied("", false, yaml)).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
}

async fn parts_are_written_apart(objects: &mut Objects) {
    let part = |part: v1::Part, request: v1::PatchRequest| v1::PatchRequest { part: part.into(), ..request };
    let text = r#"{"spec":{"paused":true},"status":{"observedGeneration":77}}"#;
    let merge = |text: &str| patch("deployments", "d", v1::PatchType::Merge, text);
    let status = patched(objects, part(v1::Part::Status, merge(text))).await.unwrap();
    assert_eq!(
        (&status["status"]["observedGeneration"], &status["spec"]["paused"]),
        (&json!(77), &Value::Null)
    );
    let text = r#"{"spec":{"paused":true},"status":{"observedGeneration":78}}"#;
    let main = patched(objects, part(v1::Part::Main, merge(text))).await.unwrap();
    assert!(main["status"]["observedGeneration"] != 78 && main["spec"]["paused"] == true, "{main}");
    let scale = patched(objects, part(v1::Part::Scale, merge(r#"{"spec":{"replicas":4}}"#))).await.unwrap();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let mut less = scale.clone();
    less["spec"]["replicas"] = json!(2);
    let update = v1::UpdateRequest {
        resource: resource("apps", "deployments"),
        key: key("d"),
        part: v1::Part::Scale.into(),
        json: less.to_string().into(),
        ..Default::default()
    };
    objects.update(update).await.unwrap();
    let get =
        v1::GetRequest { resource: resource("apps", "deployments"), key: key("d"), stale_allowed: true };
    assert_eq!(parsed(objects.get(get).await.unwrap().into_inner().object)["spec"]["replicas"], 2);
    odd_scales_are_told_or_refused(objects, scale).await;
}

async fn odd_scales_are_told_or_refused(objects: &mut Objects, mut odd: Value) {
    // Whatever the controllers have written since.
    odd["metadata"] = json!({"name": "d"});
    odd["spec"]["copies"] = json!(3);
    let unknown = "unknown field \"spec.copies\"";
    for (validation, warnings) in [("Ignore", &[][..]), ("", &[unknown]), ("Strict", &[])] {
        let field_validation = validation.to_owned();
        let options = Some(v1::WriteOptions { field_validation, dry_run: true, ..Default::default() });
        let part = v1::Part::Scale.into();
        let merge = patch("deployments", "d", v1::PatchType::Merge, r#"{"spec":{"copies":3}}"#);
        let patched = objects.patch(v1::PatchRequest { part, options: options.clone(), ..merge }).await;
        let update = v1::UpdateRequest {
            resource: resource("apps", "deployments"),
            key: key("d"),
            part,
            json: odd.to_string().into(),
            options,
        };
        let updated = objects.update(update).await;
        if validation == "Strict" {
            assert!(patched.unwrap_err().message().contains(unknown));
            assert!(updated.unwrap_err().message().contains(unknown));
        } else {
            assert_eq!(patched.unwrap().into_inner().warnings, warnings, "{validation}");
            assert_eq!(updated.unwrap().into_inner().warnings, warnings, "{validation}");
        }
    }
}

async fn deletions_have_preconditions(objects: &mut Objects) {
    let made = create(objects, "configmaps", json!({"metadata": {"name": "brief"}}), false).await;
    let delete = |uid: &str| v1::DeleteRequest {
        resource: resource("", "configmaps"),
        key: key("brief"),
        options: Some(v1::DeleteOptions { uid: uid.to_owned(), ..Default::default() }),
    };
    let refused = objects.delete(delete("another")).await.unwrap_err();
    assert_eq!(reason(&refused), "Conflict");
    objects.delete(delete(made["metadata"]["uid"].as_str().unwrap())).await.unwrap();
    let all = v1::DeleteCollectionRequest {
        resource: resource("", "configmaps"),
        selection: Some(v1::Selection { label_selector: "of=pages".to_owned(), ..Default::default() }),
        options: None,
    };
    assert!(objects.delete_collection(all).await.unwrap().into_inner().count >= 7);
}

async fn conflicts_say_what_is_there(objects: &mut Objects) {
    let made = create(objects, "configmaps", json!({"metadata": {"name": "torn"}}), false).await;
    let update = |from: &Value, by: &str| {
        let mut changed = from.clone();
        changed["data"] = json!({"by": by});
        v1::UpdateRequest {
            resource: resource("", "configmaps"),
            key: key("torn"),
            json: changed.to_string().into(),
            ..Default::default()
        }
    };
    let newer = objects.update(update(&made, "the first")).await.unwrap().into_inner().object.unwrap();
    let refused = objects.update(update(&made, "the second")).await.unwrap_err();
    let details = balsa_proto::from_status(&refused);
    assert_eq!((details.reason.as_str(), details.conflicting_revision), ("Conflict", newer.revision));
}

async fn several_kinds_come_in_one_stream(objects: &mut Objects) {
    let watch = |plural: &str| v1::WatchRequest {
        resource: resource("", plural),
        selection: Some(v1::Selection {
            namespace: "default".to_owned(),
            label_selector: "of=stream".to_owned(),
            ..Default::default()
        }),
        after_revision: 0,
    };
    let labels = json!({"of": "stream"});
    create(objects, "configmaps", json!({"metadata": {"name": "before", "labels": labels}}), false).await;
    let watches = vec![watch("configmaps"), watch("services"), watch("secrets")];
    let request = v1::WatchManyRequest { watches, ..Default::default() };
    let mut stream = objects.watch_many(request.clone()).await.unwrap().into_inner();
    let mut writer = objects.clone();
    create(&mut writer, "secrets", json!({"metadata": {"name": "a-secret", "labels": labels}}), false).await;
    let service =
        json!({"metadata": {"name": "a-service", "labels": labels}, "spec": {"ports": [{"port": 80}]}});
    create(&mut writer, "services", service, false).await;
    create(&mut writer, "configmaps", json!({"metadata": {"name": "after", "labels": labels}}), false).await;
    let mut told: Vec<(u32, Type, String, u64)> = Vec::new();
    let added = |told: &[(u32, Type, String, u64)]| told.iter().filter(|one| one.1 == Type::Added).count();
    while added(&told) < 4 || told.iter().filter(|one| one.1 == Type::Synced).count() < 3 {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.error, None);
        for event in message.events {
            let name = event.object.clone().map(|object| parsed(Some(object))["metadata"]["name"].clone());
            let name = name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
            told.push((message.watch, event.r#type(), name, event.revision));
        }
    }
    for (number, name) in [(0, "before"), (0, "after"), (1, "a-service"), (2, "a-secret")] {
        assert!(told.iter().any(|one| one.0 == number && one.2 == name), "{told:?}");
    }
    for number in 0..3 {
        let own: Vec<_> = told.iter().filter(|one| one.0 == number && one.1 != Type::Bookmark).collect();
        assert!(own.iter().filter(|one| one.1 == Type::Synced).count() == 1, "{told:?}");
        let changes = own.iter().skip_while(|one| one.1 != Type::Synced).skip(1);
        assert!(changes.map(|one| one.3).is_sorted(), "{told:?}");
    }
    // Each goes on from its own revision: nothing of before comes again.
    let newest = told.iter().map(|one| one.3).max().unwrap();
    let mut later = request.clone();
    later.watches.iter_mut().for_each(|watch| watch.after_revision = newest);
    let mut stream = objects.watch_many(later).await.unwrap().into_inner();
    create(&mut writer, "configmaps", json!({"metadata": {"name": "last", "labels": labels}}), false).await;
    let event = loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        if let Some(event) = message.events.into_iter().find(|event| event.object.is_some()) {
            break event;
        }
    };
    assert_eq!(parsed(event.object)["metadata"]["name"], "last");
    let none = objects.watch_many(v1::WatchManyRequest::default()).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    let mut unknown = request;
    unknown.watches[1].resource = resource("", "nothings");
    assert!(objects.watch_many(unknown).await.is_err());
}
