//! Images made from nothing but a static busybox, so that no test needs a network.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::footprint::docker;

/// The programs that the pods of the tests use.
const APPLETS: &[&str] = &[
    "sh", "httpd", "cat", "echo", "sleep", "touch", "ls", "wget", "nslookup", "hostname", "env", "id",
    "kill", "ps", "mkdir", "rm", "true", "false", "test", "grep", "stat", "timeout", "tar", "dd", "nc",
    "head", "wc", "md5sum", "tty", "stty", "tr", "readlink",
];

/// An image of busybox that knows its `tag` (`/etc/tag`), and its name. Its user is root, its working
/// directory `/`, and it runs nothing by itself.
pub fn busybox(tag: &str) -> String {
    let name = format!("balsa-test/busybox:{tag}");
    let program = static_busybox();
    let size = program.metadata().map_or(0, |metadata| metadata.len());
    let content = format!("3-{size}");
    let known = docker(["image", "inspect", "-f", "{{index .Config.Labels \"balsa.test\"}}", &name]);
    if known.code == 0 && known.stdout.trim() == content {
        return name;
    }
    let mut import = Command::new("docker")
        .args(["import", "--change", "ENV PATH=/bin", "--change", &format!("LABEL balsa.test={content}")])
        .args(["-", &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(&archive(&program, tag)).unwrap();
    assert!(import.wait().unwrap().success(), "docker did not import {name}");
    name
}

fn static_busybox() -> PathBuf {
    let named = std::env::var_os("BUSYBOX").map(PathBuf::from);
    let places = [named, Some("/bin/busybox".into()), Some("/usr/bin/busybox".into())];
    let found = places.into_iter().flatten().find(|path| path.exists());
    found.expect("no busybox: install busybox-static, or let BUSYBOX name a static one")
}

fn archive(program: &Path, tag: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("www", 0o755)] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        archive.append_data(&mut header, folder, std::io::empty()).unwrap();
    }
    let bytes = std::fs::read(program).unwrap();
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/busybox", 0o755, &bytes),
        ("etc/tag", 0o644, tag.as_bytes()),
        ("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n"),
    ];
    for (path, mode, content) in files {
        let mut header = header(tar::EntryType::Regular, mode, content.len());
        archive.append_data(&mut header, path, content).unwrap();
    }
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    archive.into_inner().unwrap()
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}
