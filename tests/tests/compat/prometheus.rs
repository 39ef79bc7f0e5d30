//! The real Prometheus as a process of the test: configured, asked by its own API, ended when dropped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_testkit::wait_until;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::clients::{Clients, PATIENCE};

const CONFIGURATION: &str = "prometheus.yml";

/// A Prometheus that runs.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    home: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with this configuration, after promtool has found nothing wrong in it. Paths in it may begin
    /// with `HOME`, where `files` are.
    pub(crate) fn start(clients: &Clients, configuration: &str, files: &[(&str, &str)]) -> Self {
        let home = home_with(configuration, files);
        let checked = promtool(clients, &["check", "config", CONFIGURATION], home.path());
        assert!(checked.is_ok(), "{checked:?}");
        let address = free_address();
        let mut command = Command::new(clients.of_debian("prometheus"));
        command
            .arg(format!("--config.file={CONFIGURATION}"))
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"));
        Self::run(command, address, home)
    }

    /// VictoriaMetrics in its place, which reads the same configuration and is asked in the same way. It discovers
    /// by kubernetes_sd, which Debian's Prometheus is built without.
    pub(crate) fn start_victoria_metrics(
        clients: &Clients,
        configuration: &str,
        files: &[(&str, &str)],
    ) -> Self {
        let home = home_with(configuration, files);
        let address = free_address();
        let mut command = Command::new(clients.of_debian("victoria-metrics"));
        command
            .arg(format!("-promscrape.config={CONFIGURATION}"))
            .arg("-storageDataPath=data")
            .arg(format!("-httpListenAddr={address}"))
            // What was scraped is to be seen at once, and what is discovered to be followed.
            .args(["-search.latencyOffset=0s", "-promscrape.kubernetesSDCheckInterval=1s"]);
        Self::run(command, address, home)
    }

    fn run(mut command: Command, address: SocketAddr, home: tempfile::TempDir) -> Self {
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let child = command
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { child, address, home };
        wait_until("it is ready", PATIENCE, || started.ask("/-/ready"));
        started
    }

    fn ask(&self, path: &str) -> Result<String, String> {
        let answer = ask(self.address, path).map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(answer) }
    }

    fn data(&self, path: &str) -> Result<Value, String> {
        let mut answer: Value = serde_json::from_str(&self.ask(path)?).map_err(|error| error.to_string())?;
        Ok(answer["data"].take())
    }

    /// What an expression is now: its series, each with its value.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let encoded = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let data = self.data(&format!("/api/v1/query?query={encoded}"))?;
        let series = data["result"].as_array().ok_or_else(|| data.to_string())?;
        let of = |one: &Value| {
            let value = one["value"][1].as_str().and_then(|text| text.parse().ok());
            Some((one["metric"].clone(), value?))
        };
        series.iter().map(|one| of(one).ok_or_else(|| one.to_string())).collect()
    }

    /// Waits until an expression has so many series, all of this value.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str, count: usize, value: f64) -> Vec<Value> {
        wait_until(&format!("{expression} has {count} times {value}"), PATIENCE, || {
            let found = self.query(expression)?;
            let right = found.iter().filter(|(_, found)| (found - value).abs() < f64::EPSILON).count();
            if right == count && found.len() == count {
                return Ok(found.into_iter().map(|(labels, _)| labels).collect());
            }
            Err(format!("{found:?}; targets: {}", self.troubles()))
        })
    }

    /// What went wrong with the targets, and the end of the log.
    fn troubles(&self) -> String {
        let targets = self.data("/api/v1/targets?state=active").unwrap_or_default();
        let targets = targets["activeTargets"].as_array().cloned().unwrap_or_default();
        let told =
            targets.iter().map(|one| format!("{} {} {}", one["scrapeUrl"], one["health"], one["lastError"]));
        let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let told: Vec<String> = told.collect();
        format!("{}\n{}", told.join("\n"), lines[lines.len().saturating_sub(5)..].join("\n"))
    }

    /// Rules and what became of them.
    pub(crate) fn rules(&self) -> Result<Value, String> {
        self.data("/api/v1/rules")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A directory with a configuration, and files that it names.
fn home_with(configuration: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::Builder::new().prefix("balsa-prometheus-").tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(home.path().join(name), content).unwrap();
    }
    let text = configuration.replace("HOME", &home.path().to_string_lossy());
    std::fs::write(home.path().join(CONFIGURATION), text).unwrap();
    home
}

fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// The CA of a kubeconfig.
pub(crate) fn ca(kubeconfig: &Path) -> String {
    let config: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
    let encoded = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    String::from_utf8(balsa_testkit::decode_base64(encoded)).unwrap()
}

/// Version 1.0, so that the body comes as it is.
fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Runs promtool on something; what it said.
pub(crate) fn promtool(clients: &Clients, words: &[&str], folder: &Path) -> Result<String, String> {
    let output =
        Command::new(clients.of_debian("promtool")).args(words).current_dir(folder).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}
