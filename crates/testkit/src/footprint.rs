//! What clusters leave on a machine: containers, links, addresses, nftables tables, mounts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::Command;

use crate::kubectl::{Output, run};

/// Runs the `docker` program.
pub fn docker<I, S>(arguments: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run("docker", arguments, None, "")
}

/// Panics with what to do unless Docker answers.
#[track_caller]
pub(crate) fn need_docker() {
    let answer = docker(["version", "--format", "{{.Server.Version}}"]);
    assert!(
        answer.code == 0,
        "these tests run real containers and Docker does not answer: install it and start it \
         (Debian, Ubuntu: apt-get install docker.io), or run `make test`, which does.\n{}",
        answer.stderr
    );
}

/// A container of a pod, as Docker knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Name of the pod.
    pub pod: String,
    /// Name in the pod; `POD` for the sandbox.
    pub name: String,
    /// Docker's id.
    pub id: String,
    /// When it was started.
    pub started: String,
    /// Whether it runs.
    pub running: bool,
}

/// The containers of a namespace's pods on the given node, with sandboxes.
pub fn containers(node: &str, namespace: &str) -> BTreeSet<Container> {
    let of_node = format!("label=balsa.dev/node={node}");
    let of_namespace = format!("label=io.kubernetes.pod.namespace={namespace}");
    let ids =
        docker(["ps", "-aq", "--no-trunc", "--filter", of_node.as_str(), "--filter", of_namespace.as_str()])
            .ok();
    ids.split_whitespace().filter_map(inspect).collect()
}

/// `None` when it is gone between being listed and being asked for.
fn inspect(id: &str) -> Option<Container> {
    let format = "{{index .Config.Labels \"io.kubernetes.pod.name\"}} \
                  {{index .Config.Labels \"io.kubernetes.container.name\"}} \
                  {{.State.StartedAt}} {{.State.Running}}";
    let answer = docker(["inspect", "-f", format, id]).result().ok()?;
    let mut words = answer.split_whitespace().map(str::to_owned);
    Some(Container {
        pod: words.next()?,
        name: words.next()?,
        id: id.to_owned(),
        started: words.next()?,
        running: words.next()? == "true",
    })
}

/// Everything on the machine that a cluster may have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// What is there now.
    pub fn take() -> Self {
        let mut found = BTreeSet::new();
        let ids = docker(["ps", "-aq", "--no-trunc", "--filter", "label=balsa.dev/node"]).ok();
        found.extend(ids.split_whitespace().map(|id| format!("container {id}")));
        let links = output_of("ip", &["-o", "link", "show"]);
        let names = links.lines().filter_map(|row| row.split([':', '@']).nth(1)).map(str::trim);
        let ours = names.filter(|name| name.starts_with("balsa") || name.starts_with("blv"));
        found.extend(ours.map(|name| format!("link {name}")));
        let tables = output_of("nft", &["list", "tables"]);
        found.extend(tables.lines().filter(|line| line.contains("balsa")).map(str::to_owned));
        let chains = output_of("iptables-save", &[]);
        found.extend(chains.lines().filter(|line| line.contains("balsa")).map(str::to_owned));
        for (what, arguments) in [
            ("address", ["-o", "addr", "show", "dev", "lo"].as_slice()),
            ("rule", ["rule", "show"].as_slice()),
        ] {
            found.extend(output_of("ip", arguments).lines().map(|line| format!("{what} {line}")));
        }
        for what in ["network", "volume"] {
            let names = docker([what, "ls", "--format", "{{.Name}}"]).ok();
            found.extend(names.lines().map(|name| format!("Docker's {what} {name}")));
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        found.extend(places.filter(|path| path.contains("balsa")).map(|path| format!("mount {path}")));
        Self(found)
    }

    /// What is here and not in `before`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// The kernel's packet rules that mention `text`: an address, a port, a name.
pub fn rules(text: &str) -> Vec<String> {
    let all = output_of("nft", &["-n", "list", "ruleset"]);
    all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// The IPv4 addresses of this machine.
pub(crate) fn addresses() -> Vec<String> {
    let links = output_of("ip", &["-o", "-4", "addr", "show"]);
    let address =
        |row: &str| row.split_whitespace().skip_while(|word| *word != "inet").nth(1).map(str::to_owned);
    links.lines().filter_map(address).collect()
}

/// What a program prints; nothing where there is no such program, because then it was not used either.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
