//! Who a server is: its name and its keys. Nobody gets in, or another one out, by a name.

use std::collections::BTreeSet;
use std::fs::File;

use balsa_testkit::wait_until;

use crate::fleet::{Fleet, PATIENCE};

fn names(fleet: &Fleet) -> BTreeSet<String> {
    fleet.members().into_iter().map(|member| member.name).collect()
}

#[test]
fn a_name_is_remembered_and_never_anothers() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.well(3);
    let followers: Vec<_> = fleet.members().into_iter().filter(|one| one.name != leader.name).collect();
    let ([one, other], all) = (&followers[..], names(&fleet)) else { panic!("{followers:?}") };

    // It knows what it is called; and a log that nobody can write keeps it from nothing.
    fleet.signal(one, "-TERM");
    fleet.call(&one.name, None);
    let full = File::options().write(true).open("/dev/full").unwrap();
    drop(fleet.command(&one.name).stderr(full).spawn().unwrap());
    fleet.well(3);
    assert_eq!(names(&fleet), all);
    fleet.lead(&one.name);
    fleet.lead(&leader.name);

    // Another's name is not taken over, by whom ever: who has it would be removed in its place.
    fleet.signal(&fleet.member(&one.name), "-TERM");
    fleet.call(&one.name, Some(&other.name));
    fleet.restart(&one.name);
    fleet.well(3);
    wait_until("it says what is wrong", PATIENCE, || {
        let said = fleet.said(&one.name);
        if said.contains(&format!("a server is called \\\"{}\\\" already", other.name)) {
            Ok(())
        } else {
            Err(said)
        }
    });
    fleet.lead(&one.name);
    assert_eq!(names(&fleet), all);
    fleet.lead(&leader.name);

    // One that stands still keeps nobody waiting who asks it first.
    let first = fleet.member("server-1");
    fleet.send(&first, "-STOP");
    let listed = fleet.try_members();
    fleet.send(&first, "-CONT");
    assert!(listed.is_ok_and(|listed| listed.iter().any(|one| one.name == first.name && !one.healthy)));
    fleet.well(3);

    // One whose keys are gone makes none that nobody knows.
    fleet.signal(&fleet.member(&one.name), "-TERM");
    let (keys, away) = (fleet.directory(&one.name).join("pki"), fleet.data_dir().join("pki-away"));
    std::fs::rename(&keys, &away).unwrap();
    assert!(!fleet.start_with(&one.name, &[], None).wait().unwrap().success());
    assert!(fleet.said(&one.name).contains("copy it from another server"), "{}", fleet.said(&one.name));
    std::fs::rename(&away, &keys).unwrap();
    fleet.restart(&one.name);
    fleet.well(3);

    // One that was removed does not come back by another name.
    fleet.signal(&fleet.member(&one.name), "-TERM");
    fleet.balsa(&["member", "remove", &one.name]).unwrap();
    fleet.call(&one.name, Some("stranger"));
    let mut stranger = fleet.start_with(&one.name, &[], None);
    assert!(!stranger.wait().unwrap().success());
    assert!(fleet.said(&one.name).contains("removed"), "{}", fleet.said(&one.name));
    assert_eq!(names(&fleet), [leader.name, other.name.clone()].into());
    fleet.down();
}
