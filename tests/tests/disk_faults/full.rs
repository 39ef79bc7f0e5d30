//! A full disk: a small file system on a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;

use balsa_testkit::LoneServer;

use crate::{all_there, write};

const MEBIBYTE: u64 = 1 << 20;

/// A file system of its own. Dropping it takes it away.
struct Disk {
    home: tempfile::TempDir,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        let home = tempfile::Builder::new().prefix("balsa-disk-").tempdir().unwrap();
        let image = home.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let disk = Self { home };
        std::fs::create_dir(disk.path()).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still used it was dropped before.
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (it needs root): {said}");
}

/// Something else that takes room, and can be removed.
fn ballast(path: &Path, bytes: u64) {
    std::fs::write(path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
}

#[test]
fn a_full_disk_ends_the_server_and_room_brings_it_back() {
    let disk = Disk::new(160 * MEBIBYTE);
    let logs = tempfile::tempdir().unwrap();
    // The data directory is a link, so that what the server says is written elsewhere.
    let data = logs.path().join("data");
    std::os::unix::fs::symlink(disk.path().join("data"), &data).unwrap();
    std::fs::create_dir(disk.path().join("data")).unwrap();
    let other = disk.path().join("ballast");
    ballast(&other, 100 * MEBIBYTE);

    let mut server = LoneServer::start(&data, &[]);
    let (mut acknowledged, mut refused) = (Vec::new(), None);
    for n in 0..200 {
        let name = format!("filling-{n}");
        match write(&server, &name, 1 << 20) {
            Ok(()) => acknowledged.push(name),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    println!("{} objects of a mebibyte, then: {refused:?}", acknowledged.len());
    assert!(acknowledged.len() > 5 && refused.is_some());
    let status = server.ends();
    assert!(!status.success());
    assert!(server.said().contains("No space left on device"), "{}", server.said());

    std::fs::remove_file(&other).unwrap();
    let server = LoneServer::start(&data, &[]);
    all_there(&server, &acknowledged);
    write(&server, "with-room", 1000).unwrap();
    server.stop();
}
