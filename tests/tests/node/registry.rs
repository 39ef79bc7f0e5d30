//! A registry on loopback: Debian's docker-registry, which asks for a name and a password, and a slow line
//! to it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_testkit::docker;
use serde_json::json;

/// Who may pull and push: `goldie`, with `a purple kite`. The hash is bcrypt's.
const PASSWORDS: &str = "goldie:$2y$05$PhippyAndGoldieAreFrie.JhWTG4U9sukQbMPrvLljw5Hul4f4Ci\n";
/// The same as clients send it.
const CREDENTIALS: &str = "Z29sZGllOmEgcHVycGxlIGtpdGU=";

/// The registry; it ends with this value, and its images go.
pub(crate) struct Registry {
    home: tempfile::TempDir,
    process: Child,
    address: SocketAddr,
    /// Where it answers: directly, and over slow lines.
    hosts: Vec<String>,
    names: Vec<String>,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        fs::write(at("passwords"), PASSWORDS).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\nauth: {{htpasswd: {{realm: toys, path: {}}}}}\n",
            at("images"),
            at("passwords")
        );
        fs::write(at("config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this test needs docker-registry: run it by `make test`, which fetches it");
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let told = said.find_map(|line| {
            let line = line.unwrap();
            line.split("listening on ").nth(1)?.split(['"', ' ']).next()?.parse().ok()
        });
        let address = told.expect("it says where it listens");
        // What it says later is of no interest, but it has to be read.
        std::thread::spawn(move || said.for_each(drop));
        let mut registry = Self { home, process, address, hosts: Vec::new(), names: Vec::new() };
        registry.log_in(address);
        registry
    }

    /// The name of an image in this registry.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// What docker and the pull secret are told.
    pub(crate) fn credentials(&self) -> String {
        let auths = self.hosts.iter().map(|host| (host.clone(), json!({"auth": CREDENTIALS})));
        json!({"auths": auths.collect::<serde_json::Map<_, _>>()}).to_string()
    }

    fn log_in(&mut self, address: SocketAddr) {
        self.hosts.push(address.to_string());
        fs::write(self.home.path().join("config.json"), self.credentials()).unwrap();
    }

    /// Pushes a local image under a name of this registry, and says by which digest the registry has it. Docker
    /// keeps neither the name nor what only it holds.
    pub(crate) fn push(&mut self, local: &str, name: &str) -> String {
        docker(["tag", local, name]).ok();
        let config = self.home.path().display().to_string();
        let told = docker(["--config", &config, "push", name]).ok();
        docker(["rmi", name]).ok();
        self.names.push(name.to_owned());
        let digest = told.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next());
        digest.expect("what was pushed has a digest").to_owned()
    }

    /// Where the same registry answers with so many bytes a second.
    pub(crate) fn slowly(&mut self, rate: usize) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (slow, registry) = (listener.local_addr().unwrap(), self.address);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(registry).unwrap());
                let (mut up, mut answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (mut to_server, mut to_client) = (server, client);
                std::thread::spawn(move || {
                    std::io::copy(&mut up, &mut to_server).ok();
                    to_server.shutdown(Shutdown::Write).ok();
                });
                std::thread::spawn(move || trickle(&mut answers, &mut to_client, rate));
            }
        });
        self.log_in(slow);
        slow.to_string()
    }
}

/// Copies at most `rate` bytes a second.
fn trickle(from: &mut TcpStream, to: &mut TcpStream, rate: usize) {
    const TICKS: usize = 20;
    let mut piece = vec![0; rate / TICKS];
    while let Ok(read) = from.read(&mut piece) {
        if read == 0 || to.write_all(&piece[..read]).is_err() {
            break;
        }
        if read == piece.len() {
            std::thread::sleep(Duration::from_secs(1) / u32::try_from(TICKS).unwrap());
        }
    }
    to.shutdown(Shutdown::Both).ok();
}

impl Drop for Registry {
    fn drop(&mut self) {
        for name in &self.names {
            docker(["rmi", name]);
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
