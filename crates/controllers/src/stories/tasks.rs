//! Jobs and CronJobs run to their end; budgets follow the pods.

use balsa_model::kinds::job::{has_condition, is_finished};
use balsa_model::strategy::{DeleteOptions, Propagation};
use balsa_rt::ManualClock;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::cluster::{Cluster, from, namespace};
use crate::ControllerConfig;

fn template(image: &str) -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}})
}

fn job(image: &str, extra: Value) -> Job {
    let mut spec = json!({"template": template(image)});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    from(json!({"metadata": {"name": "job", "namespace": "default"}, "spec": spec}))
}

#[tokio::test]
async fn a_job_runs_to_its_end() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(job("task", json!({"completions": 5, "parallelism": 2}))).await;
    cluster.wait::<Job>("it is complete", |jobs| has_condition(&jobs[0], "Complete")).await;
    let status = cluster.list::<Job>().await.remove(0).status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    assert!(status.completion_time.is_some());
    cluster
        .wait::<Pod>("its pods are let go of", |pods| {
            pods.len() == 5 && pods.iter().all(|pod| pod.metadata.finalizers.is_none())
        })
        .await;
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    cluster.delete::<Job>("default", "job", options).await;
    cluster.wait::<Pod>("its pods go with it", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_job_that_fails_too_often_is_lost() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(job("fails", json!({"backoffLimit": 0}))).await;
    cluster.wait::<Job>("it has failed", |jobs| has_condition(&jobs[0], "Failed")).await;
    let status = cluster.list::<Job>().await.remove(0).status.unwrap();
    assert_eq!((status.succeeded, status.failed), (None, Some(1)));
    let reason = |name: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == name);
        found.and_then(|c| c.reason.clone()).unwrap_or_default()
    };
    assert_eq!(reason("Failed"), "BackoffLimitExceeded");
}

#[tokio::test]
async fn a_job_that_is_deleted_while_it_runs_leaves_nothing() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(job("runs", json!({"parallelism": 2, "completions": 2}))).await;
    cluster.wait::<Pod>("two run", |pods| pods.len() == 2 && pods.iter().all(crate::pods::is_ready)).await;
    cluster.change::<Job>("default", "job", |job| job.spec.as_mut().unwrap().suspend = Some(true)).await;
    cluster.wait::<Pod>("a suspended one has no pods", <[_]>::is_empty).await;
    cluster
        .wait::<Job>("and counts no failures", |jobs| {
            has_condition(&jobs[0], "Suspended") && jobs[0].status.as_ref().unwrap().failed.is_none()
        })
        .await;
    cluster.change::<Job>("default", "job", |job| job.spec.as_mut().unwrap().suspend = Some(false)).await;
    cluster.wait::<Pod>("two run again", |pods| pods.len() == 2).await;
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    cluster.delete::<Job>("default", "job", options).await;
    cluster.wait::<Job>("it is gone", <[_]>::is_empty).await;
    cluster.wait::<Pod>("and so are they", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_cron_job_makes_jobs_at_its_times() {
    let clock = ManualClock::at("2025-01-01T00:00:30Z".parse().unwrap());
    let cluster = Cluster::start(clock.clock(), ControllerConfig::default());
    cluster.run_kubelet();
    cluster.create(namespace("default")).await;
    clock.advance(std::time::Duration::from_secs(60));
    // It was made half a minute before the minute that is due.
    let cron = json!({"metadata": {"name": "tick", "namespace": "default"}, "spec": {"schedule": "* * * * *",
        "jobTemplate": {"metadata": {"labels": {"of": "tick"}}, "spec": {"template": template("task")}}}});
    cluster.create::<CronJob>(from(cron)).await;
    clock.advance(std::time::Duration::from_secs(45));
    cluster
        .change::<CronJob>("default", "tick", |cron| {
            cron.metadata.annotations.get_or_insert_default().insert("look".to_owned(), "again".to_owned());
        })
        .await;
    cluster.wait::<Job>("its job ends", |jobs| jobs.len() == 1 && is_finished(&jobs[0])).await;
    let made = cluster.list::<Job>().await.remove(0);
    assert_eq!(made.metadata.name.as_deref(), Some("tick-28928162"));
    assert_eq!(made.metadata.labels.unwrap()["of"], "tick");
    cluster
        .wait::<CronJob>("it knows", |crons| {
            let status = crons[0].status.as_ref().unwrap();
            status.active.is_none()
                && status.last_schedule_time.is_some()
                && status.last_successful_time.is_some()
        })
        .await;
}

#[tokio::test]
async fn a_finished_job_goes_when_its_time_is_over() {
    let cluster = Cluster::with_kubelet().await;
    cluster.create(job("task", json!({"ttlSecondsAfterFinished": 0}))).await;
    cluster.wait::<Job>("it is gone", <[_]>::is_empty).await;
    cluster.wait::<Pod>("and its pod", <[_]>::is_empty).await;
}

#[tokio::test]
async fn a_budget_follows_its_pods() {
    let cluster = Cluster::with_kubelet().await;
    let budget = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>(from(budget)).await;
    let deployment = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "v1"}]}}}});
    cluster.create::<Deployment>(from(deployment)).await;
    cluster
        .wait::<PodDisruptionBudget>("one may go", |budgets| {
            let status = budgets[0].status.clone().unwrap_or_default();
            (status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed)
                == (3, 2, 3, 1)
        })
        .await;
}
