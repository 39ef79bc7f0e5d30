//! Joining with a token that is wrong or has expired: a clear error, and no node.

use std::time::Duration;

use balsa_testkit::{Cluster, Output};

use crate::ok;

pub(crate) fn that_open_nothing_are_told(cluster: &Cluster) {
    let token = ok(cluster, "token create");
    let token = token.trim();
    let (id, _) = token.split_once('.').expect("a token is ID.SECRET");
    for wrong in [format!("{id}.aaaaaaaaaaaaaaaa"), "nonsense".to_owned()] {
        let said = join(cluster, &wrong);
        assert!(said.code == 1 && said.stderr.contains("token"), "{said}");
        assert!(said.stderr.contains("balsa token create"), "it should say what to do: {said}");
    }
    let short = ok(cluster, "token create --ttl=1s");
    // A join before the second is over would rightly succeed.
    std::thread::sleep(Duration::from_millis(1100));
    let said = join(cluster, short.trim());
    assert!(said.code == 1 && said.stderr.contains("expired"), "{said}");
    assert_eq!(cluster.node_names().len(), 1);
}

/// An agent that should not get in, in a directory of its own.
fn join(cluster: &Cluster, token: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let server = cluster.address();
    let words =
        ["agent", "--name=stranger", "--metrics-port=0", "--server", &server, "--token", token, "--data-dir"];
    cluster.balsa(words.into_iter().chain([folder]))
}
