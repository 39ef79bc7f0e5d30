//! What every runtime does: one suite for all implementations.
//!
//! Each case gets a [`Fixture`] of its own and uses programs that both a busybox image and the
//! simulation know. Nothing waits for time to pass; everything waits for something to be so.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use balsa_runtime::{
    AttachOptions, ContainerConfig, ContainerEventKind, ContainerId, ContainerStatus, Error, ExecConfig,
    ImageBuilder, IpcMode, ListFilter, LogOptions, NetworkConfig, NetworkMode, Runtime, StreamKind, labels,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;

/// The label that everything a test makes carries.
pub(crate) const RUN: &str = "balsa.dev/test-run";
const LIMIT: Duration = Duration::from_secs(60);

/// A runtime to be tried.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) runtime: Arc<dyn Runtime>,
    /// An image with the programs.
    pub(crate) image: String,
    /// The value of [`RUN`], in names too: tests run beside each other.
    pub(crate) run: String,
}

impl Fixture {
    pub(crate) fn config(&self, name: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            name: format!("{}-{name}", self.run),
            image: self.image.clone(),
            command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            labels: self.labels(name),
            ..ContainerConfig::default()
        }
    }

    pub(crate) fn labels(&self, name: &str) -> BTreeMap<String, String> {
        [(RUN, self.run.as_str()), (labels::CONTAINER_NAME, name)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    pub(crate) async fn started(&self, name: &str, command: &[&str]) -> ContainerId {
        let id = self.runtime.create_container(&self.config(name, command)).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    async fn lines(&self, id: &ContainerId, options: LogOptions) -> Vec<(StreamKind, String)> {
        let lines = self.runtime.logs(id, &options).await.unwrap();
        within(lines.try_collect::<Vec<_>>())
            .await
            .unwrap()
            .into_iter()
            .map(|line| (line.stream, String::from_utf8(line.bytes.to_vec()).unwrap()))
            .collect()
    }
}

/// Nothing in this suite takes a minute.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("not within a minute")
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Makes a test of each case.
macro_rules! behaviour {
    ($with:path: $($case:ident),* $(,)?) => {
        $(#[tokio::test] async fn $case() { $with(suite::$case).await; })*
    };
    ($with:path) => {
        suite::behaviour!($with:
            it_says_who_it_is,
            a_container_lives_and_dies,
            names_and_images_are_checked,
            stopping_is_asking_first,
            starting_and_stopping_twice_is_fine,
            events_tell_the_life_of_a_container,
            logs_can_be_cut_and_followed,
            a_command_runs_in_a_container,
            a_command_reads_its_input_to_the_end,
            short_commands_have_a_time_limit,
            attaching_joins_the_first_process,
            usage_is_of_what_runs,
            images_come_and_go,
            networks_come_and_go,
            a_sandbox_is_shared,
        );
    };
}
pub(crate) use behaviour;

pub(crate) async fn it_says_who_it_is(fixture: Fixture) {
    fixture.runtime.ping().await.unwrap();
    let version = fixture.runtime.version().await.unwrap();
    assert_eq!(version.os, "linux");
    assert_eq!(version.simulated, version.engine == "simulated");
    for text in [version.version, version.api_version, version.architecture, version.kernel] {
        assert!(!text.is_empty());
    }
}

pub(crate) async fn a_container_lives_and_dies(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let config = fixture.config("life", &["sh", "-c", "echo hello; echo oh no >&2; exit 5"]);
    let id = runtime.create_container(&config).await.unwrap();
    let state = runtime.inspect(&id).await.unwrap();
    assert_eq!((state.status, state.started_at, &state.id), (ContainerStatus::Created, None, &id));
    assert_eq!((state.name, state.labels), (config.name.clone(), config.labels.clone()));

    runtime.start(&id).await.unwrap();
    assert_eq!(within(runtime.wait(&id)).await.unwrap(), 5);
    let state = runtime.inspect(&id).await.unwrap();
    assert_eq!((state.status, state.exit_code, state.oom_killed), (ContainerStatus::Exited, 5, false));
    assert!(state.created_at <= state.started_at && state.started_at <= state.finished_at);
    assert_eq!((state.pid, state.netns()), (None, None));
    assert_eq!(state.image, fixture.image);

    let lines = fixture.lines(&id, LogOptions::default()).await;
    assert!(lines.contains(&(StreamKind::Stdout, "hello".to_owned())), "{lines:?}");
    assert!(lines.contains(&(StreamKind::Stderr, "oh no".to_owned())), "{lines:?}");

    let filter = ListFilter::label(RUN, &fixture.run);
    let found = runtime.list(&filter).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, found[0].status), (&id, ContainerStatus::Exited));
    assert_eq!((&found[0].name, &found[0].labels), (&config.name, &config.labels));
    assert_eq!(runtime.list(&ListFilter { all: false, ..filter.clone() }).await.unwrap(), []);
    assert_eq!(runtime.list(&filter.clone().and(labels::CONTAINER_NAME, "other")).await.unwrap(), []);

    runtime.remove(&id, false).await.unwrap();
    assert!(runtime.inspect(&id).await.unwrap_err().is_not_found());
    assert_eq!(runtime.list(&filter).await.unwrap(), []);
    runtime.remove(&id, false).await.expect("what is gone is gone");
}

pub(crate) async fn names_and_images_are_checked(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let config = fixture.config("twice", &["sleep", "1000"]);
    let id = runtime.create_container(&config).await.unwrap();
    assert!(runtime.create_container(&config).await.unwrap_err().is_conflict());
    assert_eq!(runtime.inspect(&ContainerId::new(config.name.clone())).await.unwrap().id, id);

    let nameless = ContainerConfig { name: String::new(), ..config.clone() };
    assert!(matches!(runtime.create_container(&nameless).await, Err(Error::Invalid { .. })));
    let nobody = ContainerId::new("no-such-container");
    assert!(runtime.start(&nobody).await.unwrap_err().is_not_found());
    assert!(runtime.stop(&nobody, Duration::ZERO, None).await.unwrap_err().is_not_found());
    assert!(runtime.kill(&nobody, "SIGKILL").await.unwrap_err().is_not_found());
    assert!(runtime.wait(&nobody).await.unwrap_err().is_not_found());
    assert!(runtime.logs(&nobody, &LogOptions::default()).await.err().unwrap().is_not_found());
}

pub(crate) async fn stopping_is_asking_first(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let polite =
        fixture.started("polite", &["sh", "-c", "trap 'exit 7' TERM; echo up; sleep 1000 & wait"]).await;
    up(&fixture, &polite).await;
    within(runtime.stop(&polite, LIMIT, None)).await.unwrap();
    assert_eq!(runtime.inspect(&polite).await.unwrap().exit_code, 7);

    let named =
        fixture.started("named", &["sh", "-c", "trap 'exit 8' TERM; echo up; sleep 1000 & wait"]).await;
    up(&fixture, &named).await;
    within(runtime.stop(&named, LIMIT, Some("SIGTERM"))).await.unwrap();
    assert_eq!(runtime.inspect(&named).await.unwrap().exit_code, 8);

    for (name, signal) in [("deaf", None), ("deafer", Some("SIGTERM"))] {
        let deaf = fixture.started(name, &["sh", "-c", "trap '' TERM; echo up; sleep 1000"]).await;
        up(&fixture, &deaf).await;
        within(runtime.stop(&deaf, Duration::from_millis(100), signal)).await.unwrap();
        let state = runtime.inspect(&deaf).await.unwrap();
        assert_eq!((state.status, state.exit_code), (ContainerStatus::Exited, 137));
        assert!(runtime.kill(&deaf, "SIGKILL").await.unwrap_err().is_conflict());
        runtime.remove(&deaf, false).await.unwrap();
    }
}

/// It has written its first line, so its traps are set.
async fn up(fixture: &Fixture, id: &ContainerId) {
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut lines = fixture.runtime.logs(id, &options).await.unwrap();
    assert_eq!(within(lines.next()).await.unwrap().unwrap().bytes, "up");
}

pub(crate) async fn starting_and_stopping_twice_is_fine(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let id = fixture.started("twice", &["sleep", "1000"]).await;
    let first = runtime.inspect(&id).await.unwrap().started_at;
    runtime.start(&id).await.unwrap();
    let state = runtime.inspect(&id).await.unwrap();
    assert_eq!((state.status, state.started_at), (ContainerStatus::Running, first));
    assert!(runtime.remove(&id, false).await.unwrap_err().is_conflict());
    within(runtime.stop(&id, Duration::ZERO, None)).await.unwrap();
    within(runtime.stop(&id, Duration::ZERO, None)).await.unwrap();
    within(runtime.stop(&id, Duration::ZERO, Some("SIGTERM"))).await.unwrap();
    runtime.start(&id).await.expect("a container can be started again");
    assert_eq!(runtime.inspect(&id).await.unwrap().status, ContainerStatus::Running);
    runtime.remove(&id, true).await.unwrap();
}

pub(crate) async fn events_tell_the_life_of_a_container(fixture: Fixture) {
    use ContainerEventKind::{Created, Destroyed, Died, Started};
    let runtime = &fixture.runtime;
    let wanted = vec![(RUN.to_owned(), fixture.run.clone())];
    let events = runtime.events(&wanted, None).await.unwrap();
    let id = fixture.started("told", &["sh", "-c", "exit 3"]).await;
    within(runtime.wait(&id)).await.unwrap();
    runtime.remove(&id, false).await.unwrap();
    let told: Vec<_> = within(events.take(4).try_collect::<Vec<_>>()).await.unwrap();
    let kinds: Vec<_> = told.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Created, Started, Died { exit_code: 3 }, Destroyed]);
    for event in &told {
        assert_eq!((&event.id, &event.labels), (&id, &fixture.labels("told")));
    }
    // Whoever was away asks from the last event it saw.
    let again = runtime.events(&wanted, Some(told[1].time)).await.unwrap();
    let again: Vec<_> = within(again.take(3).try_collect::<Vec<_>>()).await.unwrap();
    assert_eq!(again.last().unwrap().kind, Destroyed);
}

