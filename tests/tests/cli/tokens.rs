//! Joining with a token that is wrong or has expired: a clear error that says the next step, in one line, and no node.

use std::time::{Duration, Instant};

use balsa_testkit::{Cluster, LoneServer, Output, wait_until};

use crate::{PATIENCE, ok};

const FOR_AGENTS: &str = "`balsa token create`";
const FOR_SERVERS: &str = "`balsa token create --usage server`";

pub(crate) fn that_open_nothing_are_told(cluster: &Cluster) {
    let token = ok(cluster, "token create");
    let token = token.trim();
    let [version, id, secret, ca] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let backwards: String = secret.chars().rev().collect();
    let elsewhere = of_another_cluster();
    let short = ok(cluster, "token create --ttl=1s").trim().to_owned();
    let made = Instant::now();
    let of_servers = ok(cluster, "token create --usage=server");

    let unknown = "is not known to this cluster";
    let other = format!("is for another cluster than that of {}", cluster.address());
    for (token, why) in [
        // What is no token at all is told without asking anybody.
        ("nonsense".to_owned(), "is malformed"),
        (format!("{version}.{id}.{secret}"), "is malformed"),
        (format!("{version}.{id}.{secret}.{}", &ca[1..]), "is malformed"),
        // What could be one. Whoever guesses does not learn which part of it was right.
        (format!("{version}.{id}.{backwards}.{ca}"), unknown),
        (format!("{version}.nobody.{secret}.{ca}"), unknown),
        // The secret is not even told to a server that has another CA.
        (elsewhere.clone(), &other),
        (of_servers.trim().to_owned(), "is not for agents"),
    ] {
        is_told(&join_as_agent(cluster, &token), &token, why, FOR_AGENTS);
    }
    for (token, why) in [(elsewhere, other.as_str()), (token.to_owned(), "is not for servers")] {
        is_told(&join_as_server(cluster, &token), &token, why, FOR_SERVERS);
    }
    // A join before its second is over would rightly succeed.
    wait_until("the short token has expired", PATIENCE, || match made.elapsed() {
        age if age > Duration::from_millis(1100) => Ok(()),
        age => Err(format!("{age:?}")),
    });
    is_told(&join_as_agent(cluster, &short), &short, "expired at 20", FOR_AGENTS);
    assert!(cluster.balsa(["get", "node", "stranger"]).fails().contains("not found"));
    assert_eq!(cluster.node_names().len(), 1);
}

/// One line: what is wrong, and what to type instead. The token itself is nowhere in it.
#[track_caller]
fn is_told(said: &Output, token: &str, why: &str, command: &str) {
    // What was run has the token in it; nothing else may.
    let Output { code, stdout, stderr, .. } = said;
    assert_eq!((*code, stdout.as_str(), stderr.lines().count()), (1, "", 1), "{token}: {said}");
    assert!(stderr.starts_with("error: ") && stderr.contains(why), "{token}: {why:?} is not in {stderr}");
    assert!(stderr.contains(command), "{token}: it should say what to do: {stderr}");
    let secret = token.split('.').nth(2).unwrap_or(token);
    assert!(!stderr.contains(secret), "{stderr}");
}

/// A good token, of a cluster that is not this one.
fn of_another_cluster() -> String {
    let home = tempfile::tempdir().unwrap();
    let server = LoneServer::start(&home.path().join("data"), &[]);
    let token = server.balsa(&["token", "create"]).ok().trim().to_owned();
    server.stop();
    token
}

/// An agent that should not get in, in a directory of its own.
fn join_as_agent(cluster: &Cluster, token: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let server = cluster.address();
    let words =
        ["agent", "--name=stranger", "--metrics-port=0", "--server", &server, "--token", token, "--data-dir"];
    cluster.balsa(words.into_iter().chain([folder]))
}

/// A server that should not become a member.
fn join_as_server(cluster: &Cluster, token: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let server = cluster.address();
    let words = ["server", "--name=stranger", "--bind=127.0.0.1", "--advertise=127.0.0.1", "--port=0"];
    let words = words.into_iter().chain(["--join", &server, "--token", token, "--data-dir", folder]);
    cluster.balsa(words)
}
