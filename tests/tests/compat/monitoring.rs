//! charts/balsa-monitoring: installed by the real Helm into three servers, read by the real Prometheus. Its rules
//! pass promtool and their unit tests; every metric that rules and dashboard name is there and every expression
//! can be evaluated; and when a majority is gone the right alerts come, and `/readyz` says why.

use std::collections::BTreeSet;

use balsa_testkit::{Rest, root, wait_until};
use http::Method;
use regex::Regex;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::{Clients, PATIENCE};
use crate::fleet::{Fleet, Member};
use crate::prometheus::{Prometheus, ca, promtool};

const SECRETS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The chart, as it came into the cluster.
struct Installed {
    rules: String,
    scrape: String,
    dashboard: Value,
    token: String,
}

/// A request to one server, or to the first.
fn ask(
    fleet: &Fleet,
    at: Option<&Member>,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Value, String> {
    let rest = Rest::from_kubeconfig(&fleet.kubeconfig()).unwrap();
    let rest = at.map_or_else(|| rest.clone(), |member| rest.at(&member.address));
    let answer = Runtime::new().unwrap().block_on(rest.call(method, path, body));
    match answer.map_err(|error| error.to_string())? {
        answer if answer.code < 300 => Ok(answer.body),
        answer => Err(format!("{} {}", answer.code, answer.body)),
    }
}

fn install(fleet: &Fleet, clients: &Clients) -> Installed {
    let servers: Vec<String> = fleet.members().into_iter().map(|member| member.address).collect();
    let chart = root().join("charts/balsa-monitoring");
    let helm = |words: &[&str]| {
        let output = std::process::Command::new(clients.helm3())
            .args(words)
            .env("KUBECONFIG", fleet.kubeconfig())
            .env("HOME", fleet.data_dir().parent().unwrap().join("helm"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let chart = chart.display().to_string();
    let servers = format!("scrape.servers={{{}}}", servers.join(","));
    helm(&["lint", &chart]);
    helm(&[
        "install",
        "watching",
        &chart,
        "--namespace=monitoring",
        "--create-namespace",
        "--wait",
        "--set",
        &servers,
        "--set=interval=2s,scrape.nodes=false,rules.labels.team=boats",
    ]);
    let map = |name: &str| {
        let path = format!("/api/v1/namespaces/monitoring/configmaps/{name}");
        ask(fleet, None, Method::GET, &path, &Value::Null).unwrap()["data"].clone()
    };
    let (files, dashboard) = (map("watching-prometheus"), map("watching-dashboard"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let path = "/api/v1/namespaces/monitoring/serviceaccounts/balsa-monitoring/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = ask(fleet, None, Method::POST, path, &request).unwrap();
    Installed {
        rules: text(&files["rules.yaml"]),
        scrape: text(&files["scrape.yaml"]),
        dashboard: serde_json::from_str(dashboard["balsa.json"].as_str().unwrap()).unwrap(),
        token: text(&token["status"]["token"]),
    }
}

pub(crate) fn watches_three_servers(clients: &Clients) {
    let fleet = Fleet::start(3);
    fleet.well(3);
    let installed = install(&fleet, clients);
    rules_do_what_they_say(clients, &installed);

    let ca = ca(&fleet.kubeconfig());
    let configuration = format!(
        "global: {{evaluation_interval: 1s, scrape_timeout: 2s}}\nrule_files: [HOME/rules.yaml]\n{}",
        installed.scrape.replace(SECRETS, "HOME")
    );
    let files = [("token", &*installed.token), ("ca.crt", &*ca), ("rules.yaml", &*installed.rules)];
    let prometheus = Prometheus::start(clients, &configuration, &files);
    prometheus.until("up{job='balsa'}", 3, 1.0);
    let expressions = expressions(&installed);
    for name in names(&expressions) {
        wait_until(&format!("{name} is scraped"), PATIENCE, || match prometheus.query(&name)? {
            found if found.is_empty() => Err("it is not there".to_owned()),
            _ => Ok(()),
        });
    }
    for expression in &expressions {
        prometheus.query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
    let unwell = |rules: &Value| {
        let groups = rules["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        let bad = rules.filter(|rule| rule["health"] != "ok" || rule["labels"]["team"] != "boats");
        bad.map(|rule| rule.to_string()).collect::<Vec<_>>()
    };
    wait_until("all rules are evaluated", PATIENCE, || {
        let bad = unwell(&prometheus.rules()?);
        if bad.is_empty() { Ok(()) } else { Err(bad.join("\n")) }
    });
    tells_that_nobody_leads(&fleet, &prometheus);
    drop(prometheus);
    fleet.down();
}

/// promtool's opinion of the rules, and their unit tests.
fn rules_do_what_they_say(clients: &Clients, installed: &Installed) {
    let folder = tempfile::tempdir().unwrap();
    let source = root().join("charts/balsa-monitoring/files");
    std::fs::write(folder.path().join("installed.yaml"), &installed.rules).unwrap();
    promtool(clients, &["check", "rules", "installed.yaml"], folder.path()).unwrap();
    // The tests know nothing of the user's own labels.
    for name in ["alerts.yaml", "alerts_test.yaml"] {
        let text = std::fs::read_to_string(source.join(name)).unwrap().replace("JOB", "balsa");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let said = promtool(clients, &["test", "rules", "alerts_test.yaml"], folder.path()).unwrap();
    assert!(said.contains("SUCCESS"), "{said}");
    let alerts = std::fs::read_to_string(folder.path().join("alerts.yaml")).unwrap();
    let tests = std::fs::read_to_string(folder.path().join("alerts_test.yaml")).unwrap();
    for alert in Regex::new(r"alert: (\w+)").unwrap().captures_iter(&alerts) {
        assert!(
            tests.contains(&format!("alertname: {}\n        exp_alerts", &alert[1])),
            "{} is untested",
            &alert[1]
        );
    }
}

/// Everything that rules and dashboard ask for, with Grafana's own variables filled in.
fn expressions(installed: &Installed) -> Vec<String> {
    let rules: Value = serde_yaml_ng::from_str(&installed.rules).unwrap();
    let mut found = Vec::new();
    collect(&rules, &mut found);
    collect(&installed.dashboard, &mut found);
    assert!(found.len() > 30, "{found:?}");
    found.iter().map(|text| text.replace("$__rate_interval", "1m").replace("$__range", "5m")).collect()
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// The metrics of ours that the expressions name.
fn names(expressions: &[String]) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:balsa|apiserver|workqueue)_[a-z_]+").unwrap();
    let found = expressions.iter().flat_map(|text| name.find_iter(text));
    let names: BTreeSet<String> = found.map(|one| one.as_str().to_owned()).collect();
    assert!(names.len() > 15, "{names:?}");
    names
}

/// Two of three are killed: the third says that it may not be asked, and the alerts begin. Then all is well again.
fn tells_that_nobody_leads(fleet: &Fleet, prometheus: &Prometheus) {
    let members = fleet.members();
    let (last, killed) = members.split_first().unwrap();
    for member in killed {
        fleet.signal(member, "-9");
    }
    wait_until("the last one is not ready", PATIENCE, || {
        match ask(fleet, Some(last), Method::GET, "/readyz", &Value::Null) {
            Err(said) if said.contains("[-]read failed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    prometheus.until("ALERTS{alertname='BalsaNoLeader'}", 1, 1.0);
    prometheus.until("ALERTS{alertname='BalsaServerDown'}", 2, 1.0);
    for member in killed {
        fleet.restart(&member.name);
    }
    fleet.well(3);
    wait_until("it is ready again", PATIENCE, || {
        ask(fleet, Some(last), Method::GET, "/readyz", &Value::Null).map(|_| ())
    });
    prometheus.until("ALERTS{alertname=~'BalsaNoLeader|BalsaServerDown'}", 0, 0.0);
}
