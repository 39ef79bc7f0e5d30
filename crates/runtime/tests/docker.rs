//! The Docker runtime against the Docker Engine of this machine: the common behaviour, and what
//! only real containers can show.
//!
//! It needs a Docker Engine that this user may use and a statically linked `/bin/busybox`. Where one is
//! missing the tests fail and say so: skipped, they would prove nothing. Everything made carries a label
//! and is removed, also when a test fails.
#![allow(clippy::unwrap_used)]

mod suite;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use balsa_rt::Clock;
use balsa_runtime::{
    ContainerConfig, ContainerStatus, DockerRuntime, Error, ExecConfig, ImageBuilder, ListFilter, Mount,
    MountKind, NetworkMode, PidMode, Propagation, PullReason, Resources, Runtime, network_stats,
};
use bytes::Bytes;
use futures::{Future, FutureExt as _, TryStreamExt as _};
use suite::{Fixture, RUN, within, words};

const PROGRAMS: &[&str] =
    &["sh", "cat", "echo", "false", "hostname", "id", "ps", "sleep", "stty", "touch", "true"];

async fn docker<F: Future<Output = ()>>(case: impl FnOnce(Fixture) -> F) {
    let runtime = DockerRuntime::connect(None, Clock::system())
        .await
        .expect("these tests need Docker: on Debian `apt install docker.io`, then `systemctl start docker`");
    let run = format!("balsa-test-{}", &balsa_rt::new_uid()[..8]);
    let image = format!("{run}/box:1");
    runtime.load_image(busybox(&image)).await.unwrap();
    let runtime: Arc<dyn Runtime> = Arc::new(runtime);
    let fixture = Fixture { runtime: runtime.clone(), image: image.clone(), run: run.clone() };
    let result = AssertUnwindSafe(case(fixture)).catch_unwind().await;
    clean_up(runtime.as_ref(), &run, &image).await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

suite::behaviour!(docker);

fn busybox(name: &str) -> Bytes {
    let busybox = std::fs::read("/bin/busybox")
        .expect("these tests need a static busybox: on Debian `apt install busybox-static`");
    let image = ImageBuilder::new(name).file("/bin/busybox", 0o755, busybox).directory("/tmp", 0o1777);
    // No two tests have an image of the same content: Docker loses a tag that is set while the last other one of its
    // image is removed.
    let image = image.file("/of", 0o644, name.to_owned());
    let image =
        PROGRAMS.iter().fold(image, |image, program| image.symlink(&format!("/bin/{program}"), "busybox"));
    image.env("PATH", "/bin").build().unwrap()
}

async fn clean_up(runtime: &dyn Runtime, run: &str, image: &str) {
    for container in runtime.list(&ListFilter::label(RUN, run)).await.unwrap() {
        runtime.remove(&container.id, true).await.unwrap();
    }
    for network in runtime.list_networks(&[(RUN.to_owned(), run.to_owned())]).await.unwrap() {
        runtime.remove_network(&network.id).await.unwrap();
    }
    for name in [image.to_owned(), format!("balsa-test/{run}:gift")] {
        runtime.remove_image(&name).await.unwrap();
    }
}

async fn output(fixture: &Fixture, config: &ContainerConfig) -> (i32, String) {
    let id = fixture.runtime.create_container(config).await.unwrap();
    fixture.runtime.start(&id).await.unwrap();
    let exit_code = within(fixture.runtime.wait(&id)).await.unwrap();
    let lines = fixture.runtime.logs(&id, &Default::default()).await.unwrap();
    let lines: Vec<_> = within(lines.try_collect::<Vec<_>>()).await.unwrap();
    let text: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect();
    (exit_code, text.join("\n"))
}

#[tokio::test]
async fn a_missing_engine_is_unavailable() {
    let Err(error) = DockerRuntime::connect(Some("unix:///nowhere/docker.sock"), Clock::system()).await
    else {
        panic!("connected to nowhere")
    };
    assert!(error.is_retryable() && error.to_string().contains("/nowhere/docker.sock"), "{error}");
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    docker(|fixture| async move {
        let id =
            fixture.runtime.create_container(&fixture.config("bad", &["no-such-program"])).await.unwrap();
        let error = fixture.runtime.start(&id).await.unwrap_err();
        assert!(
            matches!(&error, Error::Start { message } if message.contains("no-such-program")),
            "{error:?}"
        );
        let state = fixture.runtime.inspect(&id).await.unwrap();
        assert_eq!((state.status, state.exit_code), (ContainerStatus::Created, 127));
        assert!(!state.error.is_empty());

        let mount = Mount {
            target: "/x".to_owned(),
            read_only: false,
            kind: MountKind::Bind {
                source: "/no/such/path".to_owned(),
                propagation: Propagation::Private,
                recursive_read_only: false,
            },
        };
        let config = ContainerConfig { mounts: vec![mount], ..fixture.config("mount", &["true"]) };
        let error = fixture.runtime.create_container(&config).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_container_is_what_was_asked_for() {
    docker(|fixture| async move {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gift"), "from Goldie").unwrap();
        let bind = |target: &str, read_only| Mount {
            target: target.to_owned(),
            read_only,
            kind: MountKind::Bind {
                source: directory.path().display().to_string(),
                propagation: Propagation::Private,
                recursive_read_only: false,
            },
        };
        let tmpfs = Mount {
            target: "/scratch".to_owned(),
            read_only: false,
            kind: MountKind::Tmpfs { size: Some(1 << 20), mode: Some(0o1777) },
        };
        let script = "id -u; id -G; hostname; echo $GIFT; cat /gifts/gift; echo; \
             touch /gifts/x || touch /x || touch /scratch/y && echo scratched; exit 0";
        let config = ContainerConfig {
            args: Some(words(&["-c", script])),
            env: vec![("GIFT".to_owned(), "a=b c".to_owned())],
            hostname: Some("phippy-0".to_owned()),
            user: Some("1000:2000".to_owned()),
            supplemental_groups: vec![3000],
            read_only_root: true,
            no_new_privileges: true,
            mounts: vec![bind("/gifts", true), tmpfs],
            ..fixture.config("asked", &["sh"])
        };
        let (exit_code, text) = output(&fixture, &config).await;
        assert_eq!(exit_code, 0);
        for line in ["1000", "2000 3000", "phippy-0", "a=b c", "from Goldie", "scratched"] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in {text:?}");
        }
        assert_eq!(text.matches("Read-only file system").count(), 2, "{text:?}");
    })
    .await;
}

#[tokio::test]
async fn limits_and_capabilities_hold() {
    docker(|fixture| async move {
        let config = ContainerConfig {
            capabilities_drop: words(&["ALL"]),
            capabilities_add: words(&["NET_BIND_SERVICE"]),
            resources: Resources {
                memory: Some(32 << 20),
                pids: Some(20),
                oom_score_adj: Some(500),
                ..Resources::default()
            },
            ..fixture.config(
                "limited",
                &["sh", "-c", "cat /proc/self/status /proc/self/oom_score_adj; sleep 1000"],
            )
        };
        let id = fixture.runtime.create_container(&config).await.unwrap();
        fixture.runtime.start(&id).await.unwrap();
        assert_eq!(fixture.runtime.stats(&id).await.unwrap().memory_limit, Some(32 << 20));
        let status = fixture
            .runtime
            .exec_sync(
                &id,
                &words(&["cat", "/proc/1/status", "/proc/1/oom_score_adj"]),
                Duration::from_secs(20),
            )
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&status.output).into_owned();
        // NET_BIND_SERVICE is capability 10.
        assert!(text.contains("CapEff:\t0000000000000400"), "{text}");
        assert!(text.lines().any(|line| line == "500"), "{text}");

        let greedy = ContainerConfig {
            resources: Resources { memory: Some(16 << 20), ..Resources::default() },
            // Memory that tmpfs holds is charged to who writes it.
            ..fixture.config("greedy", &["sh", "-c", "a=xxxxxxxxxxxxxxxx; while true; do a=$a$a; done"])
        };
        let id = fixture.runtime.create_container(&greedy).await.unwrap();
        fixture.runtime.start(&id).await.unwrap();
        assert_eq!(within(fixture.runtime.wait(&id)).await.unwrap(), 137);
        assert!(fixture.runtime.inspect(&id).await.unwrap().oom_killed);
    })
    .await;
}

/// Orphans of a shared process namespace go to pause, and pause lets none of them linger.
#[tokio::test]
async fn pause_reaps_orphans() {
    docker(|fixture| async move {
        let runtime = &fixture.runtime;
        let image = runtime.ensure_pause_image().await.unwrap();
        let sandbox = ContainerConfig { image, command: None, ..fixture.config("POD", &[]) };
        let sandbox = runtime.create_container(&sandbox).await.unwrap();
        runtime.start(&sandbox).await.unwrap();
        let member = ContainerConfig {
            pid: PidMode::Container(sandbox.clone()),
            network: NetworkMode::Container(sandbox.clone()),
            ..fixture.config("member", &["sleep", "1000"])
        };
        let member = runtime.create_container(&member).await.unwrap();
        runtime.start(&member).await.unwrap();
        let limit = Duration::from_secs(20);
        let orphan = words(&["sh", "-c", "(sleep 0.2 >/dev/null 2>&1 &) ; (sleep 0.3 >/dev/null 2>&1 &)"]);
        runtime.exec_sync(&member, &orphan, limit).await.unwrap();
        within(async {
            loop {
                let processes =
                    runtime.exec_sync(&member, &words(&["ps", "-o", "args"]), limit).await.unwrap();
                let text = String::from_utf8_lossy(&processes.output).into_owned();
                assert!(text.contains("/pause"), "{text}");
                if !text.contains("sleep 0.") && !text.contains("[sleep]") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_without_network_can_be_plugged() {
    docker(|fixture| async move {
        let id = fixture.started("POD", &["sleep", "1000"]).await;
        let state = fixture.runtime.inspect(&id).await.unwrap();
        let own = std::fs::read_link(state.netns().unwrap()).unwrap();
        assert_ne!(own, std::fs::read_link("/proc/self/ns/net").unwrap());
        assert_eq!(network_stats(state.pid.unwrap()).unwrap(), [], "loopback only");
        assert_eq!(state.ip, None);
    })
    .await;
}

#[tokio::test]
async fn a_terminal_has_a_size() {
    docker(|fixture| async move {
        let id = fixture.started("host", &["sleep", "1000"]).await;
        let config = ExecConfig {
            command: words(&[
                "sh",
                "-c",
                "until [ \"$(stty size 2>/dev/null)\" = '40 132' ]; do sleep 0.02; done; echo seen",
            ]),
            tty: true,
            stdin: true,
            stdout: true,
            ..ExecConfig::default()
        };
        let session = fixture.runtime.exec(&id, &config).await.unwrap();
        session.control.resize(132, 40).await.unwrap();
        let pieces: Vec<_> = within(session.output.try_collect::<Vec<_>>()).await.unwrap();
        let text: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(String::from_utf8_lossy(&text), "seen\r\n");
        assert_eq!(within(session.control.exit_code()).await.unwrap(), 0);
    })
    .await;
}

/// A probe that hangs must not leave a process behind each time.
#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    docker(|fixture| async move {
        let id = fixture.started("host", &["sleep", "1000"]).await;
        let hung =
            fixture.runtime.exec_sync(&id, &words(&["sleep", "987"]), Duration::from_millis(300)).await;
        assert!(matches!(hung, Err(Error::Timeout { .. })), "{hung:?}");
        within(async {
            let limit = Duration::from_secs(20);
            loop {
                let found =
                    fixture.runtime.exec_sync(&id, &words(&["ps", "-o", "args"]), limit).await.unwrap();
                if !String::from_utf8_lossy(&found.output).contains("sleep 987") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_failed_pull_has_a_reason() {
    docker(|fixture| async move {
        // Port 9 of this machine: nobody answers there.
        let error = fixture.runtime.pull("localhost:9/nobody/nothing:1", None, None).await.unwrap_err();
        assert!(matches!(error, Error::ImagePull { reason: PullReason::Unreachable, .. }), "{error:?}");
        let error = fixture.runtime.pull("Not A Name", None, None).await.unwrap_err();
        assert!(matches!(error, Error::ImagePull { reason: PullReason::InvalidName, .. }), "{error:?}");
    })
    .await;
}

/// A line too long for one entry of the engine's log comes in pieces that say so.
#[tokio::test]
async fn long_lines_come_in_pieces() {
    docker(|fixture| async move {
        let script =
            "a=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11; do a=$a$a; done; echo $a; echo end";
        let id = fixture.started("long", &["sh", "-c", script]).await;
        within(fixture.runtime.wait(&id)).await.unwrap();
        let lines = fixture.runtime.logs(&id, &Default::default()).await.unwrap();
        let lines: Vec<_> = within(lines.try_collect::<Vec<_>>()).await.unwrap();
        let whole = lines.iter().position(|line| !line.partial).unwrap();
        assert!(whole >= 1, "{} pieces", lines.len());
        assert_eq!(lines[..=whole].iter().map(|line| line.bytes.len()).sum::<usize>(), 16 << 11);
        assert_eq!((&lines[whole + 1].bytes[..], lines[whole + 1].partial), (&b"end"[..], false));
    })
    .await;
}
