//! examples/clients, run as their README says.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use balsa_testkit::{Cluster, root};

use crate::{Credentials, PATIENCE};

/// The Python of the clients that scripts/clients.sh installs.
fn python() -> PathBuf {
    balsa_testkit::clients().join("venv/bin/python")
}

pub(crate) fn follow(cluster: &Cluster, credentials: &Credentials) {
    let generated = tempfile::tempdir().unwrap();
    let out = generated.path().display().to_string();
    protoc(&[format!("--python_out={out}"), format!("--grpc_python_out={out}")]);
    let mut in_python = Command::new(python());
    in_python.arg(root().join("examples/clients/python/follow.py")).env("PYTHONPATH", generated.path());
    tells_what_happens(cluster, credentials, in_python, "python");
    tells_what_happens(cluster, credentials, Command::new(env!("CARGO_BIN_EXE_follow")), "rust");
    match in_go(generated.path()) {
        Some(in_go) => tells_what_happens(cluster, credentials, in_go, "go"),
        None => {
            println!("NOT TESTED: the example in Go, which scripts/clients.sh could not get on this system")
        }
    }
}

/// Generates code from the API's definition.
fn protoc(arguments: &[String]) {
    let proto = root().join("proto");
    let mut protoc = Command::new(python());
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto).args(arguments);
    assert!(protoc.arg(proto.join("balsa/v1/api.proto")).status().unwrap().success());
}

/// The example in Go, built in a workspace below `folder`.
fn in_go(folder: &Path) -> Option<Command> {
    let mut go = balsa_testkit::go(folder)?;
    let module = "balsa.dev/examples/follow";
    let home = folder.join("src").join(module);
    std::fs::create_dir_all(&home).unwrap();
    std::fs::copy(root().join("examples/clients/go/main.go"), home.join("main.go")).unwrap();
    let mut arguments = Vec::new();
    for language in ["go", "go-grpc"] {
        let plugin = balsa_testkit::clients().join("go/bin").join(format!("protoc-gen-{language}"));
        arguments.push(format!("--plugin=protoc-gen-{language}={}", plugin.display()));
        arguments.push(format!("--{language}_out={}", home.display()));
        arguments.push(format!("--{language}_opt=module={module}"));
        arguments.push(format!("--{language}_opt=Mbalsa/v1/api.proto={module}/balsa/v1"));
    }
    protoc(&arguments);
    let program = folder.join("follow");
    let vetted = balsa_testkit::go(folder)?.args(["vet", module]).status().unwrap();
    let built = go.args(["build", "-o"]).arg(&program).arg(module).status().unwrap();
    assert!(vetted.success() && built.success());
    Some(Command::new(program))
}

/// It applies its ConfigMap, follows what comes and goes of two kinds, and ends with the last one.
fn tells_what_happens(cluster: &Cluster, credentials: &Credentials, mut example: Command, language: &str) {
    let last = format!("last-{language}");
    let mut child = example
        .arg(cluster.address())
        .args(["ca.crt", "me.crt", "me.key"].map(|name| credentials.file(name)))
        .args(["default", &last])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let told = |wanted: &str| {
        let next =
            || lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{language} does not tell {wanted}"));
        while !next().starts_with(wanted) {}
    };
    told("applied configmaps/hello at ");
    // In either order.
    told("SYNCED ");
    told("SYNCED ");
    let secret = format!("secret/of-{language}");
    let name = format!("of-{language}");
    cluster.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n"));
    told(&format!("ADDED secrets/{name} "));
    cluster.apply(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, labels: {{a: b}}}}\n"));
    told(&format!("MODIFIED secrets/{name} "));
    cluster.balsa(["delete", &secret]).ok();
    told(&format!("DELETED secrets/{name} "));
    cluster.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {last}}}\n"));
    told(&format!("ADDED configmaps/{last} "));
    assert!(child.wait().unwrap().success());
}
