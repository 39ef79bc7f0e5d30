//! Servers of two builds in one cluster: this one, and the one before (`tests/previous-build`), whose program
//! `scripts/previous.sh` makes. A cluster is upgraded server by server while clients work, and may go back.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use balsa_testkit::{balsa, previous_balsa, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::fleet::{Fleet, Member, PATIENCE};
use crate::steady::Clients;
use crate::{PATH, create, rest};

/// Entries of these many bytes are gone from the log soon: see `max_log_bytes` of `LogConfig`.
const LOG_BYTES: usize = 256 << 20;

/// The build before; `None`, and a word on what is not tested, where it was not made.
fn before() -> Option<PathBuf> {
    let before = previous_balsa();
    if before.is_none() {
        println!("NOT TESTED: there is no program of the build before; scripts/previous.sh makes it");
    }
    before
}

/// What a program calls its own version.
fn version(fleet: &Fleet, program: &Path) -> String {
    let told = fleet.run(program, &["version", "--client", "-o", "json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    told["client"]["version"].as_str().unwrap().to_owned()
}

/// Every server takes writes, and shows at once what was written through any other.
fn everybody_writes_and_reads(fleet: &Fleet, when: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let members = fleet.members();
    for writer in &members {
        let name = format!("{when}-{}", writer.name);
        let written = create(&runtime, &rest(fleet, writer), &name).unwrap();
        for reader in &members {
            let path = format!("{PATH}/{name}");
            let read = runtime.block_on(rest(fleet, reader).call(Method::GET, &path, &Value::Null)).unwrap();
            assert_eq!(read.body, written, "written through {}, read at {}", writer.name, reader.name);
        }
    }
}

/// What a server's tables hold, as a backup has it.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    /// The entry up to which it goes.
    index: u64,
    /// The digest that the fold has kept up.
    digest: Vec<u8>,
    /// A hash of the rows of all objects.
    objects: u64,
}

fn tables(fleet: &Fleet, program: &Path, member: &Member) -> Tables {
    let (file, kubeconfig) = (
        fleet.data_dir().join(format!("../{}.backup", member.name)).display().to_string(),
        fleet.directory(&member.name).join("admin.kubeconfig").display().to_string(),
    );
    fleet.run(program, &["backup", "save", &file, "--kubeconfig", &kubeconfig]).unwrap();
    // What one build has saved the other one reads.
    for reader in [balsa(), program] {
        assert!(fleet.run(reader, &["backup", "inspect", &file]).unwrap().contains("configmaps"));
    }
    let (mut digest, mut objects) = (None, DefaultHasher::new());
    let info = balsa_log::backup::inspect(file.as_ref(), |table, key, value| {
        match (table, key) {
            (balsa_log::Table::Objects, b"\0digest") => digest = Some(value.to_vec()),
            (balsa_log::Table::Objects, [1..=u8::MAX, ..]) => (key, value).hash(&mut objects),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let index = info.unwrap().index.unwrap().0;
    Tables { index, digest: digest.expect("a digest"), objects: objects.finish() }
}

/// Waits for a moment at which all servers are at the same entry: then they hold the same, too.
pub(crate) fn states_agree(fleet: &Fleet, program: &Path) {
    wait_until("all servers are at the same entry", PATIENCE, || {
        let found: Vec<_> = fleet.members().iter().map(|member| tables(fleet, program, member)).collect();
        if found.iter().any(|tables| tables.index != found[0].index) {
            return Err(format!("{found:?}"));
        }
        assert!(found.iter().all(|tables| *tables == found[0]), "states differ: {found:?}");
        Ok(())
    });
}

/// No server has found its state, or another one's, to differ.
fn nobody_differed(fleet: &Fleet) {
    for member in fleet.members() {
        let said = fleet.said(&member.name);
        for trouble in ["another state than the majority", "different states", "panicked"] {
            assert!(!said.contains(trouble), "{} says: {trouble}", member.name);
        }
    }
}

#[test]
fn a_rolling_upgrade_from_the_build_before_fails_nobody() {
    let Some(before) = before() else { return };
    let mut fleet = Fleet::of(&before, 3, 0);
    let last = fleet.well(3).name;
    let (old, new) = (version(&fleet, &before), version(&fleet, balsa()));
    assert_ne!(old, new);
    let of_build = |fleet: &Fleet, name: &str, version: &str| assert_eq!(fleet.member(name).version, version);
    let followers = fleet.members().into_iter().map(|member| member.name).filter(|name| *name != last);
    let [first, second] = followers.collect::<Vec<_>>().try_into().unwrap();
    let clients = Clients::start(&fleet);
    clients.go_on();

    // An old leader, and one follower of the new build.
    fleet.becomes(&first, balsa());
    fleet.well(3);
    of_build(&fleet, &first, &new);
    of_build(&fleet, &second, &old);
    assert!(fleet.balsa(&["status"]).unwrap().contains("runs version"));
    fleet.lead(&last);
    everybody_writes_and_reads(&fleet, "an-old-one-leads");
    clients.go_on();

    // A leader of the new build, and old followers.
    fleet.lead(&first);
    everybody_writes_and_reads(&fleet, "a-new-one-leads");
    clients.go_on();

    // It goes back to the build before, on the data that this one wrote, and comes again.
    for (program, version) in [(before.as_path(), &old), (balsa(), &new)] {
        fleet.becomes(&first, program);
        fleet.well(3);
        of_build(&fleet, &first, version);
        everybody_writes_and_reads(&fleet, &format!("{first}-is-{version}").to_lowercase());
        clients.go_on();
    }

    // The rest, the leader last.
    fleet.lead(&last);
    for name in [&second, &last] {
        fleet.becomes(name, balsa());
        fleet.well(3);
        of_build(&fleet, name, &new);
        clients.go_on();
    }
    wait_until("all have compared their states", PATIENCE, || {
        let compared = |member: &Member| metric(&fleet, member, "balsa_replicas_compared_index");
        let compared: Vec<f64> = fleet.members().iter().map(compared).collect();
        if compared.iter().all(|index| *index > 0.0) { Ok(()) } else { Err(format!("{compared:?}")) }
    });
    clients.end(&fleet);
    states_agree(&fleet, &before);
    nobody_differed(&fleet);
    fleet.down();
}

#[test]
fn servers_of_both_builds_join_by_snapshots_of_the_other_one() {
    let Some(before) = before() else { return };
    let mut fleet = Fleet::alone(&before, &["--history-changes", "10"]);
    let old = fleet.well(1);
    write_more_than_the_log_keeps(&fleet, &old);

    let name = fleet.join(2, balsa(), &old);
    fleet.well(2);
    came_by_a_snapshot(&fleet, &name);
    everybody_writes_and_reads(&fleet, "an-old-one-leads");
    states_agree(&fleet, &before);

    // And the other way round: while a cluster is upgraded, a server of the build before may still have to be replaced.
    fleet.lead(&name);
    let new = fleet.member(&name);
    let name = fleet.join(3, &before, &new);
    fleet.lead(&new.name);
    fleet.well(3);
    came_by_a_snapshot(&fleet, &name);
    everybody_writes_and_reads(&fleet, "a-new-one-leads");
    states_agree(&fleet, &before);
    nobody_differed(&fleet);
    fleet.down();
}

/// Changes one large object until the log is cut off at its beginning.
fn write_more_than_the_log_keeps(fleet: &Fleet, through: &Member) {
    let (runtime, rest) = (tokio::runtime::Runtime::new().unwrap(), rest(fleet, through));
    create(&runtime, &rest, "large").unwrap();
    const LARGE: usize = 1_000_000;
    for n in 0..LOG_BYTES / LARGE + 10 {
        let object =
            json!({"metadata": {"name": "large"}, "data": {"text": format!("{n} ") + &"x".repeat(LARGE)}});
        let put = runtime.block_on(rest.call(Method::PUT, &format!("{PATH}/large"), &object)).unwrap();
        assert_eq!(put.code, 200, "{}", put.body);
    }
    wait_until("the beginning of the log is gone", PATIENCE, || {
        let bytes = metric(fleet, through, "balsa_log_store_bytes{table=\"log\"}");
        if bytes < LOG_BYTES as f64 / 2.0 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
}

fn came_by_a_snapshot(fleet: &Fleet, name: &str) {
    let installed = metric(fleet, &fleet.member(name), "balsa_raft_snapshot_seconds_count{work=\"install\"}");
    assert!(installed > 0.0, "{name} has all entries: the log was not cut off");
}

/// A number of a server's `/metrics`; 0 where it is not there.
pub(crate) fn metric(fleet: &Fleet, member: &Member, name: &str) -> f64 {
    let scraped = rest(fleet, member).call_now(Method::GET, "/metrics", &Value::Null).unwrap();
    let text = scraped.body.as_str().unwrap_or_default().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}
