//! What a newcomer types: `make run`, Ctrl-C, `make run` once more, `make clean-cluster`. The scripts behind them,
//! with the program that is under test.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use balsa_testkit::{Container, Footprint, MachineLock, balsa, containers, docker, get, root, wait_until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The demo's images are made, and its story is told from the beginning.
const PATIENCE: Duration = Duration::from_secs(240);
const NAMESPACE: &str = "phippy";

#[test]
fn a_newcomer_runs_it_and_cleans_up() {
    let _machine = MachineLock::take();
    let before = Footprint::take();
    let home = tempfile::Builder::new().prefix("balsa-newcomer-").tempdir().unwrap();
    let newcomer = Newcomer { data: home.path().join("data"), port: free_port() };

    let mut run = newcomer.types("run.sh");
    let address = run.address();
    assert!(get(address, "/").unwrap().contains("Phippy"));
    newcomer.is_settled();
    let first = hers(&newcomer);
    run.is_interrupted();
    assert_eq!(hers(&newcomer), first, "Ctrl-C leaves the containers");
    assert!(get(address, "/").unwrap().contains("Phippy"), "and what leads to them");

    let mut again = newcomer.types("run.sh");
    assert_eq!(again.address(), address);
    again.says("She is at home already.");
    assert_eq!(hers(&newcomer), first, "they are taken up again, none is started anew");
    again.is_interrupted();

    let clean = newcomer.types("clean.sh");
    clean.says("Nothing of the cluster is left.");
    clean.ends_well();
    assert!(!newcomer.data.exists(), "{}", newcomer.data.display());
    let images = docker(["image", "ls", "-q", "--filter", "label=phippy.content"]).ok();
    assert_eq!(images, "", "the demo's images");
    wait_until("nothing is left", Duration::from_secs(30), || {
        let left = Footprint::take().since(&before);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

/// The containers of the demo.
fn hers(newcomer: &Newcomer) -> BTreeSet<Container> {
    let nodes = std::fs::read_dir(newcomer.data.join("nodes")).unwrap().flatten();
    let found: BTreeSet<Container> =
        nodes.flat_map(|node| containers(&node.file_name().to_string_lossy(), NAMESPACE)).collect();
    assert!(found.len() > 6, "three pods with their sandboxes, and who has been there: {found:?}");
    found
}

/// Who has a machine, and this repository.
struct Newcomer {
    data: PathBuf,
    port: u16,
}

impl Newcomer {
    fn types(&self, script: &str) -> Script {
        // A shell that was started in the background has its Ctrl-C switched off.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(root().join("scripts").join(script));
        command.env("BALSA_DATA_DIR", &self.data).env("BALSA_PORT", self.port.to_string());
        Script::start(command.env("BALSA_BIN", balsa()))
    }
}

impl Newcomer {
    /// Waits until nothing is on its way out any more that earlier chapters have made.
    fn is_settled(&self) {
        let going =
            ["get", "pods", "-A", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}", "--kubeconfig"];
        wait_until("no pod is ending", PATIENCE, || {
            let told =
                Command::new(balsa()).args(going).arg(self.data.join("admin.kubeconfig")).output().unwrap();
            if told.status.success() && told.stdout.is_empty() { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }
}

impl Drop for Newcomer {
    /// Also after a test that has failed.
    fn drop(&mut self) {
        Command::new(balsa()).args(["down", "--data-dir"]).arg(&self.data).output().ok();
    }
}

/// A script of this repository, in a terminal of its own, so to speak.
struct Script {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Drop for Script {
    /// A test that has failed leaves none behind that would go on with the story.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            killpg(self.group(), Signal::SIGKILL).ok();
            self.child.wait().ok();
        }
    }
}

impl Script {
    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = piped.process_group(0).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (output, told) = (BufReader::new(child.stdout.take().unwrap()), said.clone());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                told.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, said }
    }

    /// Waits until it has said something; the rest of that line.
    #[track_caller]
    fn says(&self, what: &str) -> String {
        wait_until(&format!("it says {what:?}"), PATIENCE, || {
            let said = self.said.lock().unwrap().clone();
            let rest = said.lines().find_map(|line| line.split_once(what)).map(|(_, rest)| rest.to_owned());
            rest.ok_or(said)
        })
    }

    /// Where the demo answers, once all is said.
    fn address(&self) -> SocketAddr {
        let address = self.says("Phippy answers at http://");
        self.says("The cluster runs until Ctrl-C.");
        address.trim_end_matches('/').parse().unwrap()
    }

    /// Ctrl-C.
    #[track_caller]
    fn is_interrupted(&mut self) {
        killpg(self.group(), Signal::SIGINT).unwrap();
        self.says("Stopping the servers. The containers stay");
        self.has_ended_well();
    }

    #[track_caller]
    fn ends_well(mut self) {
        self.has_ended_well();
    }

    #[track_caller]
    fn has_ended_well(&mut self) {
        let status = wait_until("the script ends", PATIENCE, || {
            self.child.try_wait().unwrap().ok_or_else(|| self.said.lock().unwrap().clone())
        });
        assert!(status.success(), "{status}\n{}", self.said.lock().unwrap());
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
