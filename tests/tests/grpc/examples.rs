//! examples/clients, run as their README says.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
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
    let (proto, out) = (root().join("proto"), generated.path().display().to_string());
    let status = Command::new(python())
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&proto)
        .args([format!("--python_out={out}"), format!("--grpc_python_out={out}")])
        .arg(proto.join("balsa/v1/api.proto"))
        .status()
        .unwrap();
    assert!(status.success());
    let mut in_python = Command::new(python());
    in_python.arg(root().join("examples/clients/python/follow.py")).env("PYTHONPATH", generated.path());
    tells_what_happens(cluster, credentials, in_python, "python");
    tells_what_happens(cluster, credentials, Command::new(env!("CARGO_BIN_EXE_follow")), "rust");
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
