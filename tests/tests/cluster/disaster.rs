//! The majority is lost for good: a survivor goes on alone, with all that was acknowledged.

use balsa_testkit::wait_until;
use http::Method;
use serde_json::Value;

use crate::fleet::{Fleet, Member, PATIENCE};
use crate::{PATH, create, rest};

const FORCE: &[&str] = &["--force-new-cluster"];

/// Writes through a server, which shows what it acknowledged.
fn write(runtime: &tokio::runtime::Runtime, fleet: &Fleet, through: &Member, names: &[String]) {
    let rest = rest(fleet, through);
    for name in names {
        create(runtime, &rest, name).unwrap();
    }
}

#[test]
fn a_survivor_goes_on_alone_when_the_majority_is_lost() {
    let fleet = Fleet::start(3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let leader = fleet.well(3);
    let members = fleet.members();
    let survivor = members.iter().find(|member| member.name != leader.name).unwrap();
    let names: Vec<String> = (0..50).map(|n| format!("kept-{n}")).collect();
    write(&runtime, &fleet, survivor, &names[..40]);

    // Nothing is lost yet: it says who answers, and changes nothing.
    fleet.signal(survivor, "-9");
    let refused = fleet.start_with(&survivor.name, FORCE, None).wait().unwrap();
    assert!(!refused.success());
    let said = fleet.said(&survivor.name);
    assert!(said.contains("a majority, and nothing is lost") && said.contains(&leader.name), "{said}");
    fleet.restart(&survivor.name);
    fleet.well(3);
    write(&runtime, &fleet, survivor, &names[40..]);

    // The other two are.
    let before = fleet.members();
    for member in &before {
        fleet.signal(member, "-9");
    }
    drop(fleet.start_with(&survivor.name, FORCE, None));
    let alone = fleet.well(1);
    assert_eq!(alone.name, survivor.name);
    let answers = rest(&fleet, survivor);
    for name in &names {
        let read = runtime.block_on(answers.call(Method::GET, &format!("{PATH}/{name}"), &Value::Null));
        assert_eq!(read.unwrap().code, 200, "{name}");
    }
    create(&runtime, &answers, "after-the-disaster").unwrap();

    // The option is for one start: left on the command line it does nothing more.
    fleet.signal(&alone, "-9");
    drop(fleet.start_with(&survivor.name, FORCE, None));
    let alone = fleet.well(1);
    assert!(fleet.said(&survivor.name).contains("a cluster of its own already"));
    fleet.signal(&alone, "-TERM");
    fleet.restart(&survivor.name);
    fleet.well(1);

    // One that comes back is a stranger, and ends.
    let mut others = before.iter().filter(|member| member.name != survivor.name);
    let (back, lost) = (others.next().unwrap(), others.next().unwrap());
    let mut stranger = fleet.start_with(&back.name, &[], None);
    wait_until("the one that came back ends", PATIENCE, || match stranger.try_wait().unwrap() {
        Some(status) if !status.success() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(fleet.said(&back.name).contains("belongs to another cluster"), "{}", fleet.said(&back.name));

    // Emptied, it is a machine like any other.
    for member in [back, lost] {
        std::fs::remove_dir_all(fleet.directory(&member.name)).unwrap();
        let token = fleet.balsa(&["token", "create", "--usage", "server"]).unwrap();
        let join = ["--join", survivor.address.as_str()];
        drop(fleet.start_with(&member.name, &join, Some(token.trim())));
    }
    fleet.well(3);
    create(&runtime, &rest(&fleet, lost), "through-a-new-one").unwrap();
    fleet.down();
}
