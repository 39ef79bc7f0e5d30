//! Somebody who writes all the time, and remembers what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use balsa_testkit::{Cluster, Rest, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::PATIENCE;

const PATH: &str = "/api/v1/namespaces/default/configmaps";
/// Between two writes: this is a companion, not a load.
const PAUSE: Duration = Duration::from_millis(50);

/// Names and revisions of the objects whose creation was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, String>>>;

pub(crate) struct Ledger {
    acknowledged: Acknowledged,
    enough: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

/// What was acknowledged in the end.
pub(crate) struct Closed(BTreeMap<String, String>);

impl Ledger {
    pub(crate) fn start(rest: Rest) -> Self {
        let (acknowledged, enough) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
        let (noted, stop) = (acknowledged.clone(), enough.clone());
        let writer = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let object =
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "kept-"}});
                // No answer, or a refusal while a leader is looked for: then nothing was promised.
                if let Ok(answer) = rest.call_now(Method::POST, PATH, &object)
                    && answer.code == 201
                {
                    let text = |field: &str| answer.body["metadata"][field].as_str().unwrap().to_owned();
                    noted.lock().unwrap().insert(text("name"), text("resourceVersion"));
                }
                std::thread::sleep(PAUSE);
            }
        });
        Self { acknowledged, enough, writer }
    }

    /// Waits until more is acknowledged than now.
    pub(crate) fn grows(&self) {
        let count = || self.acknowledged.lock().unwrap().len();
        let goal = count() + 5;
        wait_until("objects are acknowledged", PATIENCE, || {
            let now = count();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    }

    pub(crate) fn stop(self) -> Closed {
        self.enough.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
        Closed(self.acknowledged.lock().unwrap().clone())
    }
}

impl Closed {
    /// Panics unless all of it is there as it was acknowledged.
    pub(crate) fn is_kept(&self, cluster: &Cluster) {
        let list = cluster.read(PATH).unwrap();
        let items: BTreeMap<&str, &Value> = list["items"].as_array().unwrap().iter().map(named).collect();
        for (name, revision) in &self.0 {
            let found =
                items.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
            assert_eq!(found["metadata"]["resourceVersion"], revision.as_str());
        }
    }
}

fn named(object: &Value) -> (&str, &Value) {
    (object["metadata"]["name"].as_str().unwrap(), object)
}
