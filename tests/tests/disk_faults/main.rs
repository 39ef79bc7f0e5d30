//! Disks that are full, lie, or fail, under a real server: it acknowledges nothing that is not there, says
//! what is wrong, and comes back with all that it had acknowledged.
//!
//! Needs root (a small file system on a loop device), mkfs.ext4 and a C compiler (a library that makes syncs
//! fail).
#![allow(clippy::unwrap_used)]

mod damage;
mod full;
mod sync;

use balsa_testkit::LoneServer;
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Writes an object of about `bytes` that does not compress; why it was not acknowledged.
fn write(server: &LoneServer, name: &str, bytes: usize) -> Result<(), String> {
    let mut seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut letter = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(seed >> 58) as usize])
    };
    let text: String = (0..bytes).map(|_| letter()).collect();
    let body = json!({"metadata": {"name": name}, "data": {"text": text}});
    let answer = server.request(Method::POST, MAPS, &body)?;
    if answer.code == 201 { Ok(()) } else { Err(format!("{} {}", answer.code, answer.body)) }
}

/// That all these objects are there.
#[track_caller]
fn all_there(server: &LoneServer, names: &[String]) {
    for name in names {
        let answer = server.request(Method::GET, &format!("{MAPS}/{name}"), &Value::Null).unwrap();
        assert_eq!(answer.code, 200, "{name} was acknowledged");
    }
}
