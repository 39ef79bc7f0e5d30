//! The pod network: who reaches whom, adoption, and that nothing is left.

use balsa_net::{Netns, PodNetwork, PodNetworking as _};

use crate::lab::{Lab, ip};

#[tokio::test]
async fn pods_reach_each_other_across_the_nodes_of_a_machine() {
    let mut lab = Lab::new();
    let one = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    let two = PodNetwork::ensure(lab.config("two", "10.244.2.0/24")).await.unwrap();
    assert!(one.report().nftables && one.report().warnings.is_empty(), "{:?}", one.report());
    lab.pod(&one, "a", "10.244.1.2").await;
    lab.pod(&one, "b", "10.244.1.3").await;
    lab.pod(&two, "c", "10.244.2.2").await;
    for (from, to, name) in [
        ("a", "10.244.1.3", "b"),
        ("a", "10.244.2.2", "c"),
        ("c", "10.244.1.2", "a"),
        ("node", "10.244.2.2", "c"),
    ] {
        assert_eq!(lab.who(from, &format!("{to}:8080")).await, name, "{from} to {to}");
    }
    // Pods see each other's own addresses.
    assert_eq!(lab.ask("a", "10.244.2.2:8080").await.unwrap(), "c 10.244.1.2");
}

#[tokio::test]
async fn traffic_to_the_outside_comes_from_the_node() {
    let mut lab = Lab::new();
    lab.outside().await;
    let network = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    lab.pod(&network, "a", "10.244.1.2").await;
    assert_eq!(lab.ask("a", "192.0.2.2:8080").await.unwrap(), "out 192.0.2.1");
}

#[tokio::test]
async fn a_restarted_agent_finds_what_runs() {
    let mut lab = Lab::new();
    let config = lab.config("one", "10.244.1.0/24");
    let network = PodNetwork::ensure(config.clone()).await.unwrap();
    lab.pod(&network, "a", "10.244.1.2").await;
    lab.pod(&network, "b", "10.244.1.3").await;
    let before = lab.exec("node", "iptables -S");

    let again = PodNetwork::ensure(config).await.unwrap();
    let mut found: Vec<_> =
        again.interfaces().await.unwrap().into_iter().map(|i| (i.pod_uid, i.address)).collect();
    found.sort();
    assert_eq!(found, [("uid-a".to_owned(), ip("10.244.1.2")), ("uid-b".to_owned(), ip("10.244.1.3"))]);
    assert_eq!(lab.exec("node", "iptables -S"), before, "no rule is made twice");

    let index = |text: String| text.split(':').next().map(str::to_owned);
    let link = index(lab.exec("a", "ip -o link show eth0"));
    again.attach(&lab.netns("a"), ip("10.244.1.2"), "uid-a").await.unwrap();
    assert_eq!(index(lab.exec("a", "ip -o link show eth0")), link, "a complete pod is left alone");

    again.detach("uid-a").await.unwrap();
    again.detach("uid-a").await.unwrap();
    assert_eq!(again.interfaces().await.unwrap().len(), 1);
    assert!(lab.ask("b", "10.244.1.2:8080").await.is_err());
}

#[tokio::test]
async fn an_address_is_used_again_at_once() {
    let mut lab = Lab::new();
    let network = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    lab.pod(&network, "b", "10.244.1.3").await;
    for name in ["a1", "a2", "a3"] {
        lab.pod(&network, name, "10.244.1.2").await;
        assert_eq!(lab.who("b", "10.244.1.2:8080").await, name);
        network.detach(&format!("uid-{name}")).await.unwrap();
    }
}

#[tokio::test]
async fn teardown_leaves_nothing() {
    let mut lab = Lab::new();
    let state = |lab: &Lab| {
        (
            lab.exec("node", "iptables -S"),
            lab.exec("node", "iptables -t nat -S"),
            lab.exec("node", "ip -o link"),
        )
    };
    let before = state(&lab);
    let one = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    let two = PodNetwork::ensure(lab.config("two", "10.244.2.0/24")).await.unwrap();
    lab.pod(&one, "a", "10.244.1.2").await;
    lab.pod(&two, "b", "10.244.2.2").await;
    let node = lab.netns("node");
    let owned = PodNetwork::owned(&node).await.unwrap();
    assert_eq!(owned.len(), 2);
    assert!(owned.iter().any(|bridge| bridge.node_name == "two"));

    one.teardown().await.unwrap();
    assert_eq!(PodNetwork::owned(&node).await.unwrap().len(), 1, "another node's bridge stays");
    PodNetwork::remove(&node, &two.config().bridge).await.unwrap();
    PodNetwork::remove(&node, &two.config().bridge).await.unwrap();
    assert_eq!(state(&lab), before);
    assert!(!lab.exec("node", "nft list ruleset").contains("balsa"));
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let mut lab = Lab::new();
    let network = PodNetwork::ensure(lab.config("one", "10.244.1.0/24")).await.unwrap();
    let pod = lab.namespace("a");
    let error = network.attach(&pod, ip("10.244.9.2"), "uid").await.unwrap_err();
    assert!(error.to_string().contains("not a pod address"), "{error}");
    let gone = Netns::of_pid(u32::MAX - 1);
    assert!(
        network
            .attach(&gone, ip("10.244.1.2"), "uid")
            .await
            .unwrap_err()
            .to_string()
            .contains("network namespace")
    );
    let mut config = lab.config("one", "10.244.1.0/24");
    config.bridge = "a-name-that-is-too-long".into();
    assert!(PodNetwork::ensure(config).await.is_err());
}
