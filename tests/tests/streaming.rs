//! Streams into pods as users have them, with each version of kubectl that is found, on real containers:
//! exec, cp, port-forward, attach, run and proxy; and with our own command line.
//!
//! `KUBECTL_DIR` names a directory with programs called `kubectl.1.27` and so on; else the one of the kubectl
//! in `PATH` (or `KUBECTL`) is looked at, and that kubectl alone is used where there are no others.
#![allow(clippy::unwrap_used)]

#[path = "streaming/between.rs"]
mod between;
#[path = "streaming/terminal.rs"]
mod terminal;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use balsa_testkit::{Cluster, Options, has_kubectl, images, kubectl_program, kubectl_programs, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);
const BIG: usize = 50 << 20;

/// A program on somebody's cluster.
struct Tool {
    program: PathBuf,
    kubeconfig: PathBuf,
}

struct Said {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Tool {
    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        command.env("KUBECACHEDIR", self.folder().join("kubectl-cache"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end with `input` on standard input.
    fn with<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Said {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // It may end without reading all.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output().unwrap()
        });
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Said { code: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Said {
        self.with(arguments, b"")
    }

    #[track_caller]
    fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{}: {}", self.name(), said.err);
        String::from_utf8_lossy(&said.out).into_owned()
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// For what the story keeps: beside the data directory, of which nothing may be left in the end.
    fn folder(&self) -> &Path {
        self.kubeconfig.parent().and_then(Path::parent).unwrap()
    }
}

fn kubectls(kubeconfig: &Path) -> Vec<Tool> {
    let tool = |program| Tool { program, kubeconfig: kubeconfig.to_owned() };
    kubectl_programs().into_iter().map(tool).collect()
}

#[test]
fn streams_with_every_kubectl() {
    if !has_kubectl() {
        println!("there is no kubectl here: kube-rs plays this in the suite story");
        return;
    }
    let image = images::busybox("streams");
    let cluster = Cluster::start(Options::nodes(1));
    cluster.apply(&include_str!("streaming/pods.yaml").replace("IMAGE", &image));
    for pod in ["target", "ticker"] {
        cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=120s", &format!("pod/{pod}")]).ok();
    }
    wait_until("the big file is there", PATIENCE, || {
        cluster.kubectl(["exec", "target", "--", "test", "-e", "/www/ready"]).result()
    });
    let digest = cluster.kubectl(["exec", "target", "--", "md5sum", "/www/big"]).ok();
    let digest = digest.split_whitespace().next().unwrap();
    let node = cluster.node_names().remove(0);
    for kubectl in kubectls(&cluster.kubeconfig()) {
        eprintln!("--- {}", kubectl.name());
        exec_works(&kubectl, &["exec"]);
        big_output_is_whole(&kubectl, digest);
        a_terminal_is_one(&kubectl);
        terminal::a_shell_is_typed_into(&kubectl);
        terminal::a_container_is_typed_into(&cluster, &kubectl, &image);
        files_are_copied(&kubectl);
        ports_are_forwarded(&kubectl, digest);
        attach_and_run_work(&kubectl, &image);
        proxies_work(&kubectl, &node);
        debuggers_are_seen(&kubectl, &image);
        between::a_proxy_for_connections(&kubectl);
        between::a_proxy_of_kubectl(&kubectl);
    }
    let balsa = Tool { program: balsa_testkit::balsa().to_owned(), kubeconfig: cluster.kubeconfig() };
    exec_works(&balsa, &["exec"]);
    big_output_is_whole(&balsa, digest);
    a_terminal_is_one(&balsa);
    terminal::a_shell_is_typed_into(&balsa);
    terminal::a_container_is_typed_into(&cluster, &balsa, &image);
    files_are_copied(&balsa);
    ports_are_forwarded(&balsa, digest);
    nothing_is_left_of_who_vanished(&cluster);
    cluster.down();
}

fn exec_works(tool: &Tool, exec: &[&str]) {
    let arguments =
        |words: &[&'static str]| exec.iter().copied().chain(words.iter().copied()).collect::<Vec<_>>();
    let said = tool.run(arguments(&["target", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]));
    assert_eq!((said.code, &said.out[..]), (7, &b"out\n"[..]), "{}: {}", tool.name(), said.err);
    assert!(said.err.starts_with("err\n"), "{}", said.err);
    // The end of the input arrives, and only that ends `cat`; more goes both ways than any buffer holds.
    let input: Vec<u8> = (0..8_000_000_u32).map(|i| (i % 251) as u8).collect();
    let said = tool.with(arguments(&["-i", "target", "--", "cat"]), &input);
    assert!(said.code == 0 && said.out == input, "{}: {} bytes, {}", tool.name(), said.out.len(), said.err);
    let missing = tool.run(arguments(&["target", "--", "/bin/nothing"]));
    // Docker tells it on the output of the command that never ran.
    let told = String::from_utf8_lossy(&missing.out).into_owned() + &missing.err;
    assert!(missing.code != 0 && told.contains("no such file"), "{}: {told}", tool.name());
}

fn big_output_is_whole(tool: &Tool, digest: &str) {
    let said = tool.run(["exec", "target", "--", "cat", "/www/big"]);
    assert_eq!((said.code, said.out.len()), (0, BIG), "{}: {}", tool.name(), said.err);
    assert_eq!(md5(&said.out), digest, "{}", tool.name());
}

fn md5(bytes: &[u8]) -> String {
    let mut sum = Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = sum.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned()
}

/// `script` gives kubectl a terminal of its own.
fn a_terminal_is_one(tool: &Tool) {
    let line = format!(
        "stty rows 33 cols 101; {} exec -it target -- sh -c 'tty; sleep 1; stty size; exit 3'",
        tool.name()
    );
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("KUBECONFIG", &tool.kubeconfig)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("/dev/") && text.contains("33 101"), "{}: {text}", tool.name());
    assert_eq!(output.status.code(), Some(3), "{}: {text}", tool.name());
}

fn files_are_copied(tool: &Tool) {
    let home = tool.folder().join("copies");
    std::fs::remove_dir_all(&home).ok();
    std::fs::create_dir_all(home.join("site/deep")).unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(home.join("site/deep/data"), &data).unwrap();
    tool.ok(["exec", "target", "--", "rm", "-rf", "/tmp/site"]);
    tool.ok(["cp", &home.join("site").to_string_lossy(), "target:/tmp/site"]);
    assert!(tool.ok(["exec", "target", "--", "md5sum", "/tmp/site/deep/data"]).starts_with(&md5(&data)));
    tool.ok(["cp", "target:/tmp/site/deep/data", &home.join("back").to_string_lossy()]);
    assert!(std::fs::read(home.join("back")).unwrap() == data, "{}", tool.name());
    let missing = tool.run(["cp", "target:/tmp/nothing", &home.join("no").to_string_lossy()]);
    assert!(missing.code != 0 || !home.join("no").exists(), "{}", tool.name());
}

/// A forward that runs; it ends when dropped.
struct Forward {
    child: Child,
    address: SocketAddr,
}

impl Forward {
    fn start(tool: &Tool, port: &str) -> Self {
        let mut child = tool.command(["port-forward", "pod/target", port]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{}: {line}", tool.name()));
        // Read on, or it would stand still.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { child, address }
    }

    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        head.map(|at| answer.split_off(at + 4)).unwrap_or_default()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn ports_are_forwarded(tool: &Tool, digest: &str) {
    let forward = Forward::start(tool, ":8080");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(forward.get("/hello"), b"hello\n", "{}", tool.name()));
        }
        scope.spawn(|| assert_eq!(md5(&forward.get("/big")), digest, "{}", tool.name()));
    });
    assert_eq!(forward.get("/hello"), b"hello\n");
    drop(forward);
    let mut closed = Forward::start(tool, ":9");
    assert_eq!(closed.get("/"), b"");
    let mut first = String::new();
    let mut errors = BufReader::new(closed.child.stderr.take().unwrap());
    while !first.contains("onnection refused") {
        assert!(errors.read_line(&mut first).unwrap() > 0, "{}: {first}", tool.name());
    }
}

fn attach_and_run_work(tool: &Tool, image: &str) {
    let mut attached = tool.command(["attach", "ticker"]).spawn().unwrap();
    let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick", "{}", tool.name());
    attached.kill().unwrap();
    attached.wait().unwrap();
    let image = format!("--image={image}");
    let run = ["run", "once", "-i", "--rm", "--restart=Never", "--pod-running-timeout=2m", &image];
    let words = ["--command", "--", "sh", "-c", "read line; echo got $line; sleep 1"];
    let said = tool.with(run.iter().chain(&words), b"a line\n");
    let out = String::from_utf8_lossy(&said.out);
    assert!(said.code == 0 && out.contains("got a line"), "{}: {out} {}", tool.name(), said.err);
}

/// Of a container that was put into a pod for a look, as of any other.
fn debuggers_are_seen(tool: &Tool, image: &str) {
    let of = tool.program.file_name().unwrap().to_string_lossy().replace('.', "-");
    let name = format!("look-{of}");
    let (image, container) = (format!("--image={image}"), format!("--container={name}"));
    let words = ["--", "sh", "-c", "echo looking; sleep 1000"];
    tool.ok(["debug", "ticker", &image, &container].iter().chain(&words));
    let logs = ["logs", "ticker", "-c", &name];
    wait_until("what it says", PATIENCE, || match tool.run(logs) {
        Said { out, .. } if out == b"looking\n" => Ok(()),
        said => Err(said.err),
    });
    let said = tool.ok(["exec", "ticker", "-c", &name, "--", "echo", "here"]);
    assert_eq!(said, "here\n", "{}", tool.name());
    let said = tool.run(["logs", "ticker", "-c", "nobody"]);
    assert!(said.err.contains("container nobody is not valid for pod ticker"), "{}", said.err);
}

fn proxies_work(tool: &Tool, node: &str) {
    let pods = "/api/v1/namespaces/default/pods/target:8080/proxy";
    let services = "/api/v1/namespaces/default/services";
    for path in [
        format!("{pods}/hello"),
        format!("{services}/target/proxy/hello"),
        format!("{services}/http:target:web/proxy/hello"),
    ] {
        assert_eq!(tool.ok(["get", "--raw", &path]), "hello\n", "{}: {path}", tool.name());
    }
    assert!(tool.run(["get", "--raw", &format!("{pods}/missing")]).code != 0);
    let metrics = tool.ok(["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]);
    assert!(metrics.contains("# TYPE"), "{metrics}");
}

/// Who is killed leaves no process of ours behind that waits for it.
fn nothing_is_left_of_who_vanished(cluster: &Cluster) {
    let kubectl = Tool { program: kubectl_program().into(), kubeconfig: cluster.kubeconfig() };
    let mut typing =
        kubectl.command(["exec", "-i", "target", "--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let running = || cluster.kubectl(["exec", "target", "--", "ps"]).result();
    let cats = |text: &str| text.lines().filter(|line| line.trim_end().ends_with(" cat")).count();
    wait_until("cat runs", PATIENCE, || match running()? {
        text if cats(&text) == 1 => Ok(()),
        text => Err(text),
    });
    typing.kill().unwrap();
    typing.wait().unwrap();
    wait_until("cat has ended with who typed", PATIENCE, || match running()? {
        text if cats(&text) == 0 => Ok(()),
        text => Err(text),
    });
}
