//! The demo, as `make run` tells it: six chapters, a page that names pod, node and gift, new clothes without
//! closing the shop, and nothing left when it is put away. Told with our own command line, as on a
//! machine without kubectl.

use std::net::SocketAddr;

use balsa_testkit::{Cluster, Options, Steady, balsa, get, root, rules, wait_until};
use serde_json::Value;

use crate::acts;
use crate::kube_rs::KubeRs;
use crate::user::{PATIENCE, User};

const NAMESPACE: &str = "phippy";
const GIFT: &str = "a purple kite, with love from Goldie";

#[test]
fn phippy_s_story() {
    let cluster = Cluster::start(Options::nodes(1));
    let told =
        cluster.program(&root().join("examples/phippy/tell.sh"), [] as [&str; 0], &[("KUBECTL", balsa())]);
    let told = told.ok();
    for chapter in 1..=6 {
        assert!(told.contains(&format!("Chapter {chapter}.")), "{told}");
    }
    assert!(told.contains("Phippy answers at http://"), "{told}");

    let user = KubeRs::new(&cluster, NAMESPACE);
    let address = acts::node_port(&user, "phippy");
    her_page_says_who_she_is(&cluster, &user, address);
    she_changes_clothes_without_closing_the_shop(&user, address);
    acts::is_killed_and_comes_back(&cluster, &user, NAMESPACE, "phippy");
    wait_until("she still answers", PATIENCE, || get(address, "/"));
    she_goes_and_leaves_nothing(&cluster, &user, address);
    drop(user);
    cluster.down();
}

fn her_page_says_who_she_is(cluster: &Cluster, user: &dyn User, address: SocketAddr) {
    let pods = user.list("pods", "app=phippy").unwrap();
    assert_eq!(pods.len(), 3, "{pods:?}");
    let page = get(address, "/").unwrap();
    let line = |name: &str| {
        let line = page.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().to_owned()
    };
    let pod = line("pod:");
    assert!(pods.iter().any(|one| one["metadata"]["name"] == pod.as_str()), "{page}");
    assert_eq!(line("node:"), cluster.node_names()[0]);
    assert_eq!((line("namespace:").as_str(), line("gift:").as_str()), (NAMESPACE, GIFT));
    // The others find her by name.
    let sister = user.a_pod_of("app=phippy");
    let said = user.in_pod(&sister, "wget -q -O - http://phippy.phippy.svc.cluster.local/");
    assert!(said.contains(GIFT), "{said}");
}

fn she_changes_clothes_without_closing_the_shop(user: &dyn User, address: SocketAddr) {
    let steady = Steady::start(address, "/", 100);
    user.set_image("phippy", "phippy", "phippy:2");
    user.rolled_out("phippy");
    acts::only_answers(address, "yellow coat");
    user.undo("phippy");
    user.rolled_out("phippy");
    acts::only_answers(address, "blue coat");
    steady.stop().assert_none_failed();
}

fn she_goes_and_leaves_nothing(cluster: &Cluster, user: &dyn User, address: SocketAddr) {
    let service = user.get("services", "phippy").unwrap();
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let volumes = user.list("persistentvolumes", "").unwrap();
    let place = volumes[0].pointer("/spec/local/path").or(volumes[0].pointer("/spec/hostPath/path"));
    let place = place.and_then(Value::as_str).unwrap().to_owned();
    assert!(std::path::Path::new(&place).exists(), "{place}");
    user.delete("namespaces", NAMESPACE);
    acts::nothing_is_left(cluster, user, NAMESPACE);
    wait_until("the volume's files are gone", PATIENCE, || {
        if std::path::Path::new(&place).exists() { Err(&place) } else { Ok(()) }
    });
    wait_until("no rule is left for her", PATIENCE, || {
        let left = [rules(&cluster_ip), rules(&address.port().to_string())].concat();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    get(address, "/").unwrap_err();
}
