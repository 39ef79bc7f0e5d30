//! A busy machine is no reason for an election: twice as many threads spin as there are processors, while
//! clients write, list and watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::fleet::Fleet;
use crate::{PATH, config_map, rest};

const WRITERS: usize = 16;

/// `BALSA_BUSY_SECONDS` says for how long; 15 unless told.
#[test]
fn a_busy_machine_is_no_reason_for_an_election() {
    let seconds = std::env::var("BALSA_BUSY_SECONDS").map_or(15, |text| text.parse().unwrap());
    let fleet = Fleet::start(3);
    fleet.well(3);
    let members = fleet.members();
    let term = fleet.term();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let processors = std::thread::available_parallelism().unwrap().get();
    let spinning: Vec<_> = (0..processors * 2)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let clients = (0..WRITERS).map(|n| {
        let (rest, stop, written) =
            (rest(&fleet, &members[n % members.len()]), stop.clone(), written.clone());
        runtime.spawn(async move {
            let mut connection = rest.connect().await.unwrap();
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let map = config_map(&format!("busy-{n}-{i}"));
                let answer = connection.call(Method::POST, PATH, &map).await.unwrap();
                assert_eq!(answer.code, 201, "{}", answer.body);
                written.fetch_add(1, Ordering::Relaxed);
                if i % 100 == 0 {
                    let listed = connection.call(Method::GET, PATH, &Value::Null).await.unwrap();
                    assert_eq!(listed.code, 200);
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    std::thread::sleep(Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    spinning.into_iter().for_each(|thread| thread.join().unwrap());
    let after = fleet.term();
    println!("{} writes in {seconds} s, {} elections", written.load(Ordering::Relaxed), after - term);
    assert_eq!(after, term, "an election without need");
    fleet.down();
}
