//! `/livez`, `/readyz` and `/healthz`: whether the server is well, by named checks.
//!
//! A path behind them asks for one check (`/readyz/leader`), `?exclude=` leaves one out, `?verbose` tells of all of them, and so
//! does every answer that is not good.

use axum::response::Response;
use http::StatusCode;

use super::{Call, respond};
use crate::members::NEAR;

/// One look at how the server is.
struct Check {
    name: &'static str,
    /// What is wrong; `None` when all is well.
    problem: Option<String>,
    /// Whether it may be sent no requests then.
    counts: bool,
}

impl Check {
    fn new(name: &'static str, good: bool) -> Self {
        Self { name, problem: (!good).then(|| "failed".to_owned()), counts: true }
    }

    fn is_good(&self) -> bool {
        self.problem.is_none() || !self.counts
    }

    fn line(&self) -> String {
        match (&self.problem, self.counts) {
            (None, _) => format!("[+]{} ok\n", self.name),
            (Some(problem), true) => format!("[-]{} {problem}\n", self.name),
            (Some(problem), false) => format!("[!]{} {problem}\n", self.name),
        }
    }
}

/// `livez`: the process runs. `readyz`: it also has a leader, which leads a majority, and has caught up with
/// it, and has the same state as the other servers. A full storage quota is told and is no reason to send reads elsewhere: it is full there too.
async fn checks(call: &Call, probe: &str) -> Vec<Check> {
    let mut checks = vec![Check::new("ping", true)];
    if probe == "readyz" {
        let log = call.front.engine.store().log();
        let leader = log.is_led();
        checks.push(Check::new("leader", leader));
        checks.push(Check::new("read", leader && log.is_readable().await));
        checks.push(Check::new("lag", log.lag() <= NEAR));
        let doubt = || call.front.members.doubt().unwrap_or_else(|| "failed".to_owned());
        checks.push(Check { name: "state", problem: log.is_distrusted().then(doubt), counts: true });
        let problem = call.front.engine.quota().alarm();
        checks.push(Check { name: "storage-quota", problem, counts: false });
    }
    checks
}

/// All checks but those that the request leaves out.
pub(super) async fn all(call: &Call, probe: &str) -> Response {
    let mut excluded = call.query.all("exclude");
    let (mut text, mut is_good) = (String::new(), true);
    for check in checks(call, probe).await {
        if excluded.iter().any(|name| *name == check.name) {
            excluded.retain(|name| *name != check.name);
            text.push_str(&format!("[+]{} excluded: ok\n", check.name));
        } else {
            is_good &= check.is_good();
            text.push_str(&check.line());
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    text.push_str(&format!("{probe} check {}\n", if is_good { "passed" } else { "failed" }));
    answer(call, is_good, text)
}

/// One check; `None`: there is none of that name.
pub(super) async fn one(call: &Call, probe: &str, name: &str) -> Option<Response> {
    let check = checks(call, probe).await.into_iter().find(|check| check.name == name)?;
    let text = if check.is_good() { "ok".to_owned() } else { check.line() };
    Some(answer(call, check.is_good(), text))
}

fn answer(call: &Call, is_good: bool, verbose: String) -> Response {
    let text = if is_good && !call.query.has("verbose") { "ok".to_owned() } else { verbose };
    let status = if is_good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    respond::typed(status, "text/plain; charset=utf-8", text)
}
