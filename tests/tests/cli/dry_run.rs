//! `--dry-run=client`: what would be done is told, as kubectl tells it, and nothing is sent.

use balsa_testkit::{Cluster, Output, has_kubectl};

use crate::ok;

/// A name that no server takes: whoever asks one is refused.
const NAMELESS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n";

/// `zoo` is what was applied last, with a map `cage-9` in it.
pub(crate) fn nothing_is_sent(cluster: &Cluster, zoo: &str) {
    cluster.apply(zoo);
    let wider = zoo.replace("'12'", "'13'");
    let versions =
        || ok(cluster, "get cm,deploy -o jsonpath={.items[*].metadata.generation}{.items[*].data}");
    let before = versions();
    let said = apply(cluster, "--dry-run=server", NAMELESS).fails();
    assert!(said.contains("is invalid"), "{said}");
    tells_as_kubectl(cluster, &wider);
    objects_are_shown_as_they_would_be(cluster, &wider);
    mistakes_are_seen_from_here(cluster);
    assert_eq!(versions(), before);
    assert_eq!(ok(cluster, "get cm cage-9 -o jsonpath={.data.rooms}"), "12");
}

fn apply(cluster: &Cluster, options: &str, manifest: &str) -> Output {
    cluster.balsa_with(["apply", "-f", "-"].into_iter().chain(options.split_whitespace()), manifest)
}

fn tells_as_kubectl(cluster: &Cluster, wider: &str) {
    let cage = wider.split("---").nth(1).unwrap();
    for (line, input, wanted) in [
        ("apply -f - --dry-run=client", NAMELESS, "configmap/Not_A_Name created (dry run)\n"),
        ("apply -f - --dry-run=client", cage, "configmap/cage-9 configured (dry run)\n"),
        ("delete cm cage-9 --dry-run=client", "", "configmap \"cage-9\" deleted (dry run)\n"),
        ("delete -f - --dry-run=client", cage, "configmap \"cage-9\" deleted (dry run)\n"),
        (
            "scale deploy/feeder --replicas=9 --dry-run=client",
            "",
            "deployment.apps/feeder scaled (dry run)\n",
        ),
    ] {
        assert_eq!(cluster.balsa_with(line.split(' '), input).ok(), wanted);
        if has_kubectl() {
            assert_eq!(cluster.kubectl_with(line.split(' '), input).ok(), wanted, "kubectl {line}");
        }
    }
}

fn objects_are_shown_as_they_would_be(cluster: &Cluster, wider: &str) {
    let cage = wider.split("---").nth(1).unwrap();
    assert_eq!(apply(cluster, "--dry-run=client -o jsonpath={.data.rooms}", cage).ok(), "13");
    let same = cage.replace("'13'", "'12'");
    assert_eq!(apply(cluster, "--dry-run=client", &same).ok(), "configmap/cage-9 unchanged (dry run)\n");
    assert!(apply(cluster, "--dry-run=client -o yaml", NAMELESS).ok().contains("  name: Not_A_Name\n"));
    let scaled = "scale deploy/feeder --replicas=9 --dry-run=client -o jsonpath={.spec.replicas}";
    assert_eq!(ok(cluster, scaled), "9");
}

fn mistakes_are_seen_from_here(cluster: &Cluster) {
    for (line, input, why) in [
        ("apply -f - --dry-run=client --server-side", NAMELESS, "doesn't work with --server-side"),
        ("apply -f - --dry-run=client", &format!("{NAMELESS}datum: 1\n"), "unknown field \"datum\""),
        ("delete cm nothing --dry-run=client", "", "configmaps \"nothing\" not found"),
        (
            "scale deploy/feeder --replicas=9 --current-replicas=77 --dry-run=client",
            "",
            "Expected replicas to be 77",
        ),
        ("scale cm/cage-9 --replicas=9 --dry-run=client", "", "configmaps have no replicas"),
        ("delete cm cage-9 --dry-run=perhaps", "", "invalid value 'perhaps'"),
    ] {
        let said = cluster.balsa_with(line.split(' '), input).fails();
        assert!(said.contains(why), "{line}: {said}");
    }
}
