//! What a user does on one machine, from `balsa up` to `balsa down`, with unmodified clients and real
//! containers: configuration and volumes, services by name and by node port, logs and exec, scaling,
//! a rollout under load and back, a container killed by hand, data that outlives its pod, and nothing
//! left at the end.
//!
//! The same acts are played by two users, one with kubectl and one with a program that uses kube-rs; each
//! adds what only its tool can do. Where there is no kubectl, kube-rs plays alone. The demo's story is
//! told as `make run` tells it, and a newcomer types that.
#![allow(clippy::unwrap_used)]

mod acts;
mod kube_rs;
mod kubectl;
mod phippy;
mod scripts;
mod user;

use balsa_testkit::{Cluster, Footprint, Options, has_kubectl, images};

use kube_rs::KubeRs;
use kubectl::Kubectl;
use user::User;

#[test]
fn told_by_kubectl() {
    if !has_kubectl() {
        println!("there is no kubectl here: told_by_kube_rs plays the same acts");
        return;
    }
    let cluster = Cluster::start(Options::nodes(1));
    let user = Kubectl::new(&cluster, acts::NAMESPACE);
    the_acts(&cluster, &user, || {
        user.sees_what_is_unchanged(&acts::manifest(&images::busybox("1")));
        user.reads_tables_and_logs();
    });
    cluster.down();
}

#[test]
fn told_by_kube_rs() {
    let cluster = Cluster::start(Options::nodes(1));
    let user = KubeRs::new(&cluster, acts::NAMESPACE);
    let mirror = user.mirror();
    the_acts(&cluster, &user, || {
        user.follows_a_log();
        user.is_told_what_is_wrong();
        user.lists_in_pages();
    });
    user.has_seen_everything(&mirror);
    drop(user);
    cluster.down();
}

fn the_acts(cluster: &Cluster, user: &dyn User, own: impl Fn()) {
    let (first, second) = (images::busybox("1"), images::busybox("2"));
    let before = Footprint::take();
    acts::an_application_is_applied(user, &first);
    acts::its_pods_have_what_the_manifest_says(user);
    acts::it_answers_other_pods_by_name(user);
    let address = acts::it_answers_the_host_by_node_port(user);
    acts::commands_run_in_it(user);
    own();
    acts::it_is_scaled(user);
    acts::a_rollout_and_its_undoing_cost_no_request(user, address, &second);
    acts::a_killed_container_comes_back(cluster, user, address);
    acts::a_claim_s_data_outlives_its_pod(user, &first);
    acts::what_is_deleted_is_gone(cluster, user, address);
    acts::the_machine_is_as_before(cluster, &before);
}
