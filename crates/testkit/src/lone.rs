//! A server alone, on any data directory: `balsa server` with what a test adds to its command line.
//!
//! Its log is beside the data directory, which may be on a disk that is full. Dropping it kills it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::free_port;
use crate::kubectl::{Output, run};
use crate::rest::{Answer, Rest};
use crate::{balsa, wait_until};

/// Starting and ending, on a machine that also runs other tests.
const PATIENCE: Duration = Duration::from_secs(90);
/// Of its log, when something is wrong.
const LINES_SHOWN: usize = 40;

/// A running server, or one that has ended.
pub struct LoneServer {
    data_dir: PathBuf,
    port: u16,
    child: Child,
}

impl LoneServer {
    /// Starts a server and waits until it is ready.
    pub fn start(data_dir: &Path, more: &[&str]) -> Self {
        let mut server = Self::spawn(data_dir, more, &[]);
        server.is_ready();
        server
    }

    /// Starts a server, with more words on its command line and in its environment.
    pub fn spawn(data_dir: &Path, more: &[&str], environment: &[(&str, &Path)]) -> Self {
        let port = free_port();
        let log = File::options().create(true).append(true).open(log_path(data_dir)).unwrap();
        let child = Command::new(balsa())
            .args(["server", "--name", "lone", "--bind", "127.0.0.1", "--advertise", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(data_dir)
            .args(more)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { data_dir: data_dir.to_owned(), port, child }
    }

    /// Waits until it serves.
    #[track_caller]
    pub fn is_ready(&mut self) {
        wait_until("the server is ready", PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server has ended ({status}):\n{}", self.said());
            }
            // An earlier start may have left one with another port.
            let config = std::fs::read_to_string(self.kubeconfig()).unwrap_or_default();
            if !config.contains(&format!(":{}", self.port)) {
                return Err("no kubeconfig yet".to_owned());
            }
            // The last one of the objects that a cluster has from the start.
            for path in ["/readyz", "/api/v1/namespaces/kube-system/services/kube-dns"] {
                let answer = self.request(Method::GET, path, &Value::Null)?;
                if answer.code != 200 {
                    return Err(format!("{path}: {} {}", answer.code, answer.body));
                }
            }
            Ok(())
        });
    }

    /// One request of its REST API.
    pub fn request(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        let answer = self.rest().and_then(|rest| rest.call_now(method, path, body));
        answer.map_err(|error| format!("{path}: {error:#}"))
    }

    /// A client of its REST API, with all rights.
    ///
    /// # Errors
    /// When its kubeconfig is not there.
    pub fn rest(&self) -> anyhow::Result<Rest> {
        Rest::from_kubeconfig(&self.kubeconfig())
    }

    /// Our own command line.
    pub fn balsa(&self, arguments: &[&str]) -> Output {
        run(&balsa().to_string_lossy(), arguments, Some(&self.kubeconfig()), "")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// All that it and those before it on the same directory have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.data_dir)).unwrap_or_default()
    }

    /// The end of that.
    pub fn said(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        wait_until("the server ends", PATIENCE, || {
            self.child.try_wait().unwrap().ok_or_else(|| "it runs still".to_owned())
        })
    }

    /// `kill -9`.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it in good order.
    pub fn stop(mut self) {
        self.stops();
    }

    /// Asks it to stop, and waits until it has in good order.
    #[track_caller]
    pub fn stops(&mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let status = self.ends();
        assert!(status.success(), "{status}\n{}", self.said());
    }
}

impl Drop for LoneServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}", log_path(&self.data_dir).display(), self.said());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn log_path(data_dir: &Path) -> PathBuf {
    let mut name = OsString::from(data_dir);
    name.push(".log");
    name.into()
}