pub(crate) async fn logs_can_be_cut_and_followed(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let id = fixture.started("log", &["sh", "-c", "echo one; echo two; sleep 0.3; echo three"]).await;
    // Following ends with the container.
    let followed = fixture.lines(&id, LogOptions { follow: true, ..LogOptions::default() }).await;
    let texts: Vec<_> = followed.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["one", "two", "three"]);

    let last = fixture.lines(&id, LogOptions { tail: Some(1), ..LogOptions::default() }).await;
    assert_eq!(last, [(StreamKind::Stdout, "three".to_owned())]);
    let all = runtime.logs(&id, &LogOptions::default()).await.unwrap();
    let all: Vec<_> = within(all.try_collect::<Vec<_>>()).await.unwrap();
    let since = LogOptions { since: Some(all[2].time), ..LogOptions::default() };
    assert_eq!(fixture.lines(&id, since).await, last, "to the nanosecond");
    let until = LogOptions { until: Some(all[1].time), ..LogOptions::default() };
    assert_eq!(fixture.lines(&id, until).await.last().unwrap().1, "two");
}

pub(crate) async fn a_command_runs_in_a_container(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let id = fixture.started("host", &["sleep", "1000"]).await;
    let config = ExecConfig {
        command: words(&["sh", "-c", "echo out; echo err >&2; exit 4"]),
        stdout: true,
        stderr: true,
        ..ExecConfig::default()
    };
    let session = runtime.exec(&id, &config).await.unwrap();
    assert!(session.stdin.is_none());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let pieces: Vec<_> = within(session.output.try_collect::<Vec<_>>()).await.unwrap();
    for (stream, bytes) in pieces {
        if stream == StreamKind::Stdout { out.extend(bytes) } else { err.extend(bytes) }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(within(session.control.exit_code()).await.unwrap(), 4);

    let none = ExecConfig::default();
    assert!(matches!(runtime.exec(&id, &none).await, Err(Error::Invalid { .. })));
    runtime.stop(&id, Duration::ZERO, None).await.unwrap();
    assert!(runtime.exec(&id, &config).await.unwrap_err().is_conflict());
}

pub(crate) async fn a_command_reads_its_input_to_the_end(fixture: Fixture) {
    let id = fixture.started("host", &["sleep", "1000"]).await;
    let config = ExecConfig { command: words(&["cat"]), stdin: true, stdout: true, ..ExecConfig::default() };
    for shut_down in [true, false] {
        let session = fixture.runtime.exec(&id, &config).await.unwrap();
        let mut stdin = session.stdin.unwrap();
        let gift = vec![b'g'; 300_000];
        let writing = async {
            stdin.write_all(&gift).await.unwrap();
            if shut_down {
                stdin.shutdown().await.unwrap();
            }
            drop(stdin);
        };
        let reading = session.output.try_fold(0, async |sum, (_, bytes)| Ok(sum + bytes.len()));
        let ((), read) = within(futures::future::join(writing, reading)).await;
        assert_eq!(read.unwrap(), gift.len());
        assert_eq!(within(session.control.exit_code()).await.unwrap(), 0);
    }
}

pub(crate) async fn short_commands_have_a_time_limit(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let id = fixture.started("host", &["sleep", "1000"]).await;
    let healthy = runtime.exec_sync(&id, &words(&["echo", "fine"]), LIMIT).await.unwrap();
    assert_eq!((healthy.exit_code, &healthy.output[..]), (0, &b"fine\n"[..]));
    let sick = runtime.exec_sync(&id, &words(&["sh", "-c", "echo bad >&2; exit 1"]), LIMIT).await.unwrap();
    assert_eq!((sick.exit_code, &sick.output[..]), (1, &b"bad\n"[..]));
    let hung = runtime.exec_sync(&id, &words(&["sleep", "500"]), Duration::from_millis(300)).await;
    assert!(matches!(hung, Err(Error::Timeout { .. })), "{hung:?}");
}

pub(crate) async fn attaching_joins_the_first_process(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let config = ContainerConfig { stdin: true, stdin_once: true, ..fixture.config("joined", &["cat"]) };
    let id = runtime.create_container(&config).await.unwrap();
    let options = AttachOptions { stdin: true, stdout: true, stderr: true };
    assert!(runtime.attach(&id, &options).await.unwrap_err().is_conflict());
    runtime.start(&id).await.unwrap();
    let mut session = runtime.attach(&id, &options).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let (stream, bytes) = within(session.output.next()).await.unwrap().unwrap();
    assert_eq!((stream, &bytes[..]), (StreamKind::Stdout, &b"hello\n"[..]));
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(within(session.control.exit_code()).await.unwrap(), 0);
    assert!(within(session.output.next()).await.is_none());
}

pub(crate) async fn usage_is_of_what_runs(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let id = fixture.started("used", &["sleep", "1000"]).await;
    let stats = runtime.stats(&id).await.unwrap();
    assert!(stats.time.is_some() && stats.memory_usage > 0 && stats.pids > 0, "{stats:?}");
    assert!(stats.memory_working_set <= stats.memory_usage);
    runtime.stop(&id, Duration::ZERO, None).await.unwrap();
    assert!(runtime.stats(&id).await.unwrap_err().is_conflict());
}

pub(crate) async fn images_come_and_go(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let name = format!("balsa-test/{}:gift", fixture.run);
    let archive = ImageBuilder::new(&name).file("/gift", 0o644, fixture.run.clone()).cmd(["/gift"]).build();
    assert_eq!(runtime.load_image(archive.unwrap()).await.unwrap(), [name.as_str()]);
    let info = runtime.inspect_image(&name).await.unwrap().unwrap();
    assert_eq!(info.repo_tags, [name.as_str()]);
    assert_eq!(runtime.inspect_image(&info.id).await.unwrap().unwrap().id, info.id, "by id");
    let listed = runtime.list_images().await.unwrap();
    assert!(listed.iter().any(|image| image.id == info.id && image.repo_tags == info.repo_tags));

    let config = ContainerConfig { image: name.clone(), ..fixture.config("user", &["/gift"]) };
    let id = runtime.create_container(&config).await.unwrap();
    assert_eq!(runtime.inspect(&id).await.unwrap().image_id, info.id);
    assert!(runtime.remove_image(&name).await.unwrap_err().is_conflict());
    runtime.remove(&id, false).await.unwrap();
    runtime.remove_image(&name).await.unwrap();
    runtime.remove_image(&name).await.expect("what is gone is gone");
    assert_eq!(runtime.inspect_image(&name).await.unwrap(), None);
    let missing = runtime.create_container(&config).await.unwrap_err();
    assert_eq!(missing, Error::ImageNotFound { image: name });
    assert!(matches!(
        runtime.load_image("nonsense".into()).await,
        Err(Error::Invalid { .. } | Error::Other { .. })
    ));
}

pub(crate) async fn networks_come_and_go(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let config = NetworkConfig {
        name: format!("{}-net", fixture.run),
        bridge: format!("bt{}", &fixture.run[fixture.run.len() - 8..]),
        subnet: "10.231.77.0/24".to_owned(),
        gateway: Some([10, 231, 77, 1].into()),
        labels: fixture.labels("net"),
        mtu: Some(1400),
        inter_container: true,
        masquerade: false,
    };
    let made = runtime.create_network(&config).await.unwrap();
    assert!(runtime.create_network(&config).await.unwrap_err().is_conflict());
    let listed = runtime.list_networks(&[(RUN.to_owned(), fixture.run.clone())]).await.unwrap();
    assert_eq!(listed, [made]);

    let network =
        NetworkMode::Bridge { network: config.name.clone(), address: Some([10, 231, 77, 9].into()) };
    let plugged = ContainerConfig { network, ..fixture.config("plugged", &["sleep", "1000"]) };
    let id = runtime.create_container(&plugged).await.unwrap();
    runtime.start(&id).await.unwrap();
    let address: std::net::IpAddr = [10, 231, 77, 9].into();
    assert_eq!(runtime.inspect(&id).await.unwrap().ip, Some(address));
    assert!(runtime.remove_network(&config.name).await.unwrap_err().is_conflict());
    runtime.remove(&id, true).await.unwrap();
    runtime.remove_network(&config.name).await.unwrap();
    runtime.remove_network(&config.name).await.expect("what is gone is gone");
}

pub(crate) async fn a_sandbox_is_shared(fixture: Fixture) {
    let runtime = &fixture.runtime;
    let sandbox = ContainerConfig {
        image: runtime.ensure_pause_image().await.unwrap(),
        command: None,
        ipc: IpcMode::Shareable,
        hostname: Some("phippy-0".to_owned()),
        ..fixture.config("POD", &[])
    };
    let sandbox = runtime.create_container(&sandbox).await.unwrap();
    runtime.start(&sandbox).await.unwrap();
    let inside = ContainerConfig {
        network: NetworkMode::Container(sandbox.clone()),
        ipc: IpcMode::Container(sandbox.clone()),
        ..fixture.config("web", &["sleep", "1000"])
    };
    let inside = runtime.create_container(&inside).await.unwrap();
    runtime.start(&inside).await.unwrap();
    let simulated = runtime.version().await.unwrap().simulated;
    let states = [runtime.inspect(&sandbox).await.unwrap(), runtime.inspect(&inside).await.unwrap()];
    if simulated {
        assert_eq!(states.map(|state| state.netns()), [None, None]);
    } else {
        let [first, second] = states.map(|state| std::fs::read_link(state.netns().unwrap()).unwrap());
        assert_eq!(first, second);
    }
    within(runtime.stop(&inside, Duration::ZERO, None)).await.unwrap();
    within(runtime.stop(&sandbox, LIMIT, None)).await.unwrap();
    assert_eq!(runtime.inspect(&sandbox).await.unwrap().exit_code, 0, "pause listens to SIGTERM");
}
